//! Sees to it that no thread of the daemon stops unnoticed: a thread that panics, or that works for longer than its deadline
//! without getting on, ends the daemon by one sentence. Whoever starts it anew then does; containers go on meanwhile.
//!
//! Each thread has a *pulse*: it beats while it gets on, and rests while it waits for something to do. One thread, the
//! supervisor, looks at all of them every second. It counts its own looks, not the clock: what stops the whole process, or the
//! whole machine, makes nobody late.

use std::{
    cell::RefCell,
    io,
    panic::{self, PanicHookInfo},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use ipamd_api::wire;

use crate::catch_panic;

/// How often the supervisor looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a thread may work without getting on, unless the configuration says otherwise: the largest step of any on a slow
/// machine, several times over.
pub const DEADLINE: Duration = Duration::from_mins(2);
/// How long a thread that may be waiting for a large change is waited for when the daemon ends.
pub const FAREWELL: Duration = Duration::from_millis(50);
/// The exit status of a daemon that a thread has ended (`EX_SOFTWARE`).
const FAILED: i32 = 70;

/// What is known of one thread, or of one task that keeps a thread busy.
#[derive(Debug)]
struct Pulse {
    name: &'static str,
    beats: AtomicU64,
    resting: AtomicBool,
    /// The beats as the supervisor saw them last, and how many looks ago they were fewer.
    seen: AtomicU64,
    looks: AtomicU64,
}

impl Pulse {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            beats: AtomicU64::new(0),
            resting: AtomicBool::new(false),
            seen: AtomicU64::new(0),
            looks: AtomicU64::new(0),
        }
    }

    fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// How long it has worked without getting on, as far as the supervisor has seen.
    fn busy(&self) -> Duration {
        LOOK_EVERY * u32::try_from(self.looks.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    /// One look of the supervisor; whether the deadline is over.
    fn look(&self, deadline: Duration) -> bool {
        let beats = self.beats.load(Ordering::Relaxed);
        let gets_on = self.seen.swap(beats, Ordering::Relaxed) != beats;
        if gets_on || self.resting.load(Ordering::Relaxed) {
            self.looks.store(0, Ordering::Relaxed);
            return false;
        }
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.busy() > deadline
    }
}

/// All that are supervised.
#[derive(Debug, Default)]
struct Pulses(Mutex<Vec<Arc<Pulse>>>);

impl Pulses {
    const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Pulse>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, pulse: Pulse) -> Arc<Pulse> {
        let pulse = Arc::new(pulse);
        self.all().push(Arc::clone(&pulse));
        pulse
    }

    fn leave(&self, pulse: &Arc<Pulse>) {
        self.all().retain(|it| !Arc::ptr_eq(it, pulse));
    }

    /// One look at everybody; why the daemon is to end, if it is.
    fn look(&self, deadline: Duration) -> Option<String> {
        // Everybody, also behind one that is late.
        let late =
            self.all().iter().filter(|pulse| pulse.look(deadline)).map(|it| sentence(it)).collect::<Vec<_>>();
        late.into_iter().next()
    }
}

fn sentence(pulse: &Pulse) -> String {
    format!(
        "{} has not got on for {} s; the daemon ends, so that one that is started anew goes on",
        pulse.name,
        pulse.busy().as_secs()
    )
}

static PULSES: Pulses = Pulses::new();
/// The deadline of everybody.
static SECONDS: AtomicU64 = AtomicU64::new(DEADLINE.as_secs());

thread_local! {
    /// The calling thread's own.
    static OWN: RefCell<Option<Arc<Pulse>>> = const { RefCell::new(None) };
}

/// The calling thread is supervised until this is dropped.
#[derive(Debug)]
pub struct Supervised {
    pulse: Arc<Pulse>,
    before: Option<Arc<Pulse>>,
}

/// Supervises the calling thread, by a name that sentences about it begin with.
#[must_use]
pub fn supervise(name: &'static str) -> Supervised {
    let pulse = PULSES.enter(Pulse::new(name));
    let before = OWN.replace(Some(Arc::clone(&pulse)));
    Supervised { pulse, before }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        PULSES.leave(&self.pulse);
        // A thread that ends has none to go back to.
        let _ = OWN.try_with(|own| own.replace(self.before.take()));
    }
}

/// Starts a thread that is supervised.
///
/// # Errors
/// Why there is none.
pub fn spawn<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.into()).spawn(move || {
        let _supervised = supervise(name);
        work()
    })
}

/// Waits for a thread to end, at most so long. It ends with the process then.
pub fn join_within<T>(thread: JoinHandle<T>, within: Duration) -> Option<thread::Result<T>> {
    let deadline = std::time::Instant::now() + within;
    while !thread.is_finished() {
        if std::time::Instant::now() >= deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
    Some(thread.join())
}

/// The calling thread gets on. Whatever may take long says so at each step.
pub fn beat() {
    OWN.with_borrow(|own| own.iter().for_each(|pulse| pulse.beat()));
}

/// The calling thread waits for something to do, which may be long in coming.
pub fn resting<T>(wait: impl FnOnce() -> T) -> T {
    let own = OWN.with_borrow(Clone::clone);
    if let Some(own) = &own {
        own.resting.store(true, Ordering::Relaxed);
    }
    let waited = wait();
    if let Some(own) = &own {
        own.beat();
        own.resting.store(false, Ordering::Relaxed);
    }
    waited
}

/// Beats for the thread of a runtime, as long as that gets its tasks on.
pub async fn heart() {
    loop {
        beat();
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Who works and has not got on since the last look, or longer.
pub fn busy() -> Vec<wire::Thread> {
    let all = PULSES.all();
    let busy = all.iter().filter(|pulse| pulse.busy() > LOOK_EVERY).map(|pulse| wire::Thread {
        name: pulse.name.to_owned(),
        busy_seconds: pulse.busy().as_secs(),
        deadline_seconds: SECONDS.load(Ordering::Relaxed),
    });
    busy.collect()
}

/// Begins to supervise: from here on whatever panics or is late ends the process. `well` is called at each look that finds
/// nobody late.
///
/// # Errors
/// Why there is no thread for it.
pub fn start(deadline: Duration, well: impl Fn() + Send + 'static) -> io::Result<()> {
    end_on_panic();
    SECONDS.store(deadline.as_secs(), Ordering::Relaxed);
    thread::Builder::new().name("supervisor".into()).spawn(move || {
        loop {
            thread::sleep(LOOK_EVERY);
            match PULSES.look(deadline) {
                Some(why) => end(&why),
                None => well(),
            }
        }
    })?;
    Ok(())
}

/// Has a panic end the process, in whatever thread or task: what it has left half done, others would build on.
fn end_on_panic() {
    let shown = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let thread = thread::current();
        // The store catches panics of its database itself, and judges what the database's threads leave behind.
        if thread.name().is_some_and(|name| name.starts_with("sled")) {
            return shown(info);
        }
        end(&of_panic(thread.name().unwrap_or("a thread"), info));
    }));
}

fn of_panic(thread: &str, info: &PanicHookInfo<'_>) -> String {
    format!(
        "{thread} has failed by a bug ({} at {}); the daemon ends, so that one that is started anew goes on",
        catch_panic::message(info),
        catch_panic::place(info)
    )
}

/// Ends the process on the spot. Nothing is waited for or tidied up, for it may be what hangs; all that is kept, on disk and in
/// the kernel, is whole at any instant.
fn end(why: &str) -> ! {
    let line = format!("cambric-ipamd: {why}\n");
    // Not by the standard library's, whose lock the thread may hold that hangs.
    // SAFETY: standard error's descriptor is never closed.
    let stderr = unsafe { std::os::fd::BorrowedFd::borrow_raw(2) };
    let _ = nix::unistd::write(stderr, line.as_bytes());
    // SAFETY: it only ends the process.
    unsafe { nix::libc::_exit(FAILED) }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    use ipamd_waiting::time_passes;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(3);

    fn looks(pulses: &Pulses, count: usize) -> Option<String> {
        (0..count).find_map(|_| pulses.look(DEADLINE))
    }

    #[test]
    fn a_thread_that_gets_on_or_rests_is_never_late() {
        let pulses = Pulses::new();
        let works = pulses.enter(Pulse::new("works"));
        let rests = pulses.enter(Pulse::new("rests"));
        rests.resting.store(true, Ordering::Relaxed);
        for _ in 0..50 {
            works.beat();
            assert_eq!(looks(&pulses, 3), None);
        }
        assert!(works.busy() > Duration::ZERO && rests.busy() == Duration::ZERO);
    }

    #[test]
    fn one_that_hangs_is_named_with_how_long() {
        let pulses = Pulses::new();
        let hangs = pulses.enter(Pulse::new("reconcile"));
        let also = pulses.enter(Pulse::new("events"));
        also.resting.store(true, Ordering::Relaxed);
        hangs.beat();
        assert_eq!(looks(&pulses, 4), None, "the first look sees that it got on");
        let why = looks(&pulses, 1).expect("it is late");
        assert!(why.starts_with("reconcile has not got on for 4 s; "), "{why}");
        assert!(!why.contains('\n'));
        pulses.leave(&hangs);
        assert_eq!(looks(&pulses, 10), None, "who has ended is nobody's concern");
    }

    #[test]
    fn a_rest_ends_with_what_was_waited_for() {
        let supervised = supervise("test-of-a-rest");
        let pulse = Arc::clone(&supervised.pulse);
        let waited = resting(|| pulse.resting.load(Ordering::Relaxed));
        assert!(waited && !pulse.resting.load(Ordering::Relaxed));
        let before = pulse.beats.load(Ordering::Relaxed);
        {
            // Work within work has a pulse of its own.
            let _inner = supervise("test-within");
            beat();
        }
        assert_eq!(pulse.beats.load(Ordering::Relaxed), before);
        beat();
        assert_eq!(pulse.beats.load(Ordering::Relaxed), before + 1);
        drop(supervised);
        assert!(PULSES.all().iter().all(|it| !Arc::ptr_eq(it, &pulse)));
    }

    /// Runs one of the ignored tests below in a process of its own.
    fn in_a_process(test: &str) -> Output {
        let mut process = Command::new(std::env::current_exe().unwrap());
        process.args(["--exact", "--ignored", "--nocapture", &format!("supervisor::tests::{test}")]);
        process.output().unwrap()
    }

    fn ended_by_one_sentence(ended: &Output, sentence: &str) {
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(FAILED), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with(sentence), "{said}");
    }

    #[test]
    fn a_panic_in_any_thread_or_task_ends_the_process() {
        let sentence = "cambric-ipamd: reconcile has failed by a bug (no route at all at supervisor.rs:";
        ended_by_one_sentence(&in_a_process("panicking_thread"), sentence);
        let sentence =
            "cambric-ipamd: supervisor::tests::panicking_task has failed by a bug (odd at supervisor.rs:";
        ended_by_one_sentence(&in_a_process("panicking_task"), sentence);
    }

    #[test]
    fn a_thread_that_hangs_ends_the_process_and_one_that_rests_does_not() {
        let ended = in_a_process("hanging_thread");
        ended_by_one_sentence(&ended, "cambric-ipamd: hangs has not got on for 2 s; ");
    }

    #[test]
    fn a_panic_that_the_store_catches_ends_nothing() {
        let ended = in_a_process("caught_panic");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }

    fn linger() {
        time_passes(Duration::from_secs(20), "the supervisor ends this process before");
    }

    #[test]
    #[ignore = "ends the process: run by another test"]
    fn panicking_thread() {
        start(DEADLINE, || {}).unwrap();
        spawn("reconcile", || panic!("no route {}", "at all")).unwrap();
        linger();
    }

    #[test]
    #[ignore = "ends the process: run by another test"]
    fn panicking_task() {
        start(DEADLINE, || {}).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = runtime.block_on(async { tokio::spawn(async { panic!("odd") }).await });
        linger();
    }

    #[test]
    #[ignore = "ends the process: run by another test"]
    fn hanging_thread() {
        start(Duration::from_secs(1), || {}).unwrap();
        spawn("rests", || resting(linger)).unwrap();
        spawn("hangs", linger).unwrap();
        linger();
    }

    #[test]
    #[ignore = "ends the process if it fails: run by another test"]
    fn caught_panic() {
        start(DEADLINE, || {}).unwrap();
        assert!(catch_panic::catch_panic(|| panic!("torn")).is_err());
    }
}

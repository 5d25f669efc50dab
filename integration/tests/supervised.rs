//! A thread of the daemon that hangs: the daemon ends by one sentence, and the next one goes on.

use std::{
    fs,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, Node, Settings, eventually, throughout, time_passes},
};
use nix::libc;

/// The daemon's deadline, in seconds.
const DEADLINE: u64 = 6;

/// A thread of another process that is stopped while all others of it run.
struct Stopped {
    go_on: Option<Sender<()>>,
    tracer: Option<thread::JoinHandle<()>>,
}

impl Stopped {
    /// Stops the thread of that name. Only the thread that traces it may let it go on.
    fn thread(pid: u32, name: &str) -> Result<Self> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))?.filter_map(Result::ok);
        let is_meant =
            |path: &std::path::Path| fs::read_to_string(path.join("comm")).is_ok_and(|it| it.trim() == name);
        let task = tasks
            .map(|task| task.path())
            .find(|path| is_meant(path))
            .with_context(|| format!("no thread {name}"))?;
        let task: libc::pid_t = task.file_name().and_then(|it| it.to_str()).context("a number")?.parse()?;
        let (go_on, told): (Sender<()>, Receiver<()>) = channel();
        let (stopped, is_stopped) = channel();
        let tracer = thread::spawn(move || {
            // SAFETY: these requests take no memory of this process.
            let held = unsafe {
                libc::ptrace(libc::PTRACE_SEIZE, task, 0, 0) == 0
                    && libc::ptrace(libc::PTRACE_INTERRUPT, task, 0, 0) == 0
                    && libc::waitpid(task, std::ptr::null_mut(), libc::__WALL) == task
            };
            let _ = stopped.send(held);
            // Until then it is stopped; or its process has ended, which waits for its tracer to hear of that.
            while told
                .recv_timeout(Duration::from_millis(20))
                .is_err_and(|it| it == std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                // SAFETY: nothing is written to.
                unsafe { libc::waitpid(task, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG) };
            }
            // SAFETY: as above.
            unsafe { libc::ptrace(libc::PTRACE_DETACH, task, 0, 0) };
        });
        let held = is_stopped.recv_timeout(Duration::from_secs(10)).context("the thread did not stop")?;
        ensure!(held, "cannot stop the thread {name}: {}", std::io::Error::last_os_error());
        Ok(Self { go_on: Some(go_on), tracer: Some(tracer) })
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        drop(self.go_on.take());
        let _ = self.tracer.take().map(thread::JoinHandle::join);
    }
}

fn start() -> Result<Node> {
    Node::start_with(
        Settings::default()
            .cluster()
            .flag(format!("--thread-deadline={DEADLINE}"))
            .flag("--metrics=127.0.0.1:9477"),
    )
}

fn probe(node: &Node, path: &str) -> Result<String> {
    let mut curl = node.netns().command("curl")?;
    curl.args(["-s", "--max-time", "1", "-w", "%{http_code}"]).arg(format!("http://127.0.0.1:9477/{path}"));
    Ok(String::from_utf8(curl.output()?.stdout)?)
}

fn pid(node: &Node) -> Result<u32> {
    Ok(node.daemon().as_ref().context("a daemon")?.pid())
}

/// Whether the daemon has ended by itself.
fn has_ended(node: &Node) -> bool {
    pid(node).is_ok_and(|pid| {
        fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    })
}

#[test]
fn a_thread_that_hangs_ends_the_daemon_and_nothing_else() -> Result<()> {
    needs_root!();
    let node = start()?;
    let pod = node.add_pod("a")?;
    for (name, comm) in [
        ("reconcile", "reconcile"),
        ("cluster", "cluster"),
        ("the main thread", "cambric-ipamd"),
        ("probes", "probes"),
    ] {
        let said = node.log().len();
        let stopped = Stopped::thread(pid(&node)?, comm)?;
        let ended = eventually(Duration::from_secs(DEADLINE + 10), || has_ended(&node));
        drop(stopped);
        ensure!(ended, "with {name} stopped the daemon goes on: {}", &node.log()[said..]);
        let log = node.log();
        let last: Vec<_> = log[said..].lines().filter(|line| line.starts_with("cambric-ipamd: ")).collect();
        ensure!(
            last.len() == 1 && last[0].starts_with(&format!("cambric-ipamd: {name} has not got on for ")),
            "{last:?}"
        );
        ensure!(pod.reaches(integration::testbed::FAR4)?, "containers go on");
        node.start_daemon()?;
        pod.check()?;
    }
    Ok(())
}

#[test]
fn a_thread_that_waits_is_not_taken_for_one_that_hangs() -> Result<()> {
    needs_root!();
    let node = start()?;
    let before = pid(&node)?;
    // As when the machine sleeps.
    let signal =
        |signal: &str| std::process::Command::new("kill").args([signal, &before.to_string()]).status();
    signal("-STOP")?;
    time_passes(Duration::from_secs(DEADLINE + 3), "the deadline passes while the process is stopped");
    signal("-CONT")?;
    ensure!(throughout(Duration::from_secs(DEADLINE + 3), || !has_ended(&node)), "{}", node.log());
    assert_eq!((probe(&node, "healthz")?, probe(&node, "readyz")?), ("ok\n200".into(), "ok\n200".into()));
    let on_time = || node.status().is_ok_and(|status| status["busy"] == serde_json::json!([]));
    ensure!(eventually(Duration::from_secs(10), on_time), "{:?}", node.status());
    Ok(())
}

#[test]
fn a_thread_at_something_long_is_shown() -> Result<()> {
    needs_root!();
    let node = Node::start_with(Settings::default().flag("--metrics=127.0.0.1:9477"))?;
    let stopped = Stopped::thread(pid(&node)?, "reconcile")?;
    let shown = eventually(Duration::from_secs(10), || {
        node.status().is_ok_and(|status| status["busy"][0]["name"] == "reconcile")
    });
    ensure!(shown, "{:?}", node.status());
    assert_eq!(probe(&node, "healthz")?, "ok\n200", "it may take its time");
    drop(stopped);
    let on_time = || node.status().is_ok_and(|status| status["busy"] == serde_json::json!([]));
    ensure!(eventually(Duration::from_secs(10), on_time), "{:?}", node.status());
    Ok(())
}

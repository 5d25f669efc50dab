//! Input that is never read to its end ends the test, and is kept: nothing else would say which it was.

use std::{
    path::PathBuf,
    process,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use crate::corpus_files::keep;

/// What is being read, and since when.
type Current = Arc<Mutex<Option<(Instant, Vec<u8>)>>>;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Watches one thread.
pub struct Watchdog {
    current: Current,
    longest: Duration,
    /// The watching ends when this is dropped.
    _end: Sender<()>,
}

impl Watchdog {
    /// Begins to watch.
    pub fn start(name: &'static str, directory: PathBuf, longest: Duration) -> Self {
        let (current, (end, ended)) = (Current::default(), channel());
        let watchdog = Self { current: Arc::clone(&current), longest, _end: end };
        thread::spawn(move || {
            while ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                let current = current.lock().unwrap_or_else(PoisonError::into_inner);
                // A little more, so that what ends late is told by the thread itself.
                if let Some((since, input)) = &*current
                    && since.elapsed() > 2 * longest
                {
                    let file = keep(&directory, "hang", input);
                    eprintln!(
                        "{name}: an input of {} bytes is read without end, kept as {file}",
                        input.len()
                    );
                    process::abort();
                }
            }
        });
        watchdog
    }

    /// Reads an input, in time.
    pub fn watch(&self, input: &[u8], read: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        let begun = Instant::now();
        self.tell(Some((begun, input.to_vec())));
        // A panic leaves this as it is, until the next.
        let result = read();
        self.tell(None);
        result?;
        let took = begun.elapsed();
        if took > self.longest {
            return Err(format!("an input of {} bytes takes {} s", input.len(), took.as_secs()));
        }
        Ok(())
    }

    fn tell(&self, what: Option<(Instant, Vec<u8>)>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }
}

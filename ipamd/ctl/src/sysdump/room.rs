//! What an item of the archive may say: so many bytes, until a time, and no secrets.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::redact::Redactor;

/// The longest line that is looked at as a whole; a longer one is broken.
const LONGEST_LINE: usize = 1 << 20;

/// Which end of a text stays when it is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    First,
    Last,
}

/// What was said so far.
#[derive(Debug, Default)]
struct Said {
    kept: VecDeque<u8>,
    cut: u64,
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
    redactor: Redactor,
    over: bool,
}

/// Where an item writes to. It fails once its time is over, and the thread that writes ends.
#[derive(Clone, Debug)]
pub(super) struct Room {
    said: Arc<Mutex<Said>>,
    limit: usize,
    keep: Keep,
    until: Instant,
}

impl Room {
    pub fn new(limit: usize, keep: Keep, within: Duration) -> Self {
        Self { said: Arc::default(), limit, keep, until: Instant::now() + within }
    }

    /// How long the item may still take; never nothing.
    pub fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    /// Writes a line.
    pub fn line(&mut self, line: impl AsRef<str>) -> io::Result<()> {
        self.write_all(line.as_ref().as_bytes())?;
        self.write_all(b"\n")
    }

    /// Takes what was said, and how many bytes of it were cut off; nothing is written any more.
    pub fn close(&self) -> (Vec<u8>, u64) {
        let mut said = self.said();
        said.over = true;
        let begun = std::mem::take(&mut said.begun);
        if !begun.is_empty() {
            said.take(&begun, self.limit, self.keep);
        }
        (std::mem::take(&mut said.kept).into(), said.cut)
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Said {
    /// Takes a line, without its end.
    fn take(&mut self, line: &[u8], limit: usize, keep: Keep) {
        let line = String::from_utf8_lossy(line);
        let Some(line) = self.redactor.line(&line) else { return };
        let bytes = line.bytes().chain([b'\n']);
        match keep {
            Keep::First => {
                let length = line.len() + 1;
                let taken = length.min(limit.saturating_sub(self.kept.len()));
                self.kept.extend(bytes.take(taken));
                self.cut += (length - taken) as u64;
            }
            Keep::Last => {
                self.kept.extend(bytes);
                let over = self.kept.len().saturating_sub(limit);
                self.kept.drain(..over);
                self.cut += over as u64;
            }
        }
    }
}

impl Write for Room {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut said = self.said();
        if said.over || Instant::now() > self.until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let mut line = std::mem::take(&mut said.begun);
            line.extend_from_slice(&rest[..end]);
            said.take(&line, self.limit, self.keep);
            rest = &rest[end + 1..];
        }
        said.begun.extend_from_slice(rest);
        if said.begun.len() > LONGEST_LINE {
            let line = std::mem::take(&mut said.begun);
            said.take(&line, self.limit, self.keep);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_mins(10);

    #[test]
    fn what_is_too_long_is_cut_at_one_end_and_counted() {
        for (keep, kept) in [(Keep::First, "one\ntw"), (Keep::Last, "o\nsix\n")] {
            let mut room = Room::new(6, keep, LONG);
            write!(room, "one\ntw").unwrap();
            write!(room, "o\nsix").unwrap();
            assert_eq!(room.close(), (kept.as_bytes().to_vec(), 6));
        }
    }

    #[test]
    fn a_secret_is_left_out_however_it_comes() {
        let mut room = Room::new(100, Keep::Last, LONG);
        for part in ["pass", "word: hun", "ter2\n-----BEGIN PRIVATE KEY-----\nhunter3\n"] {
            room.write_all(part.as_bytes()).unwrap();
        }
        assert_eq!(String::from_utf8(room.close().0).unwrap(), "password: [left out]\n[left out]\n");
    }

    #[test]
    fn nobody_writes_after_the_end() {
        let mut room = Room::new(100, Keep::First, LONG);
        room.close();
        assert_eq!(room.line("late").unwrap_err().kind(), io::ErrorKind::TimedOut);
        let mut room = Room::new(100, Keep::First, Duration::ZERO);
        assert!(room.line("late").is_err());
        assert!(room.left() > Duration::ZERO);
    }
}

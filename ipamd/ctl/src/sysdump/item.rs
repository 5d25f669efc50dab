//! An item of the archive: where it comes from, and what came of it.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use ipamd_runtime::error_chain;
use serde::Serialize;

use super::room::{Keep, Room};

/// What writes an item.
pub(super) type Source = Box<dyn FnOnce(&mut Room) -> anyhow::Result<()> + Send>;

/// An item of the archive.
pub(super) struct Item {
    /// Its path in the archive.
    pub path: String,
    pub keep: Keep,
    pub source: Source,
}

impl Item {
    pub fn new(
        path: impl Into<String>,
        source: impl FnOnce(&mut Room) -> anyhow::Result<()> + Send + 'static,
    ) -> Self {
        Self { path: path.into(), keep: Keep::First, source: Box::new(source) }
    }

    /// The same, of which the end is kept if it is too long.
    pub fn keeping_the_last(self) -> Self {
        Self { keep: Keep::Last, ..self }
    }
}

/// There is no such thing here, and none is missed: a program that is not installed, a file of another kernel.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Absent(pub String);

/// What came of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// All of it is in the archive.
    Taken,
    /// Its beginning or its end is.
    Cut,
    /// What came of it before it failed is, if anything.
    Failed,
    /// Likewise, before its time was over.
    Late,
    /// There is no such thing here.
    Absent,
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Cut => "cut",
            Self::Failed => "failed",
            Self::Late => "late",
            Self::Absent => "absent",
        }
    }
}

/// An item's line in the manifest.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub path: String,
    pub outcome: Outcome,
    /// Bytes in the archive.
    pub bytes: u64,
    /// Bytes that were cut off.
    pub cut_bytes: u64,
    /// Why it is not whole.
    pub reason: Option<String>,
    pub milliseconds: u64,
}

/// Has an item written within a time, with room for so many bytes. One that hangs is left behind, on a thread of its own.
pub(super) fn take(item: Item, limit: usize, within: Duration) -> (Report, Vec<u8>) {
    let Item { path, keep, source } = item;
    let began = Instant::now();
    let room = Room::new(limit, keep, within);
    let (told, ended) = mpsc::sync_channel(1);
    let mut of_source = room.clone();
    // Nobody waits for one that has been given up.
    thread::spawn(move || told.send(source(&mut of_source)));
    let ended = ended.recv_timeout(within);
    let (content, cut) = room.close();
    let late = || format!("it took longer than {} s", within.as_secs_f64());
    let (outcome, reason) = match ended {
        Ok(Ok(())) if cut > 0 => (Outcome::Cut, Some(cut_reason(keep, cut))),
        Ok(Ok(())) => (Outcome::Taken, None),
        Ok(Err(error)) if error.is::<Absent>() => (Outcome::Absent, Some(error.to_string())),
        // What it waited for gave up at the same time.
        Ok(Err(_)) if began.elapsed() >= within => (Outcome::Late, Some(late())),
        Ok(Err(error)) => (Outcome::Failed, Some(error_chain::sentence(&error))),
        Err(mpsc::RecvTimeoutError::Timeout) => (Outcome::Late, Some(late())),
        Err(mpsc::RecvTimeoutError::Disconnected) => (Outcome::Failed, Some("it panicked".to_owned())),
    };
    let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    (Report { path, outcome, bytes: content.len() as u64, cut_bytes: cut, reason, milliseconds }, content)
}

fn cut_reason(keep: Keep, cut: u64) -> String {
    let end = if keep == Keep::First { "last" } else { "first" };
    format!("the {end} {cut} bytes are left out; --size-limit sets how much there is room for")
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, bail};

    use super::*;

    const LONG: Duration = Duration::from_mins(10);

    fn taken(
        within: Duration,
        source: impl FnOnce(&mut Room) -> anyhow::Result<()> + Send + 'static,
    ) -> (Outcome, String, String) {
        let (report, content) = take(Item::new("x", source), 8, within);
        (report.outcome, report.reason.unwrap_or_default(), String::from_utf8(content).unwrap())
    }

    #[test]
    fn what_came_of_an_item_is_told() {
        let (outcome, reason, content) = taken(LONG, |room| Ok(room.line("all")?));
        assert_eq!((outcome, &*reason, &*content), (Outcome::Taken, "", "all\n"));
        let (outcome, reason, content) = taken(LONG, |room| Ok(room.line("too long")?));
        assert_eq!((outcome, &*content), (Outcome::Cut, "too long"));
        assert!(reason.starts_with("the last 1 bytes are left out"), "{reason}");
        let (outcome, reason, content) = taken(LONG, |room| {
            room.line("half")?;
            bail!("the rest is away")
        });
        assert_eq!((outcome, &*reason, &*content), (Outcome::Failed, "the rest is away", "half\n"));
        let (outcome, reason, _) = taken(LONG, |_| Err(Absent("no ip here".into())).context("run ip"));
        assert_eq!((outcome, &*reason), (Outcome::Absent, "run ip"));
    }

    #[test]
    fn one_that_hangs_is_left_behind_with_what_it_had_said() {
        let (end, ended) = mpsc::channel::<()>();
        let (outcome, reason, content) = taken(Duration::from_millis(300), move |room| {
            room.line("half")?;
            // Until the test is over.
            let _ = ended.recv();
            Ok(())
        });
        assert_eq!((outcome, &*reason, &*content), (Outcome::Late, "it took longer than 0.3 s", "half\n"));
        drop(end);
    }

    #[test]
    fn a_panic_is_no_end_of_the_others() {
        let (outcome, reason, _) = taken(LONG, |_| panic!("on purpose"));
        assert_eq!((outcome, &*reason), (Outcome::Failed, "it panicked"));
    }
}

//! The one thread that writes.

use std::{fs::File, path::PathBuf, sync::mpsc::Receiver};

use nix::fcntl::Flock;
use tokio::sync::oneshot;

use super::{
    error::StoreError,
    format::{Batch, SUMMARY, seal},
    ledger::Ledger,
    watermark::Watermark,
};
use ipamd_runtime::catch_panic::catch_panic;
use ipamd_runtime::supervisor;

/// How many batches share one flush at most, so that the first of a long queue does not wait for the last.
const GROUP: usize = 128;

/// A batch and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub batch: Batch,
    pub done: oneshot::Sender<Result<(), StoreError>>,
    /// Nothing is written until this is dropped: a disk that hangs, for tests.
    pub held: Option<Receiver<()>>,
}

impl Job {
    pub fn new(batch: Batch, done: oneshot::Sender<Result<(), StoreError>>) -> Self {
        Self { batch, done, held: None }
    }
}

/// The open database with all that belongs to it.
#[derive(Debug)]
pub(super) struct Writer {
    pub db: sled::Db,
    pub ledger: Ledger,
    pub watermark: Watermark,
    pub dir: PathBuf,
    /// Keeps other processes out; let go of last.
    pub lock: Flock<File>,
}

impl Writer {
    /// Writes what comes, all that is waiting with one flush, until the queue is closed.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        while let Ok(first) = supervisor::resting(|| jobs.recv()) {
            let mut group = vec![first];
            group.extend(jobs.try_iter().take(GROUP - 1));
            for held in group.iter_mut().filter_map(|job| job.held.take()) {
                let _ = held.recv();
            }
            // What comes after a failure builds on what was not written.
            if outcome.is_ok() {
                outcome = self.write(&mut group);
                if let Err(error) = &outcome {
                    tracing::error!(%error, "the store cannot be written");
                }
            }
            for job in group {
                // Nobody needs to wait.
                let _ = job.done.send(outcome.clone());
            }
        }
        let Self { db, lock, .. } = self;
        // sled writes a last time when it is dropped.
        let dropped = catch_panic(|| drop(db));
        drop(lock);
        if let Err(panic) = dropped {
            tracing::warn!(%panic, "sled did not close cleanly; all batches were durable before");
        }
        outcome
    }

    /// Writes a group of batches as one, and returns when it is durable.
    fn write(&mut self, group: &mut [Job]) -> Result<(), StoreError> {
        let before = self.ledger.summary.sequence;
        let mut changes = sled::Batch::default();
        for job in group {
            for (key, value) in self.ledger.count(&mut job.batch) {
                match value {
                    Some(value) => changes.insert(key.as_bytes(), value),
                    None => changes.remove(key.as_bytes()),
                }
            }
        }
        let summary = self.ledger.summary;
        if summary.sequence == before {
            return Ok(());
        }
        let failed = |detail: String| StoreError::Write { path: self.dir.clone(), detail };
        let json = serde_json::to_vec(&summary).map_err(|error| failed(error.to_string()))?;
        changes.insert(SUMMARY, seal(SUMMARY, &json));
        catch_panic(|| self.db.apply_batch(changes).and_then(|()| self.db.flush()))
            .map_err(|panic| failed(format!("sled gave up: {panic}")))?
            .map_err(|error| failed(error.to_string()))?;
        self.watermark.advance(summary.sequence).map_err(|error| failed(format!("watermark: {error}")))
    }
}

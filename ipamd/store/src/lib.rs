//! The store: which attachments there are, kept in a sled database so that a daemon killed at any instant finds
//! again all that it has answered for.
//!
//! In the store's directory:
//! - `sled/`: the database. One tree; what its keys and values look like is in [`format`].
//! - `watermark`: the sequence number of the last batch that callers were told is durable; see [`watermark`].
//!
//! sled passes over what it cannot read, so a damaged database may open as an older or an empty one. Therefore every
//! record carries a checksum, each batch writes a summary (a sequence number, the number of attachments and a digest
//! of everything), and opening compares all of these: the store opens whole or not at all.
//!
//! *Durable* means: written to the kernel and handed to the disk (`sync_file_range`), so that the end of the daemon
//! in any way loses nothing. Whether the disk's own cache survives a loss of power is not waited for: all containers
//! are gone then too, and what the log lost at its end was about them.

mod aside;
pub mod endpoint_files;
mod error;
mod format;
mod ledger;
mod open;
mod room;
mod watermark;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

use tokio::sync::oneshot;

pub use error::StoreError;
pub use format::Batch;
pub use open::Loaded;
pub use room::{is_of_the_disk, try_to_write};

use ipamd_runtime::supervisor;

/// How many batches may wait for the writer. Each is about a kilobyte, and the daemon serves fewer requests at a
/// time than this; a writer this far behind has a disk that hangs.
const QUEUE: usize = 1024;

/// The open store. One thread of its own writes; dropping the store waits until all that was submitted is written.
#[derive(Debug)]
pub struct Store {
    /// `None` once it is closing: the writer ends with its queue.
    queue: Option<SyncSender<writer::Job>>,
    writer: Option<JoinHandle<Result<(), StoreError>>>,
    /// Why nothing can be written.
    unwritable: Option<StoreError>,
    dir: PathBuf,
    /// Whether records may be missing that nobody has looked for yet.
    has_lost: AtomicBool,
}

/// A store as it was found.
#[derive(Debug)]
pub struct Found {
    /// The store.
    pub store: Store,
    /// What it holds.
    pub loaded: Loaded,
    /// Where a damaged one is now that was in its place.
    pub set_aside: Option<PathBuf>,
}

impl Store {
    /// Opens the store in `dir`, which is made (mode 0700) if it does not exist and belongs to the store alone.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Newer`] or [`StoreError::Locked`], and those of the file system.
    pub fn open(dir: &Path) -> Result<(Self, Loaded), StoreError> {
        let (writer, loaded) = open::open(dir)?;
        Ok((Self::writing(writer, dir, false)?, loaded))
    }

    /// Opens the store in `dir` in whatever state it is. A damaged one is moved aside; where nothing can be written, this one
    /// takes nothing and holds what a copy in `scratch` tells, which must be a path on another disk that nobody else uses.
    /// `is_first` says that no daemon has left anything on this machine since it booted.
    ///
    /// # Errors
    /// [`StoreError::Newer`] or [`StoreError::Locked`], and those of a file system that can be written.
    pub fn open_or_begin(dir: &Path, scratch: &Path, is_first: bool) -> Result<Found, StoreError> {
        Self::of(open::open_or_begin(dir, scratch, is_first)?, dir)
    }

    fn of(opening: open::Opening, dir: &Path) -> Result<Found, StoreError> {
        let open::Opening { writer, loaded, has_lost, set_aside } = opening;
        let store = match writer {
            Ok(writer) => Self::writing(writer, dir, has_lost)?,
            Err(why) => Self {
                queue: None,
                writer: None,
                unwritable: Some(why),
                dir: dir.to_owned(),
                has_lost: has_lost.into(),
            },
        };
        Ok(Found { store, loaded, set_aside })
    }

    fn writing(writer: writer::Writer, dir: &Path, has_lost: bool) -> Result<Self, StoreError> {
        let (queue, jobs) = sync_channel(QUEUE);
        let spawned = supervisor::spawn("store", move || writer.run(&jobs));
        let writer = spawned.map_err(|source| StoreError::io("start the writer of", dir, source))?;
        Ok(Self {
            queue: Some(queue),
            writer: Some(writer),
            unwritable: None,
            dir: dir.to_owned(),
            has_lost: has_lost.into(),
        })
    }

    /// Why nothing can be written since it was opened.
    pub fn unwritable(&self) -> Option<&StoreError> {
        self.unwritable.as_ref()
    }

    /// Whether records of running containers may be missing that nobody has looked for yet.
    pub fn has_lost(&self) -> bool {
        self.has_lost.load(Ordering::Relaxed)
    }

    /// What was missing has been looked for, and what was found is submitted. Waits until it is durable.
    ///
    /// # Errors
    /// Why it could not be written; records may still be missing then.
    pub fn found_lost(&self) -> Result<(), StoreError> {
        self.submit(Batch::new())?.wait_blocking()?;
        aside::forget_loss(&self.dir);
        self.has_lost.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Queues a batch, which will be written wholly or not at all, after all that were queued before. Does not block.
    ///
    /// After a failure to write, every later batch fails too. An empty batch writes nothing: its ticket says when
    /// all earlier ones are durable.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if the queue is full, [`StoreError::Closed`] if the writer has ended.
    pub fn submit(&self, batch: Batch) -> Result<Ticket, StoreError> {
        if let Some(why) = &self.unwritable {
            return Err(why.clone());
        }
        let (done, ticket) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        match queue.try_send(writer::Job::new(batch, done)) {
            Ok(()) => Ok(Ticket(ticket)),
            Err(TrySendError::Full(_)) => Err(StoreError::Busy),
            Err(TrySendError::Disconnected(_)) => Err(StoreError::Closed),
        }
    }

    /// Has the disk take nothing until what is returned is dropped. For tests of what stands on the store.
    #[doc(hidden)]
    pub fn hold(&self) -> std::sync::mpsc::Sender<()> {
        let (release, held) = std::sync::mpsc::channel();
        let (done, _) = oneshot::channel();
        let job = writer::Job { held: Some(held), ..writer::Job::new(Batch::new(), done) };
        let sent = self.queue.as_ref().map(|queue| queue.send(job));
        debug_assert!(matches!(sent, Some(Ok(()))), "the store is closed");
        release
    }

    /// Opens one as on a disk that is read-only. For tests of what stands on the store.
    #[doc(hidden)]
    pub fn open_read_only(dir: &Path) -> Result<(Self, Loaded), StoreError> {
        let read_only = std::io::ErrorKind::ReadOnlyFilesystem.into();
        let opening = open::read_copy(dir, &dir.with_extension("copy"), "boot", &read_only)?;
        let Found { store, loaded, .. } = Self::of(opening, dir)?;
        Ok((store, loaded))
    }

    /// From here on no release before this one goes on with what is stored and pinned.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn claim(&self) -> Result<Ticket, StoreError> {
        let mut batch = Batch::new();
        batch.claim()?;
        self.submit(batch)
    }

    /// Writes what is queued and closes the database.
    ///
    /// # Errors
    /// Why the last batches could not be written; their tickets say so too.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), StoreError> {
        drop(self.queue.take());
        match self.writer.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(StoreError::Closed),
            None => Ok(()),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            tracing::error!(%error, "cannot close the store");
        }
    }
}

/// Tells when a batch is durable. Dropping it changes nothing about the batch.
#[derive(Debug)]
#[must_use = "a batch is durable once its ticket says so"]
pub struct Ticket(oneshot::Receiver<Result<(), StoreError>>);

impl Ticket {
    /// Waits until the batch is durable.
    ///
    /// # Errors
    /// Why it could not be written.
    pub async fn wait(self) -> Result<(), StoreError> {
        self.0.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Waits, blocking the thread, which must not be one of an async runtime.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn wait_blocking(self) -> Result<(), StoreError> {
        self.0.blocking_recv().unwrap_or(Err(StoreError::Closed))
    }
}

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::attachment as example_attachment;

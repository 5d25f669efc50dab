//! What a connection keeps from one request to the next.

use std::sync::Arc;

use ipamd_api::{ApiError, AttachmentKey, ErrorKind, policy::ManifestText};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};

use super::add_locks::{AddLock, AddLocks};

/// Memory for the files of diffs is given out in pieces of so many bytes.
const FILE_BLOCK: usize = 4_096;
/// So many there are for all clients together: 64 MiB.
pub(super) const FILE_BLOCKS: usize = 64 * 1024 * 1024 / FILE_BLOCK;

/// Files for the next diff, and the memory that they have.
pub(super) type Files = (Vec<ManifestText>, Option<OwnedSemaphorePermit>);

/// What a connection keeps from one request to the next; dropped with it.
#[derive(Debug, Default)]
pub struct Session {
    /// From an ADD's reservation to its commit, or until its plugin is gone: no other of its attachment comes into it.
    add_lock: Option<AddLock>,
    /// Whether that ADD was given its reservation.
    has_reserved: bool,
    /// Asks for the pod that is being added.
    asked: Option<JoinHandle<()>>,
    files: Vec<ManifestText>,
    blocks: Option<OwnedSemaphorePermit>,
}

impl Session {
    /// Whether an ADD is under way.
    pub(super) fn is_under_way(&self) -> bool {
        self.add_lock.is_some()
    }

    /// Begins an ADD. One that this connection has begun before is over.
    pub(super) async fn begin(&mut self, key: &AttachmentKey, locks: &AddLocks) -> Result<(), ApiError> {
        self.end();
        self.add_lock = Some(locks.take(key).await?);
        Ok(())
    }

    /// Notes whether the current ADD has got its reservation.
    pub(super) fn has_reserved(&mut self, given: bool) {
        self.has_reserved = given;
    }

    /// The attachment of an ADD that was given its reservation and has not come to its commit.
    pub(super) fn reserved(&self) -> Option<&AttachmentKey> {
        self.add_lock.as_ref().filter(|_| self.has_reserved).map(AddLock::key)
    }

    /// No ADD is under way any more.
    pub(super) fn end(&mut self) {
        self.add_lock = None;
        self.has_reserved = false;
    }

    /// Keeps who asks for the pod that is being added.
    pub(super) fn ask(&mut self, asked: Option<JoinHandle<()>>) {
        self.asked = asked;
    }

    /// Waits until what is known of the pod that is being added is in force.
    pub(super) async fn asked(&mut self) {
        if let Some(asked) = self.asked.take() {
            // Why it was in vain was said.
            let _ = asked.await;
        }
    }

    /// Keeps a file for the next diff.
    ///
    /// # Errors
    /// [`ErrorKind::TryAgainLater`] if there is no memory left for it; then the others are forgotten too.
    pub(super) fn add_file(&mut self, file: ManifestText, memory: &Arc<Semaphore>) -> Result<(), ApiError> {
        let size = file.text.capacity() + file.file.capacity() + size_of::<ManifestText>();
        let blocks = u32::try_from(size.div_ceil(FILE_BLOCK)).unwrap_or(u32::MAX);
        let Ok(more) = Arc::clone(memory).try_acquire_many_owned(blocks) else {
            self.take_files();
            return Err(ApiError::new(
                ErrorKind::TryAgainLater,
                format!(
                    "{} is too much: the files of all diffs under way may have {} MiB together",
                    file.file.display(),
                    FILE_BLOCKS * FILE_BLOCK / (1024 * 1024)
                ),
            ));
        };
        match &mut self.blocks {
            Some(blocks) => blocks.merge(more),
            blocks @ None => *blocks = Some(more),
        }
        self.files.push(file);
        Ok(())
    }

    /// The files that were kept, which are not kept any longer.
    pub(super) fn take_files(&mut self) -> Files {
        (std::mem::take(&mut self.files), self.blocks.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: usize) -> ManifestText {
        ManifestText { file: "a.yaml".into(), text: "#".repeat(size) }
    }

    #[test]
    fn files_take_memory_until_they_are_taken() {
        let memory = Arc::new(Semaphore::new(10));
        let mut session = Session::default();
        session.add_file(file(1), &memory).unwrap();
        session.add_file(file(FILE_BLOCK * 3), &memory).unwrap();
        assert_eq!(memory.available_permits(), 5);
        let files = session.take_files();
        assert_eq!((files.0.len(), memory.available_permits()), (2, 5));
        drop(files);
        assert_eq!(memory.available_permits(), 10);
    }

    #[test]
    fn all_clients_share_it_and_who_has_gone_gives_it_back() {
        let memory = Arc::new(Semaphore::new(10));
        let mut first = Session::default();
        let mut second = Session::default();
        first.add_file(file(FILE_BLOCK * 5), &memory).unwrap();
        second.add_file(file(1), &memory).unwrap();
        let refused = second.add_file(file(FILE_BLOCK * 5), &memory).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::TryAgainLater);
        assert!(refused.message.contains("a.yaml"), "{refused}");
        assert_eq!(memory.available_permits(), 4, "what cannot be compared whole is not kept");
        drop(first);
        second.add_file(file(FILE_BLOCK * 5), &memory).unwrap();
    }

    #[test]
    fn one_request_is_never_more_than_there_is() {
        assert!(ipamd_api::frame::MAX_FRAME as usize / FILE_BLOCK < FILE_BLOCKS);
    }
}

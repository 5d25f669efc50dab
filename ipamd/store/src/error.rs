//! Why the store cannot be opened or written.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Why the store cannot be opened or written. Cheap to clone: one failure may have many waiters.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: Arc<io::Error>,
    },
    /// Another process has it open.
    #[error("the store in {} is open in another process; stop the other cambric-ipamd or give this one a --state-dir of its own", path.display())]
    Locked {
        /// The store's directory.
        path: PathBuf,
    },
    /// Something is missing or not as it was written.
    #[error("the store in {} is damaged: {detail}", path.display())]
    Damaged {
        /// The store's directory.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// It has a format that this release does not know.
    #[error(
        "the store in {} was written by a newer Cambric (format {found}, this one knows {known}), and what is pinned is of that, too; start \
         that version, or drain the node, run `cambricctl uninstall` of that version, and start again",
        path.display()
    )]
    Newer {
        /// The store's directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this release knows.
        known: u32,
    },
    /// A record cannot be put into words.
    #[error("the record of {key} cannot be stored: {detail}")]
    Unencodable {
        /// Which attachment.
        key: String,
        /// Why not.
        detail: String,
    },
    /// A batch could not be written. All later ones fail as well, since they build on it.
    #[error("cannot write to the store in {}: {detail}; make room there, or make it writable: the daemon then goes on by itself", path.display())]
    Write {
        /// The store's directory.
        path: PathBuf,
        /// Why not.
        detail: String,
    },
    /// Too many batches wait already.
    #[error("the store is too far behind with writing to take more; try again later")]
    Busy,
    /// The writer has ended.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source: Arc::new(source) }
    }
}

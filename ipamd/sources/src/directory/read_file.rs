//! Reads one file.

use std::{
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use nix::libc;

use crate::manifest::LARGEST_FILE;

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    /// It may be readable later though nobody writes it.
    #[error("this file cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("this is not a regular file")]
    NotRegular,
    #[error("this file is larger than {} MiB", LARGEST_FILE >> 20)]
    TooLarge,
    #[error("this file is not UTF-8")]
    NotText,
}

/// Reads a file as text.
pub(crate) fn read(path: &Path) -> Result<String, Unread> {
    // A pipe would keep us waiting for its other end.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Unread::NotRegular);
    }
    if metadata.len() > LARGEST_FILE {
        return Err(Unread::TooLarge);
    }
    read_from(file, usize::try_from(metadata.len()).unwrap_or_default())
}

/// Reads something open as text, about so many bytes.
pub(super) fn read_from(file: impl Read, size: usize) -> Result<String, Unread> {
    let mut bytes = Vec::with_capacity(size + 1);
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(Unread::TooLarge);
    }
    String::from_utf8(bytes).map_err(|_| Unread::NotText)
}

//! Whether the disk takes what is written.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::Path,
};

use nix::errno::Errno;

/// Room that the store takes at a time, many times over.
const ROOM: usize = 1 << 20;

/// Writes a file of some size into a directory, and removes it. Returns when the disk has had it.
///
/// # Errors
/// Why that fails.
pub fn try_to_write(dir: &Path) -> io::Result<()> {
    try_with(dir, File::sync_all)
}

/// The same without waiting for the disk: file systems find room, or that there is none, as they are written to.
pub(super) fn find_room(dir: &Path) -> io::Result<()> {
    try_with(dir, |_| Ok(()))
}

fn try_with(dir: &Path, sync: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let path = dir.join("room");
    let write = |mut file: File| {
        file.write_all(&vec![0xa5; ROOM])?;
        sync(&file)
    };
    let written = File::create(&path).and_then(write);
    let removed = fs::remove_file(&path);
    written.and(removed)
}

/// Whether an error says that the disk takes nothing, for now.
pub fn is_of_the_disk(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::ReadOnlyFilesystem | ErrorKind::QuotaExceeded)
        || error.raw_os_error() == Some(Errno::EIO as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        try_to_write(dir.path()).unwrap();
        find_room(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(!is_of_the_disk(&try_to_write(&dir.path().join("missing")).unwrap_err()));
        assert!(is_of_the_disk(&Errno::ENOSPC.into()) && is_of_the_disk(&Errno::EROFS.into()));
    }
}

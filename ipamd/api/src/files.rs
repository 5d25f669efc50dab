//! Files beside the daemon's socket, by which the plugin and daemons that come after each other know of each other.

use std::path::{Path, PathBuf};

/// The directory of files that plugins leave, one for each attachment that was deleted while no daemon answered.
pub fn released(socket: &Path) -> PathBuf {
    socket.with_file_name("released")
}

/// The directory of files that say who each committed endpoint is.
pub fn endpoints(socket: &Path) -> PathBuf {
    socket.with_file_name("endpoints")
}

/// Where a store is copied to in which nothing can be written: the socket is on another disk.
pub fn copy_of_store(socket: &Path) -> PathBuf {
    socket.with_file_name("store.copy")
}

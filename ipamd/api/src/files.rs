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

/// The directory of the copy of a store that cannot be written. The socket is on another disk than the store.
pub fn copy_of_store(socket: &Path) -> PathBuf {
    socket.with_file_name("store.copy")
}

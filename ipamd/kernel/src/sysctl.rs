//! Kernel settings of the calling thread's network namespace, by their path below `/proc/sys`.

use std::{fs, io, path::PathBuf};

use crate::kernel_files;

fn file(path: &str) -> PathBuf {
    kernel_files::of_node(PathBuf::from("/proc/sys").join(path))
}

/// Reads a setting; `None` if this kernel does not have it.
pub fn read(path: &str) -> Option<String> {
    fs::read_to_string(file(path)).ok().map(|value| value.trim().to_owned())
}

/// Writes a setting.
///
/// # Errors
/// Those of the file.
pub fn write(path: &str, value: &str) -> io::Result<()> {
    fs::write(file(path), value)
}

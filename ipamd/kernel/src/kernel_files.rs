//! Paths of the node's /proc/sys and /sys: below `/`, or where a container has them mounted.
//!
//! A container's own `/proc/sys` and `/sys` are read-only, so the node's are mounted at another path.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// Says below which directory the node's `/proc/sys` and `/sys` are. To be called before anything is looked up; the first
/// call counts.
pub fn set_root(root: &Path) {
    // There is one node.
    let _ = ROOT.set(root.to_owned());
}

/// Whether the node's files are elsewhere than this process's own, as in a container.
pub fn are_elsewhere() -> bool {
    ROOT.get().is_some_and(|root| root != Path::new("/"))
}

/// Where a file is that the node has at `path`, which is absolute and below `/proc/sys` or `/sys`.
pub fn of_node(path: impl AsRef<Path>) -> PathBuf {
    below(ROOT.get().map_or(Path::new("/"), PathBuf::as_path), path.as_ref())
}

/// The node's own name of a file that this process sees there, for who runs on the node itself.
pub fn on_node(path: PathBuf) -> PathBuf {
    ROOT.get().and_then(|root| above(root, &path)).unwrap_or(path)
}

/// The id of this boot of the machine.
///
/// # Errors
/// Those of the file that tells it.
pub fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

fn above(root: &Path, path: &Path) -> Option<PathBuf> {
    path.strip_prefix(root).ok().map(|rest| Path::new("/").join(rest))
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_node_are_below_its_root() {
        assert_eq!(below(Path::new("/"), Path::new("/sys/fs")), Path::new("/sys/fs"));
        assert_eq!(below(Path::new("/host"), Path::new("/proc/sys/net")), Path::new("/host/proc/sys/net"));
        let pin = |root: &str, path: &str| above(Path::new(root), Path::new(path));
        assert_eq!(pin("/host", "/host/sys/fs/bpf"), Some("/sys/fs/bpf".into()));
        assert_eq!(pin("/", "/sys/fs/bpf"), Some("/sys/fs/bpf".into()));
        assert_eq!(pin("/host", "/run/bpf"), None);
    }
}

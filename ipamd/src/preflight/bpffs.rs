//! The file system that programs, maps and links are pinned on.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::Finding;
use crate::kernel_files;

/// Where it is mounted by custom.
const CUSTOMARY: &str = "/sys/fs/bpf";

/// The bpffs is missing and cannot be mounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The kernel refuses.
    #[error("cannot mount a bpffs at {}: {source}; mount it with: mount -t bpf bpf {}", path.display(), path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// This is a container, whose mounts end with it, and with them what is pinned there.
    #[error("{} is on no bpffs; mount one on the node: mount -t bpf bpf {CUSTOMARY}", path.display())]
    InContainer {
        /// What should be on one.
        path: PathBuf,
    },
}

/// Whether `path`, or the nearest directory above it that exists, is on a bpffs.
fn is_on_bpffs(path: &Path) -> bool {
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    existing
        .is_some_and(|existing| statfs(existing).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC))
}

/// Where a bpffs for `path` is to be mounted.
fn mount_point(path: &Path) -> PathBuf {
    let customary = kernel_files::of_node(CUSTOMARY);
    if path.starts_with(&customary) { customary } else { path.to_owned() }
}

/// Mounts a bpffs for `path` if it is not on one.
///
/// # Errors
/// Why it cannot be mounted.
pub fn mount_bpffs(path: &Path) -> Result<(), MountError> {
    if is_on_bpffs(path) {
        return Ok(());
    }
    if kernel_files::are_elsewhere() {
        return Err(MountError::InContainer { path: path.to_owned() });
    }
    mount_at(&mount_point(path))
}

/// As [`mount_bpffs`], from a container that sees the node's processes: at the customary place, in the mount namespace of
/// the first process. A container that starts later finds it there.
///
/// # Errors
/// Why it cannot be mounted.
pub fn mount_bpffs_of_node(path: &Path) -> Result<(), MountError> {
    if is_on_bpffs(path) {
        return Ok(());
    }
    if !kernel_files::are_elsewhere() {
        return mount_at(&mount_point(path));
    }
    let point = Path::new(CUSTOMARY);
    let there = || -> io::Result<()> {
        let node = fs::File::open("/proc/1/ns/mnt")?;
        // A thread that shares its working directory with others cannot change over.
        unshare(CloneFlags::CLONE_FS)?;
        Ok(setns(node, CloneFlags::CLONE_NEWNS)?)
    };
    let enter = || there().map_err(|source| MountError::Refused { path: point.to_owned(), source });
    let mounted = thread::scope(|scope| {
        scope
            .spawn(|| enter().and_then(|()| if is_on_bpffs(point) { Ok(()) } else { mount_at(point) }))
            .join()
    });
    mounted.unwrap_or_else(|_| Err(MountError::InContainer { path: path.to_owned() }))
}

fn mount_at(point: &Path) -> Result<(), MountError> {
    let mounted = fs::create_dir_all(point).and_then(|()| {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("bpf"), point, Some("bpf"), flags, Some("mode=700")).map_err(io::Error::from)
    });
    mounted.map_err(|source| MountError::Refused { path: point.to_owned(), source })?;
    tracing::info!(path = %point.display(), "mounted a bpffs");
    Ok(())
}

pub(super) fn check(path: &Path) -> Finding {
    let shown = path.display();
    if is_on_bpffs(path) {
        Finding::ok("bpffs", format!("{shown} is on a bpffs"))
    } else {
        let point = mount_point(path);
        let point = point.display();
        Finding::warning(
            "bpffs",
            format!("{shown} is on no bpffs"),
            format!("the daemon mounts one where it may; otherwise: mount -t bpf bpf {point}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_mounted_where_everybody_expects_it() {
        assert_eq!(mount_point(Path::new("/sys/fs/bpf/cambric")), Path::new("/sys/fs/bpf"));
        assert_eq!(mount_point(Path::new("/run/cambric/bpf")), Path::new("/run/cambric/bpf"));
    }

    #[test]
    fn an_ordinary_directory_is_no_bpffs() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_on_bpffs(&dir.path().join("not/there")));
        assert_eq!(check(dir.path()).outcome, super::super::Outcome::Warning);
    }
}

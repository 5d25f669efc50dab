//! The file system that programs, maps and links are pinned on.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::Finding;
use crate::kernel_files;

/// Where it is mounted by custom.
const CUSTOMARY: &str = "/sys/fs/bpf";
/// What one that was mounted here is called in the list of mounts, by which it is known again.
const SOURCE: &str = "cambric";

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
    /// The kernel refuses the opposite.
    #[error("cannot unmount the bpffs at {}: {source}", path.display())]
    Unmount {
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
    let mounted = in_mounts_of_node(|| if is_on_bpffs(point) { Ok(()) } else { mount_at(point) });
    mounted.unwrap_or_else(|source| Err(MountError::Refused { path: point.to_owned(), source }))
}

/// Unmounts what one of the above has mounted, unless somebody has something else there. Returns where it was.
///
/// # Errors
/// Why it cannot be unmounted.
pub fn unmount_bpffs_of_node(path: &Path) -> Result<Option<PathBuf>, MountError> {
    let elsewhere = kernel_files::are_elsewhere();
    let point = if elsewhere { CUSTOMARY.into() } else { mount_point(path) };
    let unmounted = if elsewhere { in_mounts_of_node(|| unmount_at(&point)) } else { Ok(unmount_at(&point)) };
    match unmounted.and_then(|unmounted| unmounted) {
        Ok(unmounted) => Ok(unmounted.then_some(point)),
        Err(source) => Err(MountError::Unmount { path: point, source }),
    }
}

/// Calls `f` on a thread in the mount namespace of the node's first process.
fn in_mounts_of_node<T: Send>(f: impl FnOnce() -> T + Send) -> io::Result<T> {
    let there = || -> io::Result<T> {
        let node = fs::File::open("/proc/1/ns/mnt")?;
        // A thread that shares its working directory with others cannot change over.
        unshare(CloneFlags::CLONE_FS)?;
        setns(node, CloneFlags::CLONE_NEWNS)?;
        Ok(f())
    };
    let done = thread::scope(|scope| scope.spawn(there).join());
    done.unwrap_or_else(|_| Err(io::Error::other("a thread has panicked")))
}

/// Returns whether there was something to unmount.
fn unmount_at(point: &Path) -> io::Result<bool> {
    // What the kernel itself has there.
    let of_kernel = |name: &OsStr| name == "maps.debug" || name == "progs.debug";
    let is_used = || -> io::Result<bool> {
        Ok(fs::read_dir(point)?.flatten().any(|entry| !of_kernel(&entry.file_name())))
    };
    if !is_own(&fs::read_to_string("/proc/thread-self/mountinfo")?, point) || is_used()? {
        return Ok(false);
    }
    match umount2(point, MntFlags::empty()) {
        // Somebody looks at it.
        Err(Errno::EBUSY) => Ok(false),
        done => done.map(|()| true).map_err(io::Error::from),
    }
}

/// Whether the uppermost of the mounts there is a bpffs that was mounted here.
fn is_own(mounts: &str, point: &Path) -> bool {
    let fields = mounts.lines().filter_map(|line| line.split_once(" - "));
    let mut there = fields.filter(|(left, _)| left.split(' ').nth(4).map(Path::new) == Some(point));
    let what = there.next_back().map(|(_, right)| right.split(' ').take(2).collect::<Vec<_>>());
    what.is_some_and(|what| what == ["bpf", SOURCE])
}

fn mount_at(point: &Path) -> Result<(), MountError> {
    let mounted = fs::create_dir_all(point).and_then(|()| {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some(SOURCE), point, Some("bpf"), flags, Some("mode=700")).map_err(io::Error::from)
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
    fn one_that_was_mounted_here_is_known_again() {
        let line = |source: &str| {
            format!("30 25 0:26 / /sys/fs/bpf rw,nosuid shared:9 - bpf {source} rw,mode=700\n")
        };
        let point = Path::new("/sys/fs/bpf");
        assert!(is_own(&line("cambric"), point));
        assert!(!is_own(&line("bpf"), point));
        assert!(!is_own(&(line("cambric") + &line("bpf")), point));
        assert!(!is_own(&line("cambric"), Path::new("/sys")));
        assert!(!is_own("nonsense", point));
    }

    #[test]
    fn an_ordinary_directory_is_no_bpffs() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_on_bpffs(&dir.path().join("not/there")));
        assert_eq!(check(dir.path()).outcome, super::super::Outcome::Warning);
    }
}

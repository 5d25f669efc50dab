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

use super::finding::Finding;
use ipamd_kernel::kernel_files;

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
    /// It cannot be seen whether there is something to unmount.
    #[error("cannot see whether Cambric has mounted the bpffs at {}: {source}", path.display())]
    Look {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refuses the opposite.
    #[error(
        "cannot unmount the bpffs at {}, which Cambric has mounted: {source}; on the node: umount {}",
        path.display(), path.display()
    )]
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

/// Mounts a bpffs for `path` if it is not on one; whether it was mounted now.
///
/// # Errors
/// Why it cannot be mounted.
pub fn mount_bpffs(path: &Path) -> Result<bool, MountError> {
    if is_on_bpffs(path) {
        return Ok(false);
    }
    if kernel_files::are_elsewhere() {
        return Err(MountError::InContainer { path: path.to_owned() });
    }
    mount_at(&mount_point(path)).map(|()| true)
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

/// Unmounts what one of the above has mounted, unless somebody has something else there. Returns where it was. The mounts
/// of the node are entered only if there is something of Cambric's to unmount: a container sees what is mounted there
/// without that, and may not be allowed to.
///
/// # Errors
/// Why it cannot be unmounted.
pub fn unmount_bpffs_of_node(path: &Path) -> Result<Option<PathBuf>, MountError> {
    let elsewhere = kernel_files::are_elsewhere();
    let (seen, point) = if elsewhere {
        (kernel_files::of_node(CUSTOMARY), PathBuf::from(CUSTOMARY))
    } else {
        (mount_point(path), mount_point(path))
    };
    unmount_if(is_unused_own(&seen), &point, |point| {
        if elsewhere { in_mounts_of_node(|| unmount_at(point)).flatten() } else { unmount_at(point) }
    })
}

/// Calls `unmount` if it was seen that there is something to unmount.
fn unmount_if(
    seen: io::Result<bool>,
    point: &Path,
    unmount: impl FnOnce(&Path) -> io::Result<bool>,
) -> Result<Option<PathBuf>, MountError> {
    let path = || point.to_owned();
    if !seen.map_err(|source| MountError::Look { path: path(), source })? {
        return Ok(None);
    }
    let unmounted = unmount(point).map_err(|source| MountError::Unmount { path: path(), source })?;
    Ok(unmounted.then(path))
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

/// Whether a bpffs that was mounted here is at `point`, as this process sees it, and nobody has pinned anything there.
fn is_unused_own(point: &Path) -> io::Result<bool> {
    // What the kernel itself has there.
    let of_kernel = |name: &OsStr| name == "maps.debug" || name == "progs.debug";
    if !is_own(&fs::read_to_string("/proc/thread-self/mountinfo")?, point) {
        return Ok(false);
    }
    Ok(!fs::read_dir(point)?.flatten().any(|entry| !of_kernel(&entry.file_name())))
}

/// Returns whether there was something to unmount, in the mounts of this thread.
fn unmount_at(point: &Path) -> io::Result<bool> {
    if !is_unused_own(point)? {
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
    fn the_nodes_mounts_are_entered_only_to_undo_what_is_ones_own() {
        let point = Path::new("/sys/fs/bpf");
        let denied = |_: &Path| Err(io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(unmount_if(Ok(false), point, denied).unwrap().is_none());
        let refused = unmount_if(Ok(true), point, denied).unwrap_err().to_string();
        assert!(
            refused.contains("which Cambric has mounted: permission denied; on the node: umount /sys"),
            "{refused}"
        );
        assert_eq!(unmount_if(Ok(true), point, |_| Ok(true)).unwrap().as_deref(), Some(point));
        assert!(unmount_if(Ok(true), point, |_| Ok(false)).unwrap().is_none());
        let unseen = unmount_if(Err(io::ErrorKind::NotFound.into()), point, |_| panic!("it is not known"))
            .unwrap_err();
        assert!(matches!(unseen, MountError::Look { .. }));
    }

    #[test]
    fn an_ordinary_directory_is_no_bpffs() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_on_bpffs(&dir.path().join("not/there")));
        assert_eq!(check(dir.path()).outcome, super::super::finding::Outcome::Warning);
    }
}

//! The file system that programs, maps and links are pinned on.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::Finding;

/// Where it is mounted by custom.
const CUSTOMARY: &str = "/sys/fs/bpf";

/// The bpffs is missing and cannot be mounted.
#[derive(Debug, thiserror::Error)]
#[error("cannot mount a bpffs at {}: {source}; mount it with: mount -t bpf bpf {}", path.display(), path.display())]
pub struct MountError {
    path: PathBuf,
    source: io::Error,
}

/// Whether `path`, or the nearest directory above it that exists, is on a bpffs.
fn is_on_bpffs(path: &Path) -> bool {
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    existing
        .is_some_and(|existing| statfs(existing).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC))
}

/// Where a bpffs for `path` is to be mounted.
fn mount_point(path: &Path) -> &Path {
    if path.starts_with(CUSTOMARY) { Path::new(CUSTOMARY) } else { path }
}

/// Mounts a bpffs for `path` if it is not on one.
///
/// # Errors
/// Why it cannot be mounted.
pub fn mount_bpffs(path: &Path) -> Result<(), MountError> {
    if is_on_bpffs(path) {
        return Ok(());
    }
    let point = mount_point(path);
    let mounted = fs::create_dir_all(point).and_then(|()| {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("bpf"), point, Some("bpf"), flags, Some("mode=700")).map_err(io::Error::from)
    });
    mounted.map_err(|source| MountError { path: point.to_owned(), source })?;
    tracing::info!(path = %point.display(), "mounted a bpffs");
    Ok(())
}

pub(super) fn check(path: &Path) -> Finding {
    let shown = path.display();
    if is_on_bpffs(path) {
        Finding::ok("bpffs", format!("{shown} is on a bpffs"))
    } else {
        let point = mount_point(path).display();
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

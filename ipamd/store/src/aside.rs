//! A damaged store is moved aside, and the node goes on with what the kernel and the endpoints' files tell.
//!
//! Beside the store's directory `store`:
//! - `store.damaged-<time>`: what was moved aside; the last few are kept for whoever wants to look into them.
//! - `store.lost`: holds the boot id while records of this boot may be missing that nobody has looked for yet, so that
//!   a daemon that is killed meanwhile does not take a running container's interface for an orphan.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::error::StoreError;
use ipamd_runtime::atomic_file;

/// How many damaged stores are kept.
const KEPT: usize = 3;
/// What their names have after that of the store.
const DAMAGED: &str = "damaged";
/// The same of the note that records may be missing.
const LOST: &str = "lost";
/// How long sled may take to let go of a database that was dropped.
const LETS_GO_WITHIN: Duration = Duration::from_secs(2);

/// Moves the store in `dir` aside, and removes all but the newest of those moved before. Whoever calls this has its lock.
/// Returns where it is now.
pub(super) fn set_aside(dir: &Path) -> Result<PathBuf, StoreError> {
    await_sled(dir);
    let former = damaged_stores(dir);
    for path in former.iter().take((former.len() + 1).saturating_sub(KEPT)) {
        if let Err(error) = fs::remove_dir_all(path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove a damaged store that was moved aside before");
        }
    }
    let failed = |source| StoreError::io("move aside", dir, source);
    let time = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let names = (0..100).map(|number| match number {
        0 => format!("{DAMAGED}-{time}"),
        _ => format!("{DAMAGED}-{time}.{number:02}"),
    });
    let free: Vec<_> = names.map(|name| dir.with_extension(name)).filter(|path| !path.exists()).collect();
    // Names are in the order of time, also of two that are moved within a second; unless the clock was set back.
    let next = free.iter().find(|path| former.last().is_none_or(|last| *path > last)).or(free.first());
    let path = next.cloned().ok_or_else(|| failed(ErrorKind::AlreadyExists.into()))?;
    fs::rename(dir, &path).map_err(failed)?;
    Ok(path)
}

/// Damaged stores that were moved aside, the oldest first.
fn damaged_stores(dir: &Path) -> Vec<PathBuf> {
    let Some(name) = dir.file_name() else { return Vec::new() };
    let start = format!("{}.{DAMAGED}", name.to_string_lossy());
    let entries = dir.parent().map(fs::read_dir).into_iter().flatten().flatten().flatten();
    let is_one = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&start)) && path.is_dir()
    };
    let mut found: Vec<_> = entries.map(|entry| entry.path()).filter(is_one).collect();
    found.sort();
    found
}

/// Waits until no thread of sled has the database open any more, for they find their files by path.
pub(super) fn await_sled(dir: &Path) {
    let pause = Duration::from_millis(10);
    let mut patience = LETS_GO_WITHIN;
    while let Ok(file) = File::open(dir.join("sled/db")) {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((_, Errno::EWOULDBLOCK)) if patience > Duration::ZERO => {
                thread::sleep(pause);
                patience = patience.saturating_sub(pause);
            }
            _ => return,
        }
    }
}

/// Notes that records of this boot may be missing.
pub(super) fn note_loss(dir: &Path, boot_id: &str) -> Result<(), StoreError> {
    let path = dir.with_extension(LOST);
    atomic_file::replace(&path, &dir.with_extension("lost.new"), boot_id.as_bytes(), 0o600)
        .map_err(|source| StoreError::io("write", &path, source))
}

/// Whether records of this boot may be missing. A note of another boot is removed, for its containers are gone.
pub(super) fn is_loss_noted(dir: &Path, boot_id: &str) -> bool {
    let noted = fs::read_to_string(dir.with_extension(LOST));
    let is_of_this_boot = noted.as_ref().is_ok_and(|noted| noted == boot_id);
    if noted.is_ok() && !is_of_this_boot {
        forget_loss(dir);
    }
    is_of_this_boot
}

/// Removes the note: what was missing has been looked for.
pub(super) fn forget_loss(dir: &Path) {
    let path = dir.with_extension(LOST);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove the note that records may be missing");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_moved_aside_has_a_name_of_its_own_and_the_last_few_are_kept() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("store");
        // As a former release named it.
        fs::create_dir(dir.with_extension("damaged")).unwrap();
        for number in 0..KEPT + 2 {
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("which"), number.to_string()).unwrap();
            let aside = set_aside(&dir).unwrap();
            assert!(!dir.exists());
            assert_eq!(fs::read_to_string(aside.join("which")).unwrap(), number.to_string());
        }
        let kept = damaged_stores(&dir);
        let which: Vec<_> = kept.iter().map(|path| fs::read_to_string(path.join("which")).unwrap()).collect();
        assert_eq!(which, ["2", "3", "4"], "{kept:?}");
    }

    #[test]
    fn a_loss_is_noted_for_its_boot() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("store");
        assert!(!is_loss_noted(&dir, "this"));
        note_loss(&dir, "this").unwrap();
        assert!(is_loss_noted(&dir, "this"));
        assert!(!is_loss_noted(&dir, "another"));
        assert!(!is_loss_noted(&dir, "this"), "the note of another boot stays");
        note_loss(&dir, "this").unwrap();
        forget_loss(&dir);
        forget_loss(&dir);
        assert!(!is_loss_noted(&dir, "this"));
    }
}

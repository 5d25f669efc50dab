//! The names that the testbed gives, and where namespaces have theirs.

use std::{
    fs,
    path::Path,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use nix::mount::{MntFlags, umount2};

/// The beginning of every name that the testbed gives.
pub(super) const PREFIX: &str = "cambric-test-";

/// A name that nobody else uses.
pub(super) fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Where `ip netns` looks for names.
pub(super) const NAMED: &str = "/run/netns";

/// Removes the name of a namespace; the namespace goes with its last user.
pub(super) fn remove_netns(path: &Path) {
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

//! What the daemon asks of the kernel for itself: little memory, and as many files as it may have.

use nix::{
    errno::Errno,
    libc,
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
    },
};

/// Raises the limit of open files to what the process may raise it to: each policy map is one.
///
/// # Errors
/// Why the kernel refused.
pub fn allow_files() -> Result<(), Errno> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)
}

/// Gives memory back that was needed for a while.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim only returns free pages of the allocator's to the kernel.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Tells the kernel and the allocator to spend memory only on what is used. To be called before any thread starts.
///
/// - No transparent huge pages: sled has tables of megabytes of which it touches a page or two, and a huge page
///   makes two megabytes of either.
/// - One heap for all threads: sled starts seven, which are idle nearly always, and glibc would give each its own.
/// - Large tables always straight from the kernel, whose zeroes need not be written: glibc would raise the limit for
///   that by itself, and clear them on its heap.
///
/// # Errors
/// Why the kernel refused the first, which does no harm.
pub fn keep_small() -> Result<(), Errno> {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers and touches nothing of ours; it is called before other threads could
    // allocate, as its manual asks.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
    }
    prctl::set_thp_disable(true)
}

//! Reading a map many entries at a time.
//!
//! Not by libbpf-rs' iterator, which takes a batch that is not full for the last one: the kernel reads a hash map a bucket
//! at a time, and a bucket that does not fit any more is left to the next batch.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    ptr,
};

use libbpf_rs::{MapCore, MapHandle, libbpf_sys};
use nix::errno::Errno;

/// How many entries one system call reads at first; 1,000 of the largest map are 140 KiB. Twice as many where a bucket has
/// more.
const BATCH: u32 = 1_000;
/// The kernel's place in a hash map is a number of this size, however small the keys are.
const LEAST_CURSOR: usize = size_of::<u32>();

/// Calls `visit` with key and value of each entry until it returns false.
pub(super) fn each_entry(map: &MapHandle, mut visit: impl FnMut(&[u8], &[u8]) -> bool) -> io::Result<()> {
    let (key_size, value_size) = (map.key_size() as usize, map.value_size() as usize);
    let mut batch = BATCH.min(map.max_entries());
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let mut cursor = vec![0_u8; key_size.max(LEAST_CURSOR)];
    let mut next = cursor.clone();
    let mut begun = false;
    loop {
        keys.resize(key_size * batch as usize, 0_u8);
        values.resize(value_size * batch as usize, 0_u8);
        let mut count = batch;
        let from = if begun { cursor.as_mut_ptr().cast() } else { ptr::null_mut() };
        // SAFETY: the cursors hold a key or a number each, `keys` and `values` hold `count` of the map's, which is not
        // per CPU; the kernel writes no more than that.
        let result = unsafe {
            libbpf_sys::bpf_map_lookup_batch(
                map.as_fd().as_raw_fd(),
                from,
                next.as_mut_ptr().cast(),
                keys.as_mut_ptr().cast(),
                values.as_mut_ptr().cast(),
                &raw mut count,
                ptr::null(),
            )
        };
        let last = match result {
            0 => false,
            failed => match Errno::from_raw(-failed) {
                // The end: what was read before it counts.
                Errno::ENOENT => true,
                Errno::EINTR | Errno::EAGAIN => continue,
                Errno::ENOSPC => {
                    batch = batch.saturating_mul(2);
                    continue;
                }
                errno => return Err(errno.into()),
            },
        };
        let entries = keys.chunks_exact(key_size).zip(values.chunks_exact(value_size));
        for (key, value) in entries.take(count as usize) {
            if !visit(key, value) {
                return Ok(());
            }
        }
        if last {
            return Ok(());
        }
        std::mem::swap(&mut cursor, &mut next);
        begun = true;
    }
}

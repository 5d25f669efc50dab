//! All writes of the daemon into maps, so that every error is a [`MapError`] with the same words.

use std::{
    os::fd::{AsFd, AsRawFd},
    ptr,
};

use libbpf_rs::{MapCore, MapHandle, libbpf_sys};
use nix::errno::Errno;

use super::map_error::MapError;

/// What a call of libbpf returns: zero, or the negative number of what went wrong.
fn checked(result: i32) -> Result<(), Errno> {
    if result < 0 { Err(Errno::from_raw(-result)) } else { Ok(()) }
}

/// Whether bytes are what so many entries take.
fn is_whole(bytes: &[u8], each: u32, count: u32) -> bool {
    bytes.len() == each as usize * count as usize
}

/// Sets an entry. In a map per CPU the value has a part for each, of whole words.
pub(super) fn put(map: &MapHandle, name: &str, key: &[u8], value: &[u8]) -> Result<(), MapError> {
    let size = if map.map_type().is_percpu() {
        map.value_size().next_multiple_of(8).saturating_mul(
            libbpf_rs::num_possible_cpus().ok().and_then(|cpus| cpus.try_into().ok()).unwrap_or(u32::MAX),
        )
    } else {
        map.value_size()
    };
    let written = if is_whole(key, map.key_size(), 1) && is_whole(value, size, 1) {
        // SAFETY: the descriptor is open, and key and value have the sizes of the map's, which were just compared.
        checked(unsafe {
            libbpf_sys::bpf_map_update_elem(
                map.as_fd().as_raw_fd(),
                key.as_ptr().cast(),
                value.as_ptr().cast(),
                libbpf_sys::BPF_ANY.into(),
            )
        })
    } else {
        Err(Errno::EINVAL)
    };
    written.map_err(|errno| MapError::written(map, name, errno))
}

/// Sets `count` entries, whose keys and values lie one behind the other, in one system call.
pub(super) fn put_all(
    map: &MapHandle,
    name: &str,
    keys: &[u8],
    values: &[u8],
    mut count: u32,
) -> Result<(), MapError> {
    if count == 0 {
        return Ok(());
    }
    let written = if is_whole(keys, map.key_size(), count) && is_whole(values, map.value_size(), count) {
        // SAFETY: the descriptor is open, and keys and values are as many as `count` says, of the map's sizes; no options are passed.
        checked(unsafe {
            libbpf_sys::bpf_map_update_batch(
                map.as_fd().as_raw_fd(),
                keys.as_ptr().cast(),
                values.as_ptr().cast(),
                &raw mut count,
                ptr::null(),
            )
        })
    } else {
        Err(Errno::EINVAL)
    };
    written.map_err(|errno| MapError::written(map, name, errno))
}

/// Removes an entry that may not be there.
pub(super) fn remove(map: &MapHandle, name: &str, key: &[u8]) -> Result<(), MapError> {
    let removed = if is_whole(key, map.key_size(), 1) {
        // SAFETY: the descriptor is open, and the key has the size of the map's.
        checked(unsafe { libbpf_sys::bpf_map_delete_elem(map.as_fd().as_raw_fd(), key.as_ptr().cast()) })
    } else {
        Err(Errno::EINVAL)
    };
    match removed {
        Err(Errno::ENOENT) => Ok(()),
        removed => removed.map_err(|errno| MapError::written(map, name, errno)),
    }
}

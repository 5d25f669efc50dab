//! The maps inside maps: making them, and putting them where the programs find them.

use std::os::fd::{AsFd, AsRawFd};

use bpf::layout::Plain;
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType, libbpf_sys};

use crate::{error::DatapathError, map_error::MapError, writes};

/// What an inner map is made like. All but the number of entries is as in `progs/maps.h`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub kind: MapType,
    pub name: &'static str,
    /// Bytes.
    pub key: u32,
    /// Bytes.
    pub value: u32,
    pub entries: u32,
}

impl Shape {
    /// Makes an empty map, which takes memory as it fills.
    pub fn create(&self) -> Result<MapHandle, DatapathError> {
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            map_flags: libbpf_sys::BPF_F_NO_PREALLOC,
            ..Default::default()
        };
        MapHandle::create(self.kind, Some(self.name), self.key, self.value, self.entries, &options)
            .map_err(|error| MapError::made(self.name, self.entries, &error).into())
    }
}

/// Bytes that a map takes in the kernel, as it says itself.
pub(super) fn memory(map: &MapHandle) -> u64 {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd()));
    let info = info.unwrap_or_default();
    let bytes = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    bytes.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or_default()
}

/// The value of a key, or of its longest prefix.
pub(super) fn get<V: Plain>(map: &MapHandle, name: &str, key: &[u8]) -> Result<Option<V>, DatapathError> {
    let found = map.lookup(key, MapFlags::ANY).map_err(DatapathError::map(name))?;
    Ok(found.and_then(|bytes| V::from_bytes(&bytes)))
}

/// Puts inner maps at indices of the array `outer`, in one system call. It returns when no program uses what was there
/// before: the kernel waits for them.
pub(super) fn put_inner(
    outer: &MapHandle,
    name: &str,
    maps: &[(u32, &MapHandle)],
) -> Result<(), DatapathError> {
    let keys = maps.iter().flat_map(|(index, _)| index.to_ne_bytes()).collect::<Vec<_>>();
    let fds = maps.iter().flat_map(|(_, map)| map.as_fd().as_raw_fd().to_ne_bytes()).collect::<Vec<_>>();
    let count = u32::try_from(maps.len()).unwrap_or(u32::MAX);
    Ok(writes::put_all(outer, name, &keys, &fds, count)?)
}

/// The inner map at an index.
pub(super) fn inner(outer: &MapHandle, name: &str, index: u32) -> Result<Option<MapHandle>, DatapathError> {
    match get::<u32>(outer, name, index.as_bytes())? {
        Some(id) => MapHandle::from_map_id(id).map(Some).map_err(DatapathError::map(name)),
        None => Ok(None),
    }
}

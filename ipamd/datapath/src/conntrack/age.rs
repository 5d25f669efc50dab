//! Runs the program `age`, which removes expired conntrack entries.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use bpf::layout::{Ageing, Plain};
use libbpf_rs::{MapCore, MapFlags, MapHandle, libbpf_sys};

use super::entry::now;
use crate::error::DatapathError;

/// Runs the program once. Returns what it found.
pub fn run(program: BorrowedFd<'_>) -> Result<Ageing, DatapathError> {
    let mut ageing = Ageing { now: now(), ..Ageing::default() };
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        ctx_in: std::ptr::from_mut(&mut ageing).cast(),
        #[allow(clippy::cast_possible_truncation, reason = "some bytes")]
        ctx_size_in: size_of::<Ageing>() as u32,
        ..Default::default()
    };
    // SAFETY: the context is as large as it says, and the kernel writes it back into the same place before the call
    // returns; `options` outlives the call.
    let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) };
    if result == 0 {
        Ok(ageing)
    } else {
        Err(DatapathError::Age { source: io::Error::from_raw_os_error(-result) })
    }
}

/// The ports that the last run has marked.
pub fn held_ports(map: &MapHandle) -> Result<impl Iterator<Item = u16>, DatapathError> {
    let mut words = Vec::new();
    for index in 0..map.max_entries() {
        let value = map.lookup(index.as_bytes(), MapFlags::ANY).map_err(DatapathError::map("held_ports"))?;
        let word = value.and_then(|bytes| u64::from_bytes(&bytes)).unwrap_or_default();
        if word != 0 {
            words.push((index, word));
        }
    }
    let ports = words.into_iter().flat_map(|(index, word)| {
        (0..64_u32).filter(move |bit| word >> bit & 1 != 0).map(move |bit| index * 64 + bit)
    });
    Ok(ports.filter_map(|port| u16::try_from(port).ok()))
}

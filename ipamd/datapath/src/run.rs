//! Runs a program that is attached nowhere, for its answer.

use std::{
    io,
    mem::offset_of,
    os::fd::{AsRawFd, BorrowedFd},
};

use bpf::layout::SkBuff;
use libbpf_rs::libbpf_sys;

/// As much of a frame as the kernel wants of a packet that a program is run on.
const FRAME: [u8; 64] = [0; 64];
/// Words of `cb`.
const WORDS: usize = 5;

/// Runs a program of the kind `tc` on an empty frame of an interface of the caller's network namespace. Returns what it leaves in `cb`.
pub(super) fn words(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<[u32; WORDS]> {
    let (mut context, mut after) = ([0_u8; size_of::<SkBuff>()], [0_u8; size_of::<SkBuff>()]);
    context[offset_of!(SkBuff, ifindex)..][..size_of::<u32>()].copy_from_slice(&ifindex.to_ne_bytes());
    #[allow(clippy::cast_possible_truncation, reason = "some bytes")]
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        data_in: FRAME.as_ptr().cast(),
        data_size_in: FRAME.len() as u32,
        ctx_in: context.as_mut_ptr().cast(),
        ctx_size_in: size_of::<SkBuff>() as u32,
        ctx_out: after.as_mut_ptr().cast(),
        ctx_size_out: size_of::<SkBuff>() as u32,
        ..Default::default()
    };
    // SAFETY: frame and contexts are as large as is said, and outlive the call, as `options` does; the kernel writes into `after`
    // alone.
    let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) };
    if result != 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    let mut words = [0; WORDS];
    let bytes = after.get(offset_of!(SkBuff, cb)..).unwrap_or_default();
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(size_of::<u32>())) {
        *word = bytes.try_into().map(u32::from_ne_bytes).unwrap_or_default();
    }
    Ok(words)
}

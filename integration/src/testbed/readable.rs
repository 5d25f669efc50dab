//! Waiting for what comes on a socket that does not block.

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Waits until a socket can be read or a listener has a client, for 20 ms at most: who waits looks then whether it should end.
pub(super) fn await_readable(socket: &impl AsFd) {
    // An error shows when the socket is read.
    let _ = poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::from(20_u8));
}

//! Word from the kernel that something changed.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use netlink_sys::{Socket as RawSocket, SocketAddr, protocols::NETLINK_ROUTE};

use super::NetlinkError;

/// Links, queueing disciplines, addresses and routes of both families (`enum rtnetlink_groups`). Neighbours are left to
/// the timer: ordinary ones come and go all the time.
const GROUPS: [u32; 6] = [1, 4, 5, 7, 9, 11];

/// A socket that becomes readable when the network configuration of its namespace changes.
#[derive(Debug)]
pub struct Events {
    raw: RawSocket,
}

impl Events {
    /// Begins to listen.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let mut raw = RawSocket::new(NETLINK_ROUTE)?;
            raw.bind(&SocketAddr::new(0, 0))?;
            for group in GROUPS {
                raw.add_membership(group)?;
            }
            raw.set_non_blocking(true)?;
            Ok(raw)
        };
        open()
            .map(|raw| Self { raw })
            .map_err(|source| NetlinkError::new("listen to the kernel's events", source))
    }

    /// Throws away what has been said so far: the tables are read anyway. Having missed something is no different.
    pub fn drain(&self) {
        let mut buffer = Vec::with_capacity(8 << 10);
        loop {
            buffer.clear();
            match self.raw.recv(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.raw_os_error() != Some(nix::errno::Errno::ENOBUFS as i32) => return,
                _ => {}
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to `raw`, which lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.raw.as_raw_fd()) }
    }
}

//! Events of the kernel's tables.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use netlink_sys::{Socket as RawSocket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc;

use crate::{datagrams::Datagrams, error::NetlinkError, message::Messages};

/// A socket that becomes readable when something changes in the tables of its namespace.
#[derive(Debug)]
pub struct Subscription {
    datagrams: Datagrams,
}

impl Subscription {
    /// Begins to listen to groups (`enum rtnetlink_groups`), of which an older kernel may lack some.
    pub fn open(groups: &[u32]) -> Result<Self, NetlinkError> {
        let open = || {
            let mut raw = RawSocket::new(NETLINK_ROUTE)?;
            raw.bind(&SocketAddr::new(0, 0))?;
            for group in groups {
                match raw.add_membership(*group) {
                    Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                    joined => joined?,
                }
            }
            raw.set_non_blocking(true)?;
            Ok(raw)
        };
        let raw = open().map_err(|error| NetlinkError::new("listen to the kernel's events", error))?;
        Ok(Self { datagrams: Datagrams::of(raw) })
    }

    /// What was said next; `None` if nothing was. An error that is `ENOBUFS` says that something was missed, and that more
    /// is to come.
    pub fn receive(&mut self) -> io::Result<Option<Messages<'_>>> {
        match self.datagrams.next() {
            Ok(datagram) => Ok(Some(Messages(datagram))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Subscription {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.datagrams.raw.as_fd()
    }
}

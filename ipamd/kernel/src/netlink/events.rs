//! Events of the kernel's tables.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use netlink_packet_route::{RouteNetlinkMessage, link::LinkMessage};
use netlink_sys::{Socket as RawSocket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{
    concerned_flows::{self, Links},
    filtered_dump::{FilteredDump, Messages},
    socket::NetlinkError,
};
use ipamd_model::concerned::Concerned;

/// Links, queueing disciplines, addresses, routes and rules of both families, and the next hops that routes share (`enum
/// rtnetlink_groups`). Neighbours are left to the timer: ordinary ones come and go all the time.
const GROUPS: [u32; 9] = [1, 4, 5, 7, 8, 9, 11, 19, 32];

/// As much as the kernel puts into one datagram, in bytes.
const DATAGRAM: usize = 32 << 10;

/// A socket that becomes readable when the network configuration of its namespace changes.
#[derive(Debug)]
pub struct Events {
    raw: RawSocket,
    links: Links,
    buffer: Vec<u8>,
}

impl Events {
    /// Begins to listen.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let mut raw = RawSocket::new(NETLINK_ROUTE)?;
            raw.bind(&SocketAddr::new(0, 0))?;
            for group in GROUPS {
                match raw.add_membership(group) {
                    // Kernels before 5.3 have no shared next hops.
                    Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINVAL as i32) => {}
                    joined => joined?,
                }
            }
            raw.set_non_blocking(true)?;
            Ok(Self { raw, links: links()?, buffer: Vec::with_capacity(DATAGRAM) })
        };
        open().map_err(|source| NetlinkError::new("listen to the kernel's events", source))
    }

    /// Reads what has been said so far, and returns the flows that it concerns: the tables are read anyway.
    pub fn read(&mut self) -> Concerned {
        let mut concerned = Concerned::nothing();
        loop {
            self.buffer.clear();
            match self.raw.recv(&mut self.buffer, 0) {
                Ok(_) => {
                    for message in Messages(&self.buffer) {
                        concerned.add(match message {
                            Ok((header, body)) => concerned_flows::concerned(
                                header.message_type,
                                header.flags,
                                body,
                                &mut self.links,
                            ),
                            Err(_) => Concerned::everything(),
                        });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return concerned,
                Err(error) => {
                    // Something was missed, interfaces perhaps.
                    concerned.add(Concerned::everything());
                    self.links = links().unwrap_or_default();
                    if error.raw_os_error() != Some(nix::errno::Errno::ENOBUFS as i32) {
                        return concerned;
                    }
                }
            }
        }
    }
}

/// The interfaces as they are.
fn links() -> io::Result<Links> {
    let links = std::cell::RefCell::new(Links::default());
    let learn = |body: &[u8]| {
        links.borrow_mut().learn(body);
        false
    };
    FilteredDump::open()?.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), &learn, &mut drop)?;
    Ok(links.into_inner())
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to `raw`, which lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.raw.as_raw_fd()) }
    }
}

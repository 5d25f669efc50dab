//! Events of the kernel's tables.

use std::os::fd::{AsFd, BorrowedFd};

use ipamd_netlink::{Family, Message, NetlinkError, Socket, Subscription};
use netlink_packet_route::{RouteNetlinkMessage, link::LinkMessage};

use super::concerned_flows::{self, Links};
use ipamd_model::concerned::Concerned;

/// Links, queueing disciplines, addresses, routes and rules of both families, and the next hops that routes share (`enum
/// rtnetlink_groups`; kernels before 5.3 lack the last). Neighbours are left to the timer: ordinary ones come and go all the time.
const GROUPS: [u32; 9] = [1, 4, 5, 7, 8, 9, 11, 19, 32];

/// A socket that becomes readable when the network configuration of its namespace changes.
#[derive(Debug)]
pub struct Events {
    subscription: Subscription,
    links: Links,
}

impl Events {
    /// Begins to listen.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { subscription: Subscription::open(&GROUPS)?, links: links()? })
    }

    /// Reads what has been said so far, and returns the flows that it concerns: the tables are read anyway.
    pub fn read(&mut self) -> Concerned {
        let mut concerned = Concerned::nothing();
        loop {
            match self.subscription.receive() {
                Ok(None) => return concerned,
                Ok(Some(messages)) => {
                    for message in messages {
                        concerned.add(match message {
                            Ok(Message { header, payload }) => concerned_flows::concerned(
                                header.message_type,
                                header.flags,
                                payload,
                                &mut self.links,
                            ),
                            Err(_) => Concerned::everything(),
                        });
                    }
                }
                Err(error) => {
                    // Something was missed, interfaces perhaps.
                    concerned.add(Concerned::everything());
                    self.links = links().unwrap_or_default();
                    if error.raw_os_error() != Some(nix::libc::ENOBUFS) {
                        return concerned;
                    }
                }
            }
        }
    }
}

/// The interfaces as they are.
fn links() -> Result<Links, NetlinkError> {
    let mut links = Links::default();
    let query = RouteNetlinkMessage::GetLink(LinkMessage::default());
    Socket::open(Family::Route)?.dump("read the kernel's interfaces", &query, |message| {
        links.learn(message.payload);
        Ok(None::<()>)
    })?;
    Ok(links)
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.subscription.as_fd()
    }
}

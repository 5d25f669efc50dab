//! The socket that interfaces, addresses, routes and neighbours are read and changed by.

use ipamd_netlink::{Batch, Family, Message, NetlinkError};
use netlink_packet_route::RouteNetlinkMessage;

/// A netlink socket in the namespace of the thread that opened it, for that thread or another to block on.
#[derive(Debug)]
pub struct Socket(ipamd_netlink::Socket);

impl Socket {
    /// Opens a socket.
    pub fn open() -> Result<Self, NetlinkError> {
        ipamd_netlink::Socket::open(Family::Route).map(Self)
    }

    /// Sends one request with `flags` and waits for the kernel's acknowledgement. `action` reads on from "cannot".
    pub(super) fn request(
        &mut self,
        message: &RouteNetlinkMessage,
        flags: u16,
        action: String,
    ) -> Result<(), NetlinkError> {
        self.0.run(&mut Batch::of(action, flags, message))
    }

    /// Reads a whole table with `query` and returns what `entry` makes of it. A table that keeps changing is taken as it is.
    pub(super) fn dump<T>(
        &mut self,
        query: &RouteNetlinkMessage,
        what: &str,
        entry: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        self.dump_some(query, what, |_| true, entry)
    }

    /// The same of those entries only that `concerns` says yes to, by the bytes of the kernel's message. A node has as many
    /// routes and neighbours as the cluster has nodes: most are skipped before they are parsed.
    pub(super) fn dump_some<T>(
        &mut self,
        query: &RouteNetlinkMessage,
        what: &str,
        mut concerns: impl FnMut(&[u8]) -> bool,
        entry: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let read = |message: Message<'_>| {
            if concerns(message.payload) { message.parse().map(&entry) } else { Ok(None) }
        };
        Ok(self.0.dump(&format!("read the kernel's {what}"), query, read)?.entries)
    }
}

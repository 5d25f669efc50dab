//! The sock_diag socket.

use std::{collections::BTreeSet, io, net::IpAddr, os::fd::BorrowedFd};

use ipamd_netlink::{Batch, Family, NetlinkError, Socket};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, SockDiagDestroy, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use nix::errno::Errno;

use super::{
    super::netns::inside,
    error::SocketDiagError,
    found::{Found, Listener},
    peer::{Peer, Protocol},
};

/// What became of a socket that was to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was ended.
    Ended,
    /// It was not there any more, or not connected to that peer.
    Gone,
}

/// Lists the connected sockets of one network namespace and ends them, which takes CAP_NET_ADMIN there.
#[derive(Debug)]
pub struct SocketDiag(Socket);

impl SocketDiag {
    /// Opens a socket in a network namespace; without one, in the calling thread's.
    pub fn open(netns: Option<BorrowedFd<'_>>) -> Result<Self, SocketDiagError> {
        let opened = inside(netns, || Socket::open(Family::SockDiag).map_err(io::Error::from));
        let failed = |reason| NetlinkError::new("open a netlink socket to list sockets by", reason);
        Ok(Self(opened.map_err(failed)?))
    }

    /// All sockets that are connected to one of `peers`, or about to be, or that have not closed yet: TCP and UDP,
    /// those of IPv6 that are connected to an IPv4 peer too. One that begins to connect meanwhile may be missing: for
    /// one moment its peer is decided and the kernel's table does not have it yet.
    ///
    /// The namespaces of a machine share one table of TCP sockets, sized by its memory, and the kernel walks all of it
    /// for each namespace and family: a quarter of a millisecond for 262,144 slots, however few the sockets. So ask
    /// only in namespaces that matter, once for all peers.
    pub fn connected_to(&mut self, peers: &BTreeSet<Peer>) -> Result<Vec<Found>, SocketDiagError> {
        // An unconnected UDP socket is "closed" to the kernel, a connected one "established".
        let states = StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT - StateFlags::CLOSE;
        let of_peers = |socket: Found| peers.contains(&socket.peer).then_some(socket);
        let mut found = Vec::new();
        for (family, protocol) in tables(peers) {
            found.extend(self.read(family, protocol, states.clone(), of_peers)?);
        }
        Ok(found)
    }

    /// Ends exactly this socket, whoever holds it.
    pub fn end(&mut self, socket: &Found) -> Result<Outcome, SocketDiagError> {
        let Found { peer, local, .. } = socket;
        let request = InetRequest {
            family: socket.family,
            protocol: peer.protocol.number(),
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id: socket.id.clone(),
        };
        let request = SockDiagDestroy::new(SockDiagMessage::InetRequest(request));
        let asked = format!("end the socket from {local} to {peer}");
        match self.0.run(&mut Batch::of(asked, 0, &request)) {
            Ok(()) => Ok(Outcome::Ended),
            Err(error) => match error.errno() {
                Errno::ENOENT | Errno::ESTALE => Ok(Outcome::Gone),
                Errno::EOPNOTSUPP => Err(SocketDiagError::NoDestroy),
                _ => Err(error.into()),
            },
        }
    }

    /// The sockets that take what comes first from a client: TCP that listens, and UDP without a peer.
    pub fn listeners(&mut self) -> Result<Vec<Listener>, SocketDiagError> {
        let mut listeners = Vec::new();
        // To the kernel an unconnected UDP socket is "closed".
        for (protocol, states) in [(Protocol::Tcp, StateFlags::LISTEN), (Protocol::Udp, StateFlags::CLOSE)] {
            for family in [AF_INET, AF_INET6] {
                let found = self.read(family, protocol, states.clone(), |socket| Some(socket.local))?;
                // One that was never bound has no port yet.
                let bound = found.into_iter().filter(|at| at.port() != 0);
                listeners.extend(bound.map(|at| Listener { at, protocol }));
            }
        }
        Ok(listeners)
    }

    /// What `wanted` makes of the sockets of one table that are in one of these states. A table that keeps changing is
    /// taken as it is.
    fn read<T>(
        &mut self,
        family: u8,
        protocol: Protocol,
        states: StateFlags,
        wanted: impl Fn(Found) -> Option<T>,
    ) -> Result<Vec<T>, SocketDiagError> {
        let query = SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: protocol.number(),
            extensions: ExtensionFlags::empty(),
            states,
            socket_id: if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() },
        });
        let what = format!("list the {protocol} sockets");
        match self.0.dump(&what, &query, |message| Found::read(message, protocol).map(&wanted)) {
            Ok(dump) => Ok(dump.entries),
            Err(error) if error.errno() == Errno::ENOENT => Err(SocketDiagError::NoList(protocol)),
            Err(error) => Err(error.into()),
        }
    }
}

/// The kernel's tables that sockets connected to these peers can be in.
fn tables(peers: &BTreeSet<Peer>) -> BTreeSet<(u8, Protocol)> {
    let families = |peer: &Peer| match peer.address {
        IpAddr::V4(_) => &[AF_INET, AF_INET6][..],
        IpAddr::V6(_) => &[AF_INET6][..],
    };
    peers.iter().flat_map(|peer| families(peer).iter().map(|family| (*family, peer.protocol))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str, protocol: Protocol) -> Peer {
        Peer { address: address.parse().unwrap(), port: 80, protocol }
    }

    #[test]
    fn only_the_tables_of_the_peers_are_read() {
        assert!(tables(&BTreeSet::new()).is_empty());
        let four = peer("10.0.0.1", Protocol::Tcp);
        assert_eq!(
            tables(&BTreeSet::from([four])),
            BTreeSet::from([(AF_INET, Protocol::Tcp), (AF_INET6, Protocol::Tcp)])
        );
        let six = peer("fd00::1", Protocol::Udp);
        assert_eq!(tables(&BTreeSet::from([six])), BTreeSet::from([(AF_INET6, Protocol::Udp)]));
        assert_eq!(tables(&BTreeSet::from([four, six])).len(), 3);
    }
}

//! The sock_diag socket.

use std::{
    cell::Cell,
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, SockDiagDestroy, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags},
};
use netlink_sys::{Socket as RawSocket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use nix::{
    errno::Errno,
    libc,
    sys::{
        socket::{setsockopt, sockopt::ReceiveTimeout},
        time::TimeVal,
    },
};

use super::{
    super::netns::inside,
    answer::{self, Progress},
    error::SocketDiagError,
    found::{Found, Listener},
    peer::{Peer, Protocol},
};

/// How often a list is begun anew when it is not of one moment. After that many the last one is taken as it is.
const ATTEMPTS: usize = 3;

/// How long the kernel may keep silent. It answers at once, so after this its answer was lost.
const PATIENCE: TimeVal = TimeVal::new(5, 0);

/// Room for what the kernel sends at once, which is 32 KiB at most.
const BUFFER: usize = 64 << 10;

/// What became of a socket that was to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was ended.
    Ended,
    /// It was not there any more, or not connected to that peer.
    Gone,
}

/// Lists the connected sockets of one network namespace and ends them, which takes CAP_NET_ADMIN there. After an error
/// it may be in the middle of an answer: open another.
#[derive(Debug)]
pub struct SocketDiag {
    raw: RawSocket,
    /// Of the last request. It makes this a socket for one thread at a time, as the answers do.
    sequence: Cell<u32>,
}

impl SocketDiag {
    /// Opens a socket in a network namespace; without one, in the calling thread's.
    pub fn open(netns: Option<BorrowedFd<'_>>) -> Result<Self, SocketDiagError> {
        let open = || {
            let raw = RawSocket::new(NETLINK_SOCK_DIAG)?;
            // Nobody but the kernel can then answer.
            raw.connect(&SocketAddr::new(0, 0))?;
            // SAFETY: the descriptor belongs to `raw`, which lives as long as the borrow.
            let borrowed = unsafe { BorrowedFd::borrow_raw(raw.as_raw_fd()) };
            setsockopt(&borrowed, ReceiveTimeout, &PATIENCE)?;
            Ok(raw)
        };
        inside(netns, open).map(|raw| Self { raw, sequence: Cell::new(0) }).map_err(SocketDiagError::Open)
    }

    /// All sockets that are connected to one of `peers`, or about to be, or that have not closed yet: TCP and UDP,
    /// those of IPv6 that are connected to an IPv4 peer too. One that begins to connect meanwhile may be missing: for
    /// one moment its peer is decided and the kernel's table does not have it yet.
    ///
    /// The namespaces of a machine share one table of TCP sockets, sized by its memory, and the kernel walks all of it
    /// for each namespace and family: a quarter of a millisecond for 262,144 slots, however few the sockets. So ask
    /// only in namespaces that matter, once for all peers.
    pub fn connected_to(&self, peers: &BTreeSet<Peer>) -> Result<Vec<Found>, SocketDiagError> {
        let mut found = Vec::new();
        for (family, protocol) in tables(peers) {
            self.list(family, protocol, peers, &mut found).map_err(|source| {
                if source.raw_os_error() == Some(libc::ENOENT) {
                    return SocketDiagError::NoList(protocol);
                }
                SocketDiagError::List { protocol, source }
            })?;
        }
        Ok(found)
    }

    /// Ends exactly this socket, whoever holds it.
    pub fn end(&self, socket: &Found) -> Result<Outcome, SocketDiagError> {
        let request = InetRequest {
            family: socket.family,
            protocol: socket.peer.protocol.number(),
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id: socket.id.clone(),
        };
        let request = SockDiagDestroy::new(SockDiagMessage::InetRequest(request));
        match self.exchange(request, NLM_F_ACK, &mut |_| {}) {
            Ok(_) => Ok(Outcome::Ended),
            Err(source) => match source.raw_os_error() {
                Some(libc::ENOENT | libc::ESTALE) => Ok(Outcome::Gone),
                Some(libc::EOPNOTSUPP) => Err(SocketDiagError::NoDestroy),
                _ => Err(SocketDiagError::End { peer: socket.peer, local: socket.local, source }),
            },
        }
    }

    /// The sockets that take what comes first from a client: TCP that listens, and UDP without a peer.
    pub fn listeners(&self) -> Result<Vec<Listener>, SocketDiagError> {
        let mut listeners = Vec::new();
        // To the kernel an unconnected UDP socket is "closed".
        for (protocol, states) in [(Protocol::Tcp, StateFlags::LISTEN), (Protocol::Udp, StateFlags::CLOSE)] {
            for family in [AF_INET, AF_INET6] {
                let found = self
                    .read(family, protocol, states.clone(), |socket| Some(socket.local))
                    .map_err(|source| match source.raw_os_error() {
                        Some(libc::ENOENT) => SocketDiagError::NoList(protocol),
                        _ => SocketDiagError::List { protocol, source },
                    })?;
                // One that was never bound has no port yet.
                let bound = found.into_iter().filter(|at| at.port() != 0);
                listeners.extend(bound.map(|at| Listener { at, protocol }));
            }
        }
        Ok(listeners)
    }

    /// Adds to `found` the sockets of one table that are connected to one of `peers`.
    fn list(
        &self,
        family: u8,
        protocol: Protocol,
        peers: &BTreeSet<Peer>,
        found: &mut Vec<Found>,
    ) -> io::Result<()> {
        // An unconnected UDP socket is "closed" to the kernel, a connected one "established".
        let states = StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT - StateFlags::CLOSE;
        let of_peers = |socket: Found| peers.contains(&socket.peer).then_some(socket);
        found.extend(self.read(family, protocol, states, of_peers)?);
        Ok(())
    }

    /// What `wanted` makes of the sockets of one table that are in one of these states.
    fn read<T>(
        &self,
        family: u8,
        protocol: Protocol,
        states: StateFlags,
        wanted: impl Fn(Found) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let request = InetRequest {
            family,
            protocol: protocol.number(),
            extensions: ExtensionFlags::empty(),
            states,
            socket_id: if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() },
        };
        let request = SockDiagMessage::InetRequest(request);
        let mut found = Vec::new();
        for _ in 0..ATTEMPTS {
            found.clear();
            let consistent = self.exchange(request.clone(), NLM_F_DUMP, &mut |header| {
                found.extend(wanted(Found::new(header, protocol)));
            })?;
            if consistent {
                break;
            }
        }
        Ok(found)
    }

    /// Sends a request and gives what is answered to `each`, up to the acknowledgement or the end of the list. Returns
    /// whether the answer is whole and of one moment.
    fn exchange<T>(
        &self,
        request: T,
        flags: u16,
        each: &mut impl FnMut(InetResponseHeader),
    ) -> io::Result<bool>
    where
        T: NetlinkSerializable + Into<NetlinkPayload<T>>,
    {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.raw.send(&bytes, 0)?;

        let mut whole = true;
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            match self.raw.recv(&mut buffer, libc::MSG_TRUNC) {
                Ok(length) if length > buffer.len() => {
                    return Err(answer::invalid(format!(
                        "the kernel's answer of {length} bytes was cut short"
                    )));
                }
                Ok(_) => {
                    let Progress { ended, consistent } = answer::read(&buffer, sequence, each)?;
                    whole &= consistent;
                    if ended {
                        return Ok(whole);
                    }
                }
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EINTR) => {}
                    // Something was lost, and the rest is still to come.
                    Some(Errno::ENOBUFS) => whole = false,
                    Some(Errno::EAGAIN) => {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel does not answer"));
                    }
                    _ => return Err(error),
                },
            }
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

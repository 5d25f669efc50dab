//! Sockets that are connected to a peer: listing and ending them.
//!
//! A connection that was translated at connect time has the backend as its peer, in the kernel as on the wire. When the
//! backend is gone nothing tells the socket: UDP would send to nobody for good, and TCP would retransmit for a quarter
//! of an hour. So the sockets are listed by `NETLINK_SOCK_DIAG` and ended by `SOCK_DESTROY`: their next call returns
//! `ECONNABORTED`, and the client connects again.

mod answer;
mod diag;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_sock_diag::{
    IPPROTO_TCP, IPPROTO_UDP,
    inet::{InetResponseHeader, SocketId},
};

pub use diag::SocketDiag;

/// A protocol whose sockets can be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => IPPROTO_TCP,
            Self::Udp => IPPROTO_UDP,
        }
    }

    /// The protocol of this number; `None` if it is neither TCP nor UDP.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            IPPROTO_TCP => Some(Self::Tcp),
            IPPROTO_UDP => Some(Self::Udp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// What a socket is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Its address; of IPv4 also where an IPv6 socket knows it as `::ffff:a.b.c.d`.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, SocketAddr::new(self.address, self.port))
    }
}

/// A socket that takes what comes first from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its address and port; one of IPv6 without an address takes IPv4 as well, unless it says not to.
    pub at: SocketAddr,
    /// The protocol.
    pub protocol: Protocol,
}

/// A socket that was connected to a peer when the kernel was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is connected to.
    pub peer: Peer,
    /// Its own end, of IPv4 wherever `peer` is.
    pub local: SocketAddr,
    /// The kernel's number of this socket, which no other has had, and which programs get by `bpf_get_socket_cookie`.
    pub cookie: u64,
    /// The address family it was made in: may be IPv6 where `peer` is IPv4.
    family: u8,
    /// As the kernel said it, for it to find the socket by.
    id: SocketId,
}

impl Found {
    /// What the kernel said of a socket of `protocol`.
    fn new(header: InetResponseHeader, protocol: Protocol) -> Self {
        let id = header.socket_id;
        let peer =
            Peer { address: id.destination_address.to_canonical(), port: id.destination_port, protocol };
        // Two numbers of 32 bits each, the low one first on every machine.
        let cookie = u64::from_ne_bytes(id.cookie);
        let cookie = if cfg!(target_endian = "big") { cookie.rotate_left(32) } else { cookie };
        Self {
            peer,
            local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
            cookie,
            family: header.family,
            id,
        }
    }
}

/// What became of a socket that was to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was ended.
    Ended,
    /// It was not there any more, or not connected to that peer.
    Gone,
}

/// Why sockets could not be listed or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketDiagError {
    /// No netlink socket.
    #[error("cannot open a netlink socket to list sockets by: {0}")]
    Open(#[source] io::Error),
    /// The kernel has no list of this protocol.
    #[error("this kernel cannot list {0} sockets: it is built without CONFIG_INET_{0}_DIAG")]
    NoList(Protocol),
    /// The list could not be read.
    #[error("cannot list the {protocol} sockets: {source}")]
    List {
        /// Of this protocol.
        protocol: Protocol,
        /// What the kernel or its answer had against it.
        source: io::Error,
    },
    /// The kernel ends no sockets.
    #[error("this kernel cannot end sockets: it is built without CONFIG_INET_DIAG_DESTROY")]
    NoDestroy,
    /// The kernel would not end this socket.
    #[error("cannot end the socket from {local} to {peer}: {source}")]
    End {
        /// What it is connected to.
        peer: Peer,
        /// Its own end.
        local: SocketAddr,
        /// What the kernel or its answer had against it.
        source: io::Error,
    },
}

/// Reads an answer to the request of number 0.
#[cfg(test)]
pub(super) fn fuzzed(bytes: &[u8]) -> io::Result<()> {
    answer::read(bytes, 0, &mut |header| {
        let _ = Found::new(header, Protocol::Tcp);
    })
    .map(drop)
}

#[cfg(test)]
mod tests;

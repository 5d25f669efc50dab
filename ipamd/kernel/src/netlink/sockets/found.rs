//! The sockets that the kernel lists.

use std::{io, net::SocketAddr};

use ipamd_netlink::Message;
use netlink_packet_core::{DecodeError, NetlinkDeserializable, NetlinkHeader, Parseable};
use netlink_packet_sock_diag::{
    SOCK_DIAG_BY_FAMILY,
    inet::{InetResponseHeader, SocketId},
};

use super::peer::{Peer, Protocol};

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
    pub(super) family: u8,
    /// As the kernel said it, for it to find the socket by.
    pub(super) id: SocketId,
}

/// A socket, without the attributes that follow: none is asked for, and they cost more to read than all else.
struct Entry(InetResponseHeader);

impl NetlinkDeserializable for Entry {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        if header.message_type != SOCK_DIAG_BY_FAMILY {
            return Err(format!("it is of type {}", header.message_type).into());
        }
        InetResponseHeader::parse(payload).map(Self)
    }
}

impl Found {
    /// What a message of the kernel says of a socket of `protocol`.
    pub(in super::super) fn read(message: Message<'_>, protocol: Protocol) -> io::Result<Self> {
        let Entry(header) = message.parse()?;
        let id = header.socket_id;
        let peer =
            Peer { address: id.destination_address.to_canonical(), port: id.destination_port, protocol };
        // Two numbers of 32 bits each, the low one first on every machine.
        let cookie = u64::from_ne_bytes(id.cookie);
        let cookie = if cfg!(target_endian = "big") { cookie.rotate_left(32) } else { cookie };
        Ok(Self {
            peer,
            local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
            cookie,
            family: header.family,
            id,
        })
    }
}

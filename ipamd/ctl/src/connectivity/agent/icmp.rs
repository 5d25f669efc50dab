//! An ICMP echo: by a socket for echoes where the kernel lets this process have one, else by a raw socket.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, recv, send,
        setsockopt, socket, sockopt::ReceiveTimeout,
    },
    time::TimeVal,
};

const REQUEST4: u8 = 8;
const REPLY4: u8 = 0;
const REQUEST6: u8 = 128;
const REPLY6: u8 = 129;

/// Sends echo requests until one is answered.
pub(super) fn ping(to: IpAddr, patience: Duration) -> io::Result<()> {
    let end = Instant::now() + patience;
    let socket = open(to)?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(0, 250_000))?;
    let identifier = u16::try_from(std::process::id() & 0xffff).unwrap_or(1);
    let mut sequence = 0;
    while Instant::now() < end {
        sequence += 1;
        send(socket.as_raw_fd(), &request(to, identifier, sequence), MsgFlags::empty())?;
        let mut bytes = [0; 256];
        // A raw socket hears the answers to others, too.
        while let Ok(length) = recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
            if is_reply(to, &bytes[..length]) {
                return Ok(());
            }
            if Instant::now() >= end {
                break;
            }
        }
    }
    Err(ErrorKind::TimedOut.into())
}

fn open(to: IpAddr) -> io::Result<OwnedFd> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let of = |sort| socket(family, sort, SockFlag::SOCK_CLOEXEC, protocol);
    let socket = of(SockType::Datagram).or_else(|_| of(SockType::Raw))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(to, 0)))?;
    Ok(socket)
}

/// An echo request. The kernel fills in the checksum of ICMPv6, and the identifier of sockets for echoes.
fn request(to: IpAddr, identifier: u16, sequence: u16) -> Vec<u8> {
    let kind = if to.is_ipv4() { REQUEST4 } else { REQUEST6 };
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend(identifier.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(b"cambric connectivity");
    if to.is_ipv4() {
        let checksum = checksum(&bytes);
        bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    bytes
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0)
}

/// Whether this is a reply. Raw sockets of IPv4 show the header before it.
fn is_reply(to: IpAddr, bytes: &[u8]) -> bool {
    let kind = match (to, bytes) {
        (IpAddr::V4(_), [first, ..]) if first >> 4 == 4 => bytes.get(usize::from(first & 0xf) * 4),
        _ => bytes.first(),
    };
    kind == Some(if to.is_ipv4() { &REPLY4 } else { &REPLY6 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_with_its_checksum_sums_to_nothing() {
        let bytes = request([127, 0, 0, 1].into(), 0xbeef, 0xffff);
        assert_eq!(bytes.len() % 2, 0);
        assert_eq!(checksum(&bytes), 0);
    }

    #[test]
    fn replies_are_known_with_and_without_their_header() {
        let v4: IpAddr = [127, 0, 0, 1].into();
        assert!(is_reply(v4, &[0, 0, 1, 2]));
        assert!(!is_reply(v4, &[8, 0, 1, 2]));
        let mut whole = vec![0x45; 20];
        whole.push(0);
        assert!(is_reply(v4, &whole));
        assert!(is_reply("::1".parse().unwrap(), &[129, 0]));
    }
}

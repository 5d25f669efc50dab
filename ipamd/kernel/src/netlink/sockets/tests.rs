use std::io;

use ipamd_netlink::Messages;
use proptest::{collection::vec, prelude::*};

use super::{Found, Protocol};

/// Linux 6.18 on two established TCP sockets, each the other's peer: 127.0.0.1:7001 and :7002.
const TCP: &str = "\
    7c000000140002000700000037520000020100001b591b5a7f0000010000000000000000000000007f000001000000000000000000000000\
    00000000ee160000000000000000000000000000000000000000000045764d00050008000000000008000f00000000000c00150001000000\
    000000000600160052000000\
    7c000000140002000700000037520000020100001b5a1b597f0000010000000000000000000000007f000001000000000000000000000000\
    00000000ef160000000000000000000000000000000000000000000044764d00050008000000000008000f00000000000c00150001000000\
    000000000600160052000000";

/// And on an IPv6 UDP socket, connected from port 7003 to ::ffff:127.0.0.1, port 7004.
const MAPPED: &str = "\
    7c0000001400020007000000375200000a0100001b5b1b5c00000000000000000000ffff7f00000100000000000000000000ffff7f000001\
    00000000f0160000000000000000000000000000000000000000000047764d00050008000000000008000f00000000000c00150001000000\
    000000000600160010000000";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&String::from_iter(pair), 16).unwrap()).collect()
}

/// A message of this type with this payload.
fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = 16 + u32::try_from(payload.len()).unwrap();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend([0; 10]);
    message.extend(payload);
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

/// The sockets of a list, whichever protocol they are of.
fn list(bytes: &[u8], protocol: Protocol) -> io::Result<Vec<Found>> {
    Messages(bytes).map(|message| Found::read(message?, protocol)).collect()
}

fn found(hex: &str, protocol: Protocol) -> Vec<Found> {
    list(&bytes(hex), protocol).unwrap()
}

#[test]
fn every_socket_of_a_recorded_list_is_read() {
    let sockets = found(TCP, Protocol::Tcp);
    let ends: Vec<_> = sockets.iter().map(|one| (one.local.to_string(), one.peer.to_string())).collect();
    assert_eq!(
        ends,
        [
            ("127.0.0.1:7001".to_owned(), "TCP 127.0.0.1:7002".to_owned()),
            ("127.0.0.1:7002".to_owned(), "TCP 127.0.0.1:7001".to_owned()),
        ]
    );
    assert_eq!(sockets.iter().map(|one| one.cookie).collect::<Vec<_>>(), [0x16ee, 0x16ef]);
}

#[test]
fn an_ipv6_socket_with_an_ipv4_peer_has_that_for_its_peer() {
    let [socket] = &found(MAPPED, Protocol::Udp)[..] else { panic!("one socket was recorded") };
    assert_eq!(socket.peer.to_string(), "UDP 127.0.0.1:7004");
    assert_eq!(socket.local.to_string(), "127.0.0.1:7003");
    // But the kernel finds it among those of IPv6 only.
    assert_eq!(socket.family, netlink_packet_sock_diag::AF_INET6);
    assert!(socket.id.destination_address.is_ipv6());
}

#[test]
fn a_cookie_has_64_bits() {
    let mut recorded = bytes(MAPPED);
    recorded[64..68].copy_from_slice(&2_u32.to_ne_bytes());
    assert_eq!(list(&recorded, Protocol::Udp).unwrap()[0].cookie, 0x2_0000_16f0);
}

#[test]
fn what_is_cut_short_or_of_no_known_sort_is_an_error() {
    let whole = bytes(TCP);
    for length in (1..whole.len()).filter(|length| *length != whole.len() / 2) {
        list(&whole[..length], Protocol::Tcp).unwrap_err();
    }
    // Too short for a socket, neither IPv4 nor IPv6, and of another protocol of netlink.
    for message in [message(20, &[2; 71]), message(20, &[1; 72]), message(16, &[2; 72])] {
        list(&message, Protocol::Tcp).unwrap_err();
    }
    // A length that is less than a header would be read for ever.
    list(&[0; 64], Protocol::Tcp).unwrap_err();
}

proptest! {
    #[test]
    fn garbage_is_never_more_than_an_error(kind in prop_oneof![Just(20), any::<u16>()], payload in vec(0..12_u8, 0..160)) {
        let _ = list(&message(kind, &payload), Protocol::Tcp);
    }

    #[test]
    fn a_flipped_byte_is_never_more_than_an_error(at in 0..248_usize, flip in 1..=u8::MAX) {
        let mut recorded = bytes(TCP);
        recorded[at] ^= flip;
        let _ = list(&recorded, Protocol::Tcp);
    }
}

#[test]
fn listeners_are_those_who_wait_for_clients() {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = std::net::UdpSocket::bind("[::]:0").unwrap();
    let connected = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    connected.connect(("127.0.0.1", udp.local_addr().unwrap().port())).unwrap();
    let stream = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    let listeners = super::SocketDiag::open(None).unwrap().listeners().unwrap();
    let has = |at: std::net::SocketAddr, protocol| listeners.contains(&super::Listener { at, protocol });
    assert!(has(tcp.local_addr().unwrap(), Protocol::Tcp) && !has(tcp.local_addr().unwrap(), Protocol::Udp));
    assert!(has(udp.local_addr().unwrap(), Protocol::Udp));
    assert!(!has(connected.local_addr().unwrap(), Protocol::Udp));
    assert!(!has(stream.local_addr().unwrap(), Protocol::Tcp));
}

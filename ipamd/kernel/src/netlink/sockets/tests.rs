use netlink_packet_sock_diag::inet::InetResponseHeader;
use proptest::{collection::vec, prelude::*};

use super::{
    Found, Protocol,
    answer::{Progress, read},
};

/// Of the request that the recorded answers answer.
const SEQUENCE: u32 = 7;

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

/// And at the end of each list.
const DONE: &str = "1400000003000200070000003752000000000000";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&String::from_iter(pair), 16).unwrap()).collect()
}

/// A message of this type with this payload.
fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = 16 + u32::try_from(payload.len()).unwrap();
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(payload);
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

/// All that `read` makes of it.
fn answer(bytes: &[u8]) -> std::io::Result<(Progress, Vec<InetResponseHeader>)> {
    let mut headers = Vec::new();
    read(bytes, SEQUENCE, &mut |header| headers.push(header)).map(|progress| (progress, headers))
}

fn found(hex: &str, protocol: Protocol) -> Vec<Found> {
    let (progress, headers) = answer(&bytes(hex)).unwrap();
    assert_eq!(progress, Progress { ended: false, consistent: true });
    headers.into_iter().map(|header| Found::new(header, protocol)).collect()
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
    let (_, headers) = answer(&recorded).unwrap();
    assert_eq!(Found::new(headers[0].clone(), Protocol::Udp).cookie, 0x2_0000_16f0);
}

#[test]
fn a_list_ends_where_the_kernel_says_so() {
    let (progress, headers) = answer(&[bytes(TCP), bytes(DONE), bytes(MAPPED)].concat()).unwrap();
    assert_eq!(progress, Progress { ended: true, consistent: true });
    assert_eq!(headers.len(), 2);
}

#[test]
fn a_list_that_changed_meanwhile_is_known() {
    const DUMP_INTR: u8 = 0x10;
    let mut recorded = [bytes(TCP), bytes(DONE)].concat();
    recorded[6] |= DUMP_INTR;
    assert_eq!(answer(&recorded).unwrap().0, Progress { ended: true, consistent: false });
    let overrun = message(4, 0, SEQUENCE, &[]);
    assert_eq!(answer(&overrun).unwrap().0, Progress { ended: false, consistent: false });
}

#[test]
fn what_answers_an_older_request_is_passed_over() {
    let refused = message(2, 0, SEQUENCE - 1, &(-1_i32).to_ne_bytes());
    let mut older = bytes(TCP);
    older[8] -= 1;
    let (progress, headers) = answer(&[refused, older, bytes(DONE)].concat()).unwrap();
    assert!(progress.ended);
    assert_eq!(headers.len(), 1, "the second of the two messages has the number of this request");
}

#[test]
fn a_refusal_is_an_error_wherever_it_comes() {
    let code = |kind, code: i32| {
        answer(&message(kind, 0, SEQUENCE, &code.to_ne_bytes())).map(|(progress, _)| progress.ended)
    };
    let refusal = |kind| code(kind, -2).unwrap_err().raw_os_error();
    assert_eq!((refusal(2), refusal(3)), (Some(2), Some(2)));
    assert!(code(2, 0).unwrap(), "an acknowledgement");
    assert_eq!(code(3, i32::MIN).unwrap_err().raw_os_error(), Some(i32::MAX));
}

#[test]
fn what_is_cut_short_or_of_no_known_sort_is_an_error() {
    let whole = bytes(TCP);
    for length in (1..whole.len()).filter(|length| *length != whole.len() / 2) {
        answer(&whole[..length]).unwrap_err();
    }
    // Too short for a socket, neither IPv4 nor IPv6, and of another protocol of netlink.
    answer(&message(20, 2, SEQUENCE, &[2; 71])).unwrap_err();
    answer(&message(20, 2, SEQUENCE, &[1; 72])).unwrap_err();
    answer(&message(16, 2, SEQUENCE, &[2; 72])).unwrap_err();
    // A length that is less than a header would be read for ever.
    answer(&[0; 64]).unwrap_err();
}

/// Types of messages, those that mean something oftener than others.
fn kind() -> impl Strategy<Value = u16> {
    prop_oneof![Just(20), Just(2), Just(3), Just(1), Just(4), any::<u16>()]
}

proptest! {
    #[test]
    fn garbage_is_never_more_than_an_error(bytes in vec(any::<u8>(), 0..512)) {
        let _ = answer(&bytes);
    }

    #[test]
    fn well_framed_garbage_is_never_more_than_an_error(
        messages in vec((kind(), any::<u16>(), SEQUENCE - 1..=SEQUENCE, vec(0..12_u8, 0..160)), 0..6),
        tail in vec(any::<u8>(), 0..20),
    ) {
        let mut bytes: Vec<u8> =
            messages.iter().flat_map(|(kind, flags, sequence, payload)| message(*kind, *flags, *sequence, payload)).collect();
        bytes.extend(tail);
        if let Ok((_, headers)) = answer(&bytes) {
            prop_assert!(headers.len() <= messages.len());
        }
    }

    #[test]
    fn a_flipped_byte_is_never_more_than_an_error(at in 0..248_usize, flip in 1..=u8::MAX) {
        let mut recorded = bytes(TCP);
        recorded[at] ^= flip;
        let _ = answer(&recorded);
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

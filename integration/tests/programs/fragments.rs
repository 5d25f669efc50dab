//! Datagrams in pieces.

use std::net::Ipv4Addr;

use etherparse::{Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header};
use integration::programs::{DROP, FAR4, Local, NODE4, REDIRECT};

use crate::packets::*;

/// A piece of a UDP datagram; `offset` in units of 8 bytes.
fn piece4(from: &Local, to: Ipv4Addr, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut header = Ipv4Header::new(
        u16::try_from(payload.len()).unwrap(),
        64,
        IpNumber::UDP,
        from.ipv4.octets(),
        to.octets(),
    )
    .unwrap();
    header.identification = 99;
    header.more_fragments = more;
    header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut packet = Vec::new();
    Ethernet2Header { source: from.mac, destination: from.host_mac, ether_type: etherparse::EtherType::IPV4 }
        .write(&mut packet)
        .unwrap();
    header.write(&mut packet).unwrap();
    packet.extend(payload);
    packet
}

#[test]
fn later_fragments_follow_the_first() {
    let bench = bench();
    let a = bench.a;
    let whole = udp4(&a, FAR4, (5000, 53));
    let first = piece4(&a, FAR4, 0, true, &whole[34..]);
    let later = piece4(&a, FAR4, 2, false, b"the rest of it");

    let before = bench.tally().unwrap();
    assert_eq!(bench.run("from_endpoint", a.ifindex, &later).unwrap().action, DROP);
    changes(&bench, &before, &[("unknown_fragment", 1)], (0, 0));

    let before = bench.tally().unwrap();
    assert_eq!(bench.run("from_endpoint", a.ifindex, &first).unwrap().action, REDIRECT);
    let ran = bench.run("from_endpoint", a.ifindex, &later).unwrap();
    assert_eq!(ran.action, REDIRECT);
    let (header, rest) = Ipv4Header::from_slice(&ran.packet[14..]).unwrap();
    assert_eq!((header.source, header.time_to_live), (NODE4.octets(), 63));
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!(rest, b"the rest of it", "data is not taken for ports");
    changes(&bench, &before, &[], (2, 0));
}

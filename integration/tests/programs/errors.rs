//! ICMP errors and the flows that they are about.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{Icmpv4Type, Icmpv6Type, Ipv4Header, PacketBuilder};
use integration::programs::{DROP, FAR4, FAR6, NODE4, NODE6, REDIRECT};

use crate::masquerade::send_out;
use crate::packets::*;

/// `outer` of type "destination unreachable" about `inner`.
fn unreachable4(ethernet: ([u8; 6], [u8; 6]), from: Ipv4Addr, to: Ipv4Addr, inner: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(ethernet.0, ethernet.1)
        .ipv4(from.octets(), to.octets(), 64)
        .icmpv4(Icmpv4Type::DestinationUnreachable(
            etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 },
        ))
        .write(&mut packet, &inner[14..14 + 28])
        .unwrap();
    packet
}

#[test]
fn an_icmp_error_reaches_the_endpoint_that_caused_it() {
    let bench = bench();
    let a = bench.a;
    let request = tcp4(&a, FAR4, (40_000, 443), TCP_SYN);
    let (out, _) = send_out(&bench, &request);
    let router = Ipv4Addr::new(203, 0, 113, 9);
    let error = unreachable4(([2; 6], bench.uplink_mac), router, NODE4, &out.packet);
    let ran = bench.run("from_network", bench.uplink, &error).unwrap();
    assert_eq!((ran.action, macs(&ran.packet)), (REDIRECT, (a.host_mac, a.mac)));
    let outer = seen(&ran.packet);
    assert_eq!((outer.source, outer.destination), (router.into(), a.ipv4.into()));
    // Inside is the packet as the endpoint sent it, but for the hop.
    let inner = &ran.packet[14 + 20 + 8..];
    let (header, rest) = Ipv4Header::from_slice(inner).unwrap();
    assert_eq!((header.source, header.destination), (a.ipv4.octets(), FAR4.octets()));
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!(rest[..4], request[34..38]);
}

#[test]
fn an_icmp_error_of_an_endpoint_leaves_masqueraded() {
    let bench = bench();
    let a = bench.a;
    let (_, port) = send_out(&bench, &udp4(&a, FAR4, (5000, 53)));
    let mut reply = Vec::new();
    PacketBuilder::ethernet2([2; 6], bench.uplink_mac)
        .ipv4(FAR4.octets(), NODE4.octets(), 64)
        .udp(53, port)
        .write(&mut reply, b"answer")
        .unwrap();
    let delivered = bench.run("from_network", bench.uplink, &reply).unwrap().packet;
    let error = unreachable4((a.mac, a.host_mac), a.ipv4, FAR4, &delivered);
    let ran = bench.run("from_endpoint", a.ifindex, &error).unwrap();
    assert_eq!(ran.action, REDIRECT);
    let outer = seen(&ran.packet);
    assert_eq!((outer.source, outer.destination), (NODE4.into(), FAR4.into()));
    let (header, rest) = Ipv4Header::from_slice(&ran.packet[14 + 20 + 8..]).unwrap();
    assert_eq!((header.source, header.destination), (FAR4.octets(), NODE4.octets()));
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!(rest[..4], reply[34..38]);
}

#[test]
fn an_icmpv6_error_is_translated_both_ways() {
    let bench = bench();
    let a = bench.a;
    let request = tcp6(&a, FAR6, (40_000, 443), TCP_SYN);
    let (out, _) = send_out(&bench, &request);
    let router = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9);
    let mut error = Vec::new();
    PacketBuilder::ethernet2([2; 6], bench.uplink_mac)
        .ipv6(router.octets(), NODE6.octets(), 64)
        .icmpv6(Icmpv6Type::PacketTooBig { mtu: 1280 })
        .write(&mut error, &out.packet[14..])
        .unwrap();
    let ran = bench.run("from_network", bench.uplink, &error).unwrap();
    assert_eq!(ran.action, REDIRECT);
    assert_eq!(seen(&ran.packet).destination, std::net::IpAddr::from(a.ipv6));
    let inner = &ran.packet[14 + 40 + 8..];
    assert_eq!(inner[8..24], a.ipv6.octets());
    assert_eq!(inner[40..44], request[54..58]);
}

#[test]
fn an_icmp_error_about_nothing_is_dropped() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let about = tcp4(&b, a.ipv4, (1, 2), TCP_SYN);
    let before = bench.tally().unwrap();
    let error = unreachable4((a.mac, a.host_mac), a.ipv4, b.ipv4, &about);
    assert_eq!(bench.run("from_endpoint", a.ifindex, &error).unwrap().action, DROP);
    let error = unreachable4(([2; 6], bench.uplink_mac), FAR4, a.ipv4, &tcp4(&a, FAR4, (1, 2), TCP_SYN));
    assert_eq!(bench.run("from_network", bench.uplink, &error).unwrap().action, DROP);
    changes(&bench, &before, &[("unrelated_error", 2)], (0, 0));
    // Nor does an endpoint report errors in another's name.
    bench.run("from_endpoint", b.ifindex, &about).unwrap();
    let before = bench.tally().unwrap();
    let error = unreachable4((a.mac, a.host_mac), Ipv4Addr::new(203, 0, 113, 9), b.ipv4, &about);
    assert_eq!(bench.run("from_endpoint", a.ifindex, &error).unwrap().action, DROP);
    changes(&bench, &before, &[("foreign_source", 1)], (0, 0));
}

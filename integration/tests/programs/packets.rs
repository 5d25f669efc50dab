//! Packets built and read by a library, and what a run changes.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    Ethernet2Header, Icmpv4Type, Icmpv6Type, NetHeaders, PacketBuilder, PacketHeaders, TransportHeader,
};
use integration::programs::{Bench, FAR4, Knobs, Local, NODE4, REDIRECT, Tally};

pub const TCP_SYN: u8 = 1;

pub const TCP_ACK: u8 = 2;

pub const TCP_SYN_ACK: u8 = 3;

pub const TCP_RST: u8 = 4;

pub const TCP_FIN: u8 = 5;

/// Acknowledges what nobody has sent.
pub const TCP_BLIND: u8 = 6;

pub fn bench() -> Bench {
    Bench::new(&Knobs::default()).unwrap()
}

/// Expects the counters and tables to change by exactly this.
#[track_caller]
pub fn changes(bench: &Bench, before: &Tally, drops: &[(&str, u64)], flows: (usize, usize)) {
    let after = bench.tally().unwrap();
    let old =
        |reason: &str| before.drops.iter().find(|(name, _)| *name == reason).map_or(0, |(_, count)| *count);
    let new: Vec<_> = after
        .drops
        .iter()
        .map(|(name, count)| (*name, count - old(name)))
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(new, drops, "drops");
    assert_eq!((after.flows.0 - before.flows.0, after.flows.1 - before.flows.1), flows, "flows");
}

pub fn tcp(
    builder: etherparse::PacketBuilderStep<etherparse::IpHeaders>,
    ports: (u16, u16),
    flags: u8,
) -> Vec<u8> {
    let step = builder.tcp(ports.0, ports.1, 1000, 65_000);
    let step = match flags {
        TCP_SYN => step.syn(),
        TCP_ACK => step.ack(7),
        TCP_BLIND => step.ack(0x7654_3210),
        TCP_SYN_ACK => step.syn().ack(7),
        TCP_RST => step.rst(),
        TCP_FIN => step.fin().ack(7),
        _ => unreachable!(),
    };
    let mut packet = Vec::new();
    step.write(&mut packet, b"payload").unwrap();
    packet
}

pub fn tcp4(from: &Local, to: Ipv4Addr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    tcp(
        PacketBuilder::ethernet2(from.mac, from.host_mac).ipv4(from.ipv4.octets(), to.octets(), 64),
        ports,
        flags,
    )
}

pub fn tcp6(from: &Local, to: Ipv6Addr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    tcp(
        PacketBuilder::ethernet2(from.mac, from.host_mac).ipv6(from.ipv6.octets(), to.octets(), 64),
        ports,
        flags,
    )
}

pub fn udp4(from: &Local, to: Ipv4Addr, ports: (u16, u16)) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(from.mac, from.host_mac)
        .ipv4(from.ipv4.octets(), to.octets(), 64)
        .udp(ports.0, ports.1)
        .write(&mut packet, b"payload")
        .unwrap();
    packet
}

pub fn udp6(from: &Local, to: Ipv6Addr, ports: (u16, u16)) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(from.mac, from.host_mac)
        .ipv6(from.ipv6.octets(), to.octets(), 64)
        .udp(ports.0, ports.1)
        .write(&mut packet, b"payload")
        .unwrap();
    packet
}

pub fn network4(bench: &Bench, from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    tcp(PacketBuilder::ethernet2([2; 6], bench.uplink_mac).ipv4(from.octets(), to.octets(), 64), ports, flags)
}

pub fn network6(bench: &Bench, from: Ipv6Addr, to: Ipv6Addr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    tcp(PacketBuilder::ethernet2([2; 6], bench.uplink_mac).ipv6(from.octets(), to.octets(), 64), ports, flags)
}

/// What a program makes of a packet, and the ports that it has then.
#[track_caller]
pub fn sent(bench: &Bench, program: &str, ifindex: u32, packet: &[u8]) -> (u16, u16) {
    let ran = bench.run(program, ifindex, packet).unwrap();
    assert_eq!(ran.action, REDIRECT, "{:?}", bench.drops());
    seen(&ran.packet).ports
}

/// A handshake between a local endpoint and a machine beyond; returns the port that it leaves from.
#[track_caller]
pub fn connect(bench: &Bench, from: &Local, ports: (u16, u16)) -> u16 {
    let out = |flags| sent(bench, "from_endpoint", from.ifindex, &tcp4(from, FAR4, ports, flags)).0;
    let port = out(TCP_SYN);
    sent(bench, "from_network", bench.uplink, &network4(bench, FAR4, NODE4, (ports.1, port), TCP_SYN_ACK));
    assert_eq!(out(TCP_ACK), port);
    port
}

/// What a packet says, with every checksum verified.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub source: std::net::IpAddr,
    pub destination: std::net::IpAddr,
    pub hops: u8,
    pub ports: (u16, u16),
}

#[track_caller]
pub fn seen(packet: &[u8]) -> Seen {
    let headers = PacketHeaders::from_ethernet_slice(packet).unwrap();
    let payload = headers.payload.slice();
    let (ports, expected, actual) = match (headers.transport.unwrap(), headers.net.as_ref().unwrap()) {
        (TransportHeader::Tcp(tcp), NetHeaders::Ipv4(ip, _)) => (
            (tcp.source_port, tcp.destination_port),
            tcp.calc_checksum_ipv4(ip, payload).unwrap(),
            tcp.checksum,
        ),
        (TransportHeader::Tcp(tcp), NetHeaders::Ipv6(ip, _)) => (
            (tcp.source_port, tcp.destination_port),
            tcp.calc_checksum_ipv6(ip, payload).unwrap(),
            tcp.checksum,
        ),
        (TransportHeader::Udp(udp), NetHeaders::Ipv4(ip, _)) => (
            (udp.source_port, udp.destination_port),
            udp.calc_checksum_ipv4(ip, payload).unwrap(),
            udp.checksum,
        ),
        (TransportHeader::Udp(udp), NetHeaders::Ipv6(ip, _)) => (
            (udp.source_port, udp.destination_port),
            udp.calc_checksum_ipv6(ip, payload).unwrap(),
            udp.checksum,
        ),
        (TransportHeader::Icmpv4(icmp), _) => {
            let id = match icmp.icmp_type {
                Icmpv4Type::EchoRequest(echo) | Icmpv4Type::EchoReply(echo) => echo.id,
                _ => 0,
            };
            ((id, id), icmp.icmp_type.calc_checksum(payload), icmp.checksum)
        }
        (TransportHeader::Icmpv6(icmp), NetHeaders::Ipv6(ip, _)) => {
            let id = match icmp.icmp_type {
                Icmpv6Type::EchoRequest(echo) | Icmpv6Type::EchoReply(echo) => echo.id,
                _ => 0,
            };
            let sum = icmp.icmp_type.calc_checksum(ip.source, ip.destination, payload).unwrap();
            ((id, id), sum, icmp.checksum)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(actual, expected, "transport checksum");
    match headers.net.unwrap() {
        NetHeaders::Ipv4(ip, _) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "header checksum");
            Seen {
                source: ip.source.into(),
                destination: ip.destination.into(),
                hops: ip.time_to_live,
                ports,
            }
        }
        NetHeaders::Ipv6(ip, _) => {
            Seen { source: ip.source.into(), destination: ip.destination.into(), hops: ip.hop_limit, ports }
        }
        NetHeaders::Arp(arp) => panic!("{arp:?}"),
    }
}

pub fn macs(packet: &[u8]) -> ([u8; 6], [u8; 6]) {
    let (ethernet, _) = Ethernet2Header::from_slice(packet).unwrap();
    (ethernet.source, ethernet.destination)
}

/// A piece of an IPv6 datagram with the Ethernet and IP header of `whole`; `offset` in units of 8 bytes.
pub fn piece6(whole: &[u8], offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    piece6_of(whole, whole[20], offset, more, payload)
}

/// The same, which names the header that goes on.
pub fn piece6_of(whole: &[u8], next: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut packet = whole[..54].to_vec();
    packet[18..20].copy_from_slice(&u16::try_from(payload.len() + 8).unwrap().to_be_bytes());
    packet[20] = 44;
    packet.extend([next, 0]);
    packet.extend((offset << 3 | u16::from(more)).to_be_bytes());
    packet.extend([0, 0, 0, 99]);
    packet.extend(payload);
    packet
}

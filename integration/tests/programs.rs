//! The programs by `BPF_PROG_TEST_RUN`: one packet, then the whole change of the packet, the counters and the tables.

use std::net::{Ipv4Addr, Ipv6Addr};

use bpf::layout::{CT_REPLIED, CT_RESET, ENDPOINT_SHAPED, NAT_DESTINATION, NAT_SOURCE};
use etherparse::{
    Ethernet2Header, IcmpEchoHeader, Icmpv4Type, Icmpv6Type, IpFragOffset, IpNumber, Ipv4Header, NetHeaders,
    PacketBuilder, PacketHeaders, TransportHeader,
};
use integration::programs::{
    Bench, DROP, FAR4, FAR6, Knobs, Local, NODE4, NODE6, PASS, REDIRECT, Ran, Tally, ip,
};

const TCP_SYN: u8 = 1;
const TCP_ACK: u8 = 2;
const TCP_SYN_ACK: u8 = 3;
const TCP_RST: u8 = 4;

fn bench() -> Bench {
    Bench::new(&Knobs::default()).unwrap()
}

/// Expects the counters and tables to change by exactly this.
#[track_caller]
fn changes(bench: &Bench, before: &Tally, drops: &[(&str, u64)], flows: (usize, usize)) {
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

fn tcp(
    builder: etherparse::PacketBuilderStep<etherparse::IpHeaders>,
    ports: (u16, u16),
    flags: u8,
) -> Vec<u8> {
    let step = builder.tcp(ports.0, ports.1, 1000, 65_000);
    let step = match flags {
        TCP_SYN => step.syn(),
        TCP_ACK => step.ack(7),
        TCP_SYN_ACK => step.syn().ack(7),
        TCP_RST => step.rst(),
        _ => unreachable!(),
    };
    let mut packet = Vec::new();
    step.write(&mut packet, b"payload").unwrap();
    packet
}

fn tcp4(from: &Local, to: Ipv4Addr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    tcp(
        PacketBuilder::ethernet2(from.mac, from.host_mac).ipv4(from.ipv4.octets(), to.octets(), 64),
        ports,
        flags,
    )
}

fn tcp6(from: &Local, to: Ipv6Addr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    tcp(
        PacketBuilder::ethernet2(from.mac, from.host_mac).ipv6(from.ipv6.octets(), to.octets(), 64),
        ports,
        flags,
    )
}

fn udp4(from: &Local, to: Ipv4Addr, ports: (u16, u16)) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(from.mac, from.host_mac)
        .ipv4(from.ipv4.octets(), to.octets(), 64)
        .udp(ports.0, ports.1)
        .write(&mut packet, b"payload")
        .unwrap();
    packet
}

fn network4(bench: &Bench, from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    tcp(PacketBuilder::ethernet2([2; 6], bench.uplink_mac).ipv4(from.octets(), to.octets(), 64), ports, flags)
}

fn network6(bench: &Bench, from: Ipv6Addr, to: Ipv6Addr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    tcp(PacketBuilder::ethernet2([2; 6], bench.uplink_mac).ipv6(from.octets(), to.octets(), 64), ports, flags)
}

/// What a packet says, with every checksum verified.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    source: std::net::IpAddr,
    destination: std::net::IpAddr,
    hops: u8,
    ports: (u16, u16),
}

#[track_caller]
fn seen(packet: &[u8]) -> Seen {
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
        other => panic!("{other:?}"),
    }
}

fn macs(packet: &[u8]) -> ([u8; 6], [u8; 6]) {
    let (ethernet, _) = Ethernet2Header::from_slice(packet).unwrap();
    (ethernet.source, ethernet.destination)
}

#[test]
fn local_endpoints_reach_each_other_directly_in_both_families() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    for (there, back, flows) in [
        (tcp4(&a, b.ipv4, (40_000, 80), TCP_SYN), tcp4(&b, a.ipv4, (80, 40_000), TCP_SYN_ACK), (1, 0)),
        (tcp6(&a, b.ipv6, (40_000, 80), TCP_SYN), tcp6(&b, a.ipv6, (80, 40_000), TCP_SYN_ACK), (0, 1)),
    ] {
        let before = bench.tally().unwrap();
        let ran = bench.run("from_endpoint", a.ifindex, &there).unwrap();
        assert_eq!(ran.action, REDIRECT);
        assert_eq!(macs(&ran.packet), (b.host_mac, b.mac));
        assert_eq!(ran.packet[14..], there[14..], "nothing but the Ethernet header changes");
        changes(&bench, &before, &[], flows);

        // The reply finds the same entry.
        let before = bench.tally().unwrap();
        let ran = bench.run("from_endpoint", b.ifindex, &back).unwrap();
        assert_eq!((ran.action, macs(&ran.packet)), (REDIRECT, (a.host_mac, a.mac)));
        changes(&bench, &before, &[], (0, 0));
    }
    let flows = bench.flows4().unwrap();
    assert_eq!(flows[0].1.flags, CT_REPLIED);
}

#[test]
fn an_endpoint_speaks_only_for_itself() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let stranger = Local { ipv4: Ipv4Addr::new(10, 88, 0, 9), ipv6: Ipv6Addr::LOCALHOST, ..a };
    let neighbour = Local { ipv4: b.ipv4, ipv6: b.ipv6, ..a };
    let masked = Local { mac: [2, 0, 0, 0, 0, 99], ..a };
    for (packet, reason) in [
        (tcp4(&stranger, b.ipv4, (1, 2), TCP_SYN), "foreign_source"),
        (tcp6(&stranger, b.ipv6, (1, 2), TCP_SYN), "foreign_source"),
        (tcp4(&neighbour, a.ipv4, (1, 2), TCP_SYN), "foreign_source"),
        (tcp6(&neighbour, a.ipv6, (1, 2), TCP_SYN), "foreign_source"),
        (tcp4(&masked, b.ipv4, (1, 2), TCP_SYN), "foreign_mac"),
        (tcp6(&masked, b.ipv6, (1, 2), TCP_SYN), "foreign_mac"),
    ] {
        let before = bench.tally().unwrap();
        assert_eq!(bench.run("from_endpoint", a.ifindex, &packet).unwrap().action, DROP);
        changes(&bench, &before, &[(reason, 1)], (0, 0));
    }
}

#[test]
fn an_established_flow_does_not_open_the_door_to_a_liar() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    assert_eq!(
        bench.run("from_endpoint", a.ifindex, &tcp4(&a, b.ipv4, (1, 2), TCP_SYN)).unwrap().action,
        REDIRECT
    );

    let before = bench.tally().unwrap();
    let masked = Local { mac: [2, 0, 0, 0, 0, 99], ..a };
    assert_eq!(
        bench.run("from_endpoint", a.ifindex, &tcp4(&masked, b.ipv4, (1, 2), TCP_ACK)).unwrap().action,
        DROP
    );
    // From another interface, and from the network.
    assert_eq!(
        bench.run("from_endpoint", b.ifindex, &tcp4(&a, b.ipv4, (1, 2), TCP_ACK)).unwrap().action,
        DROP
    );
    let forged = network4(&bench, a.ipv4, b.ipv4, (1, 2), TCP_ACK);
    assert_eq!(bench.run("from_network", bench.uplink, &forged).unwrap().action, DROP);
    changes(&bench, &before, &[("foreign_source", 1), ("foreign_mac", 1), ("forged_endpoint", 1)], (0, 0));
}

#[test]
fn malformed_headers_are_dropped_and_counted() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let good4 = tcp4(&a, b.ipv4, (1, 2), TCP_SYN);
    let good6 = tcp6(&a, b.ipv6, (1, 2), TCP_SYN);
    let with = |packet: &[u8], at: usize, byte: u8| {
        let mut packet = packet.to_vec();
        packet[at] = byte;
        packet
    };
    let cases = [
        ("IPv4 of version 5", with(&good4, 14, 0x55)),
        ("IPv4 header of 16 bytes", with(&good4, 14, 0x44)),
        ("IPv4 header beyond the packet's length", with(&good4, 14, 0x4f)),
        ("IPv4 length beyond the packet", with(&good4, 16, 0xff)),
        ("IPv4 length below its header", with(&with(&good4, 16, 0), 17, 19)),
        ("TCP header of 16 bytes", with(&good4, 14 + 20 + 12, 0x40)),
        ("TCP header beyond the packet", with(&good4, 14 + 20 + 12, 0xf0)),
        ("TCP with SYN and FIN", with(&good4, 14 + 20 + 13, 0x03)),
        ("TCP with SYN and RST", with(&good4, 14 + 20 + 13, 0x06)),
        ("TCP without flags", with(&good4, 14 + 20 + 13, 0)),
        ("IPv4 cut in its TCP header", {
            let mut cut = good4[..14 + 20 + 10].to_vec();
            cut[17] = 30;
            cut
        }),
        ("IPv6 of version 4", with(&good6, 14, 0x45)),
        ("IPv6 length beyond the packet", with(&good6, 18, 0xff)),
        ("IPv6 extension beyond the packet", with(&good6, 20, 0)),
        ("TCP of IPv6 without flags", with(&good6, 14 + 40 + 13, 0)),
    ];
    for (what, packet) in cases {
        let before = bench.tally().unwrap();
        assert_eq!(bench.run("from_endpoint", a.ifindex, &packet).unwrap().action, DROP, "{what}");
        changes(&bench, &before, &[("malformed", 1)], (0, 0));
    }
}

#[test]
fn no_cut_of_a_packet_is_let_through_or_upsets_the_programs() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    // The kernel's test run itself takes nothing shorter than an IP header.
    for (packet, shortest) in
        [(tcp4(&a, b.ipv4, (1, 2), TCP_SYN), 14 + 20), (tcp6(&a, b.ipv6, (1, 2), TCP_SYN), 14 + 40)]
    {
        for length in shortest..packet.len() {
            let ran = bench.run("from_endpoint", a.ifindex, &packet[..length]).unwrap();
            assert_eq!(ran.action, DROP, "{length} bytes of {}", packet.len());
        }
    }
    assert_eq!(bench.tally().unwrap().flows, (0, 0));
}

#[test]
fn what_stays_on_the_link_is_not_forwarded() {
    let bench = bench();
    let a = bench.a;
    let before = bench.tally().unwrap();
    let unknown = Local { ipv6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), ..a };
    for packet in [
        udp4(&a, Ipv4Addr::new(224, 0, 0, 251), (5353, 5353)),
        udp4(&a, Ipv4Addr::BROADCAST, (68, 67)),
        tcp6(&a, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb), (1, 2), TCP_SYN),
    ] {
        assert_eq!(bench.run("from_endpoint", a.ifindex, &packet).unwrap().action, DROP);
    }
    changes(&bench, &before, &[("link_scope", 3)], (0, 0));

    let before = bench.tally().unwrap();
    let mut other = tcp4(&a, bench.b.ipv4, (1, 2), TCP_SYN);
    other[12..14].copy_from_slice(&[0x88, 0xcc]);
    assert_eq!(bench.run("from_endpoint", a.ifindex, &other).unwrap().action, DROP);
    assert_eq!(
        bench.run("from_endpoint", a.ifindex, &tcp6(&unknown, bench.b.ipv6, (1, 2), TCP_SYN)).unwrap().action,
        DROP
    );
    changes(&bench, &before, &[("not_ip", 1), ("foreign_source", 1)], (0, 0));
}

#[test]
fn arp_tells_the_truth_or_nothing() {
    let bench = bench();
    let a = bench.a;
    let arp = |mac: [u8; 6], sender: Ipv4Addr| {
        let mut packet = vec![0xff; 6];
        packet.extend(mac);
        packet.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        packet.extend(mac);
        packet.extend(sender.octets());
        packet.extend([0; 6]);
        packet.extend(Ipv4Addr::new(10, 88, 0, 1).octets());
        packet
    };
    let before = bench.tally().unwrap();
    let run = |packet: &[u8]| bench.run("from_endpoint", a.ifindex, packet).unwrap().action;
    assert_eq!(run(&arp(a.mac, a.ipv4)), PASS);
    assert_eq!(run(&arp(a.mac, Ipv4Addr::UNSPECIFIED)), PASS);
    changes(&bench, &before, &[], (0, 0));
    assert_eq!(run(&arp(a.mac, bench.b.ipv4)), DROP);
    assert_eq!(run(&arp(bench.b.mac, a.ipv4)), DROP);
    assert_eq!(run(&arp(a.mac, a.ipv4)[..30]), DROP);
    changes(&bench, &before, &[("malformed", 1), ("foreign_source", 1), ("foreign_mac", 1)], (0, 0));
}

/// Sends a packet of `a` out and returns it with the port that it was given.
#[track_caller]
fn send_out(bench: &Bench, packet: &[u8]) -> (Ran, u16) {
    let ran = bench.run("from_endpoint", bench.a.ifindex, packet).unwrap();
    assert_eq!(ran.action, REDIRECT, "{:?}", bench.tally());
    let port = seen(&ran.packet).ports.0;
    (ran, port)
}

#[test]
fn what_leaves_the_cluster_is_masqueraded_and_comes_back() {
    let bench = bench();
    let a = bench.a;
    let before = bench.tally().unwrap();

    let (out, port) = send_out(&bench, &tcp4(&a, FAR4, (40_000, 443), TCP_SYN));
    assert_eq!(
        seen(&out.packet),
        Seen { source: NODE4.into(), destination: FAR4.into(), hops: 63, ports: (port, 443) }
    );
    assert!((10_000..30_000).contains(&port));
    let reply = network4(&bench, FAR4, NODE4, (443, port), TCP_SYN_ACK);
    let back = bench.run("from_network", bench.uplink, &reply).unwrap();
    assert_eq!((back.action, macs(&back.packet)), (REDIRECT, (a.host_mac, a.mac)));
    assert_eq!(
        seen(&back.packet),
        Seen { source: FAR4.into(), destination: a.ipv4.into(), hops: 64, ports: (443, 40_000) }
    );
    changes(&bench, &before, &[], (2, 0));

    // Later packets keep the port and add nothing.
    let (_, again) = send_out(&bench, &tcp4(&a, FAR4, (40_000, 443), TCP_ACK));
    assert_eq!(again, port);
    changes(&bench, &before, &[], (2, 0));
    for (_, entry) in bench.flows4().unwrap() {
        assert_eq!(entry.flags, CT_REPLIED, "both entries know that the flow is answered");
    }
}

#[test]
fn ipv6_is_masqueraded_like_ipv4() {
    let bench = bench();
    let a = bench.a;
    let (out, port) = send_out(&bench, &tcp6(&a, FAR6, (40_000, 443), TCP_SYN));
    assert_eq!(
        seen(&out.packet),
        Seen { source: NODE6.into(), destination: FAR6.into(), hops: 63, ports: (port, 443) }
    );
    let reply = network6(&bench, FAR6, NODE6, (443, port), TCP_SYN_ACK);
    let back = bench.run("from_network", bench.uplink, &reply).unwrap();
    assert_eq!((back.action, macs(&back.packet)), (REDIRECT, (a.host_mac, a.mac)));
    assert_eq!(
        seen(&back.packet),
        Seen { source: FAR6.into(), destination: a.ipv6.into(), hops: 64, ports: (443, 40_000) }
    );
    assert_eq!(bench.tally().unwrap().flows, (0, 2));
}

#[test]
fn udp_and_echoes_are_masqueraded_too() {
    let bench = bench();
    let a = bench.a;
    let (out, port) = send_out(&bench, &udp4(&a, FAR4, (5000, 53)));
    assert_eq!(seen(&out.packet).source, std::net::IpAddr::from(NODE4));
    let mut reply = Vec::new();
    PacketBuilder::ethernet2([2; 6], bench.uplink_mac)
        .ipv4(FAR4.octets(), NODE4.octets(), 64)
        .udp(53, port)
        .write(&mut reply, b"answer")
        .unwrap();
    let back = bench.run("from_network", bench.uplink, &reply).unwrap();
    assert_eq!(seen(&back.packet).ports, (53, 5000));

    let mut ping = Vec::new();
    PacketBuilder::ethernet2(a.mac, a.host_mac)
        .ipv4(a.ipv4.octets(), FAR4.octets(), 64)
        .icmpv4_echo_request(77, 1)
        .write(&mut ping, b"ping")
        .unwrap();
    let (out, id) = send_out(&bench, &ping);
    assert_eq!(seen(&out.packet).source, std::net::IpAddr::from(NODE4));
    let mut pong = Vec::new();
    PacketBuilder::ethernet2([2; 6], bench.uplink_mac)
        .ipv4(FAR4.octets(), NODE4.octets(), 64)
        .icmpv4_echo_reply(id, 1)
        .write(&mut pong, b"ping")
        .unwrap();
    let back = bench.run("from_network", bench.uplink, &pong).unwrap();
    assert_eq!((back.action, seen(&back.packet).ports), (REDIRECT, (77, 77)));

    let mut ping = Vec::new();
    PacketBuilder::ethernet2(a.mac, a.host_mac)
        .ipv6(a.ipv6.octets(), FAR6.octets(), 64)
        .icmpv6_echo_request(78, 1)
        .write(&mut ping, b"ping")
        .unwrap();
    let (out, id) = send_out(&bench, &ping);
    assert_eq!(seen(&out.packet).source, std::net::IpAddr::from(NODE6));
    let mut pong = Vec::new();
    PacketBuilder::ethernet2([2; 6], bench.uplink_mac)
        .ipv6(FAR6.octets(), NODE6.octets(), 64)
        .icmpv6_echo_reply(id, 1)
        .write(&mut pong, b"ping")
        .unwrap();
    let back = bench.run("from_network", bench.uplink, &pong).unwrap();
    assert_eq!((back.action, seen(&back.packet).ports), (REDIRECT, (78, 78)));
}

#[test]
fn two_endpoints_never_share_a_port_to_one_destination() {
    let bench = Bench::new(&Knobs { first_port: 10_000, ports: 2 }).unwrap();
    let (a, b) = (bench.a, bench.b);
    let (_, first) = send_out(&bench, &tcp4(&a, FAR4, (40_000, 443), TCP_SYN));
    let other = bench.run("from_endpoint", b.ifindex, &tcp4(&b, FAR4, (40_000, 443), TCP_SYN)).unwrap();
    assert_eq!(other.action, REDIRECT);
    let second = seen(&other.packet).ports.0;
    assert_ne!(first, second);

    // Both ports are taken: a third flow waits, another destination does not.
    let before = bench.tally().unwrap();
    let third = tcp4(&a, FAR4, (40_001, 443), TCP_SYN);
    assert_eq!(bench.run("from_endpoint", a.ifindex, &third).unwrap().action, DROP);
    changes(&bench, &before, &[("no_masquerade_port", 1)], (0, 0));
    send_out(&bench, &tcp4(&a, FAR4, (40_001, 444), TCP_SYN));

    // One of the two ends: its port is free again.
    let reset = network4(&bench, FAR4, NODE4, (443, second), TCP_RST);
    assert_eq!(bench.run("from_network", bench.uplink, &reset).unwrap().action, REDIRECT);
    let (_, port) = send_out(&bench, &third);
    assert_eq!(port, second);
    assert!(
        bench.flows4().unwrap().iter().any(|(_, entry)| entry.flags & CT_RESET != 0),
        "the first entry says so too"
    );
}

#[test]
fn a_port_of_the_hosts_own_sockets_is_left_to_it() {
    let bench = Bench::new(&Knobs { first_port: 10_000, ports: 1 }).unwrap();
    let listener = std::net::TcpListener::bind((NODE4, 10_000)).unwrap();
    let packet = tcp4(&bench.a, FAR4, (40_000, 443), TCP_SYN);
    let before = bench.tally().unwrap();
    assert_eq!(bench.run("from_endpoint", bench.a.ifindex, &packet).unwrap().action, DROP);
    changes(&bench, &before, &[("no_masquerade_port", 1)], (0, 0));
    drop(listener);
    assert_eq!(send_out(&bench, &packet).1, 10_000);
}

#[test]
fn exempt_destinations_keep_the_endpoints_address() {
    let bench = bench();
    bench.exempt(Ipv4Addr::new(198, 51, 100, 0), 24).unwrap();
    let (out, port) = send_out(&bench, &tcp4(&bench.a, FAR4, (40_000, 443), TCP_SYN));
    assert_eq!((seen(&out.packet).source, port), (bench.a.ipv4.into(), 40_000));
    assert_eq!(bench.tally().unwrap().flows, (1, 0));
}

#[test]
fn the_network_reaches_an_endpoint_and_the_reply_is_not_masqueraded() {
    let bench = bench();
    let a = bench.a;
    let ran = bench
        .run("from_network", bench.uplink, &network4(&bench, FAR4, a.ipv4, (9000, 80), TCP_SYN))
        .unwrap();
    assert_eq!((ran.action, macs(&ran.packet)), (REDIRECT, (a.host_mac, a.mac)));
    assert_eq!(seen(&ran.packet).hops, 63);
    let (reply, _) = send_out(&bench, &tcp4(&a, FAR4, (80, 9000), TCP_SYN_ACK));
    assert_eq!(
        seen(&reply.packet),
        Seen { source: a.ipv4.into(), destination: FAR4.into(), hops: 63, ports: (80, 9000) }
    );
    assert_eq!(bench.tally().unwrap(), Tally { drops: vec![], flows: (1, 0) });
}

#[test]
fn the_hosts_own_packets_pass_untouched() {
    let bench = bench();
    for packet in [
        network4(&bench, FAR4, NODE4, (443, 22), TCP_SYN),
        network4(&bench, FAR4, NODE4, (443, 12_345), TCP_SYN),
        network6(&bench, FAR6, NODE6, (443, 12_345), TCP_SYN),
    ] {
        let ran = bench.run("from_network", bench.uplink, &packet).unwrap();
        assert_eq!((ran.action, &ran.packet), (PASS, &packet));
    }
    let out = network4(&bench, NODE4, FAR4, (22, 443), TCP_ACK);
    let ran = bench.run("to_network", bench.uplink, &out).unwrap();
    assert_eq!((ran.action, &ran.packet), (PASS, &out));
    assert_eq!(bench.tally().unwrap(), Tally { drops: vec![], flows: (0, 0) });
}

#[test]
fn what_the_stack_sends_out_for_an_endpoint_is_masqueraded_on_the_uplink() {
    let bench = bench();
    let a = bench.a;
    bench.add_endpoint(&a, ENDPOINT_SHAPED).unwrap();
    let packet = tcp4(&a, FAR4, (40_000, 443), TCP_SYN);
    let ran = bench.run("from_endpoint", a.ifindex, &packet).unwrap();
    assert_eq!((ran.action, &ran.packet), (PASS, &packet), "its queueing discipline comes first");
    let ran = bench.run("to_network", bench.uplink, &packet).unwrap();
    assert_eq!(ran.action, PASS);
    let out = seen(&ran.packet);
    assert_eq!(out.source, std::net::IpAddr::from(NODE4));
    let reply = network4(&bench, FAR4, NODE4, (443, out.ports.0), TCP_SYN_ACK);
    let back = bench.run("from_network", bench.uplink, &reply).unwrap();
    assert_eq!((back.action, seen(&back.packet).ports), (REDIRECT, (443, 40_000)));
}

#[test]
fn the_host_reaches_an_endpoint_and_the_reply_goes_back_through_the_stack() {
    let bench = bench();
    let a = bench.a;
    let mut from_host = a;
    from_host.ipv4 = NODE4;
    let request = tcp4(&from_host, a.ipv4, (50_000, 80), TCP_SYN);
    assert_eq!(bench.run("to_endpoint", a.ifindex, &request).unwrap().action, PASS);
    assert_eq!(
        bench.run("from_endpoint", a.ifindex, &tcp4(&a, NODE4, (80, 50_000), TCP_SYN_ACK)).unwrap().action,
        PASS
    );
    assert_eq!(bench.tally().unwrap(), Tally { drops: vec![], flows: (1, 0) });
}

#[test]
fn nothing_reaches_an_endpoint_that_is_not_known() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let mut from_host = a;
    from_host.ipv4 = NODE4;
    let request = tcp4(&from_host, a.ipv4, (50_000, 80), TCP_SYN);
    bench.remove_endpoint(&a).unwrap();
    let before = bench.tally().unwrap();
    assert_eq!(bench.run("to_endpoint", a.ifindex, &request).unwrap().action, DROP);
    // Another endpoint's packet at this interface.
    from_host.ipv4 = NODE4;
    assert_eq!(
        bench.run("to_endpoint", a.ifindex, &tcp4(&from_host, b.ipv4, (1, 2), TCP_SYN)).unwrap().action,
        DROP
    );
    changes(&bench, &before, &[("unknown_endpoint", 2)], (0, 0));
}

#[test]
fn a_raised_epoch_has_every_flow_judged_anew() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let packet = tcp4(&a, b.ipv4, (1, 2), TCP_SYN);
    bench.run("from_endpoint", a.ifindex, &packet).unwrap();
    bench.run("from_endpoint", b.ifindex, &tcp4(&b, a.ipv4, (2, 1), TCP_SYN_ACK)).unwrap();
    bench.raise_epoch().unwrap();
    let data = tcp4(&a, b.ipv4, (1, 2), TCP_ACK);
    assert_eq!(bench.run("from_endpoint", a.ifindex, &data).unwrap().action, REDIRECT);
    assert_eq!(bench.flows4().unwrap()[0].1.flags, CT_REPLIED, "its state is kept");
    // The sender goes: its established flow does not outlive it.
    bench.remove_endpoint(&a).unwrap();
    bench.raise_epoch().unwrap();
    let before = bench.tally().unwrap();
    assert_eq!(bench.run("from_endpoint", a.ifindex, &data).unwrap().action, DROP);
    changes(&bench, &before, &[("foreign_source", 1)], (0, 0));
}

#[test]
fn a_masqueraded_flow_keeps_its_port_when_judged_anew() {
    let bench = bench();
    let a = bench.a;
    let (_, port) = send_out(&bench, &tcp4(&a, FAR4, (40_000, 443), TCP_SYN));
    bench.raise_epoch().unwrap();
    let reply = network4(&bench, FAR4, NODE4, (443, port), TCP_SYN_ACK);
    assert_eq!(bench.run("from_network", bench.uplink, &reply).unwrap().action, REDIRECT);
    let (_, again) = send_out(&bench, &tcp4(&a, FAR4, (40_000, 443), TCP_ACK));
    assert_eq!(again, port);
    assert_eq!(bench.tally().unwrap().flows, (2, 0));
}

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

#[test]
fn options_are_carried_along() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let plain = udp4(&a, b.ipv4, (5000, 53));
    let mut header = Ipv4Header::new(
        u16::try_from(plain.len() - 34).unwrap(),
        64,
        IpNumber::UDP,
        a.ipv4.octets(),
        b.ipv4.octets(),
    )
    .unwrap();
    header.options = [0x94, 4, 0, 0].into();
    header.header_checksum = header.calc_header_checksum();
    let mut packet = plain[..14].to_vec();
    header.write(&mut packet).unwrap();
    packet.extend(&plain[34..]);
    let ran = bench.run("from_endpoint", a.ifindex, &packet).unwrap();
    assert_eq!((ran.action, &ran.packet[14..]), (REDIRECT, &packet[14..]));
    assert_eq!(
        bench.flows4().unwrap()[0].0.port.map(u16::from_be).iter().sum::<u16>(),
        5053,
        "the ports were found behind them"
    );
}

#[test]
fn a_packet_at_its_last_hop_goes_to_the_stack_for_an_answer() {
    let bench = bench();
    let a = bench.a;
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(a.mac, a.host_mac)
        .ipv4(a.ipv4.octets(), FAR4.octets(), 1)
        .udp(1, 2)
        .write(&mut packet, b"")
        .unwrap();
    let ran = bench.run("from_endpoint", a.ifindex, &packet).unwrap();
    assert_eq!((ran.action, ran.packet), (PASS, packet));
}

#[test]
fn a_packet_larger_than_its_route_goes_to_the_stack_for_an_answer() {
    let bench = bench();
    let a = bench.a;
    ip("route replace default via 192.0.2.1 mtu lock 1000").unwrap();
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(a.mac, a.host_mac)
        .ipv4(a.ipv4.octets(), FAR4.octets(), 64)
        .udp(1, 2)
        .write(&mut packet, &[0; 1000])
        .unwrap();
    let ran = bench.run("from_endpoint", a.ifindex, &packet).unwrap();
    assert_eq!((ran.action, &ran.packet), (PASS, &packet));
    let (small, _) = send_out(&bench, &udp4(&a, FAR4, (1, 2)));
    assert_eq!(seen(&small.packet).source, std::net::IpAddr::from(NODE4));
}

#[test]
fn an_ended_flows_ports_begin_a_new_one() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    bench.run("from_endpoint", a.ifindex, &tcp4(&a, b.ipv4, (1, 2), TCP_SYN)).unwrap();
    bench.run("from_endpoint", b.ifindex, &tcp4(&b, a.ipv4, (2, 1), TCP_RST)).unwrap();
    assert_eq!(bench.flows4().unwrap()[0].1.flags, CT_REPLIED | CT_RESET);
    bench.run("from_endpoint", b.ifindex, &tcp4(&b, a.ipv4, (2, 1), TCP_SYN)).unwrap();
    let flows = bench.flows4().unwrap();
    assert_eq!(flows.len(), 1);
    assert_eq!(flows[0].1.flags, 0);
    let opener = flows[0].0.address[usize::from(flows[0].1.opener)];
    assert_eq!(Ipv4Addr::from(opener), b.ipv4, "it was opened from the other side");
}

#[test]
fn the_two_entries_of_a_masqueraded_flow_point_at_each_other() {
    let bench = bench();
    let (_, port) = send_out(&bench, &tcp4(&bench.a, FAR4, (40_000, 443), TCP_SYN));
    let mut nats: Vec<_> = bench
        .flows4()
        .unwrap()
        .iter()
        .flat_map(|(_, entry)| {
            let nat = (Ipv4Addr::from(entry.nat_address), u16::from_be(entry.nat_port));
            entry.way.iter().filter(|way| way.nat != 0).map(move |way| (way.nat, nat)).collect::<Vec<_>>()
        })
        .collect();
    nats.sort_unstable();
    assert_eq!(nats, [(NAT_SOURCE, (NODE4, port)), (NAT_DESTINATION, (bench.a.ipv4, 40_000))]);
}

#[test]
fn neighbour_discovery_passes_and_router_discovery_does_not() {
    let bench = bench();
    let a = bench.a;
    let message = |kind: u8| {
        let mut packet = Vec::new();
        PacketBuilder::ethernet2(a.mac, [0x33, 0x33, 0, 0, 0, 1])
            .ipv6(a.ipv6.octets(), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets(), 255)
            .icmpv6_raw(kind, 0, [0; 4])
            .write(&mut packet, &[0; 16])
            .unwrap();
        packet
    };
    let before = bench.tally().unwrap();
    for kind in [135, 136] {
        assert_eq!(bench.run("from_endpoint", a.ifindex, &message(kind)).unwrap().action, PASS);
    }
    changes(&bench, &before, &[], (0, 0));
    for kind in [133, 134, 137, 143] {
        assert_eq!(bench.run("from_endpoint", a.ifindex, &message(kind)).unwrap().action, DROP);
    }
    changes(&bench, &before, &[("link_scope", 4)], (0, 0));
}

#[test]
fn an_echo_between_endpoints_is_one_flow() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let echo = |from: &Local, to: &Local, kind: fn(IcmpEchoHeader) -> Icmpv4Type| {
        let mut packet = Vec::new();
        PacketBuilder::ethernet2(from.mac, from.host_mac)
            .ipv4(from.ipv4.octets(), to.ipv4.octets(), 64)
            .icmpv4(kind(IcmpEchoHeader { id: 5, seq: 1 }))
            .write(&mut packet, b"x")
            .unwrap();
        packet
    };
    assert_eq!(
        bench.run("from_endpoint", a.ifindex, &echo(&a, &b, Icmpv4Type::EchoRequest)).unwrap().action,
        REDIRECT
    );
    assert_eq!(
        bench.run("from_endpoint", b.ifindex, &echo(&b, &a, Icmpv4Type::EchoReply)).unwrap().action,
        REDIRECT
    );
    assert_eq!(bench.tally().unwrap(), Tally { drops: vec![], flows: (1, 0) });
}

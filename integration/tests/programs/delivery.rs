//! Between endpoints, and between an endpoint and its host.

use std::net::{Ipv4Addr, Ipv6Addr};

use bpf::layout::{
    CT_BY_SYN, CT_CONFIRMED, CT_NUMBERED, CT_REPLIED, CT_RESET, CT_RESET_BY_REPLIER, ENDPOINT_CHAINED,
};
use etherparse::{IcmpEchoHeader, Icmpv4Type, IpNumber, Ipv4Header, PacketBuilder};
use integration::programs::{DROP, FAR4, Local, NODE4, PASS, REDIRECT, Tally, ip};

use crate::packets::*;

/// All nodes of the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

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
    assert_eq!(flows[0].1.flags, CT_REPLIED | CT_NUMBERED | CT_BY_SYN);
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
    let goes_on = CT_REPLIED | CT_CONFIRMED;
    assert_eq!(bench.flows4().unwrap()[0].1.flags, goes_on, "its state is kept");
    // The sender goes: its established flow does not outlive it.
    bench.remove_endpoint(&a).unwrap();
    bench.raise_epoch().unwrap();
    let before = bench.tally().unwrap();
    assert_eq!(bench.run("from_endpoint", a.ifindex, &data).unwrap().action, DROP);
    changes(&bench, &before, &[("foreign_source", 1)], (0, 0));
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
fn an_ended_flows_ports_begin_a_new_one() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    bench.run("from_endpoint", a.ifindex, &tcp4(&a, b.ipv4, (1, 2), TCP_SYN)).unwrap();
    bench.run("from_endpoint", b.ifindex, &tcp4(&b, a.ipv4, (2, 1), TCP_RST)).unwrap();
    assert_eq!(bench.flows4().unwrap()[0].1.flags, CT_REPLIED | CT_RESET | CT_RESET_BY_REPLIER);
    bench.run("from_endpoint", b.ifindex, &tcp4(&b, a.ipv4, (2, 1), TCP_SYN)).unwrap();
    let flows = bench.flows4().unwrap();
    assert_eq!(flows.len(), 1);
    assert_eq!(flows[0].1.flags, 0);
    let opener = flows[0].0.address[usize::from(flows[0].1.opener)];
    assert_eq!(Ipv4Addr::from(opener), b.ipv4, "it was opened from the other side");
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
            .write(&mut packet, &a.ipv6.octets())
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
fn an_endpoint_tells_neighbours_of_itself_only() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);

    // By its Ethernet address, and somebody's.
    let link_local: Ipv6Addr = "fe80::ff:fe00:5".parse().unwrap();
    let other = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7);
    let (solicitation, advertisement) = (135, 136);
    let message = |kind: u8, source: Ipv6Addr, target: Ipv6Addr| {
        let mut packet = Vec::new();
        PacketBuilder::ethernet2(a.mac, [0x33, 0x33, 0, 0, 0, 1])
            .ipv6(source.octets(), ALL_NODES.octets(), 255)
            .icmpv6_raw(kind, 0, [0; 4])
            .write(&mut packet, &target.octets())
            .unwrap();
        packet
    };
    let before = bench.tally().unwrap();
    for (kind, source, target) in [
        (solicitation, a.ipv6, b.ipv6),
        (solicitation, Ipv6Addr::UNSPECIFIED, a.ipv6),
        (solicitation, link_local, b.ipv6),
        (advertisement, a.ipv6, a.ipv6),
        (advertisement, link_local, link_local),
    ] {
        let ran = bench.run("from_endpoint", a.ifindex, &message(kind, source, target)).unwrap();
        assert_eq!(ran.action, PASS, "{kind} {source} {target}");
    }
    changes(&bench, &before, &[], (0, 0));
    for (kind, source, target) in [
        (solicitation, b.ipv6, b.ipv6),
        (advertisement, b.ipv6, b.ipv6),
        (advertisement, a.ipv6, b.ipv6),
        (advertisement, link_local, b.ipv6),
        (advertisement, a.ipv6, other),
        (solicitation, other, b.ipv6),
        (solicitation, Ipv6Addr::UNSPECIFIED, other),
        (solicitation, Ipv6Addr::UNSPECIFIED, b.ipv6),
    ] {
        let ran = bench.run("from_endpoint", a.ifindex, &message(kind, source, target)).unwrap();
        assert_eq!(ran.action, DROP, "{kind} {source} {target}");
    }
    changes(&bench, &before, &[("foreign_source", 8)], (0, 0));
    let cut = &message(advertisement, a.ipv6, a.ipv6)[..14 + 40 + 8];
    assert_eq!(bench.run("from_endpoint", a.ifindex, cut).unwrap().action, DROP);
    changes(&bench, &before, &[("malformed", 1), ("foreign_source", 8)], (0, 0));
}

#[test]
fn what_another_plugin_leads_goes_through_the_stack_untouched() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    for local in [&a, &b] {
        bench.add_endpoint(local, ENDPOINT_CHAINED).unwrap();
    }
    let before = bench.tally().unwrap();
    let untouched = |program: &str, ifindex: u32, packet: &[u8]| {
        let ran = bench.run(program, ifindex, packet).unwrap();
        assert_eq!((ran.action, &*ran.packet), (PASS, packet), "{program}");
    };
    // Both ends are judged where it is sent; the one entry is found where it arrives.
    let there = tcp4(&a, b.ipv4, (40_000, 80), TCP_SYN);
    untouched("from_endpoint", a.ifindex, &there);
    untouched("to_endpoint", b.ifindex, &there);
    let back = tcp4(&b, a.ipv4, (80, 40_000), TCP_SYN_ACK);
    untouched("from_endpoint", b.ifindex, &back);
    untouched("to_endpoint", a.ifindex, &back);
    changes(&bench, &before, &[], (1, 0));
    // To the network without masquerade, and from there.
    let out = tcp4(&a, FAR4, (40_000, 443), TCP_SYN);
    untouched("from_endpoint", a.ifindex, &out);
    untouched("to_network", bench.uplink, &out);
    let inward = network4(&bench, FAR4, b.ipv4, (40_000, 80), TCP_SYN);
    untouched("from_network", bench.uplink, &inward);
    untouched("to_endpoint", b.ifindex, &inward);
    changes(&bench, &before, &[], (3, 0));
    // It still speaks for itself only.
    let forged = Local { ipv4: b.ipv4, ..a };
    let ran = bench.run("from_endpoint", a.ifindex, &tcp4(&forged, b.ipv4, (1, 2), TCP_SYN)).unwrap();
    assert_eq!(ran.action, DROP);
    changes(&bench, &before, &[("foreign_source", 1)], (3, 0));
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

#[test]
fn the_segments_of_an_aggregate_fit_the_way_with_all_of_their_headers() {
    for (mtu, data, action) in
        [(1480, 1448, PASS), (1500, 1448, REDIRECT), (1480, 1428, REDIRECT), (1480, 1429, PASS)]
    {
        let bench = bench();
        ip(&format!("route add 198.51.100.1 via 192.0.2.1 mtu lock {mtu}")).unwrap();
        let a = bench.a;
        let mut aggregate = Vec::new();
        // 20 bytes of IP, 32 of TCP.
        PacketBuilder::ethernet2(a.mac, a.host_mac)
            .ipv4(a.ipv4.octets(), FAR4.octets(), 64)
            .tcp(40_000, 443, 1, 65_000)
            .ack(1)
            .options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1])
            .unwrap()
            .write(&mut aggregate, &[7; 3000])
            .unwrap();
        let ran = bench.run_aggregate("from_endpoint", a.ifindex, &aggregate, data).unwrap();
        assert_eq!(ran.action, action, "{data} bytes of data, a way of {mtu}");
    }
}

//! Out of the cluster and back.

use std::net::Ipv4Addr;

use bpf::layout::{
    CT_CONFIRMED, CT_NAT_REVERSE, CT_REPLIED, CtEntry, CtKey, ENDPOINT_SHAPED, NAT_DESTINATION, NAT_SOURCE,
};
use etherparse::PacketBuilder;
use integration::programs::{Bench, DROP, FAR4, FAR6, Knobs, NODE4, NODE6, PASS, REDIRECT, Ran, Tally, ip};
use integration::testbed::eventually;

use crate::packets::*;

/// Sends a packet of `a` out and returns it with the port that it was given.
#[track_caller]
pub fn send_out(bench: &Bench, packet: &[u8]) -> (Ran, u16) {
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
        let answered = CT_REPLIED | CT_CONFIRMED;
        assert_eq!(entry.flags & !CT_NAT_REVERSE, answered, "both entries know that the flow is answered");
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
    let mut answer = Vec::new();
    PacketBuilder::ethernet2([2; 6], bench.uplink_mac)
        .ipv4(FAR4.octets(), NODE4.octets(), 64)
        .icmpv4_echo_reply(id, 1)
        .write(&mut answer, b"ping")
        .unwrap();
    let back = bench.run("from_network", bench.uplink, &answer).unwrap();
    assert_eq!((back.action, seen(&back.packet).ports), (REDIRECT, (77, 77)));

    let mut ping = Vec::new();
    PacketBuilder::ethernet2(a.mac, a.host_mac)
        .ipv6(a.ipv6.octets(), FAR6.octets(), 64)
        .icmpv6_echo_request(78, 1)
        .write(&mut ping, b"ping")
        .unwrap();
    let (out, id) = send_out(&bench, &ping);
    assert_eq!(seen(&out.packet).source, std::net::IpAddr::from(NODE6));
    let mut answer = Vec::new();
    PacketBuilder::ethernet2([2; 6], bench.uplink_mac)
        .ipv6(FAR6.octets(), NODE6.octets(), 64)
        .icmpv6_echo_reply(id, 1)
        .write(&mut answer, b"ping")
        .unwrap();
    let back = bench.run("from_network", bench.uplink, &answer).unwrap();
    assert_eq!((back.action, seen(&back.packet).ports), (REDIRECT, (78, 78)));
}

#[test]
fn two_endpoints_never_share_a_port_to_one_destination() {
    let bench = Bench::new(&Knobs { first_port: 10_000, ports: 2, ..Knobs::default() }).unwrap();
    let (a, b) = (bench.a, bench.b);
    let (_, first) = send_out(&bench, &tcp4(&a, FAR4, (40_000, 443), TCP_SYN));
    let other = bench.run("from_endpoint", b.ifindex, &tcp4(&b, FAR4, (40_000, 443), TCP_SYN)).unwrap();
    assert_eq!(other.action, REDIRECT);
    let second = seen(&other.packet).ports.0;
    assert_ne!(first, second);

    // Both are answered, and go on.
    for (from, port) in [(&a, first), (&b, second)] {
        let answer = network4(&bench, FAR4, NODE4, (443, port), TCP_SYN_ACK);
        assert_eq!(bench.run("from_network", bench.uplink, &answer).unwrap().action, REDIRECT);
        let ack = tcp4(from, FAR4, (40_000, 443), TCP_ACK);
        assert_eq!(bench.run("from_endpoint", from.ifindex, &ack).unwrap().action, REDIRECT);
    }

    // Both ports are taken: a third flow waits, another destination does not.
    let before = bench.tally().unwrap();
    let third = tcp4(&a, FAR4, (40_001, 443), TCP_SYN);
    assert_eq!(bench.run("from_endpoint", a.ifindex, &third).unwrap().action, DROP);
    changes(&bench, &before, &[("no_masquerade_port", 1)], (0, 0));
    send_out(&bench, &tcp4(&a, FAR4, (40_001, 444), TCP_SYN));

    // One of the two ends: its port is free again.
    let fin = tcp4(&b, FAR4, (40_000, 443), TCP_FIN);
    assert_eq!(bench.run("from_endpoint", b.ifindex, &fin).unwrap().action, REDIRECT);
    let fin = network4(&bench, FAR4, NODE4, (443, second), TCP_FIN);
    assert_eq!(bench.run("from_network", bench.uplink, &fin).unwrap().action, REDIRECT);
    let (_, port) = send_out(&bench, &third);
    assert_eq!(port, second);
    let of_b = |key: &bpf::layout::CtKey4| key.sides().iter().any(|(address, _)| *address == b.ipv4);
    assert!(!bench.flows4().unwrap().iter().any(|(key, _)| of_b(key)), "the flow is forgotten in both views");
}

#[test]
fn a_port_of_the_hosts_own_sockets_is_left_to_it() {
    let bench = Bench::new(&Knobs { first_port: 10_000, ports: 1, ..Knobs::default() }).unwrap();
    let listener = std::net::TcpListener::bind((NODE4, 10_000)).unwrap();
    let packet = tcp4(&bench.a, FAR4, (40_000, 443), TCP_SYN);
    let before = bench.tally().unwrap();
    assert_eq!(bench.run("from_endpoint", bench.a.ifindex, &packet).unwrap().action, DROP);
    changes(&bench, &before, &[("no_masquerade_port", 1)], (0, 0));
    drop(listener);
    // A process that another test begins at this moment holds the socket, too, until it executes its program.
    let passes = || bench.run("from_endpoint", bench.a.ifindex, &packet).unwrap().action != DROP;
    assert!(eventually(std::time::Duration::from_secs(2), passes));
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
fn the_two_entries_of_a_masqueraded_flow_point_at_each_other() {
    let bench = bench();
    let (_, port) = send_out(&bench, &tcp4(&bench.a, FAR4, (40_000, 443), TCP_SYN));
    let mut nats: Vec<_> = bench
        .flows4()
        .unwrap()
        .iter()
        .flat_map(|(_, entry)| {
            let views = entry.other_view();
            // Of a way whose source is replaced its own side's, of the other the other's.
            let of = move |(at, way): (usize, &bpf::layout::CtWay)| {
                (way.nat, views[if way.nat == NAT_SOURCE { at } else { 1 - at }])
            };
            entry.way.iter().enumerate().filter(|(_, way)| way.nat != 0).map(of).collect::<Vec<_>>()
        })
        .collect();
    nats.sort_unstable();
    let wanted = [(NAT_SOURCE, (NODE4.into(), port)), (NAT_DESTINATION, (bench.a.ipv4.into(), 40_000))];
    assert_eq!(nats, wanted);
}

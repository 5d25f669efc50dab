//! Ways out of an uplink: by which rules they are found, for how long they are kept, and that what was judged is not judged
//! again there. And what comes in that is for nobody here.

use std::net::Ipv4Addr;

use bpf::layout::{FIB_LOOKUP_MARK, MARK_FORWARDED, ROUTED_MOST};
use integration::programs::{DROP, FAR4, FAR6, Local, NODE4, NODE6, PASS, REDIRECT, ip};
use ipamd_datapath::fib_lookup_flags;

use crate::packets::*;

#[test]
fn what_was_judged_is_not_judged_at_the_uplink() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    for packet in [tcp4(&a, FAR4, (1000, 80), TCP_SYN), tcp6(&a, FAR6, (1000, 80), TCP_SYN)] {
        let (ran, mark) = bench.run_marked("from_endpoint", a.ifindex, &packet, 0).unwrap();
        assert_eq!((ran.action, mark), (REDIRECT, MARK_FORWARDED));
        // As it left the endpoint: it would be masqueraded.
        let before = bench.tally().unwrap();
        let (ran, mark) = bench.run_marked("to_network", bench.uplink, &packet, MARK_FORWARDED).unwrap();
        assert_eq!((ran.action, mark), (PASS, 0), "the mark is taken away");
        assert_eq!(ran.packet, packet);
        changes(&bench, &before, &[], (0, 0));
        let (ran, _) = bench.run_marked("to_network", bench.uplink, &packet, 0).unwrap();
        assert_ne!(ran.packet, packet, "without a mark it is judged");
    }
    // A mark that is there is somebody's, and what does not leave needs none.
    let another = tcp4(&a, FAR4, (1001, 80), TCP_SYN);
    assert_eq!(bench.run_marked("from_endpoint", a.ifindex, &another, 7).unwrap().1, 7);
    for to in [b.ipv4, NODE4] {
        let packet = tcp4(&a, to, (1002, 80), TCP_SYN);
        assert_eq!(bench.run_marked("from_endpoint", a.ifindex, &packet, 0).unwrap().1, 0);
    }
}

#[test]
fn routing_rules_are_asked_with_ports_class_and_mark() {
    let bench = bench();
    let a = bench.a;
    for rule in ["dport 99 ipproto 6", "sport 98 ipproto 6", "fwmark 7"] {
        ip(&format!("rule add {rule} blackhole")).unwrap();
        ip(&format!("-6 rule add {rule} blackhole")).unwrap();
    }
    ip("rule add tos 0x10 blackhole").unwrap();
    ip("-6 rule add tos 0x10 blackhole").unwrap();
    let run =
        |packet: &[u8], mark| bench.run_marked("from_endpoint", a.ifindex, packet, mark).unwrap().0.action;
    let by_mark = if fib_lookup_flags() & FIB_LOOKUP_MARK == 0 { REDIRECT } else { PASS };
    for (ports, mark, action) in
        [((1000, 80), 0, REDIRECT), ((1000, 99), 0, PASS), ((98, 80), 0, PASS), ((1001, 80), 7, by_mark)]
    {
        assert_eq!(run(&tcp4(&a, FAR4, ports, TCP_SYN), mark), action, "IPv4: {ports:?} {mark}");
        assert_eq!(run(&tcp6(&a, FAR6, ports, TCP_SYN), mark), action, "IPv6: {ports:?} {mark}");
    }
    let mut hurried = tcp6(&a, FAR6, (1002, 80), TCP_SYN);
    // The class lies across two bytes.
    hurried[14] |= 0x01;
    assert_eq!(run(&hurried, 0), PASS);
    let plain = tcp4(&a, FAR4, (1003, 80), TCP_SYN);
    let mut hurried = plain.clone();
    hurried[15] = 0x10;
    // RFC 1624.
    let checksum = u32::from(u16::from_be_bytes([plain[24], plain[25]])) - 0x10;
    hurried[24..26].copy_from_slice(&u16::try_from(checksum).unwrap().to_be_bytes());
    assert_eq!(run(&hurried, 0), PASS);
}

#[test]
fn a_way_out_is_asked_for_again_after_some_minutes() {
    let bench = bench();
    let a = bench.a;
    bench.exempt(FAR4, 32).unwrap();
    let packet = tcp4(&a, FAR4, (1000, 80), TCP_ACK);
    let flow = || bench.flows4().unwrap()[0];
    let run = || assert_eq!(bench.run("from_endpoint", a.ifindex, &packet).unwrap().action, REDIRECT);
    run();
    assert_eq!(Ipv4Addr::from(flow().1.next_hop), Ipv4Addr::new(192, 0, 2, 1));
    // Nobody tells of it.
    ip("route replace default via 192.0.2.2").unwrap();
    for (age, hop) in [(ROUTED_MOST - 9, 1), (ROUTED_MOST + 1, 2)] {
        let (key, mut entry) = flow();
        for way in &mut entry.way {
            way.routed = way.routed.wrapping_sub(u16::try_from(age).unwrap());
        }
        // It is looked at once in a tick.
        entry.seen -= 1;
        bench.put_flow4(&key, &entry).unwrap();
        run();
        run();
        assert_eq!(Ipv4Addr::from(flow().1.next_hop), Ipv4Addr::new(192, 0, 2, hop), "after {age} ticks");
        let (key, mut entry) = flow();
        for way in &mut entry.way {
            way.routed = way.routed.wrapping_add(u16::try_from(age).unwrap());
        }
        bench.put_flow4(&key, &entry).unwrap();
    }
}

#[test]
fn what_is_for_nobody_here_is_the_hosts_but_not_from_an_endpoint() {
    let bench = bench();
    let a = bench.a;
    let stranger = Local { ipv4: FAR4, ipv6: FAR6, ..a };
    // To the node's own Ethernet address: others are passed over at once.
    let to_node = |mut packet: Vec<u8>| {
        packet[..6].copy_from_slice(&bench.uplink_mac);
        packet
    };
    let before = bench.tally().unwrap();
    for port in [80, 10_250, 29_999, 40_000] {
        for packet in [
            tcp4(&stranger, NODE4, (1000, port), TCP_ACK),
            tcp6(&stranger, NODE6, (1000, port), TCP_SYN),
            udp4(&stranger, Ipv4Addr::new(203, 0, 113, 77), (1000, port)),
        ] {
            let packet = to_node(packet);
            let ran = bench.run("from_network", bench.uplink, &packet).unwrap();
            assert_eq!((ran.action, &ran.packet), (PASS, &packet));
        }
    }
    changes(&bench, &before, &[], (0, 0));
    // On its way to elsewhere: a local endpoint's packets do not come by an uplink.
    let forged = to_node(tcp4(&a, Ipv4Addr::new(203, 0, 113, 77), (1000, 10_250), TCP_ACK));
    assert_eq!(bench.run("from_network", bench.uplink, &forged).unwrap().action, DROP);
    changes(&bench, &before, &[("forged_endpoint", 1)], (0, 0));
}

#[test]
fn the_node_is_not_made_to_tell_a_pod_of_an_error_by_options_that_it_does_not_like() {
    let bench = bench();
    let to_node = Local { mac: [2, 0, 0, 0, 9, 9], host_mac: bench.uplink_mac, ..bench.a };
    let plain = tcp4(&to_node, NODE4, (1000, 7000), TCP_ACK);
    let mut with_options = plain.clone();
    // Four bytes of options; the kernel answers those that it cannot read, whatever segment they come with.
    with_options.splice(34..34, [1, 4, 0x86, 0]);
    with_options[14] = 0x46;
    with_options[17] += 4;
    let action = |packet: &[u8]| bench.run("from_network", bench.uplink, packet).unwrap().action;
    assert_eq!(action(&plain), PASS, "a segment that begins nothing is the node's own");
    assert_eq!(action(&with_options), DROP);
    assert_eq!(bench.drops().unwrap()["forged_endpoint"], 1);
}

#[test]
fn nobody_speaks_to_the_node_from_an_address_that_none_has() {
    let bench = bench();
    let of = |ipv4: [u8; 4]| Local { ipv4: ipv4.into(), mac: [2; 6], host_mac: bench.uplink_mac, ..bench.a };
    let of6 = |ipv6: &str| Local {
        ipv6: ipv6.parse().unwrap(),
        mac: [2; 6],
        host_mac: bench.uplink_mac,
        ..bench.a
    };
    bench.mean_all([192, 0, 2, 255].into()).unwrap();
    let run = |packet: &[u8]| bench.run("from_network", bench.uplink, packet).unwrap().action;
    for source in
        [[0, 1, 2, 3], [0; 4], [127, 0, 0, 1], [224, 0, 0, 5], [240, 0, 0, 1], [255; 4], [192, 0, 2, 255]]
    {
        let before = bench.tally().unwrap();
        assert_eq!(run(&udp4(&of(source), NODE4, (5000, 40_000))), DROP, "{source:?}");
        changes(&bench, &before, &[("martian", 1)], (0, 0));
    }
    for source in ["::", "::1", "::ffff:203.0.113.9", "ff02::1"] {
        let before = bench.tally().unwrap();
        assert_eq!(run(&udp6(&of6(source), NODE6, (5000, 40_000))), DROP, "{source}");
        changes(&bench, &before, &[("martian", 1)], (0, 0));
    }
    let before = bench.tally().unwrap();
    assert_eq!(run(&udp6(&of6("fe80::9"), NODE6, (5000, 40_000))), PASS, "a neighbour");
    // DHCP, as one asks who has no address yet.
    let all = Local { host_mac: [0xff; 6], ..of([0; 4]) };
    assert_eq!(run(&udp4(&all, [255; 4].into(), (68, 67))), PASS);
    changes(&bench, &before, &[], (0, 0));
}

#[test]
fn a_pod_does_not_speak_to_the_node_by_the_broadcast_address_of_its_network() {
    let bench = bench();
    let (a, broadcast) = (bench.a, Ipv4Addr::new(192, 0, 2, 255));
    let run =
        |port| bench.run("from_endpoint", a.ifindex, &udp4(&a, broadcast, (port, 40_000))).unwrap().action;
    assert_eq!(run(5000), PASS, "as far as the programs know, it may be anybody");
    bench.mean_all(broadcast).unwrap();
    let before = bench.tally().unwrap();
    assert_eq!(run(5001), DROP);
    changes(&bench, &before, &[("link_scope", 1)], (0, 0));
    // The node itself is asked for as ever.
    let node = udp4(&a, NODE4, (5000, 40_000));
    assert_eq!(bench.run("from_endpoint", a.ifindex, &node).unwrap().action, PASS);
}

#[test]
fn loopback_is_nobody_elses_whatever_the_kernel_would_take() {
    let bench = bench();
    let (a, before) = (bench.a, bench.tally().unwrap());
    for to in [[127, 0, 0, 1], [127, 255, 255, 255]] {
        let ran = bench.run("from_endpoint", a.ifindex, &udp4(&a, to.into(), (5000, 53))).unwrap();
        assert_eq!(ran.action, DROP, "{to:?}");
        for flags in [TCP_SYN, TCP_ACK] {
            let packet = network4(&bench, FAR4, to.into(), (5000, 53), flags);
            assert_eq!(bench.run("from_network", bench.uplink, &packet).unwrap().action, DROP, "{to:?}");
        }
    }
    let six = std::net::Ipv6Addr::LOCALHOST;
    let ran = bench.run("from_endpoint", a.ifindex, &udp6(&a, six, (5000, 53))).unwrap();
    assert_eq!(ran.action, DROP);
    let packet = network6(&bench, FAR6, six, (5000, 53), TCP_SYN);
    assert_eq!(bench.run("from_network", bench.uplink, &packet).unwrap().action, DROP);
    changes(&bench, &before, &[("link_scope", 8)], (0, 0));
}

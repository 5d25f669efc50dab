//! Who is served at an address, and for how long a client keeps its backend.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use bpf::layout::{
    ADDRESS_OF_NODE, ADDRESS_OF_SERVICE, AFFINITY_TURN, FRONTEND_RANGES, INSIDE_ONLY, SCORED_MOST,
};
use etherparse::{IpNumber, PacketBuilder};
use integration::programs::{Bench, DROP, FAR4, NODE4, NODE6, PASS, REDIRECT, Served};

use crate::packets::{TCP_ACK, TCP_SYN, bench, changes, network4, network6, seen, tcp4, tcp6};

const CLUSTER4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const CLUSTER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10);
const CLIENT4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9);

fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

/// Ticks of affinity of the tests.
const LASTING: u32 = 10;

/// What a client gets at a node port of a bench of its own, from a tick of the wall clock on, in each of so many turns.
fn chosen(client: Ipv4Addr, from: u32, turns: u32, backends: u16) -> Vec<u16> {
    std::thread::spawn(move || {
        let bench = bench();
        let backends: Vec<_> = (1..=backends).map(|port| at(FAR4, port)).collect();
        let served = Served::tcp(1, at(NODE4, 30_080), &backends);
        bench.serve(&Served { by_client: true, affinity: LASTING, ..served }).unwrap();
        let mut port = 40_000;
        let turn = |number: u32| {
            let anew = || {
                bench.forget_affinities().unwrap();
                port += 1;
                connect(&bench, client, port)
            };
            bench.at_tick(from + number * LASTING * AFFINITY_TURN, anew).unwrap()
        };
        (0..turns).map(turn).collect()
    })
    .join()
    .unwrap()
}

fn connect(bench: &Bench, client: Ipv4Addr, port: u16) -> u16 {
    let packet = network4(bench, client, NODE4, (port, 30_080), TCP_SYN);
    let ran = bench.run("from_network", bench.uplink, &packet).unwrap();
    assert_eq!(ran.action, REDIRECT, "{:?}", bench.drops());
    seen(&ran.packet).ports.1
}

#[test]
fn a_client_whose_affinity_is_over_gets_another_backend_and_nodes_agree_which() {
    for last in 1..20 {
        let client = Ipv4Addr::new(203, 0, 113, last);
        let by_one = chosen(client, 0, 6, 3);
        assert!(by_one.windows(2).all(|pair| pair[0] != pair[1]), "{client} stays at a backend: {by_one:?}");
        assert!(by_one.iter().step_by(2).all(|it| *it == by_one[0]), "it comes back: {by_one:?}");
        // Another node, whose wall clock is the same.
        assert_eq!(chosen(client, 0, 6, 3), by_one);
    }
}

#[test]
fn the_only_backend_is_chosen_again_and_a_full_set_is_chosen_from_too() {
    assert_eq!(chosen(CLIENT4, 7, 4, 1), [1; 4]);
    let most = u16::try_from(SCORED_MOST).unwrap();
    let by_turns = chosen(CLIENT4, 7, 2, most);
    assert!(by_turns[0] != by_turns[1] && by_turns.iter().all(|it| (1..=most).contains(it)), "{by_turns:?}");
}

#[test]
fn while_affinity_lasts_the_turn_of_another_changes_nothing() {
    // Longer than the test may take.
    const LONG: u32 = 10_000;

    let bench = bench();
    let backends: Vec<_> = (1..=3).map(|port| at(FAR4, port)).collect();
    let served = Served::tcp(1, at(NODE4, 30_080), &backends);
    bench.serve(&Served { by_client: true, affinity: LONG, ..served }).unwrap();
    let mut port = 40_000;
    let mut at_turn = |turn: u32| {
        let again = || {
            port += 1;
            connect(&bench, CLIENT4, port)
        };
        bench.at_tick(turn * LONG * AFFINITY_TURN, again).unwrap()
    };
    let first = at_turn(0);
    assert!((1..8).all(|turn| at_turn(turn) == first));
}

#[test]
fn turns_are_another_time_for_each_client() {
    // How many of a hundred clients move in each eighth of a turn or so.
    let bench = bench();
    let backends: Vec<_> = (1..=3).map(|port| at(FAR4, port)).collect();
    let served = Served::tcp(1, at(NODE4, 30_080), &backends);
    bench.serve(&Served { by_client: true, affinity: LASTING, ..served }).unwrap();
    let mut port = 1_024;
    let mut all = |tick: u32| {
        let each = |last| {
            let anew = || {
                bench.forget_affinities().unwrap();
                port += 1;
                connect(&bench, Ipv4Addr::new(203, 0, 113, last), port)
            };
            bench.at_tick(tick, anew).unwrap()
        };
        (0..100).map(each).collect::<Vec<_>>()
    };
    let mut before = all(0);
    for tick in (0..LASTING * AFFINITY_TURN).step_by(8).skip(1) {
        let now = all(tick);
        let moved = now.iter().zip(&before).filter(|(now, before)| now != before).count();
        assert!((1..60).contains(&moved), "{moved} of 100 clients move at once");
        before = now;
    }
}

#[test]
fn no_address_and_loopback_lead_to_no_node_port() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let any = [at(Ipv4Addr::UNSPECIFIED, 8_000), at(Ipv6Addr::UNSPECIFIED, 8_000)];
    bench.serve(&Served::tcp(1, any[0], &[at(b.ipv4, 8080)])).unwrap();
    bench.serve(&Served::tcp(2, any[1], &[at(b.ipv6, 8080)])).unwrap();
    // One that is a port of loopback alone, and one of all that the node has.
    bench.serve(&Served::tcp(3, at(Ipv4Addr::LOCALHOST, 8_001), &[at(b.ipv4, 8081)])).unwrap();
    bench.serve(&Served::tcp(4, at(Ipv6Addr::LOCALHOST, 8_001), &[at(b.ipv6, 8081)])).unwrap();
    for address in [IpAddr::from(NODE4), NODE6.into(), Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
    {
        bench.address_is(address, ADDRESS_OF_NODE).unwrap();
    }
    for to in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 1, 2, 3)] {
        for port in [8_000, 8_001] {
            let wire = network4(&bench, CLIENT4, to, (40_000, port), TCP_SYN);
            let ran = bench.run("from_network", bench.uplink, &wire).unwrap();
            // The stack refuses the one; the other it takes where route_localnet is set.
            let action = if to.is_loopback() { DROP } else { PASS };
            assert_eq!((ran.action, &ran.packet), (action, &wire), "{to} from the wire");
            let ran = bench.run("from_endpoint", a.ifindex, &tcp4(&a, to, (40_000, port), TCP_SYN)).unwrap();
            assert_ne!(ran.action, REDIRECT, "{to} from an endpoint");
        }
    }
    for to in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST] {
        for port in [8_000, 8_001] {
            let wire = network6(&bench, CLIENT6, to, (40_000, port), TCP_SYN);
            let ran = bench.run("from_network", bench.uplink, &wire).unwrap();
            // The stack refuses the one; the other it takes where route_localnet is set.
            let action = if to.is_loopback() { DROP } else { PASS };
            assert_eq!((ran.action, &ran.packet), (action, &wire), "{to} from the wire");
            let ran = bench.run("from_endpoint", a.ifindex, &tcp6(&a, to, (40_000, port), TCP_SYN)).unwrap();
            assert_ne!(ran.action, REDIRECT, "{to} from an endpoint");
        }
    }
    // By an address of the node it is served all the same.
    let ran = bench.run("from_endpoint", a.ifindex, &tcp4(&a, NODE4, (40_000, 8_000), TCP_SYN)).unwrap();
    assert_eq!(seen(&ran.packet).destination, IpAddr::from(b.ipv4));
}

#[test]
fn nothing_but_services_leaves_for_a_cluster_address() {
    let bench = bench();
    let a = bench.a;
    bench.serve(&Served::tcp(1, at(CLUSTER4, 80), &[at(bench.b.ipv4, 8080)])).unwrap();
    for address in [IpAddr::from(CLUSTER4), CLUSTER6.into()] {
        bench.address_is(address, ADDRESS_OF_SERVICE).unwrap();
    }
    let before = bench.tally().unwrap();
    let v4 = || PacketBuilder::ethernet2(a.mac, a.host_mac).ipv4(a.ipv4.octets(), CLUSTER4.octets(), 64);
    let v6 = || PacketBuilder::ethernet2(a.mac, a.host_mac).ipv6(a.ipv6.octets(), CLUSTER6.octets(), 64);
    let mut packets = Vec::new();
    let mut add = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = Vec::new();
        write(&mut packet);
        packets.push(packet);
    };
    add(&|packet| v4().icmpv4_echo_request(7, 1).write(packet, b"ping").unwrap());
    add(&|packet| v6().icmpv6_echo_request(7, 1).write(packet, b"ping").unwrap());
    // An identifier that is the number of a port of the service.
    add(&|packet| v4().icmpv4_echo_request(80, 1).write(packet, b"ping").unwrap());
    // Any other that IP may carry: HOPOPT's number is that of no protocol in the tables.
    for protocol in [0, 2, 4, 41, 47, 50, 51, 89, 112, 136, 254] {
        let number = IpNumber(protocol);
        add(&|packet| v4().write(packet, number, &[0, 80, 0, 80, 0, 12, 0, 0, 1, 2, 3, 4]).unwrap());
        if ![0, 51].contains(&protocol) {
            add(&|packet| v6().write(packet, number, &[0, 80, 0, 80, 0, 12, 0, 0, 1, 2, 3, 4]).unwrap());
        }
    }
    let count = packets.len() as u64;
    for packet in packets {
        let ran = bench.run("from_endpoint", a.ifindex, &packet).unwrap();
        assert_eq!(ran.action, DROP, "{packet:02x?}: {:?}", bench.drops());
    }
    changes(&bench, &before, &[("not_served", count)], (0, 0));
    // Other addresses are as before.
    let mut elsewhere = Vec::new();
    let builder = PacketBuilder::ethernet2(a.mac, a.host_mac).ipv4(a.ipv4.octets(), FAR4.octets(), 64);
    builder.icmpv4_echo_request(7, 1).write(&mut elsewhere, b"ping").unwrap();
    assert_eq!(bench.run("from_endpoint", a.ifindex, &elsewhere).unwrap().action, REDIRECT);
}

#[test]
fn who_is_beyond_the_node_is_not_served_at_a_cluster_address() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let served = Served::tcp(1, at(CLUSTER4, 80), &[at(b.ipv4, 8080)]);
    bench.address_is(CLUSTER4.into(), ADDRESS_OF_SERVICE).unwrap();
    bench.serve(&served).unwrap();
    let wire = |source_port, port| {
        let packet = network4(&bench, CLIENT4, CLUSTER4, (source_port, port), TCP_ACK);
        bench.run("from_network", bench.uplink, &packet).unwrap()
    };
    assert_eq!(wire(40_000, 80).action, REDIRECT, "as it is asked for");
    bench.address_is(CLUSTER4.into(), ADDRESS_OF_SERVICE | INSIDE_ONLY).unwrap();
    bench.serve(&Served { flags: INSIDE_ONLY, ..served }).unwrap();
    bench.raise_epoch().unwrap();
    assert_eq!(wire(40_000, 80).action, REDIRECT, "a connection goes on");
    let before = bench.tally().unwrap();
    assert_eq!((wire(40_001, 80).action, wire(40_001, 81).action), (DROP, DROP));
    changes(&bench, &before, &[("not_served", 2)], (0, 0));
    let inside = bench.run("from_endpoint", a.ifindex, &tcp4(&a, CLUSTER4, (40_000, 80), TCP_SYN)).unwrap();
    assert_eq!(seen(&inside.packet).destination, IpAddr::from(b.ipv4));
}

#[test]
fn ranges_are_asked_when_a_connection_begins() {
    let bench = bench();
    let balanced = Ipv4Addr::new(203, 0, 113, 200);
    let served = Served::tcp(1, at(balanced, 80), &[at(bench.b.ipv4, 8080)]);
    bench.serve(&served).unwrap();
    let send = |source_port, flags| {
        let packet = network4(&bench, CLIENT4, balanced, (source_port, 80), flags);
        bench.run("from_network", bench.uplink, &packet).unwrap().action
    };
    assert_eq!(send(40_000, TCP_SYN), REDIRECT);
    // Now there are ranges, and the client is in none.
    bench.serve(&Served { flags: FRONTEND_RANGES, ..served.clone() }).unwrap();
    bench.welcome(1, Ipv4Addr::new(198, 51, 100, 0), 24).unwrap();
    bench.raise_epoch().unwrap();
    let before = bench.tally().unwrap();
    assert_eq!(send(40_000, TCP_ACK), REDIRECT, "the connection stands");
    assert_eq!((send(40_001, TCP_SYN), send(40_001, TCP_ACK)), (DROP, DROP));
    changes(&bench, &before, &[("source_range", 2)], (0, 0));
    bench.welcome(1, Ipv4Addr::new(203, 0, 113, 0), 29).unwrap();
    assert_eq!(send(40_001, TCP_SYN), DROP, "9 is not in it");
    bench.welcome(1, Ipv4Addr::new(203, 0, 113, 0), 28).unwrap();
    assert_eq!(send(40_001, TCP_SYN), REDIRECT);
    // When its backend is gone it is a client as any other.
    let met: BTreeSet<_> = [send(40_000, TCP_ACK)].into();
    assert_eq!(met, [REDIRECT].into());
}

//! One opener may keep only a share of the established connections. More of its connections wait in the line, like
//! unanswered ones.

use std::net::Ipv4Addr;

use bpf::layout::{CT_CONFIRMED, CT_OVER_SHARE, CtEntry, CtEntry4, CtKey, CtKey4};
use integration::programs::{Bench, FAR4, Knobs, Local, NODE4, REDIRECT};

use crate::packets::*;

const BEGIN: u32 = 5_000;
/// Entries that may wait, and as many are kept.
const HALF: usize = 1_000;

fn bench() -> Bench {
    let bench = Bench::new(&Knobs { waiting: 1_000, tick: Some(BEGIN), ..Knobs::default() }).unwrap();
    bench.age(BEGIN).unwrap();
    bench
}

#[track_caller]
fn sent(bench: &Bench, from: &Local, packet: &[u8]) -> u16 {
    let program = if from.ifindex == bench.uplink { "from_network" } else { "from_endpoint" };
    let ran = bench.run(program, from.ifindex, packet).unwrap();
    assert_eq!(ran.action, REDIRECT, "{:?}", bench.drops());
    seen(&ran.packet).ports.0
}

/// A machine beyond the uplink.
fn outside(bench: &Bench, number: u16) -> Local {
    let ipv4 = Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + u32::from(number));
    Local { ifindex: bench.uplink, ipv4, mac: [2; 6], host_mac: bench.uplink_mac, ..bench.a }
}

/// A whole handshake.
#[track_caller]
fn connect(bench: &Bench, from: &Local, to: &Local, ports: (u16, u16)) {
    sent(bench, from, &tcp4(from, to.ipv4, ports, TCP_SYN));
    sent(bench, to, &tcp4(to, from.ipv4, (ports.1, ports.0), TCP_SYN_ACK));
    sent(bench, from, &tcp4(from, to.ipv4, ports, TCP_ACK));
}

/// How many entries of who has this address are kept, and how many are beyond the share.
fn connections(bench: &Bench, of: Ipv4Addr) -> (usize, usize) {
    let flows = bench.flows4().unwrap();
    let flows = flows.iter().filter(|(key, entry)| {
        entry.flags & CT_CONFIRMED != 0 && key.sides()[entry.opener()].0 == std::net::IpAddr::from(of)
    });
    let (over, kept): (Vec<&(CtKey4, CtEntry4)>, Vec<_>) =
        flows.partition(|(_, entry)| entry.flags & CT_OVER_SHARE != 0);
    (kept.len(), over.len())
}

/// As many SYNs of strangers as may wait.
fn flood(bench: &Bench, to: &Local) {
    for number in 0..1_000 {
        let from = outside(bench, 1_000 + number);
        sent(bench, &from, &tcp4(&from, to.ipv4, (4_000, 81), TCP_SYN));
    }
}

#[test]
fn connections_beyond_an_endpoints_share_give_way_and_others_stay() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    for number in 0..700 {
        connect(&bench, &a, &b, (10_000 + number, 80));
    }
    assert_eq!(connections(&bench, a.ipv4), (HALF / 2, 700 - HALF / 2), "half of the room alone");
    // The other still has room, and both of its views count.
    for number in 0..100 {
        connect(&bench, &b, &a, (10_000 + number, 80));
    }
    assert_eq!(connections(&bench, b.ipv4), (100, 0));
    let syn = tcp4(&b, FAR4, (40_000, 443), TCP_SYN);
    let port = sent(&bench, &b, &syn);
    let far = Local { ipv4: FAR4, ..outside(&bench, 0) };
    sent(&bench, &far, &tcp4(&far, NODE4, (443, port), TCP_SYN_ACK));
    sent(&bench, &b, &tcp4(&b, FAR4, (40_000, 443), TCP_ACK));
    // What is beyond the share goes on, until a flood takes its place in the line.
    assert_eq!(connections(&bench, a.ipv4), (500, 200));
    sent(&bench, &a, &tcp4(&a, b.ipv4, (10_699, 80), TCP_ACK));
    flood(&bench, &a);
    assert_eq!(connections(&bench, a.ipv4), (500, 0));
    assert_eq!(connections(&bench, b.ipv4), (101, 0));
    assert_eq!(sent(&bench, &b, &tcp4(&b, FAR4, (40_000, 443), TCP_ACK)), port);
    sent(&bench, &far, &tcp4(&far, NODE4, (443, port), TCP_ACK));
}

#[test]
fn a_share_is_counted_anew_and_shown_by_the_ageing() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    for number in 0..510 {
        connect(&bench, &a, &b, (10_000 + number, 80));
    }
    let aged = bench.age(BEGIN).unwrap();
    assert_eq!((aged.left4, aged.waiting4, aged.waiting6), (510, 10, 0));
    connect(&bench, &a, &b, (20_000, 80));
    assert_eq!(connections(&bench, a.ipv4), (500, 11), "the count is the same");
    // Those that end make room.
    bench.forget_flows().unwrap();
    bench.age(BEGIN).unwrap();
    connect(&bench, &a, &b, (20_001, 80));
    assert_eq!(connections(&bench, a.ipv4), (1, 0));
    // Without a daemon that has them counted nobody is bounded.
    bench.set_tick(BEGIN + 64).unwrap();
    for number in 0..600 {
        connect(&bench, &a, &b, (10_000 + number, 80));
    }
    assert_eq!(connections(&bench, a.ipv4), (601, 0));
}

#[test]
fn streams_that_the_network_may_have_forged_are_bounded_and_its_connections_are_not() {
    let bench = bench();
    let a = bench.a;
    let ask = |number| {
        let from = outside(&bench, number);
        sent(&bench, &from, &udp4(&from, a.ipv4, (4_000, 53)));
        sent(&bench, &a, &udp4(&a, from.ipv4, (53, 4_000)));
    };
    let streams = || {
        let flows = bench.flows4().unwrap();
        let kept = flows.iter().filter(|(_, it)| it.flags & (CT_CONFIRMED | CT_OVER_SHARE) == CT_CONFIRMED);
        (kept.count(), flows.len())
    };
    (0..700).for_each(ask);
    bench.set_tick(BEGIN + 2).unwrap();
    (0..700).for_each(ask);
    assert_eq!(streams(), (HALF / 2, 700));
    for number in 2_000..2_600 {
        connect(&bench, &outside(&bench, number), &a, (5_000, 80));
    }
    assert_eq!(streams().0, HALF / 2 + 600);
}

//! Ways out of the node that a processor keeps: whoever goes by one is led astray here, so it is seen who asks the kernel anew.
//! Each of what ends them is a change that a flow must not miss.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use bpf::layout::address_place;
use integration::{
    programs::{Bench, FAR4, FAR6, Knobs, PASS, REDIRECT, ip},
    testbed::eventually,
};

use crate::packets::*;

const ASTRAY4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
const ASTRAY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x66);
const HOP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const HOP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// A bench whose clock stands still. `None` on a kernel that does not count the changes of its routes.
fn bench() -> Option<Bench> {
    let bench = Bench::new(&Knobs { tick: Some(1000), ..Knobs::default() }).unwrap();
    (bench.keep_ways_out().unwrap() == (true, true)).then_some(bench)
}

/// Whether new flows of `a` with that port leave, of IPv4 and of IPv6.
fn leave(bench: &Bench, port: u16) -> bool {
    let a = bench.a;
    bench.forget_flows().unwrap();
    let packets = [tcp4(&a, FAR4, (port, 80), TCP_SYN), tcp6(&a, FAR6, (port, 80), TCP_SYN)];
    packets.iter().all(|packet| bench.run("from_endpoint", a.ifindex, packet).unwrap().action == REDIRECT)
}

/// The next hops of these flows.
fn next_hops(bench: &Bench, port: u16) -> (Ipv4Addr, Ipv6Addr) {
    let a = bench.a;
    assert!(leave(bench, port));
    // Of both views of a flow, that of its opener.
    let (flows4, flows6) = (bench.flows4().unwrap(), bench.flows6().unwrap());
    let near4 = flows4.iter().find(|(key, _)| key.address.iter().any(|it| Ipv4Addr::from(*it) == a.ipv4));
    let near6 = flows6.iter().find(|(key, _)| key.address.iter().any(|it| Ipv6Addr::from(*it) == a.ipv6));
    (near4.unwrap().1.next_hop.into(), near6.unwrap().1.next_hop.into())
}

/// Has ways kept, and those be wrong. Meanwhile the kernel may end them: it makes routes of IPv6 some time after an interface came.
fn lead_astray(bench: &Bench) {
    let is_kept = || {
        bench.keep_ways_out().unwrap();
        if !leave(bench, 999) {
            return false;
        }
        let kept = bench.lead_astray(ASTRAY4, ASTRAY6).unwrap();
        kept.0 >= 1 && kept.1 >= 1 && next_hops(bench, 1000) == (ASTRAY4, ASTRAY6)
    };
    assert!(eventually(Duration::from_secs(10), is_kept), "the next flow does not go by what is kept");
}

#[test]
fn what_changes_routes_ends_what_is_kept_of_them() {
    let Some(bench) = bench() else { return };
    // Each of both families, so that one does not end the other's.
    for change in [
        // The same way with another MTU. The kernel takes the very same route for no change.
        [
            "route replace default via 192.0.2.1 mtu 1400",
            "-6 route replace default via 2001:db8::1 dev up0 mtu 1400",
        ],
        ["route add 203.0.113.0/24 via 192.0.2.1", "-6 route add 2001:db8:2::/64 via 2001:db8::1"],
        // A route that led nobody yet, and one that stands behind another.
        [
            "route replace 203.0.113.0/24 via 192.0.2.9",
            "-6 route add 2001:db8:2::/64 via 2001:db8::1 metric 2048",
        ],
        ["route add 203.0.114.0/24 via 192.0.2.1", "-6 route del 2001:db8:2::/64 metric 2048"],
        ["route del 203.0.113.0/24", "-6 route del 2001:db8:2::/64"],
    ] {
        lead_astray(&bench);
        for line in change {
            ip(line).unwrap();
        }
        assert_eq!(next_hops(&bench, 1001), (HOP4, HOP6), "{change:?}");
        // Nor is anything kept until somebody has looked at the routes.
        assert_eq!(next_hops(&bench, 1002), (HOP4, HOP6));
    }
}

#[test]
fn an_address_that_comes_or_goes_ends_what_is_kept() {
    let Some(bench) = bench() else { return };
    for change in [
        ["addr add 192.0.2.8/24 dev up0", "addr add 2001:db8::8/64 dev up0 nodad"],
        ["addr del 192.0.2.8/24 dev up0", "addr del 2001:db8::8/64 dev up0"],
    ] {
        lead_astray(&bench);
        for line in change {
            ip(line).unwrap();
        }
        // The routes of an IPv6 address come a little after it is acknowledged, by a worker of the kernel.
        assert!(
            eventually(Duration::from_secs(10), || next_hops(&bench, 1001) == (HOP4, HOP6)),
            "{change:?}"
        );
    }
}

#[test]
fn a_new_flow_goes_by_the_new_route_at_once() {
    let Some(bench) = bench() else { return };
    lead_astray(&bench);
    ip("route replace default via 192.0.2.2").unwrap();
    ip("-6 route replace default via 2001:db8::2 dev up0").unwrap();
    let hops = (Ipv4Addr::new(192, 0, 2, 2), "2001:db8::2".parse().unwrap());
    assert_eq!(next_hops(&bench, 1001), hops);
    bench.keep_ways_out().unwrap();
    assert_eq!(next_hops(&bench, 1002), hops);
    assert_eq!(next_hops(&bench, 1003), hops);
}

#[test]
fn an_interface_that_changes_ends_what_is_kept() {
    let Some(bench) = bench() else { return };
    lead_astray(&bench);
    // Without its other side it has no carrier.
    ip("link set up1 down").unwrap();
    ip("link set up1 up").unwrap();
    assert!(eventually(Duration::from_secs(10), || leave(&bench, 1001)
        && next_hops(&bench, 1001) == (HOP4, HOP6)));
    lead_astray(&bench);
    for line in [
        "link set up0 down",
        "link set up0 up",
        "addr replace 2001:db8::7/64 dev up0 nodad",
        "route replace default via 192.0.2.1",
        "-6 route replace default via 2001:db8::1 dev up0",
    ] {
        ip(line).unwrap();
    }
    assert_eq!(next_hops(&bench, 1001), (HOP4, HOP6));
}

#[test]
fn with_rules_nothing_is_kept() {
    let Some(bench) = bench() else { return };
    let a = bench.a;
    lead_astray(&bench);
    ip("rule add dport 99 ipproto 6 blackhole").unwrap();
    ip("-6 rule add dport 99 ipproto 6 blackhole").unwrap();
    assert_eq!(bench.keep_ways_out().unwrap(), (false, false), "the kernel says that there are rules");
    assert_eq!(next_hops(&bench, 1001), (HOP4, HOP6));
    for packet in [tcp4(&a, FAR4, (1002, 99), TCP_SYN), tcp6(&a, FAR6, (1002, 99), TCP_SYN)] {
        assert_eq!(bench.run("from_endpoint", a.ifindex, &packet).unwrap().action, PASS);
    }
    assert_eq!(next_hops(&bench, 1003), (HOP4, HOP6));
}

#[test]
fn the_epoch_and_the_tick_end_what_is_kept() {
    let Some(bench) = bench() else { return };
    lead_astray(&bench);
    // Of whatever address: it is not looked at which.
    bench.raise_epoch_at(&[address_place(bench.b.ipv4.into())]).unwrap();
    assert_eq!(next_hops(&bench, 1001), (HOP4, HOP6));
    lead_astray(&bench);
    bench.set_tick(1001).unwrap();
    assert_eq!(next_hops(&bench, 1001), (HOP4, HOP6));
}

#[test]
fn what_is_kept_for_one_is_not_anothers() {
    let Some(bench) = bench() else { return };
    lead_astray(&bench);
    let elsewhere = Ipv4Addr::new(198, 51, 100, 2);
    bench.forget_flows().unwrap();
    for (from, to) in [(bench.a, elsewhere), (bench.b, FAR4)] {
        let packet = tcp4(&from, to, (1001, 80), TCP_SYN);
        bench.run("from_endpoint", from.ifindex, &packet).unwrap();
    }
    assert!(bench.flows4().unwrap().iter().all(|(_, entry)| Ipv4Addr::from(entry.next_hop) != ASTRAY4));
}

#[test]
fn nothing_is_kept_that_nobody_has_called_plain() {
    let bench = Bench::new(&Knobs { tick: Some(1000), ..Knobs::default() }).unwrap();
    next_hops(&bench, 999);
    assert_eq!(bench.lead_astray(ASTRAY4, ASTRAY6).unwrap(), (0, 0));
}

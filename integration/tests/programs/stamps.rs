//! Which changes have a flow judged again. A change that nobody told the programs of shows it: who is judged sees it.

use std::net::{IpAddr, Ipv4Addr};

use bpf::layout::{CHANGED_EVERYTHING, CHANGES, CtEntry4, address_place, network_place};
use integration::programs::{Bench, DROP, FAR4, FAR6, NODE4, NODE6, REDIRECT};
use integration::testbed::time_passes;

use crate::packets::*;

/// Places that a flow has nothing to do with: those of nobody whose place it shares.
fn strange_places(own: &[IpAddr]) -> Vec<u32> {
    let places: Vec<_> = own.iter().flat_map(|it| [address_place(*it), network_place(*it)]).collect();
    (1..CHANGES).filter(|place| !places.contains(place)).collect()
}

/// Whether the flow of a packet from `a` is judged: `a` is unknown meanwhile, whose flow would be dropped then.
fn is_judged(bench: &Bench, packet: &[u8]) -> bool {
    bench.remove_endpoint(&bench.a).unwrap();
    let action = bench.run("from_endpoint", bench.a.ifindex, packet).unwrap().action;
    bench.place_endpoint(&bench.a).unwrap();
    assert!(action == REDIRECT || action == DROP);
    action == DROP
}

#[test]
fn a_flow_is_judged_again_when_something_about_its_addresses_has_changed_and_only_then() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let scenes: [(Vec<u8>, &[IpAddr]); 4] = [
        (tcp4(&a, b.ipv4, (1000, 80), TCP_ACK), &[a.ipv4.into(), b.ipv4.into()]),
        (tcp6(&a, b.ipv6, (1000, 80), TCP_ACK), &[a.ipv6.into(), b.ipv6.into()]),
        // Masqueraded: the address that it leaves with is one of them.
        (tcp4(&a, FAR4, (1000, 80), TCP_ACK), &[a.ipv4.into(), FAR4.into(), NODE4.into()]),
        (tcp6(&a, FAR6, (1000, 80), TCP_ACK), &[a.ipv6.into(), FAR6.into(), NODE6.into()]),
    ];
    for (packet, own) in scenes {
        let begin = || assert_eq!(bench.run("from_endpoint", a.ifindex, &packet).unwrap().action, REDIRECT);
        begin();
        bench.raise_epoch_at(&strange_places(own)).unwrap();
        assert!(!is_judged(&bench, &packet), "nothing about {own:?} has changed");
        for address in own {
            for place in [address_place(*address), network_place(*address), CHANGED_EVERYTHING] {
                bench.raise_epoch_at(&[place]).unwrap();
                assert!(is_judged(&bench, &packet), "{address} has changed at {place}");
                // Refused, the flow kept no verdict of that epoch.
                assert!(is_judged(&bench, &packet));
                begin();
                assert!(!is_judged(&bench, &packet));
            }
        }
    }
}

#[test]
fn a_verdict_that_holds_is_one_of_the_new_epoch() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let packet = udp4(&a, b.ipv4, (5000, 53));
    let entry = || -> CtEntry4 { bench.flows4().unwrap()[0].1 };
    bench.run("from_endpoint", a.ifindex, &packet).unwrap();
    let before = entry();
    for _ in 0..3 {
        bench.raise_epoch_at(&[]).unwrap();
    }
    bench.run("from_endpoint", a.ifindex, &packet).unwrap();
    assert_eq!(entry().epoch, bench.node().unwrap().epoch);
    // Judged again with the same outcome, it is the same but for that.
    bench.raise_epoch().unwrap();
    bench.run("from_endpoint", a.ifindex, &packet).unwrap();
    let after = entry();
    assert_eq!(after.epoch, bench.node().unwrap().epoch);
    assert_eq!((after.flags, after.opener, after.service), (before.flags, before.opener, before.service));
    for (after, before) in after.way.iter().zip(&before.way) {
        assert_eq!(
            (after.ingress, after.egress, after.mtu, after.via, after.nat),
            (before.ingress, before.egress, before.mtu, before.via, before.nat)
        );
    }
}

#[test]
fn the_last_number_is_followed_by_the_first() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let own: [IpAddr; 2] = [a.ipv4.into(), b.ipv4.into()];
    let packet = udp4(&a, b.ipv4, (5000, 53));
    bench.set_epoch(u32::MAX - 1).unwrap();
    bench.raise_epoch().unwrap();
    bench.run("from_endpoint", a.ifindex, &packet).unwrap();
    for strange in [3000, 3001, 3002] {
        let places = strange_places(&own);
        bench.raise_epoch_at(&places[strange..=strange]).unwrap();
        assert!(!is_judged(&bench, &packet));
    }
    assert_eq!(bench.node().unwrap().epoch, 2);
    bench.raise_epoch_at(&[address_place(own[1])]).unwrap();
    assert!(is_judged(&bench, &packet));
}

#[test]
fn who_gets_an_address_again_inherits_no_verdict() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let (packet, answer) = (udp4(&a, b.ipv4, (5000, 53)), udp4(&b, a.ipv4, (53, 5000)));
    bench.run("from_endpoint", a.ifindex, &packet).unwrap();
    // Gone, and another is there, at the same address and place in the tables.
    bench.remove_endpoint(&b).unwrap();
    bench.raise_epoch_at(&[address_place(b.ipv4.into())]).unwrap();
    let heir = integration::programs::Local { ifindex: bench.uplink, mac: [2, 0, 0, 0, 9, 9], ..b };
    bench.place_endpoint(&heir).unwrap();
    bench.raise_epoch_at(&[address_place(b.ipv4.into())]).unwrap();
    let ran = bench.run("from_endpoint", a.ifindex, &packet).unwrap();
    assert_eq!(macs(&ran.packet).1, heir.mac);
    assert_eq!(bench.run("from_endpoint", b.ifindex, &answer).unwrap().action, DROP, "the last one is gone");
}

#[test]
fn an_evicted_view_comes_back_with_the_next_packet() {
    let bench = bench();
    let a = bench.a;
    let packet = tcp4(&a, FAR4, (1000, 80), TCP_SYN);
    bench.run("from_endpoint", a.ifindex, &packet).unwrap();
    let (far, _) = bench
        .flows4()
        .unwrap()
        .into_iter()
        .find(|(key, _)| key.address.iter().any(|it| Ipv4Addr::from(*it) == NODE4))
        .expect("the view of the other side");
    bench.forget_flow4(&far).unwrap();
    assert_eq!(bench.flows4().unwrap().len(), 1);
    time_passes(std::time::Duration::from_millis(1200), "a stamp is written down once a second");
    for _ in 0..2 {
        bench.run("from_endpoint", a.ifindex, &packet).unwrap();
    }
    assert_eq!(bench.flows4().unwrap().len(), 2);
}

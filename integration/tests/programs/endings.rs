//! Flows end with their endpoints, and are remembered as the last packet left them.

use std::net::IpAddr;

use bpf::layout::{CT_REPLIED, CT_RESET, CT_RESET_BY_REPLIER, CtEntry, CtKey};
use integration::programs::{Bench, DROP, FAR4, Knobs, Local, NODE4, PASS, REDIRECT, Served};

use crate::{masquerade::send_out, packets::*};

/// Has an endpoint's address go to another, as DEL and ADD do.
fn hand_over(bench: &Bench, from: &Local, to: &Local) -> Local {
    bench.remove_endpoint(from).unwrap();
    bench.raise_epoch().unwrap();
    bench.remove_endpoint(to).unwrap();
    let heir = Local { ipv4: from.ipv4, ipv6: from.ipv6, ..*to };
    bench.add_endpoint(&heir, 0).unwrap();
    bench.raise_epoch().unwrap();
    heir
}

#[test]
fn who_gets_an_address_inherits_no_masqueraded_flow() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let (_, port) = send_out(&bench, &udp4(&a, FAR4, (5000, 53)));
    let outside = Local { ipv4: FAR4, mac: [2; 6], host_mac: bench.uplink_mac, ..a };
    let reply = udp4(&outside, NODE4, (53, port));
    assert_eq!(bench.run("from_network", bench.uplink, &reply).unwrap().action, REDIRECT);
    let (_, tcp_port) = send_out(&bench, &tcp4(&a, FAR4, (40_000, 53), TCP_SYN));
    let tcp_reply = network4(&bench, FAR4, NODE4, (53, tcp_port), TCP_ACK);
    assert_eq!(bench.run("from_network", bench.uplink, &tcp_reply).unwrap().action, REDIRECT);

    // Before anybody else has the address.
    bench.remove_endpoint(&a).unwrap();
    bench.raise_epoch().unwrap();
    assert_eq!(bench.run("from_network", bench.uplink, &tcp_reply).unwrap().action, PASS, "the host's");
    bench.add_endpoint(&a, 0).unwrap();
    bench.raise_epoch().unwrap();

    let (_, tcp_port) = send_out(&bench, &tcp4(&a, FAR4, (40_000, 53), TCP_SYN));
    let tcp_reply = network4(&bench, FAR4, NODE4, (53, tcp_port), TCP_ACK);
    hand_over(&bench, &a, &b);
    let before = bench.tally().unwrap().flows.0;
    for packet in [&reply, &tcp_reply] {
        assert_eq!(bench.run("from_network", bench.uplink, packet).unwrap().action, PASS, "the host's");
    }
    assert!(bench.tally().unwrap().flows.0 < before, "what is over is forgotten");
}

#[test]
fn who_gets_an_address_inherits_no_flow_of_the_node() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    bench.run("from_endpoint", a.ifindex, &tcp4(&a, b.ipv4, (1, 2), TCP_SYN)).unwrap();
    bench.run("from_endpoint", b.ifindex, &tcp4(&b, a.ipv4, (2, 1), TCP_SYN_ACK)).unwrap();
    assert_ne!(bench.flows4().unwrap()[0].1.flags & CT_REPLIED, 0);
    // The same address behind another interface.
    let heir = Local { ifindex: bench.uplink + 1000, ..a };
    bench.add_endpoint(&heir, 0).unwrap();
    bench.raise_epoch().unwrap();
    let ran = bench.run("from_endpoint", b.ifindex, &tcp4(&b, heir.ipv4, (2, 1), TCP_ACK)).unwrap();
    assert_eq!(ran.action, REDIRECT);
    let [(key, entry)] = bench.flows4().unwrap()[..] else { panic!("one flow") };
    let opener = CtKey::sides(&key)[usize::from(entry.opener)].0;
    assert_eq!((opener, entry.flags & CT_REPLIED), (IpAddr::from(b.ipv4), 0), "a flow of its own");
}

/// Who has opened the flow between two addresses.
fn opener(bench: &Bench, one: &Local, other: &Local) -> IpAddr {
    let flows = bench.flows4().unwrap();
    let between = |sides: [(IpAddr, u16); 2]| {
        [one, other].iter().all(|it| sides.iter().any(|side| side.0 == IpAddr::from(it.ipv4)))
    };
    let (key, entry) = flows.iter().find(|(key, _)| between(key.sides())).expect("a flow");
    key.sides()[CtEntry::opener(entry)].0
}

#[test]
fn who_gets_an_address_meets_no_flow_that_was_opened_to_it_before() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let heir = Local { ipv4: [10, 88, 0, 9].into(), ..b };
    let web = Local { ipv4: [10, 88, 0, 8].into(), ..b };
    bench.exempt([10, 88, 0, 0].into(), 24).unwrap();
    bench.remove_endpoint(&b).unwrap();
    // Nobody has the addresses; one is a backend's already.
    let vip = [10, 96, 0, 1].into();
    bench.serve(&Served::tcp(1, (vip, 80).into(), &[(web.ipv4, 8080).into()])).unwrap();
    for packet in [udp4(&a, heir.ipv4, (53, 5000)), tcp4(&a, vip, (40_000, 80), TCP_SYN)] {
        bench.run("from_endpoint", a.ifindex, &packet).unwrap();
    }
    assert_eq!(opener(&bench, &a, &heir), IpAddr::from(a.ipv4));
    assert_eq!(opener(&bench, &a, &web), IpAddr::from(a.ipv4));
    bench.add_endpoint(&heir, 0).unwrap();
    bench.raise_epoch().unwrap();
    let sent = bench.run("from_endpoint", b.ifindex, &udp4(&heir, a.ipv4, (5000, 53))).unwrap();
    assert_eq!(sent.action, REDIRECT);
    assert_eq!(opener(&bench, &a, &heir), IpAddr::from(heir.ipv4), "it is no answer");
    bench.remove_endpoint(&heir).unwrap();
    bench.add_endpoint(&web, 0).unwrap();
    bench.raise_epoch().unwrap();
    let sent = bench.run("from_endpoint", b.ifindex, &tcp4(&web, a.ipv4, (8080, 40_000), TCP_SYN)).unwrap();
    assert_eq!((sent.action, seen(&sent.packet).source), (REDIRECT, web.ipv4.into()), "nor the service's");
    assert_eq!(opener(&bench, &a, &web), IpAddr::from(web.ipv4));
}

#[test]
fn a_service_leads_no_flow_to_who_has_its_backends_address_now() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let service = Served::tcp(1, (NODE4, 30_080).into(), &[(a.ipv4, 8080).into()]);
    bench.serve(&service).unwrap();
    let client = [203, 0, 113, 9].into();
    let syn = network4(&bench, client, NODE4, (50_000, 30_080), TCP_SYN);
    assert_eq!(bench.run("from_network", bench.uplink, &syn).unwrap().action, REDIRECT);
    let reply = tcp4(&a, client, (8080, 50_000), TCP_SYN_ACK);
    assert_eq!(bench.run("from_endpoint", a.ifindex, &reply).unwrap().action, REDIRECT);
    let heir = hand_over(&bench, &a, &b);
    let (key, _) = bench.flows4().unwrap()[0];
    // What the heir sends from the port is a flow of its own, not the service's answer.
    let sent = tcp4(&heir, client, (8080, 50_000), TCP_SYN);
    let ran = bench.run("from_endpoint", heir.ifindex, &sent).unwrap();
    assert_eq!(ran.action, REDIRECT);
    let left = seen(&ran.packet);
    assert!(left.source == IpAddr::from(NODE4) && left.ports.0 != 30_080, "masqueraded: {left:?} {key:?}");
}

#[test]
fn the_ports_of_an_endpoint_that_is_gone_are_free() {
    let bench = Bench::new(&Knobs { first_port: 20_000, ports: 1, ..Knobs::default() }).unwrap();
    let (a, b) = (bench.a, bench.b);
    let (_, port) = send_out(&bench, &tcp4(&a, FAR4, (40_000, 443), TCP_SYN));
    let reply = network4(&bench, FAR4, NODE4, (443, port), TCP_SYN_ACK);
    assert_eq!(bench.run("from_network", bench.uplink, &reply).unwrap().action, REDIRECT);
    // Established, it keeps its port.
    send_out(&bench, &tcp4(&a, FAR4, (40_000, 443), TCP_ACK));
    let other = tcp4(&b, FAR4, (40_000, 443), TCP_SYN);
    assert_eq!(bench.run("from_endpoint", b.ifindex, &other).unwrap().action, DROP);
    assert_eq!(bench.drops().unwrap()["no_masquerade_port"], 1);
    bench.remove_endpoint(&a).unwrap();
    bench.raise_epoch().unwrap();
    let ran = bench.run("from_endpoint", b.ifindex, &other).unwrap();
    assert_eq!((ran.action, seen(&ran.packet).ports), (REDIRECT, (20_000, 443)));
    let back = bench.run("from_network", bench.uplink, &reply).unwrap();
    assert_eq!((back.action, seen(&back.packet).destination), (REDIRECT, b.ipv4.into()));
}

#[test]
fn a_first_reply_that_resets_closes_the_flow() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    bench.serve(&Served::tcp(1, (NODE4, 30_080).into(), &[(b.ipv4, 8080).into()])).unwrap();
    for (to, port, local) in [(a.ipv4, 80, a), (NODE4, 30_080, b)] {
        let syn = network4(&bench, FAR4, to, (50_000, port), TCP_SYN);
        assert_eq!(bench.run("from_network", bench.uplink, &syn).unwrap().action, REDIRECT);
        let own = if to == NODE4 { 8080 } else { port };
        let reset = tcp4(&local, FAR4, (own, 50_000), TCP_RST);
        assert_eq!(bench.run("from_endpoint", local.ifindex, &reset).unwrap().action, REDIRECT);
    }
    let closed = CT_REPLIED | CT_RESET | CT_RESET_BY_REPLIER;
    let flows = bench.flows4().unwrap();
    assert_eq!(flows.len(), 3);
    for (key, entry) in flows {
        assert_eq!(entry.flags & closed, closed, "{key:?} {entry:?}");
    }
}

#[test]
fn what_a_packet_says_is_kept_though_it_is_judged() {
    let bench = bench();
    let a = bench.a;
    let (_, port) = send_out(&bench, &tcp4(&a, FAR4, (40_000, 443), TCP_SYN));
    let reply = network4(&bench, FAR4, NODE4, (443, port), TCP_SYN_ACK);
    bench.run("from_network", bench.uplink, &reply).unwrap();
    bench.raise_epoch().unwrap();
    send_out(&bench, &tcp4(&a, FAR4, (40_000, 443), TCP_RST));
    for (key, entry) in bench.flows4().unwrap() {
        assert_ne!(entry.flags & CT_RESET, 0, "{key:?} {entry:?}");
    }
}

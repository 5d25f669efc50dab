//! Forgetting flows: when their time is over, with both of their views, and no others.

use bpf::layout::{CT_NAT_REVERSE, CT_REPLIED, CtEntry, CtKey, LIFETIMES};
use integration::programs::{Bench, DROP, FAR4, FAR6, Knobs, Local, NODE4, PASS, REDIRECT, Served};

use crate::{masquerade::send_out, packets::*};

const BEGIN: u32 = 5_000;

fn bench() -> Bench {
    Bench::new(&Knobs { tick: Some(BEGIN), ..Knobs::default() }).unwrap()
}

fn outside(bench: &Bench) -> Local {
    Local { ipv4: FAR4, ipv6: FAR6, mac: [2; 6], host_mac: bench.uplink_mac, ..bench.a }
}

#[test]
fn what_is_over_is_forgotten_and_what_lives_stays() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    send_out(&bench, &udp4(&a, FAR4, (5_000, 53)));
    send_out(&bench, &tcp6(&a, FAR6, (5_000, 443), TCP_SYN));
    bench.run("from_endpoint", a.ifindex, &udp4(&a, b.ipv4, (1, 2))).unwrap();
    assert_eq!(bench.tally().unwrap().flows, (3, 2));
    // Nothing is over, and what a packet has written since the clock was read is not.
    for now in [BEGIN, BEGIN - 1, BEGIN + LIFETIMES.udp] {
        let aged = bench.age(now).unwrap();
        assert_eq!((aged.left4, aged.left6, aged.forgotten), (3, 2, 0));
    }
    let aged = bench.age(BEGIN + LIFETIMES.udp + 1).unwrap();
    assert_eq!((aged.left4, aged.left6, aged.forgotten), (0, 2, 2));
    assert_eq!(bench.tally().unwrap().flows, (0, 2));
    let aged = bench.age(BEGIN + LIFETIMES.tcp_opening + 1).unwrap();
    assert_eq!((aged.left4, aged.left6, aged.forgotten), (0, 0, 1));
}

#[test]
fn a_flow_that_one_view_knows_to_live_is_kept_in_both() {
    let bench = bench();
    send_out(&bench, &udp4(&bench.a, FAR4, (5_000, 53)));
    for far in [true, false] {
        let views = bench.flows4().unwrap();
        let (key, entry) = views.iter().find(|(_, it)| (it.flags & CT_NAT_REVERSE != 0) == far).unwrap();
        let mut late = *entry;
        late.seen = BEGIN + 100;
        bench.put_flow4(key, &late).unwrap();
        let aged = bench.age(BEGIN + 101).unwrap();
        assert_eq!((aged.left4, aged.forgotten), (2, 0));
        assert!(bench.flows4().unwrap().iter().all(|(_, entry)| entry.seen == BEGIN + 100));
        for (key, mut entry) in bench.flows4().unwrap() {
            entry.seen = BEGIN;
            bench.put_flow4(&key, &entry).unwrap();
        }
    }
}

#[test]
fn the_flows_of_an_endpoint_that_is_gone_are_forgotten() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    send_out(&bench, &udp4(&a, FAR4, (5_000, 53)));
    send_out(&bench, &tcp6(&a, FAR6, (5_000, 443), TCP_SYN));
    bench.run("from_endpoint", b.ifindex, &udp4(&b, FAR4, (1, 2))).unwrap();
    bench.remove_endpoint(&a).unwrap();
    let aged = bench.age(BEGIN).unwrap();
    assert_eq!((aged.left4, aged.left6), (2, 0));
    let left = bench.flows4().unwrap();
    assert!(left.iter().all(|(_, entry)| entry.way.iter().any(|way| way.ingress == b.ifindex)), "{left:?}");
}

#[test]
fn ports_are_held_where_connections_to_services_are() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let cluster = [10, 96, 0, 1].into();
    let service = Served::tcp(1, (cluster, 80).into(), &[(b.ipv4, 8080).into()]);
    bench.serve(&service).unwrap();
    let syn = tcp4(&a, cluster, (40_000, 80), TCP_SYN);
    assert_eq!(bench.run("from_endpoint", a.ifindex, &syn).unwrap().action, REDIRECT);
    bench.run("from_endpoint", a.ifindex, &udp4(&a, b.ipv4, (1, 99))).unwrap();
    bench.age(BEGIN).unwrap();
    assert_eq!(bench.held_ports().unwrap(), [80]);
    bench.age(BEGIN + 1_000).unwrap();
    assert!(bench.held_ports().unwrap().is_empty());
}

#[test]
fn a_flow_that_is_over_belongs_to_nobody_though_nothing_has_aged() {
    let bench =
        Bench::new(&Knobs { first_port: 20_000, ports: 1, tick: Some(BEGIN), ..Knobs::default() }).unwrap();
    let (a, b, far) = (bench.a, bench.b, outside(&bench));
    let (question, others) = (udp4(&a, FAR4, (5_000, 53)), udp4(&b, FAR4, (5_000, 53)));
    send_out(&bench, &question);
    let answer = udp4(&far, NODE4, (53, 20_000));
    // Without an answer it would lose its port.
    assert_eq!(bench.run("from_network", bench.uplink, &answer).unwrap().action, REDIRECT);
    assert_eq!(bench.run("from_endpoint", b.ifindex, &others).unwrap().action, DROP, "the port is taken");
    bench.set_tick(BEGIN + LIFETIMES.udp + 1).unwrap();
    // Its answers are the host's, and the port another's.
    assert_eq!(bench.run("from_network", bench.uplink, &answer).unwrap().action, PASS);
    assert_eq!(bench.run("from_endpoint", b.ifindex, &others).unwrap().action, REDIRECT);
    assert_eq!(bench.run("from_network", bench.uplink, &answer).unwrap().action, REDIRECT);
    // Who had it gets none, rather than the answers of the other.
    assert_eq!(bench.run("from_endpoint", a.ifindex, &question).unwrap().action, DROP);
    let back = bench.run("from_network", bench.uplink, &answer).unwrap();
    assert_eq!((back.action, seen(&back.packet).destination), (REDIRECT, b.ipv4.into()));
    let flows = bench.flows4().unwrap();
    assert_eq!(flows.len(), 2, "{flows:?}");
}

#[test]
fn who_takes_the_port_of_a_flow_that_is_over_takes_both_its_views() {
    let bench =
        Bench::new(&Knobs { first_port: 20_000, ports: 1, tick: Some(BEGIN), ..Knobs::default() }).unwrap();
    let (a, b) = (bench.a, bench.b);
    send_out(&bench, &udp4(&a, FAR4, (5_000, 53)));
    bench.set_tick(BEGIN + LIFETIMES.udp + 1).unwrap();
    let ran = bench.run("from_endpoint", b.ifindex, &udp4(&b, FAR4, (6_000, 53))).unwrap();
    assert_eq!(ran.action, REDIRECT);
    let flows = bench.flows4().unwrap();
    let of_a = |key: &bpf::layout::CtKey4| key.sides().iter().any(|(address, _)| *address == a.ipv4);
    assert!(flows.len() == 2 && !flows.iter().any(|(key, _)| of_a(key)), "{flows:?}");
}

#[test]
fn each_view_is_made_again_from_the_other() {
    for protocol in ["tcp", "udp"] {
        for far_is_gone in [true, false] {
            for opener_first in [true, false] {
                if far_is_gone && !opener_first {
                    // The host has what nobody knows.
                    continue;
                }
                let bench = bench();
                let (a, peer) = (bench.a, outside(&bench));
                let tcp = protocol == "tcp";
                let sent = |flags| {
                    if tcp { tcp4(&a, FAR4, (40_000, 443), flags) } else { udp4(&a, FAR4, (40_000, 443)) }
                };
                let (_, port) = send_out(&bench, &sent(TCP_SYN));
                let back = |flags| {
                    let packet = if tcp {
                        network4(&bench, FAR4, NODE4, (443, port), flags)
                    } else {
                        udp4(&peer, NODE4, (443, port))
                    };
                    let ran = bench.run("from_network", bench.uplink, &packet).unwrap();
                    assert_eq!(
                        (ran.action, seen(&ran.packet).ports),
                        (REDIRECT, (443, 40_000)),
                        "{protocol}"
                    );
                };
                back(TCP_SYN_ACK);
                send_out(&bench, &sent(TCP_ACK));
                bench.set_tick(BEGIN + 9).unwrap();
                let views = bench.flows4().unwrap();
                let is_it = |flags: u32| (flags & CT_NAT_REVERSE != 0) == far_is_gone;
                let (evicted, _) = views.iter().find(|(_, entry)| is_it(entry.flags)).unwrap();
                bench.forget_flow4(evicted).unwrap();
                let context = format!("{protocol}, far: {far_is_gone}, opener first: {opener_first}");
                if opener_first {
                    assert_eq!(send_out(&bench, &sent(TCP_ACK)).1, port, "{context}");
                    back(TCP_ACK);
                } else {
                    back(TCP_ACK);
                    assert_eq!(send_out(&bench, &sent(TCP_ACK)).1, port, "{context}");
                }
                let views = bench.flows4().unwrap();
                assert_eq!(views.len(), 2, "{context}");
                assert!(views.iter().all(|(_, entry)| entry.flags & CT_REPLIED != 0), "{context}: {views:?}");
                assert!(views.iter().any(|(key, _)| key.sides() == evicted.sides()), "{context}");
                let openers: Vec<_> =
                    views.iter().map(|(key, entry)| key.sides()[CtEntry::opener(entry)].1).collect();
                assert!(openers.contains(&40_000) && openers.contains(&port), "{context}: {openers:?}");
            }
        }
    }
}

#[test]
fn a_segment_that_nobody_remembers_is_an_answer_if_it_looks_like_one() {
    let bench = bench();
    let a = bench.a;
    // A server's, to a client outside that has connected to it directly.
    let (out, port) = send_out(&bench, &tcp4(&a, FAR4, (8080, 40_000), TCP_ACK));
    assert_eq!((seen(&out.packet).source, port), (a.ipv4.into(), 8080), "it is not masqueraded");
    let [(key, entry)] = bench.flows4().unwrap()[..] else { panic!("one flow") };
    assert_eq!(key.sides()[CtEntry::opener(&entry)], (FAR4.into(), 40_000));
    assert_ne!(entry.flags & CT_REPLIED, 0);
    // A client's.
    let (out, port) = send_out(&bench, &tcp4(&a, FAR4, (40_000, 8080), TCP_ACK));
    assert_eq!(seen(&out.packet).source, std::net::IpAddr::from(NODE4), "{port}");
}

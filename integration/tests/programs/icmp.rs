//! What ICMP asks and answers: each question is a flow of its own, and only its answers belong to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bpf::layout::{CT_NAT_REVERSE, CT_REPLIED, CtEntry, CtKey};
use etherparse::PacketBuilder;
use integration::programs::{Bench, DROP, FAR4, FAR6, Local, NODE4, PASS, REDIRECT};

use crate::{masquerade::send_out, packets::*};

const ECHO4: (u8, u8) = (8, 0);
const ECHO6: (u8, u8) = (128, 129);

/// A message of these types and this identifier, of what `from` sends.
fn message4(from: &Local, to: Ipv4Addr, kind: u8, id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(from.mac, from.host_mac)
        .ipv4(from.ipv4.octets(), to.octets(), 64)
        .icmpv4_raw(kind, 0, [high, low, 0, 1])
        .write(&mut packet, &[0; 12])
        .unwrap();
    packet
}

fn message6(from: &Local, to: Ipv6Addr, kind: u8, id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(from.mac, from.host_mac)
        .ipv6(from.ipv6.octets(), to.octets(), 64)
        .icmpv6_raw(kind, 0, [high, low, 0, 1])
        .write(&mut packet, &[0; 12])
        .unwrap();
    packet
}

/// A machine outside.
fn outside(bench: &Bench) -> Local {
    Local { ipv4: FAR4, ipv6: FAR6, mac: [2; 6], host_mac: bench.uplink_mac, ..bench.a }
}

/// Who has opened each flow of IPv4, whether it was answered, and type and code of what was asked.
fn opened(bench: &Bench) -> Vec<(IpAddr, bool, u16)> {
    let flows = bench.flows4().unwrap().into_iter().filter(|(_, entry)| entry.flags & CT_NAT_REVERSE == 0);
    let mut opened: Vec<_> = flows
        .map(|(key, entry)| {
            let (sides, opener) = (key.sides(), CtEntry::opener(&entry));
            (sides[opener].0, entry.flags & CT_REPLIED != 0, sides[1 - opener].1)
        })
        .collect();
    opened.sort_unstable();
    opened
}

#[test]
fn what_both_sides_ask_with_one_identifier_are_two_flows() {
    // The last is what a side that is asked has for its port.
    for id in [7, 0, 8 << 8] {
        let bench = bench();
        let (a, b) = (bench.a, bench.b);
        let run = |from: &Local, to: &Local, kind| {
            let ran = bench.run("from_endpoint", from.ifindex, &message4(from, to.ipv4, kind, id)).unwrap();
            assert_eq!(ran.action, REDIRECT);
        };
        let (question, answer) = ECHO4;
        run(&a, &b, question);
        run(&b, &a, question);
        let (of_a, of_b) = (a.ipv4.into(), b.ipv4.into());
        assert_eq!(opened(&bench), [(of_a, false, 8 << 8), (of_b, false, 8 << 8)], "of {id}");
        run(&a, &b, answer);
        assert_eq!(opened(&bench), [(of_a, false, 8 << 8), (of_b, true, 8 << 8)], "of {id}");

        let (question, answer) = ECHO6;
        for (from, to, kind) in [(&a, &b, question), (&b, &a, question), (&b, &a, answer)] {
            let packet = message6(from, to.ipv6, kind, id);
            assert_eq!(bench.run("from_endpoint", from.ifindex, &packet).unwrap().action, REDIRECT);
        }
        let answered =
            bench.flows6().unwrap().iter().filter(|(_, entry)| entry.flags & CT_REPLIED != 0).count();
        assert_eq!((bench.flows6().unwrap().len(), answered), (2, 1), "of {id}");
    }
}

#[test]
fn each_kind_of_question_is_a_flow_of_its_own() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let questions = [8, 13, 15, 17, 42, 10, 33];
    for kind in questions {
        let packet = message4(&a, b.ipv4, kind, 0);
        assert_eq!(bench.run("from_endpoint", a.ifindex, &packet).unwrap().action, REDIRECT);
    }
    let mut wanted: Vec<_> = questions.map(|kind| (a.ipv4.into(), false, u16::from(kind) << 8)).into();
    wanted.sort_unstable();
    assert_eq!(opened(&bench), wanted);
    for kind in [0, 14, 16, 18, 43] {
        let packet = message4(&b, a.ipv4, kind, 0);
        assert_eq!(bench.run("from_endpoint", b.ifindex, &packet).unwrap().action, REDIRECT);
    }
    let answered = opened(&bench).into_iter().filter(|(_, answered, _)| *answered).count();
    assert_eq!((opened(&bench).len(), answered), (questions.len(), 5), "answers open no flows");
}

#[test]
fn the_network_asks_an_endpoint_that_asks_it_with_the_same_identifier() {
    let bench = bench();
    let (a, far) = (bench.a, outside(&bench));
    let (_, id) = send_out(&bench, &message4(&a, FAR4, 8, 892));
    assert_ne!(id, 892, "it is masqueraded");
    let question = message4(&far, a.ipv4, 8, 892);
    assert_eq!(bench.run("from_network", bench.uplink, &question).unwrap().action, REDIRECT);
    let (answer, own) = send_out(&bench, &message4(&a, FAR4, 0, 892));
    assert_eq!((seen(&answer.packet).source, own), (a.ipv4.into(), 892));
    // What the endpoint has asked is answered as before.
    let answer = bench.run("from_network", bench.uplink, &message4(&far, NODE4, 0, id)).unwrap();
    assert_eq!((answer.action, seen(&answer.packet).destination), (REDIRECT, a.ipv4.into()));
    assert_eq!(seen(&answer.packet).ports, (892, 892));
}

#[test]
fn timestamps_are_masqueraded_by_their_identifier() {
    let bench = bench();
    let (a, far) = (bench.a, outside(&bench));
    let ran = bench.run("from_endpoint", a.ifindex, &message4(&a, FAR4, 13, 5)).unwrap();
    assert_eq!(ran.action, REDIRECT);
    let id = u16::from_be_bytes([ran.packet[38], ran.packet[39]]);
    assert!((10_000..30_000).contains(&id), "{id}");
    let back = bench.run("from_network", bench.uplink, &message4(&far, NODE4, 14, id)).unwrap();
    assert_eq!((back.action, &back.packet[38..40]), (REDIRECT, &[0, 5][..]));
    // What has none is left as it is.
    let whole = message4(&a, FAR4, 33, 5);
    let ran = bench.run("from_endpoint", a.ifindex, &whole).unwrap();
    assert_eq!((ran.action, &ran.packet[34..]), (REDIRECT, &whole[34..]));
}

#[test]
fn an_answer_that_nobody_has_asked_for_opens_no_flow() {
    let bench = bench();
    let (a, b, far) = (bench.a, bench.b, outside(&bench));
    let refused = |program: &str, ifindex, packet: &[u8]| {
        let before = bench.tally().unwrap();
        assert_eq!(bench.run(program, ifindex, packet).unwrap().action, DROP, "{program}");
        changes(&bench, &before, &[("unasked_answer", 1)], (0, 0));
    };
    for kind in [0, 14, 16, 18, 43] {
        refused("from_endpoint", a.ifindex, &message4(&a, b.ipv4, kind, 7));
        refused("from_endpoint", a.ifindex, &message4(&a, FAR4, kind, 7));
        refused("from_network", bench.uplink, &message4(&far, a.ipv4, kind, 7));
        refused("to_endpoint", a.ifindex, &message4(&far, a.ipv4, kind, 7));
        refused("to_network", bench.uplink, &message4(&a, FAR4, kind, 7));
        // The node may have asked.
        let of_node = message4(&far, NODE4, kind, 7);
        assert_eq!(bench.run("from_network", bench.uplink, &of_node).unwrap().action, PASS);
    }
    for kind in [129, 140, 161] {
        refused("from_endpoint", a.ifindex, &message6(&a, b.ipv6, kind, 7));
        refused("from_network", bench.uplink, &message6(&far, a.ipv6, kind, 7));
        refused("to_endpoint", a.ifindex, &message6(&far, a.ipv6, kind, 7));
    }
    assert_eq!((bench.flows4().unwrap().len(), bench.flows6().unwrap().len()), (0, 0));
}

#[test]
fn a_ping_goes_on_after_its_flow_was_forgotten() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let ping = || bench.run("from_endpoint", a.ifindex, &message4(&a, b.ipv4, 8, 7)).unwrap().action;
    let answer = || bench.run("from_endpoint", b.ifindex, &message4(&b, a.ipv4, 0, 7)).unwrap().action;
    assert_eq!((ping(), answer()), (REDIRECT, REDIRECT));
    bench.forget_flows().unwrap();
    assert_eq!((answer(), ping(), answer()), (DROP, REDIRECT, REDIRECT));
    assert_eq!(opened(&bench), [(a.ipv4.into(), true, 8 << 8)]);
}

#[test]
fn an_error_opens_no_flow_in_the_place_of_a_closed_connection() {
    let bench = bench();
    let a = bench.a;
    // The translated connection, as its other side sees it, is over.
    let (out, port) = send_out(&bench, &tcp4(&a, FAR4, (40_000, 443), TCP_SYN));
    let mut reset = Vec::new();
    PacketBuilder::ethernet2([2; 6], bench.uplink_mac)
        .ipv4(FAR4.octets(), NODE4.octets(), 64)
        .tcp(443, port, 1, 0)
        .rst()
        .ack(1)
        .write(&mut reset, &[])
        .unwrap();
    assert_eq!(bench.run("from_network", bench.uplink, &reset).unwrap().action, REDIRECT);
    assert_eq!(seen(&out.packet).source, IpAddr::from(NODE4));
    let before = bench.tally().unwrap();
    // About an answer from FAR4 to NODE4, as a pod would tell that were the node.
    let as_node = Local { ipv4: NODE4, ..a };
    bench.add_endpoint(&as_node, 0).unwrap();
    let mut answer = Vec::new();
    PacketBuilder::ethernet2([2; 6], a.host_mac)
        .ipv4(FAR4.octets(), NODE4.octets(), 64)
        .tcp(443, port, 1, 0)
        .ack(1)
        .write(&mut answer, &[])
        .unwrap();
    let mut error = Vec::new();
    PacketBuilder::ethernet2(a.mac, a.host_mac)
        .ipv4(NODE4.octets(), FAR4.octets(), 64)
        .icmpv4_raw(3, 3, [0; 4])
        .write(&mut error, &answer[14..42])
        .unwrap();
    assert_eq!(bench.run("from_endpoint", a.ifindex, &error).unwrap().action, DROP);
    changes(&bench, &before, &[("unrelated_error", 1)], (0, 0));
}

//! What policy rejects is answered at once: TCP by a reset, all else by the ICMP error "administratively prohibited".

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use bpf::{layout::MARK_FORWARDED, sizes::PolicySizes};
use etherparse::{Icmpv4Type, Icmpv6Type, PacketHeaders, TransportHeader, icmpv4, icmpv6};
use integration::programs::{DROP, FAR4, FAR6, Local, NODE4, REDIRECT, Ran};
use ipamd_datapath::PolicyTables;
use ipamd_model::{endpoint::Slot, policy::Direction};
use ipamd_policy::tables::{ClassId, EntryKey, EntryOf, EntryValue, Outcome, Posture, RuleId, Tables};

use crate::{packets::*, stage::Stage};

/// Has an endpoint policed in both directions: this becomes of every packet.
fn police(tables: &mut PolicyTables, local: &Local, outcome: Outcome) {
    let entries = [Direction::Ingress, Direction::Egress].map(|direction| {
        let of = EntryOf::Class(direction, ClassId::ANY);
        let key = EntryKey { of, protocol: None, port: 0, port_bits: 0 };
        (key, EntryValue { outcome, rule: RuleId(1), log: None, domains: None })
    });
    let map = tables.add_map(&entries).unwrap();
    let posture = Posture { map: Some(map), ingress: true, egress: true };
    tables.put_posture(Slot(local.slot), posture).unwrap();
}

/// A stage, on which all that `a` sends and receives meets that outcome.
fn stage(outcome: Outcome) -> (Stage, PolicyTables) {
    let stage = Stage::new();
    let mut tables =
        PolicyTables::open(Arc::clone(&stage.datapath), &stage.config.pins, PolicySizes::default()).unwrap();
    police(&mut tables, &stage.bench.a, outcome);
    (stage, tables)
}

/// That the answer to `packet` is a reset, or the error about a packet that is not TCP, from its destination to its source, with
/// right checksums and the Ethernet addresses swapped.
#[track_caller]
fn is_answer(ran: &Ran, packet: &[u8]) {
    assert_eq!(ran.action, REDIRECT);
    let (asked, answer) = (seen(packet), seen(&ran.packet));
    assert_eq!((answer.source, answer.destination), (asked.destination, asked.source));
    let ((from, to), (of, at)) = (macs(packet), macs(&ran.packet));
    assert_eq!((from, to), (at, of), "sent back");
    let headers = PacketHeaders::from_ethernet_slice(&ran.packet).unwrap();
    let tcp = matches!(
        PacketHeaders::from_ethernet_slice(packet).unwrap().transport,
        Some(TransportHeader::Tcp(_))
    );
    match headers.transport.unwrap() {
        TransportHeader::Tcp(answer) => assert!(tcp && answer.rst),
        TransportHeader::Icmpv4(answer) => {
            let prohibited = icmpv4::DestUnreachableHeader::FilterProhibited;
            assert_eq!(answer.icmp_type, Icmpv4Type::DestinationUnreachable(prohibited));
            assert!(!tcp);
        }
        TransportHeader::Icmpv6(answer) => {
            let prohibited = icmpv6::DestUnreachableCode::Prohibited;
            assert_eq!(answer.icmp_type, Icmpv6Type::DestinationUnreachable(prohibited));
            assert!(!tcp);
        }
        other => panic!("{other:?}"),
    }
}

/// Packets of all sorts that open a flow from an endpoint to the addresses.
fn packets_of(from: &Local, to4: Ipv4Addr, to6: Ipv6Addr) -> Vec<Vec<u8>> {
    vec![
        tcp4(from, to4, (40_000, 80), TCP_SYN),
        tcp6(from, to6, (40_000, 80), TCP_SYN),
        udp4(from, to4, (40_000, 53)),
        udp6(from, to6, (40_000, 53)),
    ]
}

#[test]
fn an_endpoint_that_may_not_send_is_told() {
    let (stage, _tables) = stage(Outcome::Reject);
    let (a, b) = (stage.bench.a, stage.bench.b);
    for (to4, to6) in [(FAR4, FAR6), (b.ipv4, b.ipv6)] {
        for packet in packets_of(&a, to4, to6) {
            is_answer(&stage.bench.run("from_endpoint", a.ifindex, &packet).unwrap(), &packet);
        }
    }
    assert_eq!(stage.bench.drops().unwrap()["policy_egress"], 8);
}

#[test]
fn an_endpoint_is_told_what_its_neighbour_does_not_take() {
    let (stage, _tables) = stage(Outcome::Reject);
    let (a, b) = (stage.bench.a, stage.bench.b);
    for packet in packets_of(&b, a.ipv4, a.ipv6) {
        is_answer(&stage.bench.run("from_endpoint", b.ifindex, &packet).unwrap(), &packet);
    }
    assert_eq!(stage.bench.drops().unwrap()["policy_ingress"], 4);
}

#[test]
fn the_network_is_told_by_the_interface_that_it_came_by() {
    let (stage, _tables) = stage(Outcome::Reject);
    let bench = &stage.bench;
    for packet in [
        network4(bench, FAR4, bench.a.ipv4, (40_000, 80), TCP_SYN),
        network6(bench, FAR6, bench.a.ipv6, (40_000, 80), TCP_SYN),
    ] {
        let (ran, mark) = bench.run_marked("from_network", bench.uplink, &packet, 0).unwrap();
        is_answer(&ran, &packet);
        // So that the answer is not taken for a packet of the endpoint where it leaves.
        assert_eq!(mark, MARK_FORWARDED);
    }
}

#[test]
fn what_came_by_no_interface_is_not_answered() {
    let (stage, _tables) = stage(Outcome::Reject);
    let (bench, a) = (&stage.bench, stage.bench.a);
    let host = Local { mac: a.host_mac, host_mac: a.mac, ipv4: FAR4, ipv6: FAR6, ..a };
    for packet in packets_of(&host, a.ipv4, a.ipv6) {
        assert_eq!(bench.run("to_endpoint", a.ifindex, &packet).unwrap().action, DROP);
    }
    assert_eq!(bench.drops().unwrap()["policy_ingress"], 4);
}

#[test]
fn only_questions_of_icmp_are_answered() {
    let (stage, _tables) = stage(Outcome::Reject);
    let a = stage.bench.a;
    for (kind4, kind6, answered) in [(8, 128, true), (13, 128, true), (30, 5, false), (41, 127, false)] {
        let mut packet = udp4(&a, FAR4, (0, 0));
        packet[23] = 1;
        packet[34..42].copy_from_slice(&[kind4, 0, 0, 0, 0, 7, 0, 1]);
        // The checksum of the header follows the protocol.
        let sum = u16::from_be_bytes([packet[24], packet[25]]) + 17 - 1;
        packet[24..26].copy_from_slice(&sum.to_be_bytes());
        let action = stage.bench.run("from_endpoint", a.ifindex, &packet).unwrap().action;
        assert_eq!(action == REDIRECT, answered, "ICMP type {kind4}");
        let mut packet = udp6(&a, FAR6, (0, 0));
        packet[20] = 58;
        packet[54..62].copy_from_slice(&[kind6, 0, 0, 0, 0, 7, 0, 1]);
        let action = stage.bench.run("from_endpoint", a.ifindex, &packet).unwrap().action;
        assert_eq!(action == REDIRECT, answered, "ICMPv6 type {kind6}");
    }
}

#[test]
fn frames_for_several_machines_and_broadcast_addresses_are_not_answered() {
    let (stage, _tables) = stage(Outcome::Reject);
    let (bench, a) = (&stage.bench, stage.bench.a);
    let broadcast = Ipv4Addr::new(192, 0, 2, 255);
    bench.mean_all(broadcast).unwrap();
    let to_all = Local { host_mac: [0xff; 6], ..a };
    for packet in [tcp4(&to_all, FAR4, (40_000, 80), TCP_SYN), udp4(&a, broadcast, (40_000, 53))] {
        assert_eq!(bench.run("from_endpoint", a.ifindex, &packet).unwrap().action, DROP);
    }
    assert_eq!(bench.drops().unwrap()["policy_egress"], 2);
}

#[test]
fn a_forged_source_is_not_answered() {
    let (stage, _tables) = stage(Outcome::Reject);
    let (bench, a, b) = (&stage.bench, stage.bench.a, stage.bench.b);
    // A pod as another pod, and the network as a pod and as the node.
    let forged = Local { mac: a.mac, host_mac: a.host_mac, ..b };
    for packet in packets_of(&forged, FAR4, FAR6) {
        assert_eq!(bench.run("from_endpoint", a.ifindex, &packet).unwrap().action, DROP);
    }
    for source in [b.ipv4, NODE4] {
        let packet = network4(bench, source, a.ipv4, (40_000, 80), TCP_SYN);
        assert_eq!(bench.run("from_network", bench.uplink, &packet).unwrap().action, DROP, "{source}");
    }
    let drops = bench.drops().unwrap();
    assert!(!drops.contains_key("policy_egress") && !drops.contains_key("policy_ingress"), "{drops:?}");
}

#[test]
fn what_is_dropped_is_not_answered_and_neither_is_an_answer() {
    let (stage, mut tables) = stage(Outcome::Deny);
    let a = stage.bench.a;
    for packet in packets_of(&a, FAR4, FAR6) {
        assert_eq!(stage.bench.run("from_endpoint", a.ifindex, &packet).unwrap().action, DROP);
    }
    police(&mut tables, &a, Outcome::Reject);
    stage.bench.raise_epoch().unwrap();
    let reset = tcp4(&a, FAR4, (40_000, 80), 4);
    assert_eq!(stage.bench.run("from_endpoint", a.ifindex, &reset).unwrap().action, DROP, "a reset");
}

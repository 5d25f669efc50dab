//! Random services, written to the kernel's maps: the programs lead packets where the API says.

use std::{cell::RefCell, collections::BTreeSet, net::IpAddr, sync::Arc};

use etherparse::PacketBuilder;
use integration::{
    oracle::services::{
        Client, Documents, Served,
        asked::{changes, here, objects_of, questions},
        generate::{NODES, Scene, scene},
    },
    programs::{Local, PASS},
};
use ipamd_datapath::ServiceTables;
use ipamd_model::objects::Change;
use ipamd_services::{Balancer, NodeAddresses, Site};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{TestCaseResult, TestRunner},
};

use crate::{
    packets::{TCP_SYN, seen, tcp},
    stage::Stage,
};

/// Connections that are opened to each address and port.
const OPENED: usize = 24;
const MACS_OUTSIDE: [u8; 6] = [2, 0, 0, 0, 9, 9];

fn balancer(stage: &Stage, scene: &Scene) -> Balancer {
    let tables = ServiceTables::open(Arc::clone(&stage.datapath), &stage.config.pins).unwrap();
    let site = Site { node: NODES[0].into(), zone: None, pools: Vec::new() };
    let balancer = Balancer::new(Box::new(tables), site);
    let all: BTreeSet<IpAddr> = here().addresses.into_iter().collect();
    let changes: Vec<_> = objects_of(scene).into_iter().map(Change::Put).collect();
    balancer.start(NodeAddresses::new(all, &[]), [], &changes).unwrap();
    balancer
}

/// How often each answer was right.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    nothing: u64,
    served: u64,
    refused: u64,
    dropped: u64,
}

/// Opens a connection, and tells where its first packet goes.
fn open(stage: &Stage, client: Client, to: (IpAddr, u16), source_port: u16, protocol: u8) -> Served {
    let bench = &stage.bench;
    let (program, ifindex, macs, source) = match client {
        Client::Pod(source) => ("from_endpoint", bench.a.ifindex, (bench.a.mac, bench.a.host_mac), source),
        Client::Outside(source) => ("from_network", bench.uplink, (MACS_OUTSIDE, bench.uplink_mac), source),
        Client::Node => unreachable!("its sockets are led when they connect"),
    };
    let packet = first_packet(macs, (source, to.0), (source_port, to.1), protocol);
    let before = bench.drops().unwrap();
    let ran = bench.run(program, ifindex, &packet).unwrap();
    let after = bench.drops().unwrap();
    match after.iter().find(|(reason, count)| before.get(*reason) != Some(*count)) {
        Some((&"no_backend", _)) => return Served::Refused,
        Some((&("no_local_backend" | "source_range" | "not_served"), _)) => return Served::Dropped,
        Some((reason, _)) => panic!("{client:?} to {to:?}: dropped for {reason}"),
        None => {}
    }
    let now = seen(&ran.packet);
    let towards = (now.destination, now.ports.1);
    if towards == to || ran.action == PASS { Served::Nothing } else { Served::By([towards].into()) }
}

fn first_packet(macs: ([u8; 6], [u8; 6]), ips: (IpAddr, IpAddr), ports: (u16, u16), protocol: u8) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(macs.0, macs.1);
    let step = match ips {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!("both are of one family"),
    };
    if protocol == 6 {
        return tcp(step, ports, TCP_SYN);
    }
    let mut packet = Vec::new();
    step.udp(ports.0, ports.1).write(&mut packet, b"payload").unwrap();
    packet
}

fn agree(stage: &Stage, scene: &Scene, heard: &mut Heard) -> TestCaseResult {
    let clients = ["10.88.0.9", "fd00:88::9"].map(|it| Client::Pod(it.parse().unwrap())).into_iter().chain(
        ["198.51.100.1", "203.0.113.200", "2001:db8:9::9"].map(|it| Client::Outside(it.parse().unwrap())),
    );
    stage.bench.forget_flows().unwrap();
    // Each connection has a port of its own.
    let mut source_ports = (1_024..u16::MAX).cycle();
    let mut connect =
        |client, to, protocol| open(stage, client, to, source_ports.next().unwrap_or_default(), protocol);
    for client in clients {
        let (Client::Pod(own) | Client::Outside(own)) = client else { continue };
        let questions = questions().into_iter();
        for to in questions
            .filter(|(to, _)| to.is_ipv4() == own.is_ipv4() && !to.is_loopback() && !to.is_unspecified())
        {
            for protocol in [6, 17] {
                let expected = Documents(scene).serve(&here(), client, to.0, to.1, protocol);
                let Served::By(expected) = expected else {
                    let found = connect(client, to, protocol);
                    prop_assert_eq!(&found, &expected, "{:?} to {:?} by {}", client, to, protocol);
                    *match found {
                        Served::Refused => &mut heard.refused,
                        Served::Dropped => &mut heard.dropped,
                        _ => &mut heard.nothing,
                    } += 1;
                    continue;
                };
                let mut met = BTreeSet::new();
                for _ in 0..OPENED {
                    match connect(client, to, protocol) {
                        Served::By(backends) => met.extend(backends),
                        other => prop_assert!(false, "{client:?} to {to:?} by {protocol}: {other:?}"),
                    }
                }
                // In turn all are met; by client it is a matter of chance.
                let whole = matches!(client, Client::Pod(_));
                let right = if whole { met == expected } else { met.is_subset(&expected) };
                prop_assert!(right, "{client:?} to {to:?} by {protocol}: {met:?}, not {expected:?}");
                heard.served += 1;
            }
        }
    }
    Ok(())
}

fn check(stage: &Stage, scenes: &[Scene], heard: &mut Heard) -> TestCaseResult {
    // On what the last case has left, as a daemon starts on what another has.
    let balancer = balancer(stage, &scenes[0]);
    agree(stage, &scenes[0], heard)?;
    for pair in scenes.windows(2) {
        balancer.apply(&changes(&pair[0], &pair[1]));
        agree(stage, &pair[1], heard)?;
    }
    Ok(())
}

#[test]
fn the_programs_lead_where_the_api_says_of_random_services() {
    let stage = Stage::new();
    let client = Local { ipv4: [10, 88, 0, 9].into(), ipv6: "fd00:88::9".parse().unwrap(), ..stage.bench.a };
    stage.bench.add_endpoint(&client, 0).unwrap();
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|it| it.parse().ok()).unwrap_or(100);
    let config = ProptestConfig {
        cases,
        max_shrink_iters: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let heard = RefCell::new(Heard::default());
    TestRunner::new(config)
        .run(&vec(scene(), 1..4), |scenes| check(&stage, &scenes, &mut heard.borrow_mut()))
        .unwrap_or_else(|error| panic!("{error}"));
    let heard = heard.into_inner();
    println!("{heard:?}");
    assert!(heard.nothing > 0 && heard.served > 0 && heard.refused > 0 && heard.dropped > 0, "{heard:?}");
}

//! Random clusters, compiled into the kernel's maps: the programs do what the specifications say.

use std::{cell::RefCell, net::IpAddr, sync::Arc};

use bpf::sizes::PolicySizes;
use etherparse::{IpNumber, PacketBuilder};
use integration::{
    oracle::{
        Cluster, Direction, Flow, Local as Pod,
        generate::{Questions, Scene, scene},
        product::Product,
        protocol,
    },
    programs::Local,
};
use ipamd_datapath::PolicyTables;
use proptest::{
    prelude::*,
    sample::subsequence,
    test_runner::{TestCaseResult, TestRunner},
};

use crate::stage::Stage;

/// Flows that are sent of each cluster, of those that could be.
const SENT: usize = 400;
/// Flows beside these that pass by a DNS name only: few do.
const BY_NAME: usize = 100;

/// The policy tables of the stage, as a daemon opens them.
fn tables(stage: &Stage) -> PolicyTables {
    PolicyTables::open(Arc::clone(&stage.datapath), &stage.config.pins, PolicySizes::default()).unwrap()
}

/// All endpoints are behind one interface.
fn local(stage: &Stage, pod: &Pod, slot: u32) -> Local {
    let mut local = Local { ipv4: [0, 0, 0, 0].into(), ipv6: 0.into(), slot, ..stage.bench.a };
    for address in &pod.addresses {
        match address {
            IpAddr::V4(address) => local.ipv4 = *address,
            IpAddr::V6(address) => local.ipv6 = *address,
        }
    }
    local
}

/// Sends the first packet of a flow. `None`: it was dropped for another reason than policy.
fn passes(stage: &Stage, question: &Question) -> Option<bool> {
    let Question { direction, own, peer, flow, .. } = *question;
    let (source, destination) = match direction {
        Direction::Egress => (own, peer),
        Direction::Ingress => (peer, own),
    };
    let (program, ifindex, macs) = match direction {
        Direction::Egress => {
            ("from_endpoint", stage.bench.a.ifindex, (stage.bench.a.mac, stage.bench.a.host_mac))
        }
        Direction::Ingress => {
            ("from_network", stage.bench.uplink, ([2, 0, 0, 0, 9, 9], stage.bench.uplink_mac))
        }
    };
    let packet = packet(macs, source, destination, flow);
    stage.bench.forget_flows().unwrap();
    let before = stage.bench.drops().unwrap();
    stage.bench.run(program, ifindex, &packet).unwrap();
    let after = stage.bench.drops().unwrap();
    let dropped = after.iter().find(|(reason, count)| before.get(*reason) != Some(*count)).map(|(it, _)| *it);
    match dropped {
        None => Some(true),
        Some("policy_ingress" | "policy_egress") => Some(false),
        Some(_) => None,
    }
}

/// A flow between an endpoint and a peer, and whether it should pass.
#[derive(Clone, Debug)]
struct Question {
    direction: Direction,
    own: IpAddr,
    peer: IpAddr,
    flow: Flow,
    /// The DNS names that the endpoint was told for the peer.
    names: Vec<String>,
    expected: bool,
    /// It would not, if it had no names.
    by_name: bool,
}

fn packet(macs: ([u8; 6], [u8; 6]), source: IpAddr, destination: IpAddr, flow: Flow) -> Vec<u8> {
    let [a, b] = flow.source_port.to_be_bytes();
    let [c, d] = flow.destination_port.to_be_bytes();
    let payload = match flow.protocol {
        protocol::TCP => vec![a, b, c, d, 0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 2, 0xff, 0xff, 0, 0, 0, 0],
        protocol::UDP | protocol::UDPLITE => vec![a, b, c, d, 0, 12, 0, 0, 1, 2, 3, 4],
        protocol::SCTP => vec![a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20, 0, 0, 0, 0],
        // The type and the code, and an identifier.
        protocol::ICMP | protocol::ICMPV6 => vec![c, d, 0, 0, 0, 7, 0, 1, 1, 2, 3, 4],
        _ => vec![0; 16],
    };
    let ethernet = PacketBuilder::ethernet2(macs.0, macs.1);
    let mut packet = Vec::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let step = ethernet.ipv4(source.octets(), destination.octets(), 64);
            step.write(&mut packet, IpNumber(flow.protocol), &payload).unwrap();
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let step = ethernet.ipv6(source.octets(), destination.octets(), 64);
            step.write(&mut packet, IpNumber(flow.protocol), &payload).unwrap();
        }
        _ => unreachable!("both are of one family"),
    }
    packet
}

/// Whether the programs see such a packet as the first of a flow.
fn opens_a_flow(own: IpAddr, flow: Flow) -> bool {
    let [kind, _] = flow.destination_port.to_be_bytes();
    match flow.protocol {
        protocol::ICMP => own.is_ipv4() && kind == 8,
        protocol::ICMPV6 => own.is_ipv6() && kind == 128,
        _ => true,
    }
}

/// Everything that can be asked of a cluster.
fn questions(scene: &Scene) -> Vec<Question> {
    let cluster = Cluster::new(&scene.documents, &scene.locals);
    let all = Questions::of(&scene.documents, &scene.locals);
    let here = |address: IpAddr| {
        let local = scene.locals.iter().find(|local| local.addresses.contains(&address));
        local.map(Pod::identity)
    };
    let mut questions = Vec::new();
    for local in &scene.locals {
        for direction in Direction::BOTH {
            for (own, peer) in all.pairs(local).filter(|(own, peer)| own != peer) {
                let neighbour = here(peer);
                // What comes from the network does not come from an endpoint of this node.
                if direction == Direction::Ingress && neighbour.is_some() {
                    continue;
                }
                let names = match direction {
                    Direction::Egress => scene.told.names(local, peer),
                    Direction::Ingress => Vec::new(),
                };
                let nameless = cluster.verdicts(&local.identity(), direction, own, peer);
                let verdict = cluster.verdicts_by_names(&local.identity(), direction, own, peer, &names);
                // What one endpoint sends to another is asked of both.
                let second = neighbour.as_ref().map(|it| cluster.verdicts(it, Direction::Ingress, peer, own));
                for flow in all.flows.iter().copied().filter(|flow| opens_a_flow(own, *flow)) {
                    let expected = verdict(flow) && second.as_ref().is_none_or(|second| second(flow));
                    let by_name = expected && !nameless(flow);
                    questions.push(Question {
                        direction,
                        own,
                        peer,
                        flow,
                        names: names.clone(),
                        expected,
                        by_name,
                    });
                }
            }
        }
    }
    questions
}

fn check(stage: &Stage, scene: &Scene, chosen: &[Question], answers: &mut [u32; 4]) -> TestCaseResult {
    let product =
        Product::start_on(Box::new(tables(stage)), &scene.documents, &scene.locals, &scene.node_addresses);
    let product = product.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
    let locals = scene.locals.iter().map(|pod| local(stage, pod, product.slot(pod).map_or(0, |slot| slot.0)));
    let locals = locals.collect::<Vec<_>>();
    for local in &locals {
        stage.bench.place_endpoint(local).unwrap();
    }
    let mut outcome = Ok(());
    for question in chosen {
        // All endpoints are behind that interface, so none may know what another one was told.
        stage.bench.tell(&stage.bench.a, question.peer, &question.names).unwrap();
        let passes = passes(stage, question);
        stage.bench.forget_names(&stage.bench.a, question.peer).unwrap();
        answers[passes.map_or(2, usize::from)] += 1;
        answers[3] += u32::from(question.by_name && passes.is_some());
        if passes.is_some_and(|passes| passes != question.expected) {
            outcome = Err(TestCaseError::fail(format!("{question:?}: passes: {passes:?}")));
            break;
        }
    }
    for local in &locals {
        stage.bench.remove_endpoint(local).unwrap();
    }
    outcome
}

#[test]
fn the_programs_do_what_the_specifications_say_of_random_clusters() {
    let stage = Stage::new();
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|it| it.parse().ok()).unwrap_or(48);
    let config = ProptestConfig {
        cases,
        max_shrink_iters: 512,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let asked = scene(8).prop_flat_map(|scene| {
        let (by_name, others) = questions(&scene).into_iter().partition::<Vec<_>, _>(|it| it.by_name);
        let sent = (BY_NAME.min(by_name.len()), SENT.min(others.len()));
        (Just(scene), subsequence(by_name, sent.0), subsequence(others, sent.1))
    });
    // Dropped, passed, what policy had no say in, and what passed by a DNS name.
    let answers = RefCell::new([0; 4]);
    let ran = TestRunner::new(config).run(&asked, |(scene, by_name, others)| {
        check(&stage, &scene, &[by_name, others].concat(), &mut answers.borrow_mut())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
    let [dropped, passed, other, by_name] = answers.into_inner();
    println!("{dropped} dropped, {passed} passed ({by_name} by a name), {other} for another reason");
    assert!(dropped > passed / 5 && passed > dropped / 5 && other < dropped + passed);
    assert!(by_name > 0);
}

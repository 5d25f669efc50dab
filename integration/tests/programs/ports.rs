//! The ports of masquerade: every one is found, and who shares a destination with others has a part of its ports.

use std::collections::HashSet;

use integration::programs::{Bench, DROP, FAR4, Knobs, Local, NODE4, REDIRECT};

use crate::packets::*;

#[test]
fn every_port_of_a_destination_is_found() {
    let bench = Bench::new(&Knobs { waiting: 1 << 18, ..Knobs::default() }).unwrap();
    let a = bench.a;
    let mut ports = HashSet::new();
    for source in 1..=20_000 {
        let (port, _) = sent(&bench, "from_endpoint", a.ifindex, &udp4(&a, FAR4, (source, 53)));
        assert!((10_000..30_000).contains(&port));
        assert!(ports.insert(port), "{port} has a flow already, of {} that have one", ports.len());
    }
    // All are taken: the next flow gets that of one that waits. Another destination has all of them.
    let (port, _) = sent(&bench, "from_endpoint", a.ifindex, &udp4(&a, FAR4, (20_001, 53)));
    assert!(ports.contains(&port));
    sent(&bench, "from_endpoint", a.ifindex, &udp4(&a, FAR4, (20_001, 54)));
}

#[test]
fn the_last_port_is_found_among_established_flows_and_none_of_them_is_displaced() {
    let bench = Bench::new(&Knobs { ports: 300, ..Knobs::default() }).unwrap();
    let a = bench.a;
    let ports: Vec<_> = (0..300).map(|number| connect(&bench, &a, (40_000 + number, 443))).collect();
    assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 300);
    let before = bench.tally().unwrap();
    for source in 1_000..1_100 {
        let syn = tcp4(&a, FAR4, (source, 443), TCP_SYN);
        assert_eq!(bench.run("from_endpoint", a.ifindex, &syn).unwrap().action, DROP);
    }
    changes(&bench, &before, &[("no_masquerade_port", 100)], (0, 0));
    for (number, port) in (0..).zip(ports) {
        let ack = tcp4(&a, FAR4, (40_000 + number, 443), TCP_ACK);
        assert_eq!(sent(&bench, "from_endpoint", a.ifindex, &ack).0, port);
    }
}

#[test]
fn who_has_most_ports_of_a_destination_gives_them_to_who_has_none() {
    let bench = Bench::new(&Knobs { ports: 300, tick: Some(1_000), ..Knobs::default() }).unwrap();
    let (a, b) = (bench.a, bench.b);
    let of_a: Vec<_> = (0..300).map(|number| connect(&bench, &a, (40_000 + number, 443))).collect();
    // One after the other, until both have enough.
    let of_b: Vec<_> = (0..20).map(|number| connect(&bench, &b, (50_000 + number, 443))).collect();
    assert_eq!(of_b.iter().collect::<HashSet<_>>().len(), 20);
    assert!(of_b.iter().all(|port| of_a.contains(port)));
    // What b has it keeps, and a takes none of it.
    for source in 1_000..1_100 {
        let syn = tcp4(&a, FAR4, (source, 443), TCP_SYN);
        assert_eq!(bench.run("from_endpoint", a.ifindex, &syn).unwrap().action, DROP);
    }
    for (number, port) in (0..).zip(&of_b) {
        let ack = tcp4(&b, FAR4, (50_000 + number, 443), TCP_ACK);
        assert_eq!(sent(&bench, "from_endpoint", b.ifindex, &ack).0, *port);
    }
    // All that a has not given away goes on.
    let kept = (0..).zip(&of_a).filter(|(_, port)| !of_b.contains(port)).collect::<Vec<_>>();
    assert_eq!(kept.len(), 280);
    for (number, port) in kept {
        let ack = tcp4(&a, FAR4, (40_000 + number, 443), TCP_ACK);
        assert_eq!(sent(&bench, "from_endpoint", a.ifindex, &ack).0, *port);
    }
}

#[test]
fn one_endpoint_does_not_take_another_ones_ports() {
    // However slow the machine, no question is over meanwhile.
    let bench = Bench::new(&Knobs { waiting: 1 << 18, tick: Some(1_000), ..Knobs::default() }).unwrap();
    let (a, b) = (bench.a, bench.b);
    let established = connect(&bench, &a, (40_000, 53));
    let asked = sent(&bench, "from_endpoint", a.ifindex, &udp4(&a, FAR4, (39_999, 53))).0;
    for source in 1..=30_000 {
        sent(&bench, "from_endpoint", b.ifindex, &udp4(&b, FAR4, (source, 53)));
    }
    // What a asked before, and asks now, is answered.
    let answer = |port| {
        let mut packet = Vec::new();
        etherparse::PacketBuilder::ethernet2([2; 6], bench.uplink_mac)
            .ipv4(FAR4.octets(), NODE4.octets(), 64)
            .udp(53, port)
            .write(&mut packet, b"answer")
            .unwrap();
        packet
    };
    assert_eq!(sent(&bench, "from_network", bench.uplink, &answer(asked)), (53, 39_999));
    let mut ports = Vec::new();
    for source in 50_000..50_008 {
        ports.push((source, sent(&bench, "from_endpoint", a.ifindex, &udp4(&a, FAR4, (source, 53))).0));
    }
    for (source, port) in ports {
        assert_eq!(sent(&bench, "from_network", bench.uplink, &answer(port)), (53, source));
    }
    assert_eq!(
        sent(&bench, "from_endpoint", a.ifindex, &tcp4(&a, FAR4, (40_000, 53), TCP_ACK)).0,
        established
    );
}

/// A connection that an endpoint has, and the port that it leaves from.
type Connection = (u16, u16);

/// Opens connections to one destination until it is refused some in a row; `most` at most.
fn connect_many(bench: &Bench, from: &Local, first: u16, most: usize) -> Vec<Connection> {
    let (mut connections, mut refused) = (Vec::new(), 0);
    for source in first.. {
        if refused == 8 || connections.len() == most {
            break;
        }
        let syn = tcp4(from, FAR4, (source, 443), TCP_SYN);
        let ran = bench.run("from_endpoint", from.ifindex, &syn).unwrap();
        if ran.action == DROP {
            refused += 1;
            continue;
        }
        refused = 0;
        connections.push((source, connect(bench, from, (source, 443))));
    }
    connections
}

/// Those of an endpoint's connections that still leave from their ports.
fn lasting(bench: &Bench, from: &Local, connections: &[Connection]) -> usize {
    let goes_on = |(source, port): &&Connection| {
        let ack = tcp4(from, FAR4, (*source, 443), TCP_ACK);
        let ran = bench.run("from_endpoint", from.ifindex, &ack).unwrap();
        ran.action == REDIRECT && seen(&ran.packet).ports.0 == *port
    };
    connections.iter().filter(goes_on).count()
}

/// So many endpoints with as many connections each as `each` says.
fn greedy(bench: &Bench, number: u8, each: usize) -> Vec<(Local, Vec<Connection>)> {
    let pods = (0..number).map(|at| bench.add_another(100 + at).unwrap());
    pods.map(|pod| (pod, connect_many(bench, &pod, 40_000, each))).collect()
}

#[test]
fn several_who_have_all_ports_of_a_destination_give_some_to_who_has_none() {
    // With a port in every six, ten, fifteen. The one that comes has half as many as each of the others then.
    for (number, each, gets) in [(2, 15, 6), (3, 10, 4), (5, 6, 3)] {
        let bench = Bench::new(&Knobs { ports: 30, tick: Some(1_000), ..Knobs::default() }).unwrap();
        let honest = bench.b;
        let others = greedy(&bench, number, each);
        assert!(others.iter().all(|(_, connections)| connections.len() == each));
        let own = connect_many(&bench, &honest, 50_000, usize::MAX);
        assert_eq!(own.len(), gets, "beside {number}");
        // Each of them tries for more, and gets none of what is others'.
        for (pod, _) in &others {
            assert_eq!(connect_many(&bench, pod, 60_000, usize::MAX), []);
        }
        assert_eq!(lasting(&bench, &honest, &own), gets);
        // Nobody else has lost a connection, and of those nobody more than another.
        let left: Vec<_> =
            others.iter().map(|(pod, connections)| lasting(&bench, pod, connections)).collect();
        assert_eq!(left.iter().sum::<usize>(), 30 - gets, "{left:?}");
        assert!(left.iter().max().unwrap() - left.iter().min().unwrap() <= 1, "{left:?}");
    }
}

#[test]
fn who_gives_a_port_to_another_gives_that_which_was_idle_for_longest() {
    let bench = Bench::new(&Knobs { ports: 30, tick: Some(1_000), ..Knobs::default() }).unwrap();
    let others = greedy(&bench, 3, 10);
    bench.set_tick(1_010).unwrap();
    for (pod, connections) in &others {
        assert_eq!(lasting(&bench, pod, &connections[1..]), 9);
    }
    let own = connect_many(&bench, &bench.b, 50_000, 3);
    let idle: HashSet<_> = others.iter().map(|(_, connections)| connections[0].1).collect();
    assert_eq!(own.iter().map(|(_, port)| *port).collect::<HashSet<_>>(), idle);
}

#[test]
fn who_asks_in_vain_for_ever_does_not_keep_ports_from_another() {
    let bench = Bench::new(&Knobs { ports: 3_000, tick: Some(1_000), ..Knobs::default() }).unwrap();
    let others = greedy(&bench, 3, 1_000);
    // What the processor has for searches in a tick is spent. They have as many as each other, so but for chance nobody loses one.
    for (pod, connections) in &others {
        assert_eq!(connections.len(), 1_000);
        for source in 1_000..1_200 {
            let syn = tcp4(pod, FAR4, (source, 443), TCP_SYN);
            bench.run("from_endpoint", pod.ifindex, &syn).unwrap();
        }
    }
    let (confirmed, _) = bench.stages4().unwrap();
    assert!(confirmed >= 2 * (3_000 - 10), "{confirmed} of 6000 entries are left");
    let own = connect_many(&bench, &bench.b, 50_000, 100);
    assert_eq!(own.len(), 100);
    assert_eq!(lasting(&bench, &bench.b, &own), 100);
}

/// What the source port of a SYN becomes, if it leaves.
fn begin(bench: &Bench, from: &Local, source: u16) -> Option<u16> {
    let syn = tcp4(from, FAR4, (source, 443), TCP_SYN);
    let ran = bench.run("from_endpoint", from.ifindex, &syn).unwrap();
    (ran.action == REDIRECT).then(|| seen(&ran.packet).ports.0)
}

/// Whether an answered handshake comes to its end with the port that it began with.
fn ends(bench: &Bench, from: &Local, source: u16, port: u16) -> bool {
    let answer = network4(bench, FAR4, NODE4, (443, port), TCP_SYN_ACK);
    let ran = bench.run("from_network", bench.uplink, &answer).unwrap();
    let ack = tcp4(from, FAR4, (source, 443), TCP_ACK);
    ran.action == REDIRECT
        && seen(&ran.packet).ports.1 == source
        && sent(bench, "from_endpoint", from.ifindex, &ack).0 == port
}

#[test]
fn handshakes_at_a_destination_without_free_ports_do_not_displace_each_other() {
    let bench = Bench::new(&Knobs { ports: 300, tick: Some(1_000), ..Knobs::default() }).unwrap();
    assert_eq!(connect_many(&bench, &bench.a, 40_000, 300).len(), 300);
    let others: Vec<_> = (0..3).map(|at| bench.add_another(100 + at).unwrap()).collect();
    let mut begun = Vec::new();
    for source in 50_000..50_010 {
        for pod in &others {
            begun.push((pod, source, begin(&bench, pod, source).unwrap()));
        }
    }
    let ports: HashSet<_> = begun.iter().map(|(.., port)| *port).collect();
    assert_eq!(ports.len(), 30);
    for (pod, source, port) in begun {
        assert!(ends(&bench, pod, source, port), "{source} from {port}");
    }
}

#[test]
fn who_never_follows_up_displaces_no_handshake_of_another() {
    let bench = Bench::new(&Knobs { ports: 300, tick: Some(1_000), ..Knobs::default() }).unwrap();
    let [greedy, flooding, honest] = [0, 1, 2].map(|at| bench.add_another(100 + at).unwrap());
    assert_eq!(connect_many(&bench, &greedy, 40_000, 300).len(), 300);
    let flood = |from: u16| {
        for source in from..from + 400 {
            begin(&bench, &flooding, source);
        }
    };
    flood(1_000);
    let mut own = Vec::new();
    for (number, source) in (50_000..50_020).enumerate() {
        let port = begin(&bench, &honest, source).unwrap();
        flood(2_000 + 400 * u16::try_from(number).unwrap());
        assert!(ends(&bench, &honest, source, port), "{number}");
        own.push((source, port));
        bench.set_tick(1_001 + u32::try_from(number).unwrap()).unwrap();
    }
    assert_eq!(lasting(&bench, &honest, &own), 20);
}

#[test]
fn an_old_question_without_an_answer_gives_way_before_a_connection_does() {
    let bench = Bench::new(&Knobs { ports: 30, tick: Some(1_000), ..Knobs::default() }).unwrap();
    let [greedy, asking, honest] = [0, 1, 2].map(|at| bench.add_another(100 + at).unwrap());
    let connections = connect_many(&bench, &greedy, 40_000, 29);
    let asked = begin(&bench, &asking, 1_000).unwrap();
    bench.set_tick(1_001).unwrap();
    assert_eq!(begin(&bench, &honest, 50_000), Some(asked));
    assert_eq!(lasting(&bench, &greedy, &connections), 29);
}

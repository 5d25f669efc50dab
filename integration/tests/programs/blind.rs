//! Who sends from somebody else's address hears no answer, so cannot acknowledge one: its flows never count as connections.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bpf::layout::{CT_CONFIRMED, POSTURE_EGRESS, POSTURE_INGRESS};
use etherparse::PacketBuilder;
use integration::programs::{Bench, DROP, FAR4, FAR6, Knobs, Local, NODE4, NODE6, REDIRECT, Served};

use crate::packets::*;

/// A TCP segment: its flags by their letters, its sequence number and what it acknowledges.
type Segment = (&'static str, u32, u32);

/// What it is called, the first segment, what both sides send then (`true`: the opener), and whether that is a connection.
type Case = (&'static str, Segment, Vec<(bool, Segment)>, bool);

/// Numbers that a server may begin with: some where the upper half changes, or all of it does.
const BEGINNINGS: [u32; 4] = [0x1234_5678, 0x7fff_ffff, 0x0004_fffe, 0xffff_ffff];
/// What somebody guesses: far from each of them.
const GUESS: u32 = 0x4abc_0000;

/// Where one side of a flow sends.
#[derive(Clone, Copy)]
struct Side {
    program: &'static str,
    local: Local,
    from: (IpAddr, u16),
    to: (IpAddr, u16),
}

impl Side {
    fn frame(&self, (flags, sequence, acknowledged): Segment) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(self.local.mac, self.local.host_mac);
        let builder = match (self.from.0, self.to.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
            other => panic!("two families: {other:?}"),
        };
        let mut step = builder.tcp(self.from.1, self.to.1, sequence, 65_000);
        for flag in flags.chars() {
            step = match flag {
                'S' => step.syn(),
                'F' => step.fin(),
                'R' => step.rst(),
                'A' => step.ack(acknowledged),
                other => panic!("no flag {other}"),
            };
        }
        let mut frame = Vec::new();
        step.write(&mut frame, &[]).unwrap();
        frame
    }
}

/// A flow from its first packet on: as each side sees it.
struct Flow<'b> {
    bench: &'b Bench,
    opener: Side,
    replier: Side,
}

/// The ways of a flow: the wire to an endpoint, by a node port to a backend on another node, an endpoint out, and to another.
const WAYS: [&str; 4] = ["to an endpoint", "to a node port", "out", "between endpoints"];

impl<'b> Flow<'b> {
    fn begin(bench: &'b Bench, way: &str, six: bool, number: u16, first: Segment) -> Self {
        let pick = |four: Ipv4Addr, of_six: Ipv6Addr| if six { IpAddr::V6(of_six) } else { IpAddr::V4(four) };
        let address = |local: &Local| pick(local.ipv4, local.ipv6);
        let (a, b) = (bench.a, bench.b);
        let wire = Local { ifindex: bench.uplink, mac: [2; 6], host_mac: bench.uplink_mac, ..a };
        let far = pick(FAR4, FAR6);
        let stranger = pick(Ipv4Addr::new(100, 64, 0, 9), Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 9));
        let opens = 40_000 + number;
        let (local, from, to, at) = match way {
            "to an endpoint" => (wire, stranger, (address(&a), 80), ("from_endpoint", a)),
            "to a node port" => (wire, stranger, (pick(NODE4, NODE6), 30_080), ("from_network", wire)),
            "out" => (a, address(&a), (far, 443), ("from_network", wire)),
            "between endpoints" => (b, address(&b), (address(&a), 80), ("from_endpoint", a)),
            other => panic!("no way {other}"),
        };
        let program = if local.ifindex == bench.uplink { "from_network" } else { "from_endpoint" };
        let opener = Side { program, local, from: (from, opens), to };
        let ran = bench.run(program, local.ifindex, &opener.frame(first)).unwrap();
        assert_eq!(ran.action, REDIRECT, "{way}: {:?}", bench.drops());
        let as_seen = seen(&ran.packet);
        let replier = Side {
            program: at.0,
            local: at.1,
            from: (as_seen.destination, as_seen.ports.1),
            to: (as_seen.source, as_seen.ports.0),
        };
        Self { bench, opener, replier }
    }

    #[track_caller]
    fn send(&self, side: &Side, segment: Segment) {
        let ran = self.bench.run(side.program, side.local.ifindex, &side.frame(segment)).unwrap();
        assert_eq!(ran.action, REDIRECT, "{segment:?}: {:?}", self.bench.drops());
    }

    #[track_caller]
    fn opener(&self, segment: Segment) {
        self.send(&self.opener, segment);
    }

    #[track_caller]
    fn replier(&self, segment: Segment) {
        self.send(&self.replier, segment);
    }

    /// A whole handshake.
    fn connect(bench: &'b Bench, way: &str, six: bool, number: u16) -> Self {
        let flow = Self::begin(bench, way, six, number, ("S", 1, 0));
        flow.replier(("SA", 0x9000_0000, 2));
        flow.opener(("A", 2, 0x9000_0001));
        flow
    }
}

/// How many entries count as connections' or streams', and how many others there are.
fn stages(bench: &Bench) -> (usize, usize) {
    let four = bench.flows4().unwrap().into_iter().map(|(_, entry)| entry.flags);
    let six = bench.flows6().unwrap().into_iter().map(|(_, entry)| entry.flags);
    let (confirmed, others): (Vec<u32>, Vec<u32>) = four.chain(six).partition(|it| it & CT_CONFIRMED != 0);
    (confirmed.len(), others.len())
}

fn with_node_ports() -> Bench {
    let bench = bench();
    bench.serve(&Served::tcp(1, (NODE4, 30_080).into(), &[(FAR4, 8080).into()])).unwrap();
    bench.serve(&Served::tcp(2, (NODE6, 30_080).into(), &[(FAR6, 8080).into()])).unwrap();
    bench
}

/// Whether a flow is a connection after what both sides send. `true` is the opener.
fn is_connection(bench: &Bench, way: &str, six: bool, first: Segment, then: &[(bool, Segment)]) -> bool {
    bench.forget_flows().unwrap();
    let flow = Flow::begin(bench, way, six, 0, first);
    for (by_opener, segment) in then {
        flow.send(if *by_opener { &flow.opener } else { &flow.replier }, *segment);
    }
    let (confirmed, others) = stages(bench);
    assert!(confirmed == 0 || others == 0, "{way}, {then:x?}: both views know it");
    confirmed > 0
}

#[test]
fn a_connection_is_what_its_opener_has_heard_the_answer_of() {
    const OPENER: bool = true;
    const REPLIER: bool = false;
    let bench = with_node_ports();
    let syn = ("S", 1, 0);
    for way in WAYS {
        for six in [false, true] {
            for begins in BEGINNINGS {
                let (answer, next) = ((REPLIER, ("SA", begins, 2)), begins.wrapping_add(1));
                let acknowledges = |number| (OPENER, ("A", 2, number));
                let forged = acknowledges(GUESS);
                // What the endpoint answers to that: a reset whose number is the forged one.
                let refusal = (REPLIER, ("R", GUESS, 0));
                let refused = (REPLIER, ("RA", 0, 2));
                let mut cases: Vec<Case> = vec![
                    ("a handshake", syn, vec![answer, acknowledges(next)], true),
                    (
                        "data came with the answer",
                        syn,
                        vec![answer, acknowledges(next.wrapping_add(0xffff))],
                        true,
                    ),
                    ("closed at once", syn, vec![answer, (OPENER, ("FA", 2, next))], true),
                    ("blind", syn, vec![answer, forged, refusal, forged, forged], false),
                    ("blind, at once", syn, vec![forged, answer, forged, refusal], false),
                    ("a number before", syn, vec![answer, acknowledges(next.wrapping_sub(0x2_0000))], false),
                    ("a number behind", syn, vec![answer, acknowledges(next.wrapping_add(0x3_0000))], false),
                    ("a blind end", syn, vec![answer, (OPENER, ("FA", 2, GUESS))], false),
                    (
                        "an end of nothing",
                        syn,
                        vec![answer, (OPENER, ("F", 2, 0)), (OPENER, ("F", 2, 0))],
                        false,
                    ),
                    ("reset by the opener", syn, vec![answer, (OPENER, ("R", 2, 0)), forged], false),
                    ("reset at once", syn, vec![(OPENER, ("R", 2, 0)), forged, answer, forged], false),
                    ("a closed port", syn, vec![refused, acknowledges(0), acknowledges(1)], false),
                    ("of nothing, at a closed port", ("A", 2, GUESS), vec![refusal, forged, forged], false),
                    ("the honest one goes on", syn, vec![answer, forged, refusal, acknowledges(next)], true),
                    (
                        "picked up",
                        ("A", 2, next),
                        vec![(REPLIER, ("A", begins, 9)), acknowledges(next)],
                        true,
                    ),
                    (
                        "picked up, much is under way",
                        ("A", 2, next),
                        vec![(REPLIER, ("A", begins, 9)), acknowledges(begins.wrapping_sub(0xc_0000))],
                        true,
                    ),
                    (
                        // What an endpoint answers to a second SYN before it is sure of the first.
                        "an answer that is no SYN widens nothing",
                        syn,
                        vec![
                            answer,
                            forged,
                            refusal,
                            (OPENER, ("S", 0x1000_0000, 0)),
                            (REPLIER, ("A", begins, 2)),
                            acknowledges(begins.wrapping_add(0x8_0000)),
                            acknowledges(begins.wrapping_sub(0xc_0000)),
                        ],
                        false,
                    ),
                    (
                        "picked up by a stranger",
                        ("A", 2, GUESS),
                        vec![(REPLIER, ("A", begins, 9)), forged],
                        false,
                    ),
                ];
                if way != "to a node port" {
                    let both =
                        vec![(REPLIER, ("S", begins, 0)), (OPENER, ("SA", 1, next)), acknowledges(next)];
                    cases.push(("both open", syn, both, true));
                }
                for (name, first, then, wanted) in cases {
                    let is = is_connection(&bench, way, six, first, &then);
                    assert_eq!(is, wanted, "{name}, {way}, IPv6: {six}, from {begins:#x}");
                }
            }
        }
    }
}

#[test]
fn blind_acknowledgements_displace_nothing_but_their_like() {
    let bench = Bench::new(&Knobs { waiting: 8_192, ..Knobs::default() }).unwrap();
    bench.serve(&Served::tcp(1, (NODE4, 30_080).into(), &[(FAR4, 8080).into()])).unwrap();
    bench.serve(&Served::tcp(2, (NODE6, 30_080).into(), &[(FAR6, 8080).into()])).unwrap();
    for six in [false, true] {
        bench.forget_flows().unwrap();
        let idle: Vec<_> = ["out", "to a node port", "between endpoints"]
            .iter()
            .map(|way| Flow::connect(&bench, way, six, 20_000))
            .collect();
        assert_eq!(stages(&bench), (5, 0), "two views of what is translated");
        for number in 0..10_000_u16 {
            let way = ["to an endpoint", "to a node port"][usize::from(number % 2)];
            let flow = Flow::begin(&bench, way, six, number, ("S", 1, 0));
            if number % 3 == 0 {
                // A closed port.
                flow.replier(("RA", 0, 2));
            } else {
                flow.replier(("SA", u32::from(number) << 16, 2));
            }
            flow.opener(("A", 2, GUESS));
            flow.replier(("R", GUESS, 0));
            flow.opener(("A", 2, GUESS));
        }
        let (confirmed, others) = stages(&bench);
        assert_eq!(confirmed, 5);
        assert!(others <= 8_192, "{others} wait");
        // Their servers speak next.
        for flow in &idle {
            flow.replier(("A", 0x9000_0001, 2));
        }
    }
}

#[test]
fn the_ports_of_what_a_pod_has_ended_or_never_begun_are_free_for_others() {
    for (kind, honest) in [("blind", false), ("reset", true)] {
        let bench = Bench::new(&Knobs { ports: 300, ..Knobs::default() }).unwrap();
        let b = bench.b;
        let flows: Vec<_> = (0..300)
            .map(|number| {
                if honest {
                    return Flow::connect(&bench, "out", false, number);
                }
                let flow = Flow::begin(&bench, "out", false, number, ("S", 1, 0));
                flow.replier(("SA", 0x9000_0000, 2));
                flow.opener(("A", 2, GUESS));
                flow
            })
            .collect();
        for flow in flows.iter().filter(|_| honest) {
            flow.opener(("R", 2, 0));
        }
        assert_eq!(stages(&bench), if honest { (600, 0) } else { (0, 600) }, "{kind}");
        for number in 0..50 {
            let syn = tcp4(&b, FAR4, (50_000 + number, 443), TCP_SYN);
            let ran = bench.run("from_endpoint", b.ifindex, &syn).unwrap();
            assert_eq!(ran.action, REDIRECT, "{kind}, {number}: {:?}", bench.drops());
        }
    }
}

#[test]
fn a_forged_reset_gives_nobodys_port_away() {
    let bench = Bench::new(&Knobs { ports: 300, ..Knobs::default() }).unwrap();
    let a = bench.a;
    for number in 0..300 {
        Flow::connect(&bench, "out", false, number).replier(("R", 5, 0));
    }
    let syn = tcp4(&a, FAR4, (50_000, 443), TCP_SYN);
    assert_eq!(bench.run("from_endpoint", a.ifindex, &syn).unwrap().action, DROP);
}

/// A segment that looks like an answer makes its receiver the opener of what nobody remembers. That one may open such a connection
/// does not say that the sender may.
#[test]
fn who_looks_like_a_server_opens_no_connection_by_it() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let wire = Local { ifindex: bench.uplink, mac: [2; 6], host_mac: bench.uplink_mac, ..a };
    for six in [false, true] {
        let pick = |four: Ipv4Addr, of_six: Ipv6Addr| if six { IpAddr::V6(of_six) } else { IpAddr::V4(four) };
        let [at_a, at_b] = [&a, &b].map(|local| pick(local.ipv4, local.ipv6));
        let far = pick(FAR4, FAR6);
        let server = |program, local, from, to| Side { program, local, from: (from, 80), to: (to, 50_051) };
        let ways = [
            (
                "a pod to one that nobody may reach",
                server("from_endpoint", a, at_a, at_b),
                (b, POSTURE_INGRESS),
            ),
            ("the wire to it", server("from_network", wire, far, at_b), (b, POSTURE_INGRESS)),
            (
                "one that may reach nobody, to a pod",
                server("from_endpoint", a, at_a, at_b),
                (a, POSTURE_EGRESS),
            ),
            ("the same, out", server("from_endpoint", a, at_a, far), (a, POSTURE_EGRESS)),
        ];
        for (way, server, (isolated, posture)) in ways {
            let run = |side: &Side, segment| {
                let dropped = || {
                    let drops = bench.tally().unwrap().drops;
                    let of_policy = drops.iter().filter(|(name, _)| name.starts_with("policy_"));
                    of_policy.map(|(_, count)| *count).sum::<u64>()
                };
                let before = dropped();
                let ran = bench.run(side.program, side.local.ifindex, &side.frame(segment)).unwrap();
                (ran.action, dropped() - before)
            };
            let client = Side { program: "from_endpoint", local: b, from: server.to, to: server.from };
            let (passes, refused) = ((REDIRECT, 0), (DROP, 1));
            bench.forget_flows().unwrap();
            bench.isolate(&isolated, posture).unwrap();
            bench.raise_epoch().unwrap();
            assert_eq!(run(&server, ("S", 1, 0)), refused, "{way}, IPv6: {six}: nothing is remembered");
            // The other side could have opened it.
            assert_eq!(run(&server, ("A", 1_000, 2_000)), passes, "{way}, IPv6: {six}: an answer");
            for _ in 0..3 {
                assert_eq!(
                    run(&server, ("S", 1, 0)),
                    refused,
                    "{way}, IPv6: {six}: after an answer: {:?}",
                    bench.drops()
                );
            }
            if server.to.0 == at_b && server.from.0 == at_a {
                // Nor by a connection that the other side has opened; and that goes on.
                bench.forget_flows().unwrap();
                assert_eq!(run(&client, ("S", 1, 0)), passes, "{way}, IPv6: {six}");
                assert_eq!(run(&server, ("SA", 0x9000_0000, 2)), passes, "{way}, IPv6: {six}");
                assert_eq!(run(&client, ("A", 2, 0x9000_0001)), passes, "{way}, IPv6: {six}");
                assert_eq!(stages(&bench), (1, 0));
                assert_eq!(run(&server, ("S", 1, 0)), refused, "{way}, IPv6: {six}: in a connection");
                assert_eq!(stages(&bench), (1, 0), "it stays one");
                assert_eq!(run(&server, ("A", 0x9000_0001, 2)), passes, "{way}, IPv6: {six}");
                assert_eq!(run(&client, ("A", 2, 0x9000_0001)), passes, "{way}, IPv6: {six}");
            }
            bench.isolate(&isolated, 0).unwrap();
            bench.raise_epoch().unwrap();
        }
    }
}

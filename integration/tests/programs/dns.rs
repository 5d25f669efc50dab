//! DNS names: an address that an endpoint was told for a name counts as that name, for that endpoint alone.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use bpf::sizes::PolicySizes;
use etherparse::PacketBuilder;
use integration::{
    dns_message::{A, AAAA, Message, Record},
    programs::{DROP, FAR4, FAR6, Knobs, Local, REDIRECT},
};
use ipamd_datapath::{PolicyTables, Resolver};
use ipamd_model::{
    domain::DomainId,
    endpoint::Slot,
    policy::{
        Direction,
        protocol::{TCP, UDP},
    },
};
use ipamd_policy::tables::{
    ClassId, DomainList, EntryKey, EntryOf, EntryValue, Outcome, Posture, RuleId, Tables,
};
use proptest::{collection::vec, prelude::*};

use crate::{packets::*, stage::Stage};

const RESOLVER_PORT: u16 = 53;
/// The rule that denies.
const DENIES: RuleId = RuleId(1);
/// The rule that allows by name.
const BY_NAME: RuleId = RuleId(2);
const TICK: u32 = 1000;

/// Two endpoints that may send to the resolver, and to what has a name below example.com; a third one is the resolver.
struct Scene {
    stage: Stage,
    tables: PolicyTables,
    resolver: Local,
}

fn pattern_key(list: DomainList, id: u16) -> (EntryKey, EntryValue) {
    let of = EntryOf::Domain(list, DomainId(id));
    let key = EntryKey { of, protocol: None, port: 0, port_bits: 0 };
    (key, EntryValue { outcome: Outcome::Allow, rule: BY_NAME, log: None, domains: None })
}

impl Scene {
    /// `ask`: policy lets them ask the resolver about anything.
    fn new(ask: bool) -> Self {
        let stage = Stage::with(&Knobs { tick: Some(TICK), ..Knobs::default() });
        let mut tables =
            PolicyTables::open(Arc::clone(&stage.datapath), &stage.config.pins, PolicySizes::default())
                .unwrap();
        let resolver = stage.bench.add_another(9).unwrap();
        let at = |ip: IpAddr| {
            [UDP, TCP].map(|protocol| Resolver { at: SocketAddr::new(ip, RESOLVER_PORT), protocol })
        };
        let resolvers = [at(resolver.ipv4.into()), at(resolver.ipv6.into())].into_iter().flatten().collect();
        assert!(stage.datapath.set_resolvers(&resolvers).unwrap().is_empty());
        let of = EntryOf::Class(Direction::Egress, ClassId::ANY);
        let deny =
            EntryValue { outcome: Outcome::Deny, rule: DENIES, log: None, domains: Some(DomainList(1)) };
        let allow = EntryValue { outcome: Outcome::Allow, rule: RuleId(3), log: None, domains: None };
        let mut entries = vec![
            (EntryKey { of, protocol: None, port: 0, port_bits: 0 }, deny),
            pattern_key(DomainList(1), 7),
            pattern_key(DomainList::ALL, 7),
        ];
        if ask {
            entries.extend([UDP, TCP].map(|protocol| {
                (EntryKey { of, protocol: Some(protocol), port: RESOLVER_PORT, port_bits: 16 }, allow)
            }));
        }
        let map = tables.add_map(&entries).unwrap();
        let posture = Posture { map: Some(map), ingress: false, egress: true };
        for local in [stage.bench.a, stage.bench.b] {
            tables.put_posture(Slot(local.slot), posture).unwrap();
        }
        tables
            .put_domains(&[
                ("*.example.com".parse().unwrap(), DomainId(7)),
                ("*.other.org".parse().unwrap(), DomainId(8)),
            ])
            .unwrap();
        Self { stage, tables, resolver }
    }

    /// Sends a message from an endpoint to the resolver, or back. Returns whether it passes.
    fn message(&self, ends: (&Local, &Local), ports: (u16, u16), bytes: &[u8]) -> bool {
        let mut packet = Vec::new();
        PacketBuilder::ethernet2(ends.0.mac, ends.0.host_mac)
            .ipv4(ends.0.ipv4.octets(), ends.1.ipv4.octets(), 64)
            .udp(ports.0, ports.1)
            .write(&mut packet, bytes)
            .unwrap();
        self.stage.bench.run("from_endpoint", ends.0.ifindex, &packet).unwrap().action == REDIRECT
    }

    fn ask(&self, who: &Local, port: u16, question: &Message) -> bool {
        self.message((who, &self.resolver), (port, RESOLVER_PORT), &question.bytes())
    }

    fn answer(&self, who: &Local, port: u16, answer: &Message) -> bool {
        self.message((&self.resolver, who), (RESOLVER_PORT, port), &answer.bytes())
    }

    /// Whether an endpoint may open a connection from that port.
    fn connects(&self, who: &Local, to: IpAddr, port: u16) -> bool {
        let packet = match to {
            IpAddr::V4(to) => tcp4(who, to, (port, 443), TCP_SYN),
            IpAddr::V6(to) => tcp6(who, to, (port, 443), TCP_SYN),
        };
        match self.stage.bench.run("from_endpoint", who.ifindex, &packet).unwrap().action {
            REDIRECT => true,
            DROP => false,
            other => panic!("{other}"),
        }
    }

    /// An endpoint asks and is told that address.
    #[track_caller]
    fn told(&self, who: &Local, name: &str, address: IpAddr) {
        let question = Message::question(77, name, if address.is_ipv4() { A } else { AAAA });
        assert!(self.ask(who, 40_000, &question));
        assert!(self.answer(who, 40_000, &question.answered(vec![Record::address(address, 300)])));
    }
}

#[test]
fn an_answer_opens_its_addresses_to_who_has_asked() {
    let scene = Scene::new(true);
    let (a, b) = (scene.stage.bench.a, scene.stage.bench.b);
    for (port, to) in [(41_000, IpAddr::from(FAR4)), (41_001, FAR6.into())] {
        assert!(!scene.connects(&a, to, port));
        scene.told(&a, "www.example.com", to);
        assert!(scene.connects(&a, to, port));
        assert!(!scene.connects(&b, to, port), "only who has asked");
    }
    assert_eq!(scene.tables.hits(BY_NAME).unwrap(), 2);
    assert_eq!(scene.tables.hits(DENIES).unwrap(), 4);
}

#[test]
fn names_are_compared_in_small_letters_and_as_a_whole() {
    let scene = Scene::new(true);
    let a = scene.stage.bench.a;
    let long =
        format!("{}.example.com", ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(49)].join("."));
    assert_eq!(long.len(), 253);
    for (at, (name, opens)) in [
        ("WWW.eXample.COM", true),
        ("a.b.c_1-2.example.com", true),
        (&*long, true),
        ("example.com", false),
        ("wwwexample.com", false),
        ("www.example.com.evil.net", false),
        ("www.other.org", false),
        ("www.ex\u{e4}mple.com", false),
    ]
    .into_iter()
    .enumerate()
    {
        let to = IpAddr::from([198, 51, 100, u8::try_from(at).unwrap() + 1]);
        scene.told(&a, name, to);
        assert_eq!(scene.connects(&a, to, 41_000), opens, "{name}");
    }
}

#[test]
fn every_address_of_an_answer_counts_also_behind_other_names() {
    let scene = Scene::new(true);
    let a = scene.stage.bench.a;
    let question = Message { edns: true, ..Message::question(5, "www.example.com", A) };
    assert!(scene.ask(&a, 40_000, &question));
    let address = |last: u8| IpAddr::from([198, 51, 100, last]);
    let mut answers =
        vec![Record::cname("edge.cdn.net", 60), Record::cname("far.cdn.net", 60).of("edge.cdn.net")];
    answers.extend((1..=40).map(|last| Record::address(address(last), 60).of("far.cdn.net")));
    assert!(scene.answer(&a, 40_000, &question.answered(answers)));
    for last in 1..=40 {
        assert!(scene.connects(&a, address(last), 41_000 + u16::from(last)), "{last}");
    }
    assert!(!scene.connects(&a, address(41), 41_041));
}

#[test]
fn what_was_not_asked_opens_nothing() {
    let scene = Scene::new(true);
    let (a, b) = (scene.stage.bench.a, scene.stage.bench.b);
    let question = Message::question(5, "www.example.com", A);
    let right = question.answered(vec![Record::address(FAR4.into(), 300)]);
    let port = 40_000;
    // A flow to the resolver is there, and the endpoint has asked about another name.
    assert!(scene.ask(&a, port, &Message::question(4, "some.example.com", A)));
    assert!(scene.ask(&b, port, &question), "somebody else has asked");
    for wrong in [
        right.clone(),
        Message { id: 4, ..right.clone() },
        Message { id: 4, name: "some.example.com".into(), kind: AAAA, ..right.clone() },
        Message { id: 4, name: "some.example.com".into(), flags: 0x0100, ..right.clone() },
    ] {
        scene.answer(&a, port, &wrong);
        assert!(!scene.connects(&a, FAR4.into(), 41_000), "{wrong:?}");
    }
    // By another port, and from somebody who is no resolver.
    assert!(scene.ask(&a, port, &question));
    scene.answer(&a, port + 1, &right);
    scene.message((&b, &a), (RESOLVER_PORT, port), &right.bytes());
    assert!(!scene.connects(&a, FAR4.into(), 41_000));
    // Too late.
    scene.stage.bench.set_tick(TICK + 11).unwrap();
    scene.answer(&a, port, &right);
    assert!(!scene.connects(&a, FAR4.into(), 41_000));
    // The same in time; and one question has one answer.
    assert!(scene.ask(&a, port, &question));
    assert!(scene.answer(&a, port, &right));
    assert!(scene.connects(&a, FAR4.into(), 41_000));
    let more = question.answered(vec![Record::address(Ipv4Addr::new(198, 51, 100, 9).into(), 300)]);
    assert!(scene.answer(&a, port, &more));
    assert!(!scene.connects(&a, Ipv4Addr::new(198, 51, 100, 9).into(), 41_000));
}

#[test]
fn a_name_expires_for_new_flows_and_live_ones_go_on() {
    let scene = Scene::new(true);
    let a = scene.stage.bench.a;
    scene.told(&a, "www.example.com", FAR4.into());
    assert!(scene.connects(&a, FAR4.into(), 41_000));
    scene.stage.bench.set_tick(TICK + 281).unwrap();
    assert!(scene.connects(&a, FAR4.into(), 41_001), "300 s are 281 ticks");
    scene.stage.bench.set_tick(TICK + 283).unwrap();
    assert!(!scene.connects(&a, FAR4.into(), 41_002));
    // The verdict of a live flow is asked for again.
    scene.stage.bench.raise_epoch().unwrap();
    let again = tcp4(&a, FAR4, (41_001, 443), TCP_ACK);
    assert_eq!(scene.stage.bench.run("from_endpoint", a.ifindex, &again).unwrap().action, REDIRECT);
    let unknown = tcp4(&a, FAR4, (41_003, 443), TCP_ACK);
    assert_eq!(scene.stage.bench.run("from_endpoint", a.ifindex, &unknown).unwrap().action, DROP);
}

#[test]
fn a_pattern_that_comes_later_uses_what_was_told_before() {
    let mut scene = Scene::new(true);
    let a = scene.stage.bench.a;
    scene.told(&a, "www.late.net", FAR4.into());
    assert!(!scene.connects(&a, FAR4.into(), 41_000));
    let domains =
        [("*.late.net", 7), ("www.late.net", 9)].map(|(text, id)| (text.parse().unwrap(), DomainId(id)));
    scene.tables.put_domains(&domains).unwrap();
    assert!(scene.connects(&a, FAR4.into(), 41_000));
    let mut known = scene.tables.domains().unwrap();
    known.sort_by_key(|(_, id)| *id);
    assert_eq!(known, domains);
    // And one that goes takes it back.
    scene.tables.put_domains(&domains[1..]).unwrap();
    assert!(!scene.connects(&a, FAR4.into(), 41_001));
}

#[test]
fn an_endpoint_that_may_send_nothing_else_may_ask_about_the_names_of_its_rules() {
    let scene = Scene::new(false);
    let a = scene.stage.bench.a;
    scene.told(&a, "www.example.com", FAR4.into());
    assert!(scene.connects(&a, FAR4.into(), 41_000));
    // By the same flow.
    assert!(!scene.ask(&a, 40_000, &Message::question(6, "www.other.org", A)));
    assert!(!scene.ask(&a, 40_000, &Message::question(6, "secret.evil.net", A)));
    assert!(!scene.message((&a, &scene.resolver), (40_000, RESOLVER_PORT), b"no message"));
    scene.told(&a, "w3.example.com", Ipv4Addr::new(198, 51, 100, 3).into());
}

#[test]
fn a_message_in_a_segment_counts_too() {
    let scene = Scene::new(true);
    let (a, resolver) = (scene.stage.bench.a, scene.resolver);
    let segment = |from: &Local, to: &Local, ports: (u16, u16), data: &[u8]| {
        let mut packet = Vec::new();
        PacketBuilder::ethernet2(from.mac, from.host_mac)
            .ipv4(from.ipv4.octets(), to.ipv4.octets(), 64)
            .tcp(ports.0, ports.1, 1000, 65_000)
            .ack(7)
            .write(&mut packet, data)
            .unwrap();
        scene.stage.bench.run("from_endpoint", from.ifindex, &packet).unwrap().action
    };
    let syn = tcp4(&a, resolver.ipv4, (40_000, RESOLVER_PORT), TCP_SYN);
    assert_eq!(scene.stage.bench.run("from_endpoint", a.ifindex, &syn).unwrap().action, REDIRECT);
    let question = Message::question(5, "www.example.com", A);
    assert_eq!(segment(&a, &resolver, (40_000, RESOLVER_PORT), &question.framed()), REDIRECT);
    let answer = question.answered(vec![Record::address(FAR4.into(), 300)]);
    assert_eq!(segment(&resolver, &a, (RESOLVER_PORT, 40_000), &answer.framed()), REDIRECT);
    assert!(scene.connects(&a, FAR4.into(), 41_000));
}

/// glibc sends both of its questions in one segment.
#[test]
fn each_message_of_a_segment_counts_and_all_must_be_allowed() {
    let scene = Scene::new(false);
    let (a, resolver) = (scene.stage.bench.a, scene.resolver);
    let segment = |from: &Local, to: &Local, ports: (u16, u16), data: &[u8]| {
        let mut packet = Vec::new();
        PacketBuilder::ethernet2(from.mac, from.host_mac)
            .ipv4(from.ipv4.octets(), to.ipv4.octets(), 64)
            .tcp(ports.0, ports.1, 1000, 65_000)
            .ack(7)
            .write(&mut packet, data)
            .unwrap();
        // A short frame is longer than the packet in it.
        packet.resize(packet.len().max(60), 0);
        scene.stage.bench.run("from_endpoint", from.ifindex, &packet).unwrap().action == REDIRECT
    };
    let asks = |data: &[u8]| segment(&a, &resolver, (40_000, RESOLVER_PORT), data);
    assert!(asks(&[]), "a segment without data");
    let [four, six] = [A, AAAA].map(|kind| Message::question(5, "www.example.com", kind));
    let secret = Message::question(6, "secret.evil.net", A);
    assert!(!asks(&[four.framed(), secret.framed()].concat()));
    assert!(!asks(&[four.framed(), b"secret".to_vec()].concat()));
    assert!(!asks(&(0..5).flat_map(|_| four.framed()).collect::<Vec<_>>()), "more than are read");
    assert!(asks(&[four.framed(), six.framed()].concat()));
    let answers = [
        four.answered(vec![Record::address(FAR4.into(), 300)]),
        six.answered(vec![Record::address(FAR6.into(), 300)]),
    ];
    let both: Vec<u8> = answers.iter().flat_map(Message::framed).collect();
    assert!(segment(&resolver, &a, (RESOLVER_PORT, 40_000), &both));
    assert!(scene.connects(&a, FAR4.into(), 41_000) && scene.connects(&a, FAR6.into(), 41_001));
}

#[test]
fn a_datagram_to_a_resolver_has_nothing_but_one_question() {
    let scene = Scene::new(false);
    let a = scene.stage.bench.a;
    let question = Message::question(5, "www.example.com", A);
    let asks = |bytes: &[u8]| scene.message((&a, &scene.resolver), (40_000, RESOLVER_PORT), bytes);
    assert!(asks(&question.bytes()));
    assert!(asks(&Message { edns: true, ..question.clone() }.bytes()));
    assert!(!asks(&[question.bytes(), b"secret".to_vec()].concat()));
    assert!(!asks(&[Message { edns: true, ..question.clone() }.bytes(), b"secret".to_vec()].concat()));
    assert!(!asks(&question.answered(Vec::new()).bytes()), "an answer");
    let told = question.answered(vec![Record::address(FAR4.into(), 300)]);
    assert!(!asks(&Message { flags: question.flags, ..told }.bytes()), "a question that tells");
}

#[test]
fn a_question_waits_for_an_answer_that_says_something() {
    let scene = Scene::new(true);
    let a = scene.stage.bench.a;
    let question = Message::question(5, "www.example.com", A);
    let other = Message::question(5, "w3.example.com", A);
    for question in [&question, &other] {
        assert!(scene.ask(&a, 40_000, question));
    }
    let nothing = question.answered(Vec::new());
    for error in [2, 3, 5] {
        let told = question.answered(vec![Record::address(FAR4.into(), 300)]);
        assert!(scene.answer(&a, 40_000, &Message { flags: nothing.flags | error, ..told }));
        assert!(!scene.connects(&a, FAR4.into(), 41_000), "an error, {error}");
    }
    // Two questions with one id wait at the same time.
    assert!(scene.answer(
        &a,
        40_000,
        &other.answered(vec![Record::address(Ipv4Addr::new(198, 51, 100, 3).into(), 9)])
    ));
    assert!(scene.answer(&a, 40_000, &question.answered(vec![Record::address(FAR4.into(), 300)])));
    assert!(scene.connects(&a, FAR4.into(), 41_000));
    assert!(scene.connects(&a, Ipv4Addr::new(198, 51, 100, 3).into(), 41_001));
    // An answer to a question about another type tells no address.
    let text = Message::question(6, "www.example.com", 16);
    assert!(scene.ask(&a, 40_000, &text));
    let to = IpAddr::from([198, 51, 100, 4]);
    assert!(scene.answer(&a, 40_000, &text.answered(vec![Record::address(to, 300)])));
    assert!(!scene.connects(&a, to, 41_002));
}

#[test]
fn names_of_no_policy_do_not_push_out_those_that_policies_speak_of() {
    let scene = Scene::new(true);
    let a = scene.stage.bench.a;
    let names = |count: usize| (0..count).map(|at| format!("o{at}.nowhere.net")).collect::<Vec<_>>();
    for name in names(6) {
        scene.told(&a, &name, FAR4.into());
    }
    scene.told(&a, "www.example.com", FAR4.into());
    assert!(scene.connects(&a, FAR4.into(), 41_000));
    for name in names(9) {
        scene.told(&a, &name, FAR4.into());
    }
    assert!(scene.connects(&a, FAR4.into(), 41_001));
}

#[test]
fn the_oldest_record_that_nobody_uses_makes_room() {
    let scene = Scene::new(true);
    let a = scene.stage.bench.a;
    let address = |at: u16| IpAddr::from([198, 51, (at >> 8).to_be_bytes()[1], at.to_be_bytes()[1]]);
    scene.told(&a, "www.example.com", FAR4.into());
    scene.told(&a, "www.example.com", Ipv4Addr::new(203, 0, 113, 1).into());
    assert!(scene.connects(&a, FAR4.into(), 41_000));
    let question = Message::question(5, "www.example.com", A);
    for first in (0..1022).step_by(73) {
        assert!(scene.ask(&a, 40_000, &question));
        let answers = (first..first + 73).map(|at| Record::address(address(at), 300)).collect();
        assert!(scene.answer(&a, 40_000, &question.answered(answers)));
    }
    // There is room for 1,024: the next one takes the place of the second, because the first is used.
    scene.told(&a, "www.example.com", Ipv4Addr::new(203, 0, 113, 2).into());
    assert!(scene.connects(&a, FAR4.into(), 41_001));
    assert!(!scene.connects(&a, Ipv4Addr::new(203, 0, 113, 1).into(), 41_002));
    assert!(scene.connects(&a, Ipv4Addr::new(203, 0, 113, 2).into(), 41_003));
    assert_eq!(scene.stage.datapath.dns_names().unwrap().len(), 1024);
}

#[test]
fn what_an_endpoint_was_told_goes_with_it() {
    let scene = Scene::new(true);
    let a = scene.stage.bench.a;
    scene.told(&a, "www.example.com", FAR4.into());
    assert_eq!(scene.stage.datapath.dns_names_of(a.ipv6.into(), FAR4.into()).unwrap(), ["www.example.com"]);
    assert_eq!(scene.stage.datapath.sweep_names().unwrap().records, 1);
    for address in [a.ipv4.into(), a.ipv6.into()] {
        scene.stage.datapath.remove_endpoint(address).unwrap();
    }
    assert_eq!(scene.stage.datapath.sweep_names().unwrap().records, 0);
}

/// Whatever the bytes are, the programs come to an end, and open nothing that no answer names.
#[test]
fn random_messages_open_nothing() {
    let scene = Scene::new(true);
    let a = scene.stage.bench.a;
    let question = Message::question(5, "www.example.com", A);
    let answer = question.answered(vec![
        Record::cname("edge.cdn.net", 60),
        Record::address(Ipv4Addr::new(198, 51, 100, 7).into(), 60).of("edge.cdn.net"),
    ]);
    let bytes = answer.bytes();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(2000));
    let changes = vec((0..bytes.len(), any::<u8>()), 1..6);
    runner
        .run(&(changes, 0..bytes.len()), |(changes, cut)| {
            prop_assert!(scene.ask(&a, 40_000, &question));
            let mut bytes = bytes.clone();
            for (at, value) in changes {
                bytes[at] = value;
            }
            bytes.truncate(bytes.len() - cut);
            scene.message((&scene.resolver, &a), (RESOLVER_PORT, 40_000), &bytes);
            prop_assert!(!scene.connects(&a, FAR4.into(), 41_000));
            Ok(())
        })
        .unwrap();
}

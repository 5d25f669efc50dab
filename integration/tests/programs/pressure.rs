//! Floods: nobody takes another's share of what all share, and nothing established is lost to them.

use std::net::{IpAddr, Ipv4Addr};

use bpf::layout::{CtKey, LIFETIMES};
use integration::programs::{Bench, DROP, FAR4, FAR6, Knobs, Local, NODE4, REDIRECT, Served};
use integration::testbed::time_passes;

use crate::packets::*;

/// A client beyond the uplink.
fn client(bench: &Bench, number: u32) -> Local {
    let ipv4 = Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + number);
    Local { ipv4, mac: [2; 6], host_mac: bench.uplink_mac, ..bench.a }
}

#[test]
fn a_flow_waits_until_its_opener_goes_on_after_the_answer() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let packet = |flags| tcp4(&a, FAR4, (40_000, 443), flags);
    let (port, _) = sent(&bench, "from_endpoint", a.ifindex, &packet(TCP_SYN));
    assert_eq!(bench.stages4().unwrap(), (0, 2));
    // Once more, and an answer that anybody gets who says that he is somebody else.
    sent(&bench, "from_endpoint", a.ifindex, &packet(TCP_SYN));
    let reply = network4(&bench, FAR4, NODE4, (443, port), TCP_SYN_ACK);
    sent(&bench, "from_network", bench.uplink, &reply);
    assert_eq!(bench.stages4().unwrap(), (0, 2));
    // He hears it: both views have moved on, and the port is the same in both ways.
    assert_eq!(sent(&bench, "from_endpoint", a.ifindex, &packet(TCP_ACK)).0, port);
    assert_eq!(bench.stages4().unwrap(), (2, 0));
    let reply = network4(&bench, FAR4, NODE4, (443, port), TCP_ACK);
    assert_eq!(sent(&bench, "from_network", bench.uplink, &reply), (443, 40_000));
    assert_eq!(sent(&bench, "from_endpoint", a.ifindex, &packet(TCP_ACK)).0, port);
    assert_eq!(bench.stages4().unwrap(), (2, 0));
    // Between endpoints there is one view.
    sent(&bench, "from_endpoint", a.ifindex, &tcp4(&a, b.ipv4, (40_000, 80), TCP_SYN));
    sent(&bench, "from_endpoint", b.ifindex, &tcp4(&b, a.ipv4, (80, 40_000), TCP_SYN_ACK));
    assert_eq!(bench.stages4().unwrap(), (2, 1));
    sent(&bench, "from_endpoint", a.ifindex, &tcp4(&a, b.ipv4, (40_000, 80), TCP_ACK));
    assert_eq!(bench.stages4().unwrap(), (3, 0));
    // Judged anew they stay where they are.
    bench.raise_epoch().unwrap();
    assert_eq!(sent(&bench, "from_endpoint", a.ifindex, &packet(TCP_ACK)).0, port);
    sent(&bench, "from_endpoint", b.ifindex, &tcp4(&b, a.ipv4, (80, 40_000), TCP_ACK));
    assert_eq!(bench.stages4().unwrap(), (3, 0));
}

#[test]
fn who_sends_what_looks_like_an_answer_pays_for_it_himself() {
    let bench = Bench::new(&Knobs { waiting: 1_000, tick: Some(1_000), ..Knobs::default() }).unwrap();
    let (a, b) = (bench.a, bench.b);
    // From the wire, as answers to what b would have asked; none of them is b's.
    for number in 0..5_000 {
        let stranger = client(&bench, number);
        let ack = tcp4(&stranger, b.ipv4, (80, 40_000), TCP_ACK);
        bench.run("from_network", bench.uplink, &ack).unwrap();
    }
    let ran = bench.run("from_endpoint", b.ifindex, &tcp4(&b, FAR4, (1, 80), TCP_SYN)).unwrap();
    assert_eq!(ran.action, REDIRECT, "{:?}", bench.drops());
    assert_eq!(bench.drops().unwrap().get("opening_share"), None);
    // A pod's own are its own, whoever they are sent to, and answered echoes are no better.
    let mut refused = 0;
    for number in 0..2_000 {
        let ack = tcp4(&a, FAR4, (80, 40_000 + number), TCP_ACK);
        refused += u64::from(bench.run("from_endpoint", a.ifindex, &ack).unwrap().action == DROP);
    }
    assert!(refused > 1_000, "{refused} of 2000 were refused");
    assert_eq!(bench.drops().unwrap().get("opening_share"), Some(&refused));
    let ran = bench.run("from_endpoint", b.ifindex, &tcp4(&b, FAR4, (2, 80), TCP_SYN)).unwrap();
    assert_eq!(ran.action, REDIRECT, "{:?}", bench.drops());
}

#[test]
fn answers_end_no_wait_of_what_is_in_the_line() {
    let bench = Bench::new(&Knobs { waiting: 1_000, tick: Some(1_000), ..Knobs::default() }).unwrap();
    let (a, b) = (bench.a, bench.b);
    let mut refused = 0;
    for number in 0..2_000 {
        let ran = bench.run("from_endpoint", a.ifindex, &udp4(&a, b.ipv4, (10_000 + number, 53))).unwrap();
        refused += u64::from(ran.action == DROP);
        if ran.action != DROP {
            sent(&bench, "from_endpoint", b.ifindex, &udp4(&b, a.ipv4, (53, 10_000 + number)));
        }
    }
    assert_eq!(refused, 1_500);
    assert_eq!(bench.drops().unwrap().get("opening_share"), Some(&refused));
}

#[test]
fn forged_connections_to_a_node_port_do_not_keep_honest_ones_out() {
    let bench = bench();
    bench.serve(&Served::tcp(1, (NODE4, 30_080).into(), &[(FAR4, 8080).into()])).unwrap();
    let packet = |from: &Local, port, flags| tcp4(from, NODE4, (port, 30_080), flags);
    let arrives = |from: &Local, port, flags| {
        let ran = bench.run("from_network", bench.uplink, &packet(from, port, flags)).unwrap();
        assert_eq!(ran.action, REDIRECT, "{:?}", bench.drops());
        seen(&ran.packet).ports.0
    };
    let back = |to: u16| {
        let answer = network4(&bench, FAR4, NODE4, (8080, to), TCP_SYN_ACK);
        sent(&bench, "from_network", bench.uplink, &answer)
    };
    let honest = client(&bench, 1);
    let opened = |port| {
        let node_port = arrives(&honest, port, TCP_SYN);
        assert_eq!(back(node_port), (30_080, port));
        assert_eq!(arrives(&honest, port, TCP_ACK), node_port);
        node_port
    };
    let before: Vec<_> = (1..=20).map(|port| (port, opened(port))).collect();
    // The backend answers them all, and nobody goes on.
    for number in 0..24_000 {
        let node_port = arrives(&client(&bench, 1_000 + number), 4_000, TCP_SYN);
        back(node_port);
    }
    for port in 101..=120 {
        opened(port);
    }
    for (port, node_port) in before {
        assert_eq!(arrives(&honest, port, TCP_ACK), node_port);
    }
}

#[test]
fn a_flood_leaves_established_connections_alone_and_lets_new_ones_in() {
    let bench = Bench::new(&Knobs { waiting: 8_192, ..Knobs::default() }).unwrap();
    let (a, b) = (bench.a, bench.b);
    let established = connect(&bench, &b, (40_000, 443));
    let local = |flags| sent(&bench, "from_endpoint", b.ifindex, &tcp4(&b, a.ipv4, (40_000, 80), flags));
    local(TCP_SYN);
    sent(&bench, "from_endpoint", a.ifindex, &tcp4(&a, b.ipv4, (80, 40_000), TCP_SYN_ACK));
    local(TCP_ACK);
    assert_eq!(bench.stages4().unwrap().0, 3);
    // From the network to a, each from somebody else, five times what there is room for; and as many of a.
    let syn = |from: &Local, to: Ipv4Addr, ports| tcp4(from, to, ports, TCP_SYN);
    for number in 0..40_000 {
        bench.run("from_network", bench.uplink, &syn(&client(&bench, number), a.ipv4, (4_000, 80))).unwrap();
        if number % 400 == 0 {
            let source = 1_000 + u16::try_from(number / 400).unwrap();
            sent(&bench, "from_network", bench.uplink, &syn(&client(&bench, 1), b.ipv4, (source, 80)));
            let answer = tcp4(&b, client(&bench, 1).ipv4, (80, source), TCP_SYN_ACK);
            sent(&bench, "from_endpoint", b.ifindex, &answer);
        }
    }
    for number in 0..40_000_u32 {
        let (source, port) =
            (u16::try_from(number % 50_000 + 1).unwrap(), 5_000 + u16::try_from(number / 50_000).unwrap());
        bench.run("from_endpoint", a.ifindex, &syn(&a, FAR4, (source, port))).unwrap();
    }
    let (confirmed, waiting) = bench.stages4().unwrap();
    assert_eq!(confirmed, 3);
    assert!(waiting <= 8_192, "{waiting} wait");
    let ack = tcp4(&b, FAR4, (40_000, 443), TCP_ACK);
    assert_eq!(sent(&bench, "from_endpoint", b.ifindex, &ack).0, established);
    local(TCP_ACK);
    connect(&bench, &b, (40_001, 443));
    assert_eq!(bench.stages4().unwrap().0, 5);
}

#[test]
fn an_endpoint_has_as_many_flows_that_wait_as_others_have_room() {
    let bench = Bench::new(&Knobs { waiting: 1_000, ..Knobs::default() }).unwrap();
    let (a, b) = (bench.a, bench.b);
    // Each has two entries, for it is masqueraded.
    let (mut passed, mut ticks) = (0_u128, 2);
    let began = std::time::Instant::now();
    for source in 1..=5_000 {
        match bench.run("from_endpoint", a.ifindex, &tcp6(&a, FAR6, (source, 80), TCP_SYN)).unwrap().action {
            REDIRECT => passed += 1,
            action => assert_eq!(action, DROP),
        }
    }
    ticks += began.elapsed().as_nanos() >> 30;
    assert!(passed >= 250 && passed <= 250 * ticks, "{passed} in {ticks} ticks");
    let refused = u64::try_from(5_000 - passed).unwrap();
    assert_eq!(bench.drops().unwrap().get("opening_share"), Some(&refused));
    // b opens what it likes, and more than that if it is answered and goes on.
    for source in 1..=100 {
        let ran = bench.run("from_endpoint", b.ifindex, &tcp6(&b, FAR6, (source, 80), TCP_SYN)).unwrap();
        assert_eq!(ran.action, REDIRECT, "{:?}", bench.drops());
    }
    for number in 0..2_000 {
        let (there, back) = ((10_000 + number, 80), (80, 10_000 + number));
        sent(&bench, "from_endpoint", b.ifindex, &tcp4(&b, a.ipv4, there, TCP_SYN));
        sent(&bench, "from_endpoint", a.ifindex, &tcp4(&a, b.ipv4, back, TCP_SYN_ACK));
        sent(&bench, "from_endpoint", b.ifindex, &tcp4(&b, a.ipv4, there, TCP_ACK));
    }
}

#[test]
fn who_came_first_goes_first_and_who_is_confirmed_stays() {
    let bench = Bench::new(&Knobs { waiting: 4, ..Knobs::default() }).unwrap();
    let (a, outside) = (bench.a, |number| client(&bench, number));
    let comes = |number, flags| {
        let packet = tcp4(&outside(number), a.ipv4, (4_000, 80), flags);
        sent(&bench, "from_network", bench.uplink, &packet)
    };
    let known = || {
        let mut numbers: Vec<_> = bench
            .flows4()
            .unwrap()
            .iter()
            .flat_map(|(key, _)| key.sides())
            .filter(|(address, _)| *address != a.ipv4)
            .filter_map(|(address, _)| match address {
                IpAddr::V4(address) => Some(address.octets()[3]),
                IpAddr::V6(_) => None,
            })
            .collect();
        numbers.sort_unstable();
        numbers
    };
    for number in 1..=4 {
        comes(number, TCP_SYN);
    }
    // The second is answered and goes on; the first comes again, but has its place already.
    sent(&bench, "from_endpoint", a.ifindex, &tcp4(&a, outside(2).ipv4, (80, 4_000), TCP_SYN_ACK));
    comes(2, TCP_ACK);
    comes(1, TCP_SYN);
    assert_eq!(known(), [1, 2, 3, 4]);
    for number in 5..=8 {
        comes(number, TCP_SYN);
    }
    assert_eq!(known(), [2, 5, 6, 7, 8]);
    // What was given up may come again, and takes a place at the end.
    comes(1, TCP_SYN);
    assert_eq!(known(), [1, 2, 6, 7, 8]);
    comes(5, TCP_SYN);
    comes(9, TCP_SYN);
    assert_eq!(known(), [1, 2, 5, 8, 9]);
}

#[test]
fn a_place_in_the_line_is_of_one_flow_not_of_its_addresses() {
    let bench = Bench::new(&Knobs { waiting: 4, tick: Some(1_000), ..Knobs::default() }).unwrap();
    let a = bench.a;
    let opens = |number| {
        let packet = tcp4(&client(&bench, number), a.ipv4, (4_000, 80), TCP_SYN);
        sent(&bench, "from_network", bench.uplink, &packet)
    };
    opens(1);
    bench.set_tick(1_000 + LIFETIMES.tcp_opening + 1).unwrap();
    time_passes(std::time::Duration::from_millis(100), "the beginnings of flows are told apart by the clock");
    for number in 1..=4 {
        opens(number);
    }
    // Five places were given. The first of them was that of a flow that is over, the next is that of the first of these.
    assert_eq!(bench.stages4().unwrap(), (0, 4));
    opens(5);
    assert_eq!(bench.stages4().unwrap(), (0, 4));
}

#[test]
fn both_views_of_a_flow_that_waits_go_together() {
    let bench = Bench::new(&Knobs { waiting: 4, tick: Some(1_000), ..Knobs::default() }).unwrap();
    let a = bench.a;
    for source in 1..=20 {
        // Of one tick, an endpoint has a share.
        bench.set_tick(1_000 + u32::from(source)).unwrap();
        sent(&bench, "from_endpoint", a.ifindex, &udp4(&a, FAR4, (source, 53)));
        assert_eq!(bench.stages4().unwrap(), (0, if source == 1 { 2 } else { 4 }));
    }
}

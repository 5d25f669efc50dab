//! Prints the nanoseconds that each program takes for a packet of an established flow and for the first of a new one,
//! by `BPF_PROG_TEST_RUN`, and how they stand to a program that looks at the Ethernet type and returns.
//!
//! Established: the mean of many runs on one packet. New: one run per flow, each flow's entry not there before; the
//! kernel's clock is read around each, which `floor` in the same column shows. A packet that changes with each run is run
//! once at a time in both columns, and its floor is that of the second.
//!
//! With words as arguments, only the floor and the rows whose name has one of them.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use bpf::layout::MARK_FORWARDED;
use etherparse::PacketBuilder;
use integration::{
    dns_message::{A, Message, Record},
    programs::{Bench, FAR4, FAR6, Knobs, Local, NODE4, PASS, REDIRECT},
};

const ROUNDS: usize = 7;
const RUNS: u32 = 200_000;
const FLOWS: u16 = 4_000;
const DNS_PORT: u16 = 53;

/// A packet, the hook that it comes to, and what the program should do with it.
struct Case {
    name: &'static str,
    program: &'static str,
    ifindex: u32,
    action: i32,
    /// The packet of a flow with this source port.
    packet: Box<dyn Fn(u16) -> Vec<u8>>,
    /// How often one packet may be run before it is no longer the same (each run takes a hop).
    repeat: u32,
}

impl Case {
    /// The mark that the packet comes with.
    fn mark(&self) -> u32 {
        if self.name.contains("judged where") { MARK_FORWARDED } else { 0 }
    }
}

fn main() -> Result<()> {
    // However many flows a round opens in a tick.
    let mut bench = Bench::new(&Knobs { waiting: 1 << 20, ..Knobs::default() })?;
    // A packet that was delivered is delivered again from the same Ethernet source.
    bench.b.host_mac = bench.a.mac;
    bench.add_endpoint(&bench.b, 0)?;
    bench.exempt(Ipv4Addr::new(203, 0, 113, 0), 24)?;
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut cases = cases(&bench);
    cases.retain(|case| {
        case.name.starts_with("floor")
            || wanted.is_empty()
            || wanted.iter().any(|word| case.name.contains(word.as_str()))
    });

    println!(
        "| ns per run, median (min-max) of {ROUNDS} rounds | established | / floor | new flow | / floor |"
    );
    println!("| --- | ---: | ---: | ---: | ---: |");
    let mut floor = None;
    for case in &cases {
        let mut established = Vec::new();
        let mut new = Vec::new();
        for _ in 0..ROUNDS {
            established.push(established_ns(&bench, case)?);
            new.push(new_ns(&bench, case)?);
        }
        let (fast, slow) = (Spread::of(established), Spread::of(new));
        let &mut (fast_floor, slow_floor) = floor.get_or_insert((fast.median, slow.median));
        let fast_floor = if case.repeat == 1 { slow_floor } else { fast_floor };
        println!(
            "| {} | {fast} | {:.1} | {slow} | {:.1} |",
            case.name,
            fast.median / fast_floor,
            slow.median / slow_floor
        );
    }
    if wanted.is_empty() || wanted.iter().any(|word| "DNS".contains(word.as_str())) {
        dns(&bench)?;
    }
    Ok(())
}

/// Prints what a question to a resolver and its answer take, which are read on their way. Each is run once: of an answer only the first
/// run counts.
fn dns(bench: &Bench) -> Result<()> {
    let resolver = bench.add_another(9)?;
    bench.resolve_by(&resolver, DNS_PORT)?;
    let datagram = |from: &Local, to: &Local, ports: (u16, u16), data: &[u8]| -> Result<Vec<u8>> {
        let mut packet = Vec::new();
        PacketBuilder::ethernet2(from.mac, from.host_mac)
            .ipv4(from.ipv4.octets(), to.ipv4.octets(), 64)
            .udp(ports.0, ports.1)
            .write(&mut packet, data)?;
        Ok(packet)
    };
    let (mut questions, mut answers) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (mut question_ns, mut answer_ns) = (0.0, 0.0);
        for at in 0..FLOWS {
            let question = Message::question(at, "www.some.example.com", A);
            let told = (1..=4).map(|last| Record::address([198, 51, last, at.to_be_bytes()[1]].into(), 300));
            let answer = question.answered(told.collect());
            let asks = datagram(&bench.a, &resolver, (40_000, DNS_PORT), &question.bytes())?;
            let tells = datagram(&resolver, &bench.a, (DNS_PORT, 40_000), &answer.bytes())?;
            for (packet, ifindex, total) in
                [(asks, bench.a.ifindex, &mut question_ns), (tells, resolver.ifindex, &mut answer_ns)]
            {
                let ran = bench.run("from_endpoint", ifindex, &packet)?;
                ensure!(ran.action == REDIRECT, "a DNS message: {}", ran.action);
                *total += nanoseconds(ran.duration);
            }
        }
        questions.push(question_ns / f64::from(FLOWS));
        answers.push(answer_ns / f64::from(FLOWS));
    }
    println!("\n| DNS messages, ns per run, median (min-max) of {ROUNDS} rounds | |\n| --- | ---: |");
    println!("| a question | {} |", Spread::of(questions));
    println!("| its answer, with four addresses | {} |", Spread::of(answers));
    Ok(())
}

fn established_ns(bench: &Bench, case: &Case) -> Result<f64> {
    let packet = (case.packet)(1);
    let first = bench.run_marked(case.program, case.ifindex, &packet, case.mark())?.0;
    ensure!(first.action == case.action, "{}: {} instead of {}", case.name, first.action, case.action);
    let calls = RUNS / case.repeat;
    let mut total = 0.0;
    for _ in 0..calls {
        let ran = if case.mark() == 0 {
            bench.run_many(case.program, case.ifindex, &packet, case.repeat)?
        } else {
            bench.run_marked(case.program, case.ifindex, &packet, case.mark())?.0
        };
        ensure!(ran.action == case.action, "{}: {} instead of {}", case.name, ran.action, case.action);
        total += nanoseconds(ran.duration);
    }
    Ok(total / f64::from(calls))
}

fn new_ns(bench: &Bench, case: &Case) -> Result<f64> {
    bench.forget_flows()?;
    // The daemon does, where routes are as here.
    bench.keep_ways_out()?;
    let mut total = 0.0;
    for port in 1_000..1_000 + FLOWS {
        let packet = as_syn((case.packet)(port));
        let ran = bench.run_marked(case.program, case.ifindex, &packet, case.mark())?.0;
        ensure!(ran.action == case.action, "{}: {} instead of {}", case.name, ran.action, case.action);
        total += nanoseconds(ran.duration);
    }
    Ok(total / f64::from(FLOWS))
}

/// The packet as one that opens its connection: with an ACK alone it would be one that goes on, which is looked for where
/// it may have been before. Its checksum is no longer right, and no program looks at it.
fn as_syn(mut packet: Vec<u8>) -> Vec<u8> {
    const FLAGS: usize = 13;
    const SYN: u8 = 2;
    let header = match packet[12..14] {
        [0x08, 0x00] => 20,
        [0x86, 0xdd] => 40,
        _ => return packet,
    };
    packet[14 + header + FLAGS] = SYN;
    packet
}

fn nanoseconds(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { min: values[0], median: values[values.len() / 2], max: values[values.len() - 1] }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} ({:.0}-{:.0})", self.median, self.min, self.max)
    }
}

#[allow(clippy::too_many_lines, reason = "it is a table")]
fn cases(bench: &Bench) -> Vec<Case> {
    let (a, b, uplink_mac) = (bench.a, bench.b, bench.uplink_mac);
    let exempt = Ipv4Addr::new(203, 0, 113, 1);
    let case = |name, program, ifindex, action, repeat, packet: Box<dyn Fn(u16) -> Vec<u8>>| Case {
        name,
        program,
        ifindex,
        action,
        packet,
        repeat,
    };
    vec![
        case(
            "floor: a program that returns at once",
            "to_network",
            bench.uplink,
            PASS,
            RUNS,
            Box::new(move |port| {
                let mut packet = tcp4(&a, b.ipv4, port);
                packet[12..14].copy_from_slice(&[8, 6]);
                packet
            }),
        ),
        case(
            "from_endpoint, IPv4, to a local endpoint",
            "from_endpoint",
            a.ifindex,
            REDIRECT,
            RUNS,
            Box::new(move |port| tcp4(&a, b.ipv4, port)),
        ),
        case(
            "from_endpoint, IPv6, to a local endpoint",
            "from_endpoint",
            a.ifindex,
            REDIRECT,
            RUNS,
            Box::new(move |port| tcp6(&a, b.ipv6.octets(), port)),
        ),
        case(
            "from_endpoint, IPv4, to the host",
            "from_endpoint",
            a.ifindex,
            PASS,
            RUNS,
            Box::new(move |port| tcp4(&a, NODE4, port)),
        ),
        case(
            "from_endpoint, IPv4, out, not masqueraded",
            "from_endpoint",
            a.ifindex,
            REDIRECT,
            200,
            Box::new(move |port| tcp4(&a, exempt, port)),
        ),
        case(
            "from_endpoint, IPv4, out, masqueraded",
            "from_endpoint",
            a.ifindex,
            REDIRECT,
            1,
            Box::new(move |port| tcp4(&a, FAR4, port)),
        ),
        case(
            "from_endpoint, IPv6, out, masqueraded",
            "from_endpoint",
            a.ifindex,
            REDIRECT,
            1,
            Box::new(move |port| tcp6(&a, FAR6.octets(), port)),
        ),
        case(
            "to_endpoint, IPv4, from the host",
            "to_endpoint",
            a.ifindex,
            PASS,
            RUNS,
            Box::new(move |port| tcp4(&Local { ipv4: NODE4, ..a }, a.ipv4, port)),
        ),
        case(
            "from_network, IPv4, to an endpoint",
            "from_network",
            bench.uplink,
            REDIRECT,
            1,
            Box::new(move |port| {
                let mut packet = tcp4(&Local { ipv4: exempt, ..a }, a.ipv4, port);
                packet[..6].copy_from_slice(&uplink_mac);
                packet
            }),
        ),
        case(
            "from_network, IPv4, the host's own",
            "from_network",
            bench.uplink,
            PASS,
            RUNS,
            Box::new(move |port| {
                let mut packet = tcp4(&Local { ipv4: exempt, ..a }, NODE4, port);
                packet[..6].copy_from_slice(&uplink_mac);
                packet
            }),
        ),
        case(
            "from_network, IPv4, the host's own, at a port of masquerade",
            "from_network",
            bench.uplink,
            PASS,
            RUNS,
            Box::new(move |port| {
                let mut packet = tcp4(&Local { ipv4: exempt, ..a }, NODE4, port);
                packet[..6].copy_from_slice(&uplink_mac);
                packet[36..38].copy_from_slice(&10_250_u16.to_be_bytes());
                packet
            }),
        ),
        case(
            "from_network, IPv4, on its way to another machine",
            "from_network",
            bench.uplink,
            PASS,
            RUNS,
            Box::new(move |port| {
                let mut packet = tcp4(&Local { ipv4: exempt, ..a }, FAR4, port);
                packet[..6].copy_from_slice(&uplink_mac);
                packet
            }),
        ),
        case(
            "to_network, IPv4, judged where it left its endpoint",
            "to_network",
            bench.uplink,
            PASS,
            1,
            Box::new(move |port| tcp4(&a, exempt, port)),
        ),
        case(
            "to_network, IPv4, the host's own",
            "to_network",
            bench.uplink,
            PASS,
            RUNS,
            Box::new(move |port| tcp4(&Local { ipv4: NODE4, ..a }, FAR4, port)),
        ),
    ]
}

fn tcp4(from: &Local, to: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(from.mac, from.host_mac)
        .ipv4(from.ipv4.octets(), to.octets(), 255)
        .tcp(port, 80, 1, 65_000)
        .ack(1)
        .write(&mut packet, b"x")
        .expect("a vector takes every write");
    packet
}

fn tcp6(from: &Local, to: [u8; 16], port: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(from.mac, from.host_mac)
        .ipv6(from.ipv6.octets(), to, 255)
        .tcp(port, 80, 1, 65_000)
        .ack(1)
        .write(&mut packet, b"x")
        .expect("a vector takes every write");
    packet
}

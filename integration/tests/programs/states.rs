//! The states of flows, as docs/conntrack.md says them: each cell of its tables is tried with packets, of a flow that is not
//! translated and of a masqueraded one.

use std::collections::BTreeMap;

use bpf::{
    layout::{
        CT_BY_SYN, CT_CONFIRMED, CT_FIN_OPENER, CT_FIN_REPLIER, CT_HOLDS_PORT, CT_NAT_REVERSE, CT_NUMBERED,
        CT_REPLIED, CT_RESET, CT_RESET_BY_REPLIER, CtEntry4, CtKey4, LIFETIMES,
    },
    states::{State, lifetime},
};
use integration::programs::{Bench, FAR4, Knobs, Local, NODE4, REDIRECT};

use crate::{masquerade::send_out, packets::*};

const PAGE: &str = include_str!("../../../docs/conntrack.md");
const BEGIN: u32 = 1_000;
/// What the tables call a while.
const WHILE: u32 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ALL: u32 = CT_REPLIED
    | CT_CONFIRMED
    | CT_FIN_OPENER
    | CT_FIN_REPLIER
    | CT_RESET
    | CT_RESET_BY_REPLIER
    | CT_HOLDS_PORT
    | ANSWER;
/// A SYN was answered with a number below 65,536, which all of these packets have but the blind one.
const ANSWER: u32 = CT_NUMBERED | CT_BY_SYN;

/// The cells of the table whose first title is given: title of the row, titles of the columns and what is in them.
fn table(first: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let mut lines = PAGE.lines().skip_while(|line| !line.starts_with(&format!("| {first} |")));
    let titles = cells(lines.next().expect("the table is there"));
    let rows = lines.skip(1).take_while(|line| line.starts_with('|')).map(|line| {
        let cells = cells(line);
        (cells[0].clone(), titles[1..].iter().cloned().zip(cells[1..].iter().cloned()).collect())
    });
    rows.collect()
}

/// The flags of a flow in a row's state.
fn flags_of(row: &str) -> u32 {
    let goes_on = CT_REPLIED | CT_CONFIRMED;
    match row {
        "new" => 0,
        "answered" => CT_REPLIED | ANSWER,
        "established" => goes_on,
        "closing, by opener" => goes_on | CT_FIN_OPENER,
        "closing, by other" => goes_on | CT_FIN_REPLIER,
        "reset, by opener" => goes_on | CT_RESET,
        "reset, by other" => goes_on | CT_RESET | CT_RESET_BY_REPLIER,
        "refused" => CT_REPLIED | CT_RESET | CT_RESET_BY_REPLIER,
        "refused after an answer" => CT_REPLIED | CT_RESET | CT_RESET_BY_REPLIER | ANSWER,
        "closed" => goes_on | CT_FIN_OPENER | CT_FIN_REPLIER,
        other => panic!("no state {other}"),
    }
}

/// A flow on a bench whose clock stands.
struct Flow {
    bench: Bench,
    protocol: u8,
    /// Whom `a` talks to, and what that one sees of `a`.
    peer: Local,
    seen_as: (std::net::Ipv4Addr, u16),
}

impl Flow {
    fn begin(protocol: u8, masqueraded: bool) -> Self {
        let bench = Bench::new(&Knobs { tick: Some(BEGIN), ..Knobs::default() }).unwrap();
        let outside = Local { ipv4: FAR4, mac: [2; 6], host_mac: bench.uplink_mac, ..bench.a };
        let peer = if masqueraded { outside } else { bench.b };
        let mut flow = Self { protocol, peer, seen_as: (bench.a.ipv4, 40_000), bench };
        let (_, port) = send_out(&flow.bench, &flow.of_opener(TCP_SYN));
        if masqueraded {
            flow.seen_as = (NODE4, port);
        }
        assert_eq!(flow.views().len(), if masqueraded { 2 } else { 1 });
        flow
    }

    fn of_opener(&self, flags: u8) -> Vec<u8> {
        let (a, to, ports) = (&self.bench.a, self.peer.ipv4, (40_000, 443));
        if self.protocol == TCP { tcp4(a, to, ports, flags) } else { udp4(a, to, ports) }
    }

    fn of_other(&self, flags: u8) -> Vec<u8> {
        let (to, port) = self.seen_as;
        let ports = (443, port);
        if self.protocol == TCP { tcp4(&self.peer, to, ports, flags) } else { udp4(&self.peer, to, ports) }
    }

    fn views(&self) -> Vec<(CtKey4, CtEntry4)> {
        self.bench.flows4().unwrap()
    }

    /// Puts both views into a state; the last packet came at the beginning.
    fn put(&self, flags: u32) {
        for (key, mut entry) in self.views() {
            entry.flags = (entry.flags & !ALL) | flags;
            (entry.seen, entry.born) = (BEGIN, BEGIN.to_le_bytes()[0]);
            self.bench.put_flow4(&key, &entry).unwrap();
        }
        self.bench.set_tick(BEGIN).unwrap();
    }

    fn send(&self, by_opener: bool, flags: u8) {
        let (bench, masqueraded) = (&self.bench, self.seen_as.0 == NODE4);
        let (hook, ifindex, packet) = match (by_opener, masqueraded) {
            (true, _) => ("from_endpoint", bench.a.ifindex, self.of_opener(flags)),
            (false, true) => ("from_network", bench.uplink, self.of_other(flags)),
            (false, false) => ("from_endpoint", self.peer.ifindex, self.of_other(flags)),
        };
        assert_eq!(bench.run(hook, ifindex, &packet).unwrap().action, REDIRECT);
    }

    /// The state, which both views must know.
    #[track_caller]
    fn state(&self, of: &str) -> (State, u32) {
        let mut flags: Vec<_> = self.views().iter().map(|(_, entry)| entry.flags & ALL).collect();
        flags.dedup();
        let [flags] = flags[..] else { panic!("{of}: {flags:?} are the flags of the views") };
        (State::of(self.protocol, flags), flags)
    }
}

/// A TCP packet of the title, and whether it is the opener's.
fn segments(title: &str) -> (bool, &'static [u8]) {
    match title {
        "SYN" => (true, &[TCP_SYN]),
        "segment" => (true, &[TCP_ACK]),
        "blind segment" => (true, &[TCP_BLIND]),
        "FIN" => (true, &[TCP_FIN]),
        "RST" => (true, &[TCP_RST]),
        "answer" => (false, &[TCP_SYN_ACK, TCP_ACK]),
        "answer FIN" => (false, &[TCP_FIN]),
        "answer RST" => (false, &[TCP_RST]),
        other => panic!("no packet {other}"),
    }
}

#[test]
fn tcp_goes_from_state_to_state_as_the_table_says() {
    for masqueraded in [false, true] {
        let flow = Flow::begin(TCP, masqueraded);
        let (mut cells, mut flags) = (0, 0);
        for (row, columns) in table("TCP") {
            let later = row == "the same after a while";
            flags = if later { flags } else { flags_of(&row) };
            for (title, wanted) in columns.iter().filter(|(title, _)| *title != "remembered for") {
                let (by_opener, packets) = segments(title);
                for packet in packets {
                    flow.put(flags);
                    if later {
                        flow.bench.set_tick(BEGIN + WHILE).unwrap();
                    }
                    flow.send(by_opener, *packet);
                    let cell = format!("{row}, {title}, masqueraded: {masqueraded}");
                    let (state, after) = flow.state(&cell);
                    assert_eq!(state.name(), wanted, "{cell}: {after:#x}");
                    cells += 1;
                }
            }
        }
        assert_eq!(cells, 12 * 9, "each cell was tried");
    }
}

#[test]
fn udp_goes_from_state_to_state_as_the_table_says() {
    for masqueraded in [false, true] {
        let flow = Flow::begin(UDP, masqueraded);
        for (row, columns) in table("UDP") {
            for (title, wanted) in columns.iter().filter(|(title, _)| *title != "remembered for") {
                flow.put(flags_of(&row));
                if title.ends_with("after a while") {
                    flow.bench.set_tick(BEGIN + WHILE).unwrap();
                }
                flow.send(!title.starts_with("answer"), 0);
                let cell = format!("{row}, {title}, masqueraded: {masqueraded}");
                assert_eq!(flow.state(&cell).0.name(), wanted, "{cell}");
            }
        }
    }
}

/// The time of a key of the configuration.
fn time(key: &str) -> u32 {
    match key {
        "tcp-opening" => LIFETIMES.tcp_opening,
        "tcp-established" => LIFETIMES.tcp_established,
        "tcp-closing" => LIFETIMES.tcp_closing,
        "tcp-closed" => LIFETIMES.tcp_closed,
        "udp" => LIFETIMES.udp,
        "udp-stream" => LIFETIMES.udp_stream,
        other => panic!("no time {other}"),
    }
}

#[test]
fn each_state_is_remembered_for_its_time_and_no_longer() {
    for (protocol, name) in [(TCP, "TCP"), (UDP, "UDP")] {
        for masqueraded in [false, true] {
            let flow = Flow::begin(protocol, masqueraded);
            for (row, columns) in table(name) {
                let key = &columns["remembered for"];
                if key.is_empty() {
                    continue;
                }
                let flags = flags_of(&row);
                assert_eq!(lifetime(&LIFETIMES, protocol, flags), time(key), "{row}");
                // A new flow is born at another tick.
                let born = |at: u32| {
                    flow.put(flags);
                    flow.bench.set_tick(at).unwrap();
                    flow.send(true, TCP_ACK);
                    let born: Vec<_> = flow.views().iter().map(|(_, entry)| entry.born).collect();
                    assert_eq!(born.len(), if masqueraded { 2 } else { 1 }, "{row}");
                    born[0]
                };
                let low = |tick: u32| tick.to_le_bytes()[0];
                assert_eq!(born(BEGIN + time(key)), low(BEGIN), "{row} is remembered");
                let over = BEGIN + time(key) + 1;
                assert_eq!(born(over), low(over), "{row} is forgotten");
            }
        }
    }
}

#[test]
fn a_clock_that_another_processor_has_read_later_forgets_nothing() {
    let flow = Flow::begin(UDP, true);
    flow.put(CT_REPLIED);
    flow.bench.set_tick(BEGIN - 1).unwrap();
    flow.send(false, 0);
    assert_eq!(flow.state("").0, State::Answered);
}

#[test]
fn the_port_of_a_connection_that_the_far_side_has_finished_first_is_kept() {
    let flow = Flow::begin(TCP, true);
    let goes_on = CT_REPLIED | CT_CONFIRMED;
    for (opener_first, wanted, kept) in
        [(true, State::Closed, LIFETIMES.tcp_closed), (false, State::Held, LIFETIMES.tcp_held)]
    {
        flow.put(goes_on);
        flow.send(opener_first, TCP_FIN);
        flow.send(!opener_first, TCP_FIN);
        let (state, flags) = flow.state("both have finished");
        assert_eq!((state, lifetime(&LIFETIMES, TCP, flags)), (wanted, kept));
    }
    assert!(flow.views().iter().any(|(_, entry)| entry.flags & CT_NAT_REVERSE != 0));
}

#[test]
fn a_blind_reset_makes_no_port_free() {
    let bench =
        Bench::new(&Knobs { first_port: 20_000, ports: 1, tick: Some(BEGIN), ..Knobs::default() }).unwrap();
    let (a, b) = (bench.a, bench.b);
    let (_, port) = send_out(&bench, &tcp4(&a, FAR4, (40_000, 443), TCP_SYN));
    let back = |flags| {
        let packet = network4(&bench, FAR4, NODE4, (443, port), flags);
        bench.run("from_network", bench.uplink, &packet).unwrap().action
    };
    assert_eq!(back(TCP_SYN_ACK), REDIRECT);
    send_out(&bench, &tcp4(&a, FAR4, (40_000, 443), TCP_ACK));
    bench.set_tick(BEGIN + 60).unwrap();
    assert_eq!(back(TCP_RST), REDIRECT);
    let other = bench.run("from_endpoint", b.ifindex, &tcp4(&b, FAR4, (40_000, 443), TCP_SYN)).unwrap();
    assert_ne!(other.action, REDIRECT, "the port is not free");
    bench.set_tick(BEGIN + 160).unwrap();
    let (_, kept) = send_out(&bench, &tcp4(&a, FAR4, (40_000, 443), TCP_ACK));
    assert_eq!((kept, back(TCP_ACK)), (port, REDIRECT));
    for (_, entry) in bench.flows4().unwrap() {
        assert_eq!(entry.flags & CT_RESET, 0, "it goes on");
    }
}

//! What an entry of the conntrack maps says: which connection it stands for, and how long it lives.

use std::net::IpAddr;

use bpf::{
    layout::{CT_NAT_REVERSE, CtEntry, CtKey, Lifetimes, NAT_DESTINATION, NAT_SOURCE, TICK_SHIFT},
    states::{State, lifetime},
};
use ipamd_api::wire::{Connection, ConntrackFilter};
use nix::time::{ClockId, clock_gettime};

/// The time now, by the clock whose ticks the programs write into entries.
pub fn now() -> u32 {
    let time =
        clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map(std::time::Duration::from).unwrap_or_default();
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a tick is a number modulo 2^32, here as in the programs"
    )]
    let ticks = (time.as_nanos() >> TICK_SHIFT) as u32;
    ticks
}

/// Ticks until the flow is to be forgotten. The number is negative when that time is over.
pub fn remaining(lifetimes: &Lifetimes, protocol: u8, flags: u32, seen: u32, now: u32) -> i64 {
    // A packet may have come after `now` was read, so `seen` may be later than `now`.
    let age = i64::from(now.wrapping_sub(seen).cast_signed());
    i64::from(lifetime(lifetimes, protocol, flags)) - age
}

/// For each side of a flow: its own address, free of translation, and the index of its host end. The index is 0 for a side that is no
/// endpoint of this node. `has_ended` in the programs computes the same.
pub fn ends<K: CtKey, V: CtEntry>(key: &K, entry: &V) -> [(IpAddr, u32); 2] {
    let far = entry.flags() & CT_NAT_REVERSE != 0;
    let elsewhere = far || entry.ways()[entry.opener()].nat & NAT_DESTINATION != 0;
    [0, 1].map(|side| {
        let view =
            if elsewhere && (side == entry.opener()) == far { entry.other_view() } else { key.sides() };
        (view[side].0, entry.ways()[side].ingress)
    })
}

/// The connection that an entry stands for. A translated flow has two entries, and the second one gives `None`: the first shows the
/// connection.
pub fn connection<K: CtKey, V: CtEntry>(
    key: &K,
    entry: &V,
    lifetimes: &Lifetimes,
    now: u32,
) -> Option<Connection> {
    if entry.flags() & CT_NAT_REVERSE != 0 {
        return None;
    }
    let sides = key.sides();
    let (source, source_port) = sides[entry.opener()];
    let (destination, destination_port) = sides[1 - entry.opener()];
    let flags = entry.flags();
    let nat = entry.ways()[entry.opener()].nat;
    let left = remaining(lifetimes, key.protocol(), flags, entry.seen(), now).max(0).unsigned_abs();
    Some(Connection {
        protocol: key.protocol(),
        source,
        source_port,
        destination,
        destination_port,
        masquerade: (nat & NAT_SOURCE != 0).then(|| entry.other_view()[entry.opener()]),
        backend: (nat & NAT_DESTINATION != 0).then(|| entry.other_view()[1 - entry.opener()]),
        state: State::of(key.protocol(), flags).name().to_owned(),
        expires_in: (left << TICK_SHIFT) / 1_000_000_000,
    })
}

/// The connection that an entry stands for, if the entry has expired.
pub fn expired<K: CtKey, V: CtEntry>(
    key: &K,
    entry: &V,
    lifetimes: &Lifetimes,
    now: u32,
) -> Option<Connection> {
    let over = remaining(lifetimes, key.protocol(), entry.flags(), entry.seen(), now) < 0;
    over.then(|| connection(key, entry, lifetimes, now)).flatten()
}

/// Whether a filter lets a connection through.
pub fn matches(filter: &ConntrackFilter, connection: &Connection) -> bool {
    let translated = [connection.masquerade, connection.backend];
    let translated = |matches: &dyn Fn((IpAddr, u16)) -> bool| translated.into_iter().flatten().any(matches);
    let address = filter.address.is_none_or(|address| {
        connection.source == address || connection.destination == address || translated(&|it| it.0 == address)
    });
    let port = filter.port.is_none_or(|port| {
        connection.source_port == port
            || connection.destination_port == port
            || translated(&|it| it.1 == port)
    });
    address && port && filter.protocol.is_none_or(|protocol| connection.protocol == protocol)
}

#[cfg(test)]
mod tests {
    use bpf::layout::{CT_CONFIRMED, CT_REPLIED, CT_RESET, CtEntry4, CtKey4, Ip4, LIFETIMES};

    use super::*;

    const TCP: u8 = 6;
    const UDP: u8 = 17;

    fn flow(flags: u32, nat: u8) -> (CtKey4, CtEntry4) {
        let key = CtKey4 {
            address: [
                Ip4::from(std::net::Ipv4Addr::new(10, 88, 0, 5)),
                Ip4::from(std::net::Ipv4Addr::new(192, 0, 2, 1)),
            ],
            port: [40_000u16.to_be(), 80u16.to_be()],
            protocol: TCP,
            ..CtKey4::default()
        };
        let mut entry = CtEntry4 {
            flags,
            seen: 100,
            nat_address: [
                Ip4::from(std::net::Ipv4Addr::new(192, 0, 2, 7)),
                Ip4::from(std::net::Ipv4Addr::new(10, 88, 0, 9)),
            ],
            nat_port: [12_345u16.to_be(), 8080u16.to_be()],
            ..CtEntry4::default()
        };
        entry.way[0].nat = nat;
        (key, entry)
    }

    #[test]
    fn a_connection_is_told_from_its_opener() {
        let (key, mut entry) = flow(CT_REPLIED | CT_CONFIRMED, NAT_SOURCE);
        let shown = connection(&key, &entry, &LIFETIMES, 100).unwrap();
        assert_eq!((shown.source, shown.source_port), ("10.88.0.5".parse().unwrap(), 40_000));
        assert_eq!((shown.destination, shown.destination_port), ("192.0.2.1".parse().unwrap(), 80));
        assert_eq!(shown.masquerade, Some(("192.0.2.7".parse().unwrap(), 12_345)));
        assert_eq!(shown.state, "established");
        assert_eq!(shown.backend, None);
        entry.opener = 1;
        assert_eq!(connection(&key, &entry, &LIFETIMES, 100).unwrap().source_port, 80);
    }

    #[test]
    fn the_ends_of_a_flow_are_told_in_both_views() {
        let pod: IpAddr = "10.88.0.5".parse().unwrap();
        let (key, mut entry) = flow(0, NAT_SOURCE);
        entry.way[0].ingress = 7;
        // Masqueraded: the pod sees itself and the machine, the machine sees the node.
        assert_eq!(ends(&key, &entry), [(pod, 7), ("192.0.2.1".parse().unwrap(), 0)]);
        // Led to a backend: the pod sees the service.
        entry.way[0].nat = NAT_DESTINATION;
        entry.way[1].ingress = 9;
        assert_eq!(ends(&key, &entry), [(pod, 7), ("10.88.0.9".parse().unwrap(), 9)]);
        // The backend's view, in which the opener has another address.
        entry.flags = CT_NAT_REVERSE;
        entry.way[0].nat = 0;
        assert_eq!(
            ends(&key, &entry),
            [("192.0.2.7".parse().unwrap(), 7), ("192.0.2.1".parse().unwrap(), 9)]
        );
    }

    #[test]
    fn a_connection_to_a_service_has_its_backend() {
        let (key, entry) = flow(CT_REPLIED, NAT_DESTINATION);
        let shown = connection(&key, &entry, &LIFETIMES, 100).unwrap();
        assert_eq!(shown.masquerade, None);
        assert_eq!(shown.backend, Some(("10.88.0.9".parse().unwrap(), 8080)));
    }

    #[test]
    fn the_other_sides_view_of_a_translated_flow_is_not_shown_again() {
        let (key, entry) = flow(CT_NAT_REVERSE, NAT_DESTINATION);
        assert_eq!(connection(&key, &entry, &LIFETIMES, 100), None);
    }

    #[test]
    fn a_packet_after_the_clock_was_read_does_not_expire_its_flow() {
        assert!(remaining(&LIFETIMES, TCP, CT_RESET, 101, 100) > 0);
        assert!(remaining(&LIFETIMES, TCP, CT_RESET, u32::MAX, 5) >= 0, "the clock wraps");
        assert!(remaining(&LIFETIMES, TCP, CT_RESET, 100, 111) < 0);
    }

    #[test]
    fn every_field_of_a_filter_must_match() {
        let (key, entry) = flow(0, NAT_SOURCE);
        let shown = connection(&key, &entry, &LIFETIMES, 100).unwrap();
        let filter = |address: Option<&str>, port, protocol| ConntrackFilter {
            address: address.map(|a| a.parse().unwrap()),
            port,
            protocol,
            limit: None,
        };
        assert!(matches(&filter(None, None, None), &shown));
        assert!(matches(&filter(Some("192.0.2.7"), Some(12_345), Some(TCP)), &shown));
        assert!(!matches(&filter(Some("192.0.2.8"), Some(80), Some(TCP)), &shown));
        assert!(!matches(&filter(Some("10.88.0.5"), Some(81), Some(TCP)), &shown));
        assert!(!matches(&filter(Some("10.88.0.5"), Some(80), Some(UDP)), &shown));
    }
}

//! The keys and values of the maps. The structs are generated from the programs' own BTF, so they cannot differ from
//! `progs/intf.h`; the numbers that BTF does not carry are repeated here and compared with that file by a test.

mod changes;
mod deny;
mod dns;
mod plain;
mod service;
mod ticks;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use self::plain::plain;
pub use self::{changes::*, deny::*, dns::*, plain::Plain, service::*, ticks::*};
pub use crate::skeleton::types::{
    __sk_buff as SkBuff, ageing as Ageing, ct_entry4 as CtEntry4, ct_entry6 as CtEntry6, ct_key4 as CtKey4,
    ct_key6 as CtKey6, ct_way as CtWay, endpoint as Endpoint, ethernet_address as EthernetAddress,
    event as Event, host_policy as HostPolicy, ip4 as Ip4, ip6 as Ip6, lifetimes as Lifetimes, node as Node,
    peer as Peer, plain_routes as PlainRoutes, policy_entry as PolicyEntry, policy_key as PolicyKey,
    posture as Posture, prefix4 as Prefix4, prefix6 as Prefix6, uplink as Uplink, way_out4 as WayOut4,
    way_out6 as WayOut6,
};

/// In the maps of origins in place of a machine's address: the prefix is this node's own.
pub const ORIGIN_HERE4: Ipv4Addr = Ipv4Addr::BROADCAST;
/// In the maps of origins in place of a machine's address: the address means all of a network.
pub const ORIGIN_ALL4: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 254);
/// As [`ORIGIN_HERE4`].
pub const ORIGIN_HERE6: Ipv6Addr = Ipv6Addr::from_bits(u128::MAX);
/// As [`ORIGIN_ALL4`]: the programs look at the first word.
pub const ORIGIN_ALL6: Ipv6Addr = Ipv6Addr::from_bits(0xffff_fffe << 96);

/// [`Node::events`]: new flows and their ends are told.
pub const EVENTS_FLOWS: u32 = 1;
/// [`Node::events`]: every drop is told, not only what policy refuses.
pub const EVENTS_DROPS: u32 = 2;

/// Postures of one set: the slots of both sets lie behind each other.
pub const POSTURE_SLOTS: u32 = 4096;
/// [`Posture::flags`]: without it everything of the endpoint is dropped.
pub const POSTURE_KNOWN: u32 = 1;
/// What reaches the endpoint is policed.
pub const POSTURE_INGRESS: u32 = 2;
/// What the endpoint sends is policed.
pub const POSTURE_EGRESS: u32 = 4;
/// How far the number is shifted in [`Posture::flags`] that is another when the policy map is filled anew.
pub const POSTURE_FILLING_SHIFT: u32 = 8;

/// [`Peer::flags`]: the node itself.
pub const PEER_NODE: u32 = 1;

/// How far the kind of an entry is shifted in [`PolicyKey::of`] (in network byte order).
pub const POLICY_OF_SHIFT: u32 = 30;
/// Kinds of entries: for what reaches the endpoint.
pub const POLICY_INGRESS: u32 = 0;
/// For what it sends.
pub const POLICY_EGRESS: u32 = 1;
/// For a branch by the opener's port.
pub const POLICY_BRANCH: u32 = 2;
/// For a pattern of DNS names in a list.
pub const POLICY_DOMAIN: u32 = 3;
/// Stands for the classes that a policy map has no entries of.
pub const CLASS_ANY: u32 = 0x3fff_ffff;

/// [`PolicyEntry::outcome`]: dropped.
pub const POLICY_DENY: u8 = 0;
/// Let through.
pub const POLICY_ALLOW: u8 = 1;
/// [`PolicyEntry::rule`] is a branch.
pub const POLICY_BY_SOURCE: u8 = 2;

/// [`Event::kind`]: a flow is let through for the first time.
pub const EVENT_FLOW: u8 = 1;
/// A TCP flow has ended.
pub const EVENT_END: u8 = 2;
/// A packet was dropped.
pub const EVENT_DROP: u8 = 3;
/// A rule that logs has matched.
pub const EVENT_LOG: u8 = 4;
/// [`Event::direction`]: the policy of the endpoint that the flow reaches.
pub const EVENT_INGRESS: u8 = 0;
/// The policy of the endpoint that opens it.
pub const EVENT_EGRESS: u8 = 1;
/// Neither.
pub const EVENT_NO_DIRECTION: u8 = 2;

/// Index in the map `counters`: flows that passed although conntrack could not take them.
pub const COUNTER_UNTRACKED: u32 = 0;
/// Events that the ring had no room for.
pub const COUNTER_EVENTS_LOST: u32 = 1;
/// Events beyond the rate.
pub const COUNTER_EVENTS_SUPPRESSED: u32 = 2;
/// Errors and resets beyond the rate, so that nobody was answered.
pub const COUNTER_ANSWERS_SUPPRESSED: u32 = 3;
/// Packets that took the slow path.
pub const COUNTER_SLOW_PATH: u32 = 4;

/// [`Endpoint::flags`]: a queueing discipline on the host end must see every packet.
pub const ENDPOINT_SHAPED: u8 = 1;
/// Another plugin made its interface, and leads what the programs do not translate.
pub const ENDPOINT_CHAINED: u8 = 2;

/// [`Uplink::flags`]: it is the overlay's interface.
pub const UPLINK_OVERLAY: u32 = 1;
/// The same: frames that no uplink's program has seen are dropped.
pub const UPLINK_SEEN_ONLY: u32 = 2;

/// The same: `host_policies` has an entry for it.
pub const UPLINK_POLICED: u32 = 4;

/// Places in [`HostPolicy::slot`]: what the node itself sends and gets.
pub const HOST_LOCAL: usize = 0;
/// What passes through the node.
pub const HOST_FORWARDED: usize = 1;
/// All that comes by the interface, before its destination is translated.
pub const HOST_PRE_DNAT: usize = 2;
/// All that passes the interface, packet by packet.
pub const HOST_UNTRACKED: usize = 3;

/// In the maps of the nodes' addresses, a bit: frames of the overlay come from it.
pub const MACHINE_SENDS_FRAMES: u8 = 1;
/// The same: services are met there, but nodes do not reach each other by it.
pub const MACHINE_EXTERNAL: u8 = 2;

/// [`CtWay::nat`], a bit: the source is replaced.
pub const NAT_SOURCE: u8 = 1;
/// [`CtWay::nat`], a bit: the destination is replaced.
pub const NAT_DESTINATION: u8 = 2;

/// [`Node::external`]: a service's backend on another node answers a client outside directly.
pub const EXTERNAL_DSR: u32 = 1;
/// [`Node::external`]: there are backends in the node's own namespace.
pub const EXTERNAL_HOST_BACKENDS: u32 = 2;
/// [`Node::external`]: `host_policies` is not empty.
pub const EXTERNAL_HOST_POLICIES: u32 = 4;

/// Flags of a conntrack entry: a packet went against the opener's way.
pub const CT_REPLIED: u32 = 1;
/// The opener has finished.
pub const CT_FIN_OPENER: u32 = 2;
/// The other side has finished.
pub const CT_FIN_REPLIER: u32 = 4;
/// One side has reset.
pub const CT_RESET: u32 = 8;
/// The entry of a translated flow as the other side sees it.
pub const CT_NAT_REVERSE: u32 = 32;
/// The reset that [`CT_RESET`] tells of came from the side that did not open the flow.
pub const CT_RESET_BY_REPLIER: u32 = 64;
/// TCP: the opener has acknowledged the answer; others but ICMP: both sides still sent after a while.
pub const CT_CONFIRMED: u32 = 2048;
/// TCP, until [`CT_CONFIRMED`]: an answer was seen; the upper half of its number is that of the flags.
pub const CT_NUMBERED: u32 = 8192;
/// The same: that answer was a SYN.
pub const CT_BY_SYN: u32 = 16_384;
/// TCP, the source is translated: the other side has finished first.
pub const CT_HOLDS_PORT: u32 = 4096;

/// With [`CT_CONFIRMED`]: its opener had its share of those, so it goes on waiting in line.
pub const CT_OVER_SHARE: u32 = 32_768;

/// `BPF_FIB_LOOKUP_SKIP_NEIGH` (Linux 6.3): the neighbour is looked up when the packet is sent, not before.
pub const FIB_LOOKUP_SKIP_NEIGH: u32 = 1 << 2;
/// `BPF_FIB_LOOKUP_MARK` (Linux 6.10): the packet's mark counts for routing rules.
pub const FIB_LOOKUP_MARK: u32 = 1 << 5;

/// `skb->mark` of what was judged and is on its way out of an uplink.
pub const MARK_FORWARDED: u32 = 0x4361_6d62;
/// For so many ticks a way out of an uplink is kept without asking the routing table.
pub const ROUTED_MOST: u32 = 256;

/// [`PlainRoutes::families`], a bit: of IPv4 only the destination decides which way a packet leaves.
pub const PLAIN_ROUTES4: u32 = 1;
/// The same of IPv6.
pub const PLAIN_ROUTES6: u32 = 2;

/// How long a flow is remembered after its last packet, in ticks (1.07 s): the field's usual times. A new flow is
/// given time for its handshake, an established one outlives an idle night's keep-alives. The port of a translated connection
/// that its other side has finished first is kept for the minute in which Linux takes no new one from it (TIME-WAIT).
pub const LIFETIMES: Lifetimes = Lifetimes {
    tcp_opening: 60,
    tcp_established: 21_600,
    tcp_closing: 120,
    tcp_closed: 10,
    tcp_held: 60,
    udp: 30,
    udp_stream: 120,
    icmp: 30,
    other_new: 60,
    other: 600,
};

/// Why the programs drop packets: the map `drops` is indexed by the position here. People see these names.
pub const DROP_REASONS: [&str; 37] = [
    "none",
    "malformed",
    "not_ip",
    "foreign_source",
    "foreign_mac",
    "forged_endpoint",
    "unknown_endpoint",
    "link_scope",
    "unknown_fragment",
    "unrelated_error",
    "no_masquerade_address",
    "no_masquerade_port",
    "conntrack_full",
    "rewrite_failed",
    "policy_egress",
    "policy_ingress",
    "policy_unknown",
    "no_backend",
    "no_local_backend",
    "source_range",
    "port_taken",
    "too_large",
    "hops",
    "endpoint_frame",
    "foreign_frame",
    "not_served",
    "vlan",
    "martian",
    "source_route",
    "foreign_discovery",
    "checksum_place",
    "fragment_share",
    "foreign_way",
    "opening_share",
    "unasked_answer",
    "early_fragment",
    "internal",
];

plain!(
    u8,
    u32,
    u64,
    Ip4,
    Ip6,
    Node,
    Endpoint,
    Uplink,
    EthernetAddress,
    HostPolicy,
    Prefix4,
    Prefix6,
    CtKey4,
    CtKey6,
    CtEntry4,
    CtEntry6,
    Lifetimes,
    Ageing,
    PlainRoutes,
    WayOut4,
    WayOut6,
    Peer,
    Posture,
    PolicyKey,
    PolicyEntry,
    Event,
);

impl PartialEq for Lifetimes {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Lifetimes {}

impl From<Ipv4Addr> for Ip4 {
    fn from(address: Ipv4Addr) -> Self {
        Self { word: [u32::from_ne_bytes(address.octets())] }
    }
}

impl From<Ip4> for Ipv4Addr {
    fn from(address: Ip4) -> Self {
        address.word[0].to_ne_bytes().into()
    }
}

impl From<Ipv6Addr> for Ip6 {
    fn from(address: Ipv6Addr) -> Self {
        let bytes = address.octets();
        let word = |i: usize| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        Self { word: [word(0), word(4), word(8), word(12)] }
    }
}

impl From<Ip6> for Ipv6Addr {
    fn from(address: Ip6) -> Self {
        let mut bytes = [0; 16];
        for (word, bytes) in address.word.iter().zip(bytes.chunks_exact_mut(4)) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        bytes.into()
    }
}

/// A conntrack key of either family.
pub trait CtKey: Plain {
    /// Address and port (host byte order) of each side.
    fn sides(&self) -> [(IpAddr, u16); 2];
    /// IP protocol number.
    fn protocol(&self) -> u8;
}

/// A conntrack entry of either family.
pub trait CtEntry: Plain {
    /// The tick of the last packet.
    fn seen(&self) -> u32;
    /// The flags, `CT_*`.
    fn flags(&self) -> u32;
    /// Index of the side that opened the flow.
    fn opener(&self) -> usize;
    /// Address and port (host byte order) of each side in the flow's other view, if it is translated.
    fn other_view(&self) -> [(IpAddr, u16); 2];
    /// Number of the service that the flow goes to; 0: none.
    fn service(&self) -> u32;
    /// The two ways of the flow.
    fn ways(&self) -> &[CtWay; 2];
}

macro_rules! conntrack {
    ($key:ty, $entry:ty, $address:ty) => {
        impl CtKey for $key {
            fn sides(&self) -> [(IpAddr, u16); 2] {
                [0, 1].map(|i| (<$address>::from(self.address[i]).into(), u16::from_be(self.port[i])))
            }

            fn protocol(&self) -> u8 {
                self.protocol
            }
        }

        impl CtEntry for $entry {
            fn seen(&self) -> u32 {
                self.seen
            }

            fn flags(&self) -> u32 {
                self.flags
            }

            fn opener(&self) -> usize {
                usize::from(self.opener & 1)
            }

            fn other_view(&self) -> [(IpAddr, u16); 2] {
                [0, 1].map(|i| (<$address>::from(self.nat_address[i]).into(), u16::from_be(self.nat_port[i])))
            }

            fn service(&self) -> u32 {
                self.service
            }

            fn ways(&self) -> &[CtWay; 2] {
                &self.way
            }
        }
    };
}

conntrack!(CtKey4, CtEntry4, Ipv4Addr);
conntrack!(CtKey6, CtEntry6, Ipv6Addr);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const INTF: &str = include_str!("../progs/intf.h");
    const MAPS: &str = include_str!("../progs/maps.h");

    /// The enumerators of an enum of intf.h, in order.
    fn enumerators(name: &str) -> Vec<String> {
        let body = INTF.split_once(&format!("enum {name} {{")).unwrap().1.split_once("};").unwrap().0;
        body.lines()
            .filter_map(|line| line.split_once(',').map_or(Some(line), |(name, _)| Some(name)))
            .map(|line| line.split("/*").next().unwrap().trim().to_owned())
            .filter(|name| !name.is_empty())
            .collect()
    }

    fn defined(name: &str) -> u32 {
        let line = INTF.lines().find(|line| line.starts_with(&format!("#define {name} "))).unwrap();
        let value = line.split_whitespace().nth(2).unwrap();
        value
            .strip_prefix("0x")
            .map_or_else(|| value.parse().unwrap(), |digits| u32::from_str_radix(digits, 16).unwrap())
    }

    /// Who sees a drop reason looks it up there.
    #[test]
    fn the_documents_tell_of_each_drop_reason() {
        let document = include_str!("../../docs/troubleshooting.md");
        let rows = document.lines().skip_while(|line| *line != "## Drop reasons");
        let told =
            rows.filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect::<BTreeSet<_>>();
        assert_eq!(told, DROP_REASONS.into_iter().filter(|it| *it != "none").collect());
    }

    #[test]
    fn numbers_are_those_of_the_programs() {
        assert_eq!(u32::from(ENDPOINT_SHAPED), defined("ENDPOINT_SHAPED"));
        assert_eq!(u32::from(ENDPOINT_CHAINED), defined("ENDPOINT_CHAINED"));
        assert_eq!(CT_REPLIED, defined("CT_REPLIED"));
        assert_eq!(CT_FIN_OPENER, defined("CT_FIN_OPENER"));
        assert_eq!(CT_FIN_REPLIER, defined("CT_FIN_REPLIER"));
        assert_eq!(CT_RESET, defined("CT_RESET"));
        assert_eq!(TICK_SHIFT, defined("TICK_SHIFT"));
        for (value, name) in [
            (CT_NAT_REVERSE, "CT_NAT_REVERSE"),
            (CT_RESET_BY_REPLIER, "CT_RESET_BY_REPLIER"),
            (CT_CONFIRMED, "CT_CONFIRMED"),
            (CT_NUMBERED, "CT_NUMBERED"),
            (CT_BY_SYN, "CT_BY_SYN"),
            (CT_OVER_SHARE, "CT_OVER_SHARE"),
            (CT_HOLDS_PORT, "CT_HOLDS_PORT"),
            (NAT_SOURCE.into(), "NAT_SOURCE"),
            (NAT_DESTINATION.into(), "NAT_DESTINATION"),
            (MACHINE_SENDS_FRAMES.into(), "MACHINE_SENDS_FRAMES"),
            (MACHINE_EXTERNAL.into(), "MACHINE_EXTERNAL"),
            (EXTERNAL_DSR, "EXTERNAL_DSR"),
            (EXTERNAL_HOST_BACKENDS, "EXTERNAL_HOST_BACKENDS"),
            (EXTERNAL_HOST_POLICIES, "EXTERNAL_HOST_POLICIES"),
            (UPLINK_POLICED, "UPLINK_POLICED"),
            (EVENTS_FLOWS, "EVENTS_FLOWS"),
            (EVENTS_DROPS, "EVENTS_DROPS"),
            (POSTURE_KNOWN, "POSTURE_KNOWN"),
            (POSTURE_INGRESS, "POSTURE_INGRESS"),
            (POSTURE_EGRESS, "POSTURE_EGRESS"),
            (POSTURE_FILLING_SHIFT, "POSTURE_FILLING_SHIFT"),
            (PEER_NODE, "PEER_NODE"),
            (POLICY_OF_SHIFT, "POLICY_OF_SHIFT"),
            (CLASS_ANY, "CLASS_ANY"),
            (DOMAINS_ALL.into(), "DOMAINS_ALL"),
            (MARK_FORWARDED, "MARK_FORWARDED"),
            (ROUTED_MOST, "ROUTED_MOST"),
            (PLAIN_ROUTES4, "PLAIN_ROUTES4"),
            (PLAIN_ROUTES6, "PLAIN_ROUTES6"),
            (CHANGED_ADDRESS_PLACES, "CHANGED_ADDRESS_PLACES"),
            (CHANGED_NETWORK_PLACES, "CHANGED_NETWORK_PLACES"),
            (CHANGED_EVERYTHING, "CHANGED_EVERYTHING"),
            (CHANGED_ADDRESSES, "CHANGED_ADDRESSES"),
            (CHANGED_NETWORKS, "CHANGED_NETWORKS"),
            (CHANGES, "CHANGES"),
        ] {
            assert_eq!(value, defined(name), "{name}");
        }
        assert!(MAPS.contains(&format!("#define POSTURE_SLOTS {POSTURE_SLOTS}\n")));
        let position = |list: &str, name: &str| enumerators(list).iter().position(|it| it == name);
        for (value, list, name) in [
            (POLICY_INGRESS as usize, "policy_of", "POLICY_INGRESS"),
            (POLICY_EGRESS as usize, "policy_of", "POLICY_EGRESS"),
            (POLICY_BRANCH as usize, "policy_of", "POLICY_BRANCH"),
            (POLICY_DOMAIN as usize, "policy_of", "POLICY_DOMAIN"),
            (POLICY_DENY.into(), "policy_outcome", "POLICY_DENY"),
            (POLICY_ALLOW.into(), "policy_outcome", "POLICY_ALLOW"),
            (POLICY_BY_SOURCE.into(), "policy_outcome", "POLICY_BY_SOURCE"),
            (HOST_LOCAL, "host_layer", "HOST_LOCAL"),
            (HOST_FORWARDED, "host_layer", "HOST_FORWARDED"),
            (HOST_PRE_DNAT, "host_layer", "HOST_PRE_DNAT"),
            (HOST_UNTRACKED, "host_layer", "HOST_UNTRACKED"),
            (EVENT_INGRESS.into(), "event_direction", "EVENT_INGRESS"),
            (EVENT_EGRESS.into(), "event_direction", "EVENT_EGRESS"),
            (EVENT_NO_DIRECTION.into(), "event_direction", "EVENT_NO_DIRECTION"),
            (COUNTER_UNTRACKED as usize, "counter", "COUNTER_UNTRACKED"),
            (COUNTER_EVENTS_LOST as usize, "counter", "COUNTER_EVENTS_LOST"),
            (COUNTER_EVENTS_SUPPRESSED as usize, "counter", "COUNTER_EVENTS_SUPPRESSED"),
            (COUNTER_ANSWERS_SUPPRESSED as usize, "counter", "COUNTER_ANSWERS_SUPPRESSED"),
            (COUNTER_SLOW_PATH as usize, "counter", "COUNTER_SLOW_PATH"),
        ] {
            assert_eq!(position(list, name), Some(value), "{name}");
        }
        for (value, name) in [
            (EVENT_FLOW, "EVENT_FLOW"),
            (EVENT_END, "EVENT_END"),
            (EVENT_DROP, "EVENT_DROP"),
            (EVENT_LOG, "EVENT_LOG"),
        ] {
            assert!(INTF.contains(&format!("\t{name} = {value},")), "{name}");
        }
    }

    #[test]
    fn drop_reasons_are_those_of_the_programs() {
        let reasons = enumerators("drop_reason");
        let names: Vec<_> = reasons[..reasons.len() - 1]
            .iter()
            .map(|r| r.strip_prefix("DROP_").unwrap().to_lowercase())
            .collect();
        assert_eq!(names, DROP_REASONS);
    }

    #[test]
    fn layouts_have_no_holes() {
        assert_eq!(size_of::<Node>(), 7 * 4 + 4 + 16);
        assert_eq!((size_of::<Denied4>(), size_of::<Denied6>()), (4 + 4, 4 + 16));
        assert_eq!(size_of::<DenyCount>(), 8 + 8);
        assert_eq!(size_of::<Endpoint>(), 4 + 6 + 6 + 2 + 1 + 1 + 4);
        assert_eq!(size_of::<Uplink>(), 16 + 4 + 4);
        assert_eq!(size_of::<EthernetAddress>(), 6 + 2);
        assert_eq!(size_of::<CtKey4>(), 2 * 4 + 2 * 2 + 1 + 3);
        assert_eq!(size_of::<CtKey6>(), 2 * 16 + 2 * 2 + 1 + 3);
        assert_eq!(size_of::<CtWay>(), 4 + 4 + 2 + 1 + 1 + 3 * 6 + 2);
        assert_eq!(size_of::<CtEntry4>(), 4 * 4 + 1 + 3 + 2 * 2 + 3 * 4 + 2 * 32);
        assert_eq!(size_of::<CtEntry6>(), 4 * 4 + 1 + 3 + 2 * 2 + 3 * 16 + 2 * 32);
        assert_eq!(size_of::<Lifetimes>(), 10 * 4);
        assert_eq!(size_of::<Ageing>(), 6 * 4);
        assert_eq!(size_of::<PlainRoutes>(), 4 * 4);
        assert_eq!(size_of::<WayOut4>(), 2 * 4 + 5 * 4 + 2 + 1 + 1);
        assert_eq!(size_of::<WayOut6>(), 2 * 16 + 5 * 4 + 2 + 1 + 1);
        assert_eq!(size_of::<Peer>(), 2 * 4);
        assert_eq!(size_of::<Posture>(), 2 * 4);
        assert_eq!(size_of::<PolicyKey>(), 2 * 4 + 1 + 1 + 2);
        assert_eq!(size_of::<PolicyEntry>(), 2 * 4 + 1 + 3);
        assert_eq!(size_of::<Event>(), 8 + 3 * 4 + 4 + 2 * 2 + 1 + 3 + 2 * 16);
    }

    #[test]
    fn addresses_keep_their_bytes() {
        let v4: Ipv4Addr = "10.88.0.5".parse().unwrap();
        assert_eq!(Ip4::from(v4).as_bytes(), v4.octets());
        assert_eq!(Ipv4Addr::from(Ip4::from(v4)), v4);
        let v6: Ipv6Addr = "fd00:88::5".parse().unwrap();
        assert_eq!(Ip6::from(v6).as_bytes(), v6.octets());
        assert_eq!(Ipv6Addr::from(Ip6::from(v6)), v6);
    }
}

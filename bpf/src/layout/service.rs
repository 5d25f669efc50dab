//! What the maps about services hold (`progs/intf_service.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    changes::{CHANGED_ADDRESSES, address_place},
    plain::{Plain, plain},
};
pub use crate::skeleton::types::{
    affinity4 as Affinity4, affinity6 as Affinity6, backend_set as BackendSet, backend4 as Backend4,
    backend6 as Backend6, client4 as Client4, client6 as Client6, connection4 as Connection4,
    connection6 as Connection6, frontend as Frontend, frontend_key4 as FrontendKey4,
    frontend_key6 as FrontendKey6, lookup_places as LookupPlaces, member4 as Member4, member6 as Member6,
    socket_key4 as SocketKey4, socket_key6 as SocketKey6, socket_peer4 as SocketPeer4,
    socket_peer6 as SocketPeer6, source_range4 as SourceRange4, source_range6 as SourceRange6,
};

/// Words of `served_addresses`.
pub const SERVED_WORDS: u32 = 512;

/// The word of `served_addresses` that an address has its bit in, and the bit.
pub fn served_bit(address: IpAddr) -> (u32, u64) {
    let place = address_place(address) - CHANGED_ADDRESSES;
    (place / u64::BITS, 1 << (place % u64::BITS))
}

/// [`Frontend::flags`]: only sources in the service's ranges are welcome.
pub const FRONTEND_RANGES: u32 = 1;
/// The node's own processes are.
pub const FRONTEND_NODE_IN_RANGES: u32 = 2;
/// The set for those inside holds the local backends only.
pub const FRONTEND_INSIDE_LOCAL: u32 = 4;
/// The set for those outside does.
pub const FRONTEND_OUTSIDE_LOCAL: u32 = 8;
/// Of an address, whose entry has port and protocol zero: node ports are served here.
pub const ADDRESS_OF_NODE: u32 = 16;
/// Of an address: nothing but services is behind it.
pub const ADDRESS_OF_SERVICE: u32 = 32;
/// Of a frontend or an address: whoever is beyond the node is not served.
pub const INSIDE_ONLY: u32 = 128;

/// [`BackendSet::flags`]: each client has a score with each backend, and the highest takes it.
pub const SET_BY_SCORE: u16 = 1;
/// Places in `lookup_tables`, not backends.
pub const SET_BY_TABLE: u16 = 2;
/// Empty, although there are backends on other nodes.
pub const SET_ELSEWHERE: u16 = 4;
/// Backends of a set by score, at most.
pub const SCORED_MOST: u32 = 128;
/// A client that is chosen for anew takes its two best backends by turns of so many times the affinity.
pub const AFFINITY_TURN: u32 = 4;

/// Value of a member: takes new connections of those who may be sent to any node.
pub const MEMBER_CLUSTER: u32 = 1;
/// Takes new connections of those who stay on this node.
pub const MEMBER_LOCAL: u32 = 2;

/// [`SocketKey4::as_`]: the address is a backend's.
pub const AS_BACKEND: u8 = 0;

/// Value of `namespaces`: the node's own.
pub const NAMESPACE_NODE: u32 = 1;
/// An endpoint's.
pub const NAMESPACE_ENDPOINT: u32 = 2;

/// Row of `ports`: some service is reached at the port from outside.
pub const PORTS_SERVED: u32 = 0;
/// A backend in the node's own namespace answers at the port.
pub const PORTS_OF_BACKENDS: u32 = 1;
/// Words of one row.
pub const PORT_WORDS: u32 = 1024;

plain!(
    Affinity4,
    Affinity6,
    BackendSet,
    Backend4,
    Backend6,
    Client4,
    Client6,
    Connection4,
    Connection6,
    Frontend,
    FrontendKey4,
    FrontendKey6,
    LookupPlaces,
    Member4,
    Member6,
    SocketKey4,
    SocketKey6,
    SocketPeer4,
    SocketPeer6,
    SourceRange4,
    SourceRange6,
);

/// What differs between the families in the maps about services.
pub trait ServiceFamily {
    /// An address.
    type Address: Copy + Into<IpAddr> + Ord;
    /// Key of the frontends.
    type FrontendKey: Plain;
    /// Value of the backends.
    type Backend: Plain;
    /// Key of the members.
    type Member: Plain;
    /// Key of the source ranges.
    type SourceRange: Plain;
    /// 4 or 6.
    const FAMILY: u8;

    /// A frontend's key; the port in host byte order.
    fn frontend(address: Self::Address, port: u16, protocol: u8) -> Self::FrontendKey;
    /// The address, port (host byte order) and protocol of a frontend's key.
    fn of_frontend(key: &Self::FrontendKey) -> (Self::Address, u16, u8);
    /// A backend that was chosen `hits` times; the port in host byte order.
    fn backend(address: Self::Address, port: u16, seed: u32, hits: u32) -> Self::Backend;
    /// Address, port (host byte order) and hits of a backend.
    fn of_backend(backend: &Self::Backend) -> (Self::Address, u16, u32);
    /// A member's key; the port in host byte order.
    fn member(service: u32, address: Self::Address, port: u16) -> Self::Member;
    /// Service, address and port (host byte order) of a member's key.
    fn of_member(key: &Self::Member) -> (u32, Self::Address, u16);
    /// The key of a prefix of `length` bits.
    fn source_range(service: u32, address: Self::Address, length: u8) -> Self::SourceRange;
    /// Service, address and bits of the address that count.
    fn of_source_range(range: &Self::SourceRange) -> (u32, Self::Address, u8);
}

/// IPv4.
#[derive(Clone, Copy, Debug)]
pub struct V4;
/// IPv6.
#[derive(Clone, Copy, Debug)]
pub struct V6;

macro_rules! family {
    ($family:ty, $number:literal, $address:ty, $word:ty, $key:ident, $backend:ident, $member:ident, $range:ident) => {
        impl ServiceFamily for $family {
            type Address = $address;
            type Backend = $backend;
            type FrontendKey = $key;
            type Member = $member;
            type SourceRange = $range;

            const FAMILY: u8 = $number;

            fn frontend(address: $address, port: u16, protocol: u8) -> $key {
                $key { address: address.into(), port: port.to_be(), protocol, pad: 0 }
            }

            fn of_frontend(key: &$key) -> ($address, u16, u8) {
                (key.address.into(), u16::from_be(key.port), key.protocol)
            }

            fn backend(address: $address, port: u16, seed: u32, hits: u32) -> $backend {
                $backend { address: address.into(), port: port.to_be(), seed, hits, ..$backend::default() }
            }

            fn of_backend(backend: &$backend) -> ($address, u16, u32) {
                (backend.address.into(), u16::from_be(backend.port), backend.hits)
            }

            fn member(service: u32, address: $address, port: u16) -> $member {
                $member { service, address: address.into(), port: port.to_be(), pad: 0 }
            }

            fn of_member(key: &$member) -> (u32, $address, u16) {
                (key.service, key.address.into(), u16::from_be(key.port))
            }

            fn source_range(service: u32, address: $address, length: u8) -> $range {
                $range { length: 32 + u32::from(length), service, address: address.into() }
            }

            fn of_source_range(range: &$range) -> (u32, $address, u8) {
                let length = u8::try_from(range.length.saturating_sub(32)).unwrap_or(u8::MAX);
                (range.service, range.address.into(), length)
            }
        }
    };
}

family!(V4, 4, Ipv4Addr, Ip4, FrontendKey4, Backend4, Member4, SourceRange4);
family!(V6, 6, Ipv6Addr, Ip6, FrontendKey6, Backend6, Member6, SourceRange6);

#[cfg(test)]
mod tests {
    use super::*;

    const INTF: &str = include_str!("../../progs/intf_service.h");

    fn defined(name: &str) -> u32 {
        let line = INTF.lines().find(|line| line.starts_with(&format!("#define {name} "))).unwrap();
        line.split_whitespace().nth(2).unwrap().parse().unwrap()
    }

    fn enumerators(name: &str) -> Vec<&'static str> {
        let body = INTF.split_once(&format!("enum {name} {{")).unwrap().1.split_once("};").unwrap().0;
        body.lines()
            .map(|line| line.split([',', '/', '=']).next().unwrap().trim())
            .filter(|it| !it.is_empty())
            .collect()
    }

    #[test]
    fn numbers_are_those_of_the_programs() {
        for (value, name) in [
            (FRONTEND_RANGES, "FRONTEND_RANGES"),
            (FRONTEND_NODE_IN_RANGES, "FRONTEND_NODE_IN_RANGES"),
            (FRONTEND_INSIDE_LOCAL, "FRONTEND_INSIDE_LOCAL"),
            (FRONTEND_OUTSIDE_LOCAL, "FRONTEND_OUTSIDE_LOCAL"),
            (ADDRESS_OF_NODE, "ADDRESS_OF_NODE"),
            (ADDRESS_OF_SERVICE, "ADDRESS_OF_SERVICE"),
            (INSIDE_ONLY, "INSIDE_ONLY"),
            (SET_BY_SCORE.into(), "SET_BY_SCORE"),
            (SET_BY_TABLE.into(), "SET_BY_TABLE"),
            (SCORED_MOST, "SCORED_MOST"),
            (AFFINITY_TURN, "AFFINITY_TURN"),
            (SET_ELSEWHERE.into(), "SET_ELSEWHERE"),
            (MEMBER_CLUSTER, "MEMBER_CLUSTER"),
            (MEMBER_LOCAL, "MEMBER_LOCAL"),
            (PORT_WORDS, "PORT_WORDS"),
            (SERVED_WORDS, "SERVED_WORDS"),
        ] {
            assert_eq!(value, defined(name), "{name}");
        }
        assert_eq!(enumerators("service_from"), ["FROM_INSIDE", "FROM_OUTSIDE"]);
        assert_eq!(enumerators("socket_peer_as")[usize::from(AS_BACKEND)], "AS_BACKEND");
        assert_eq!(enumerators("port_row")[..2], ["PORTS_SERVED", "PORTS_OF_BACKENDS"]);
        for (value, name) in [(NAMESPACE_NODE, "NAMESPACE_NODE"), (NAMESPACE_ENDPOINT, "NAMESPACE_ENDPOINT")]
        {
            assert!(INTF.contains(&format!("\t{name} = {value},")), "{name}");
        }
    }

    #[test]
    fn layouts_have_no_holes() {
        assert_eq!(size_of::<FrontendKey4>(), 4 + 2 + 1 + 1);
        assert_eq!(size_of::<FrontendKey6>(), 16 + 2 + 1 + 1);
        assert_eq!(size_of::<Frontend>(), 5 * 4);
        assert_eq!(size_of::<BackendSet>(), 4 + 2 * 2 + 2 * 4);
        assert_eq!(size_of::<Backend4>(), 4 + 2 * 2 + 2 * 4);
        assert_eq!(size_of::<Backend6>(), 16 + 2 * 2 + 3 * 4);
        assert_eq!(size_of::<Member4>(), 4 + 4 + 2 * 2);
        assert_eq!(size_of::<Member6>(), 4 + 16 + 2 * 2);
        assert_eq!(size_of::<Client4>(), 8 + 4 + 4);
        assert_eq!(size_of::<Client6>(), 8 + 16 + 2 * 4);
        assert_eq!(size_of::<Affinity4>(), 4 + 2 * 2 + 4);
        assert_eq!(size_of::<Affinity6>(), 16 + 2 * 2 + 4);
        assert_eq!(size_of::<SocketKey4>(), 8 + 4 + 2 + 2);
        assert_eq!(size_of::<SocketKey6>(), 8 + 16 + 2 + 2 + 4);
        assert_eq!(size_of::<SocketPeer4>(), 8 + 4 + 2 * 2 + 2 * 4);
        assert_eq!(size_of::<SocketPeer6>(), 8 + 16 + 2 * 2 + 3 * 4);
        assert_eq!(size_of::<SourceRange4>(), 3 * 4);
        assert_eq!(size_of::<SourceRange6>(), 2 * 4 + 16);
        assert_eq!(size_of::<LookupPlaces>(), 2 * 4);
    }

    #[test]
    fn keys_of_both_families_come_back() {
        let v4 = Ipv4Addr::new(10, 96, 0, 1);
        assert_eq!(V4::of_frontend(&V4::frontend(v4, 443, 6)), (v4, 443, 6));
        let v6 = Ipv6Addr::LOCALHOST;
        assert_eq!(V6::of_member(&V6::member(7, v6, 53)), (7, v6, 53));
        assert_eq!(V6::of_backend(&V6::backend(v6, 80, 1, 2)), (v6, 80, 2));
    }
}

//! Routes of the main table, and those of the table `local` that mean several machines.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipamd_netlink::{Attributes, NetlinkError};
use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use rtnetlink::RouteMessageBuilder;

use super::{concerned_flows::RTA_OIF, socket::Socket};

/// The routing protocol number by which Cambric's own routes are known (not given to anybody in `rtnetlink.h`).
pub const PROTOCOL: u8 = 0xca;

/// The table of what the node itself receives (`RT_TABLE_LOCAL`).
const TABLE_LOCAL: u8 = 255;

/// How a route begins that leads to another node's endpoints (`struct rtmsg`): Cambric's, unicast and not to one address.
/// Those are many, and mostly not wanted; so they are told before they are looked into.
fn is_to_peer(route: &[u8]) -> bool {
    const UNICAST: u8 = 1;
    let [family, length, _, _, _, PROTOCOL, _, UNICAST, ..] = route else { return false };
    let whole = if i32::from(*family) == nix::libc::AF_INET { 32 } else { 128 };
    *length != whole
}

/// Whether a route, as the kernel tells of it (`struct rtmsg` and what follows), leads all packets to one destination the same way: it
/// is for no class of them, nor for some senders, and has one next hop. Of one that is kept elsewhere (`RTA_NH_ID`) the kernel tells
/// the interface, too, where it is one.
fn is_plain(route: &[u8]) -> bool {
    const MULTIPATH: u16 = 9;
    const NEXT_HOP: u16 = 30;
    let Some((&[_, _, senders, class, ..], attributes)) = route.split_first_chunk::<12>() else {
        return false;
    };
    let (mut several, mut elsewhere, mut by) = (false, false, false);
    for (kind, _) in Attributes(attributes) {
        several |= kind == MULTIPATH;
        elsewhere |= kind == NEXT_HOP;
        by |= kind == RTA_OIF;
    }
    senders == 0 && class == 0 && !several && (by || !elsewhere)
}

/// Which routes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routes {
    /// Those to other nodes' endpoints.
    ToPeers,
    /// All others.
    Others,
}

/// What a route does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends through interfaces; several on a multipath route.
    Unicast {
        /// Indexes of the interfaces.
        ifindexes: Vec<u32>,
        /// The next hop; `None` where the destination itself is on the link, or there are several.
        gateway: Option<IpAddr>,
        /// Whether the next hop is taken to be on the link though no route says so.
        on_link: bool,
    },
    /// Answers that the destination is unreachable.
    Unreachable,
    /// Swallows packets without an answer.
    Blackhole,
    /// Anything else.
    Other,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its destination.
    pub destination: IpNetwork,
    /// What it does.
    pub kind: RouteKind,
    /// Source address of what the node itself sends along it.
    pub source: Option<IpAddr>,
    /// Whether Cambric's daemon made it.
    pub ours: bool,
    /// The number of the routing protocol that it is said to come from, by convention: of who made it.
    pub protocol: u8,
    /// Of routes to one destination the kernel takes that with the lowest.
    pub metric: u32,
}

/// The metric of a route that is made without one.
fn default_metric(destination: IpNetwork) -> u32 {
    if destination.is_ipv4() { 0 } else { 1024 }
}

impl Route {
    /// The route of an endpoint's address.
    pub fn to_endpoint(address: IpAddr, ifindex: u32, source: IpAddr) -> Self {
        Self {
            destination: address.into(),
            kind: RouteKind::Unicast { ifindexes: vec![ifindex], gateway: None, on_link: false },
            source: Some(source),
            ours: true,
            protocol: PROTOCOL,
            metric: default_metric(address.into()),
        }
    }

    /// The route to the addresses of another node's endpoints.
    pub fn to_peer(
        destination: IpNetwork,
        ifindex: u32,
        gateway: IpAddr,
        on_link: bool,
        source: Option<IpAddr>,
    ) -> Self {
        let kind = RouteKind::Unicast { ifindexes: vec![ifindex], gateway: Some(gateway), on_link };
        let metric = default_metric(destination);
        Self { destination, kind, source, ours: true, protocol: PROTOCOL, metric }
    }

    /// Whether it leads to another node's endpoints.
    pub fn is_to_peer(&self) -> bool {
        self.ours && matches!(self.kind, RouteKind::Unicast { gateway: Some(_), .. })
    }

    /// The route that keeps a pool's unused addresses from leaving the node.
    pub fn unreachable(pool: IpNetwork) -> Self {
        let kind = RouteKind::Unreachable;
        let metric = default_metric(pool);
        Self { destination: pool, kind, source: None, ours: true, protocol: PROTOCOL, metric }
    }

    pub(super) fn from_message(message: RouteMessage) -> Option<Self> {
        let header = &message.header;
        let unspecified: IpAddr = match header.address_family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        // A copy in the cache, such as a learned path MTU, is not a route.
        if header.flags.contains(RouteFlags::Cloned) {
            return None;
        }
        let protocol = u8::from(header.protocol);
        let prefix = header.destination_prefix_length;
        let mut table = u32::from(header.table);
        let mut destination = unspecified;
        let mut source = None;
        let mut ifindexes = Vec::new();
        let mut gateway = None;
        let mut metric = None;
        let on_link = header.flags.contains(RouteFlags::Onlink);
        let kind = header.kind;
        for attribute in message.attributes {
            match attribute {
                RouteAttribute::Table(number) => table = number,
                RouteAttribute::Destination(address) => destination = ip(&address)?,
                RouteAttribute::PrefSource(address) => source = ip(&address),
                RouteAttribute::Oif(index) => ifindexes.push(index),
                RouteAttribute::Priority(number) => metric = Some(number),
                RouteAttribute::Gateway(address) => gateway = ip(&address),
                RouteAttribute::MultiPath(hops) => {
                    ifindexes.extend(hops.iter().map(|hop| hop.interface_index));
                }
                _ => {}
            }
        }
        if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
            return None;
        }
        let kind = match kind {
            RouteType::Unicast => RouteKind::Unicast { ifindexes, gateway, on_link },
            RouteType::Unreachable => RouteKind::Unreachable,
            RouteType::BlackHole => RouteKind::Blackhole,
            _ => RouteKind::Other,
        };
        let destination = IpNetwork::new(destination, prefix).ok()?;
        let metric = metric.unwrap_or_else(|| default_metric(destination));
        Some(Self { destination, kind, source, ours: protocol == PROTOCOL, protocol, metric })
    }

    fn message(&self) -> RouteMessage {
        let destination = self.destination.ip();
        let mut builder = RouteMessageBuilder::<IpAddr>::new().protocol(RouteProtocol::Other(PROTOCOL));
        let message = builder.get_mut();
        message.header.address_family = family(destination);
        message.header.destination_prefix_length = self.destination.prefix();
        message.attributes.push(RouteAttribute::Destination(destination.into()));
        message.attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(source.into())));
        let RouteKind::Unicast { ifindexes, gateway, on_link } = &self.kind else {
            return builder.kind(RouteType::Unreachable).build();
        };
        match gateway {
            None => message.header.scope = RouteScope::Link,
            Some(gateway) => message.attributes.push(RouteAttribute::Gateway((*gateway).into())),
        }
        if *on_link {
            builder = builder.onlink();
        }
        ifindexes.iter().fold(builder, |builder, index| builder.output_interface(*index)).build()
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// The destination of a route of the table `local` (`struct rtmsg` and what follows) that is a broadcast or an anycast address: the
/// node receives what is sent there, though it is no address of an interface.
fn of_several_machines(message: &RouteMessage) -> Option<IpNetwork> {
    if !matches!(message.header.kind, RouteType::Broadcast | RouteType::Anycast) {
        return None;
    }
    let of_table = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Table(number) => Some(*number),
        _ => None,
    };
    let table = message.attributes.iter().find_map(of_table).unwrap_or(message.header.table.into());
    if table != u32::from(TABLE_LOCAL) {
        return None;
    }
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    })?;
    IpNetwork::new(destination, message.header.destination_prefix_length).ok()
}

impl Socket {
    /// The broadcast and anycast addresses for which the node receives packets: those of its networks, of peer addresses, and what
    /// somebody has put into the table `local`.
    pub fn addresses_of_several_machines(&mut self) -> Result<Vec<IpNetwork>, NetlinkError> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            query.header.table = TABLE_LOCAL;
            let query = RouteNetlinkMessage::GetRoute(query);
            // `struct rtmsg` has the kind of the route in its eighth byte.
            let concerns = |route: &[u8]| {
                route.get(7).is_some_and(|kind| {
                    [RouteType::Broadcast, RouteType::Anycast].contains(&RouteType::from(*kind))
                })
            };
            let dumped =
                self.dump_some(&query, "routes of the table local", concerns, |message| match message {
                    RouteNetlinkMessage::NewRoute(message) => of_several_machines(&message),
                    _ => None,
                });
            match dumped {
                Ok(table) => found.extend(table),
                // A namespace in which no address of the family was ever made has no such table yet.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Routes of the main table, both families.
    pub fn routes(&mut self, which: Routes) -> Result<Vec<Route>, NetlinkError> {
        let concerns = |route: &[u8]| is_to_peer(route) == (which == Routes::ToPeers);
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            query.header.table = RouteHeader::RT_TABLE_MAIN;
            let query = RouteNetlinkMessage::GetRoute(query);
            let dumped = self.dump_some(&query, "routes", concerns, |message| match message {
                RouteNetlinkMessage::NewRoute(message) => Route::from_message(message),
                _ => None,
            });
            match dumped {
                Ok(table) => routes.extend(table),
                // A namespace in which no route of the family was ever made has no such table yet.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(routes)
    }

    /// Whether nothing but the destination decides which way a packet leaves, of IPv4 and of IPv6, as far as routes go: in all tables.
    pub fn plain_routes(&mut self) -> Result<(bool, bool), NetlinkError> {
        let mut of = |family| {
            let mut plain = true;
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            let look = |route: &[u8]| {
                plain &= is_plain(route);
                false
            };
            let query = RouteNetlinkMessage::GetRoute(query);
            match self.dump_some(&query, "routes", look, |_| None::<()>) {
                // A namespace in which no route of the family was ever made.
                Err(error) if !error.is_not_found() => Err(error),
                _ => Ok(plain),
            }
        };
        Ok((of(AddressFamily::Inet)?, of(AddressFamily::Inet6)?))
    }

    /// Adds a route, in the place of one to the same destination.
    pub fn put_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.request(
            &RouteNetlinkMessage::NewRoute(route.message()),
            NLM_F_CREATE | NLM_F_REPLACE,
            format!("add the route to {}", route.destination),
        )
    }

    /// Removes a route that [`Self::put_route`] made.
    pub fn remove_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.request(
            &RouteNetlinkMessage::DelRoute(route.message()),
            0,
            format!("remove the route to {}", route.destination),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_read_back_is_the_one_that_was_written() {
        for route in [
            Route::unreachable("10.88.0.0/16".parse().unwrap()),
            Route::unreachable("fd00:88::/64".parse().unwrap()),
            Route::to_endpoint("10.88.0.7".parse().unwrap(), 12, "10.88.0.1".parse().unwrap()),
            Route::to_endpoint("fd00:88::7".parse().unwrap(), 12, "fd00:88::1".parse().unwrap()),
            Route::to_peer("10.1.0.0/24".parse().unwrap(), 3, "192.0.2.3".parse().unwrap(), false, None),
            Route::to_peer(
                "fd00:1::/64".parse().unwrap(),
                3,
                "fd00:1::1".parse().unwrap(),
                true,
                Some("fd00::1".parse().unwrap()),
            ),
        ] {
            assert_eq!(Route::from_message(route.message()), Some(route));
        }
    }

    #[test]
    fn routes_to_peers_are_told_by_how_they_begin() {
        use netlink_packet_core::Emitable;
        let begins = |route: &Route| {
            let message = route.message();
            let mut bytes = vec![0; message.buffer_len()];
            message.emit(&mut bytes);
            is_to_peer(&bytes)
        };
        let gateway: IpAddr = "10.88.0.1".parse().unwrap();
        let cidrs = ["10.1.0.0/24", "fd00:1::/64"].map(|it| it.parse().unwrap());
        for cidr in cidrs {
            assert!(begins(&Route::to_peer(cidr, 3, gateway, false, None)));
            assert!(!begins(&Route::unreachable(cidr)));
        }
        for address in ["10.88.0.7", "fd00:88::7"] {
            assert!(!begins(&Route::to_endpoint(address.parse().unwrap(), 12, gateway)));
        }
    }

    #[test]
    fn a_route_is_plain_if_nothing_but_the_destination_counts() {
        use netlink_packet_core::Emitable;
        use netlink_packet_route::route::RouteNextHop;
        let bytes = |change: &dyn Fn(&mut RouteMessage)| {
            let mut message =
                Route::to_endpoint("10.88.0.7".parse().unwrap(), 12, "10.88.0.1".parse().unwrap()).message();
            change(&mut message);
            let mut bytes = vec![0; message.buffer_len()];
            message.emit(&mut bytes);
            bytes
        };
        assert!(is_plain(&bytes(&|_| {})));
        assert!(!is_plain(&bytes(&|message| message.header.tos = 0x10)));
        assert!(!is_plain(&bytes(&|message| message.header.source_prefix_length = 64)));
        assert!(!is_plain(&bytes(&|message| {
            message.attributes.push(RouteAttribute::MultiPath(vec![RouteNextHop::default()]));
        })));
        // A next hop of its own number, told of with its interface, and one that may be a group.
        let of_number = |route: &[u8]| [route, &[8, 0, 30, 0, 7, 0, 0, 0]].concat();
        assert!(is_plain(&of_number(&bytes(&|_| {}))));
        assert!(!is_plain(&of_number(&bytes(&|message| {
            message.attributes.retain(|it| !matches!(it, RouteAttribute::Oif(_)));
        }))));
        assert!(!is_plain(&[2, 32, 0]), "what is cut off is not known");
    }

    #[test]
    fn broadcast_and_anycast_routes_of_the_table_local_are_read() {
        let route = |to: &str, table, kind| {
            let mut message = Route::unreachable(to.parse().unwrap()).message();
            message.header.table = table;
            message.header.kind = kind;
            of_several_machines(&message).map(|network| network.to_string())
        };
        let read = |to: &str| Some(to.to_owned());
        assert_eq!(route("192.0.2.255/32", 255, RouteType::Broadcast), read("192.0.2.255/32"));
        assert_eq!(route("203.0.113.0/24", 255, RouteType::Broadcast), read("203.0.113.0/24"));
        assert_eq!(route("2001:db8::/128", 255, RouteType::Anycast), read("2001:db8::/128"));
        assert_eq!(route("192.0.2.1/32", 255, RouteType::Local), None);
        assert_eq!(route("192.0.2.255/32", 254, RouteType::Broadcast), None);
    }

    #[test]
    fn routes_of_other_tables_are_passed_over() {
        let mut message = Route::unreachable("10.88.0.0/16".parse().unwrap()).message();
        message.header.table = 255;
        assert_eq!(Route::from_message(message), None);
    }
}

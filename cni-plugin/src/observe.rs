//! What the kernel has of an attachment, end by end.

use std::{io, net::IpAddr};

use ipamd_api::MacAddr;
use ipamd_netlink::{NetlinkError, Socket};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use nix::errno::Errno;
use rtnetlink::LinkUnspec;

use crate::error::CniError;

/// One end of the pair, and what hangs on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Its index.
    pub index: u32,
    /// Its first name.
    pub name: String,
    /// What it is called besides, for people.
    pub alias: String,
    /// Whether it is one end of a veth pair.
    pub veth: bool,
    /// Whether it is set up.
    pub up: bool,
    /// Its Ethernet address.
    pub mac: Option<MacAddr>,
    /// Bytes.
    pub mtu: u32,
    /// Index of its other end, in that one's namespace.
    pub peer_index: Option<u32>,
    /// Its addresses with their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// The routes of the main table that leave by it.
    pub routes: Vec<Route>,
    /// Its neighbours that have an Ethernet address.
    pub neighbours: Vec<Neighbour>,
}

impl End {
    /// Whether it has that address, whatever the prefix.
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(own, _)| *own == address)
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to; none for a default route.
    pub destination: Option<(IpAddr, u8)>,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// Whether it is of IPv4.
    pub ipv4: bool,
}

/// A neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: Option<MacAddr>,
    /// Whether the entry stays for ever.
    pub permanent: bool,
}

/// Looks at the interface that has that name, for its first or a second one, in the socket's namespace; none if there is
/// none.
pub fn end(netlink: &mut Socket, name: &str) -> Result<Option<End>, CniError> {
    let request = LinkUnspec::new_with_name(name).build();
    let Some(mut end) = link(netlink, &format!("look at the interface {name}"), request)? else {
        return Ok(None);
    };
    end.addresses = addresses(netlink, name, end.index)?;
    end.routes = routes(netlink, name, end.index)?;
    end.neighbours = neighbours(netlink, name, end.index)?;
    Ok(Some(end))
}

/// Looks at the interface of that index alone, not at what hangs on it.
pub fn link_at(netlink: &mut Socket, index: u32) -> Result<Option<End>, CniError> {
    let request = LinkUnspec::new_with_index(index).build();
    link(netlink, &format!("look at the interface of index {index}"), request)
}

fn link(netlink: &mut Socket, what: &str, request: LinkMessage) -> Result<Option<End>, CniError> {
    let link = match netlink.get(what, &RouteNetlinkMessage::GetLink(request)) {
        Ok(Some(RouteNetlinkMessage::NewLink(link))) => link,
        Ok(_) => return Ok(None),
        Err(error) if error.errno() == Errno::ENODEV => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut end =
        End { index: link.header.index, up: link.header.flags.contains(LinkFlags::Up), ..End::default() };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => end.name = name,
            LinkAttribute::IfAlias(alias) => end.alias = alias,
            LinkAttribute::LinkInfo(infos) => end.veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth)),
            LinkAttribute::Address(bytes) => end.mac = mac(&bytes),
            LinkAttribute::Mtu(mtu) => end.mtu = mtu,
            LinkAttribute::Link(index) => end.peer_index = Some(index),
            _ => {}
        }
    }
    Ok(Some(end))
}

fn mac(bytes: &[u8]) -> Option<MacAddr> {
    bytes.try_into().ok().map(MacAddr)
}

/// What `entry` makes of the objects that match. Those that keep changing are none to judge by.
pub fn list<T>(
    netlink: &mut Socket,
    what: &str,
    query: &RouteNetlinkMessage,
    entry: impl Fn(RouteNetlinkMessage) -> Option<T>,
) -> Result<Vec<T>, NetlinkError> {
    let dump = netlink.dump(what, query, |message| message.parse().map(&entry))?;
    if dump.settled {
        Ok(dump.entries)
    } else {
        Err(NetlinkError::new(what, io::Error::other("they keep changing")))
    }
}

fn addresses(netlink: &mut Socket, name: &str, index: u32) -> Result<Vec<(IpAddr, u8)>, CniError> {
    let mut request = AddressMessage::default();
    request.header.index = index;
    let what = format!("list the addresses of {name}");
    let found = list(netlink, &what, &RouteNetlinkMessage::GetAddress(request), |message| {
        let RouteNetlinkMessage::NewAddress(message) = message else { return None };
        if message.header.index != index {
            return None;
        }
        // IPv4 tells its own address apart from the other end's, IPv6 has the one only.
        let mut address = None;
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Local(local) => address = Some(local),
                AddressAttribute::Address(other) => address = address.or(Some(other)),
                _ => {}
            }
        }
        Some((address?, message.header.prefix_len))
    });
    Ok(found?)
}

fn routes(netlink: &mut Socket, name: &str, index: u32) -> Result<Vec<Route>, CniError> {
    let mut request = RouteMessage::default();
    request.attributes.push(RouteAttribute::Oif(index));
    let what = format!("list the routes by {name}");
    let found = list(netlink, &what, &RouteNetlinkMessage::GetRoute(request), |message| match message {
        RouteNetlinkMessage::NewRoute(message) => route_by(&message, index),
        _ => None,
    });
    Ok(found?)
}

fn route_by(message: &RouteMessage, index: u32) -> Option<Route> {
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let ipv4 = header.address_family == netlink_packet_route::AddressFamily::Inet;
    let mut route = Route { destination: None, gateway: None, ipv4 };
    let mut leaves_by_it = false;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => leaves_by_it = *oif == index,
            RouteAttribute::Destination(address) => {
                route.destination =
                    route_address(address).map(|address| (address, header.destination_prefix_length));
            }
            RouteAttribute::Gateway(address) => route.gateway = route_address(address),
            _ => {}
        }
    }
    leaves_by_it.then_some(route)
}

fn route_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn neighbours(netlink: &mut Socket, name: &str, index: u32) -> Result<Vec<Neighbour>, CniError> {
    let mut request = NeighbourMessage::default();
    request.attributes.push(NeighbourAttribute::IfIndex(index));
    let what = format!("list the neighbours on {name}");
    let found = list(netlink, &what, &RouteNetlinkMessage::GetNeighbour(request), |message| {
        let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
        if message.header.ifindex != index {
            return None;
        }
        let (mut address, mut lladdr) = (None, None);
        for attribute in message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(ip.into()),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(ip.into()),
                NeighbourAttribute::LinkLayerAddress(bytes) => lladdr = mac(&bytes),
                _ => {}
            }
        }
        let permanent = message.header.state == NeighbourState::Permanent;
        Some(Neighbour { address: address?, mac: lladdr, permanent })
    });
    Ok(found?)
}

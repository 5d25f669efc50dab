//! Which flows a netlink event concerns. Most events concern none: interfaces of containers come and go with their
//! addresses and neighbours, and the routes of established flows stay.
//!
//! Messages are parsed as the kernel writes them (`linux/rtnetlink.h`). A message that cannot be parsed concerns every
//! flow.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipamd_api::key::is_host_ifname;
use ipamd_model::concerned::Concerned;
use ipamd_netlink::Attributes;
use ipnetwork::IpNetwork;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_NEWQDISC: u16 = 36;
const RTM_DELCHAIN: u16 = 101;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_NEWLINKPROP: u16 = 108;
const RTM_DELLINKPROP: u16 = 109;

const NLM_F_REPLACE: u16 = 0x100;

const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;
/// `IFF_RUNNING` and `IFF_LOWER_UP`.
const CARRIER: u32 = 1 << 6 | 1 << 16;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const AF_BRIDGE: u8 = 7;

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
pub(super) const RTA_OIF: u16 = 4;
const RTM_F_CLONED: u32 = 0x200;
const RTN_MULTICAST: u8 = 5;

/// What there is of an interface that ways depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "what the kernel says of a link, each by itself")]
struct Link {
    up: bool,
    carrier: bool,
    mtu: u32,
    master: Option<u32>,
    /// An endpoint's host end, the port of a bridge, loopback: no route that a flow of ours takes leads there by itself.
    aside: bool,
    /// It has been up. The routes that it had then may come to life with it, without a word.
    was_up: bool,
}

/// The interfaces as the kernel has told of them.
#[derive(Debug, Default)]
pub struct Links(HashMap<u32, Link>);

/// The flows that a message concerns.
pub fn concerned(kind: u16, flags: u16, body: &[u8], links: &mut Links) -> Concerned {
    let read = match kind {
        RTM_NEWLINK | RTM_DELLINK => links.told(kind == RTM_DELLINK, body),
        RTM_NEWADDR | RTM_DELADDR => of_address(kind == RTM_DELADDR, body, links),
        RTM_NEWROUTE | RTM_DELROUTE => of_route(body, links),
        // They are asked per packet.
        RTM_NEWNEIGH | RTM_DELNEIGH => Some(Concerned::nothing()),
        // Queueing disciplines and their classes and filters; names.
        RTM_NEWQDISC..RTM_NEWQDISC_END | RTM_DELCHAIN | RTM_NEWLINKPROP | RTM_DELLINKPROP => {
            Some(Concerned::nothing())
        }
        // Of a new one no route makes use yet. One that goes takes its routes along without a word.
        RTM_NEWNEXTHOP if flags & NLM_F_REPLACE == 0 => Some(Concerned::nothing()),
        // Among them rules.
        _ => None,
    };
    read.unwrap_or_else(Concerned::everything)
}

/// Behind the last of queueing disciplines, classes and filters.
const RTM_NEWQDISC_END: u16 = 48;

impl Links {
    /// Takes note of an interface, as a dump or a message has it. `None` if it cannot be read.
    fn told(&mut self, goes: bool, body: &[u8]) -> Option<Concerned> {
        // A bridge tells of its ports in its own family: what they are to it, not what they are.
        if *body.first()? == AF_BRIDGE {
            return Some(Concerned::nothing());
        }
        let (index, flags) = (word(body, 4)?, word(body, 8)?);
        let before = self.0.get(&index).cloned();
        let mut now = Link {
            up: flags & IFF_UP != 0 && !goes,
            carrier: flags & CARRIER == CARRIER,
            mtu: 0,
            master: None,
            aside: flags & IFF_LOOPBACK != 0,
            was_up: flags & IFF_UP != 0 || before.as_ref().is_some_and(|link| link.was_up),
        };
        for (kind, value) in Attributes(body.get(16..)?) {
            match kind {
                IFLA_IFNAME => now.aside |= is_host_ifname(text(value)),
                IFLA_MTU => now.mtu = word(value, 0)?,
                IFLA_MASTER => now.master = Some(word(value, 0)?),
                IFLA_LINKINFO => {
                    now.aside |= Attributes(value)
                        .any(|(kind, value)| kind == IFLA_INFO_SLAVE_KIND && text(value) == "bridge");
                }
                _ => {}
            }
        }
        let concerned = Self::concerned(before.as_ref(), &now);
        if goes {
            self.0.remove(&index);
        } else {
            self.0.insert(index, now);
        }
        Some(concerned)
    }

    fn concerned(before: Option<&Link>, now: &Link) -> Concerned {
        // A new one has neither addresses nor routes yet. They are told of.
        let Some(before) = before else { return Concerned::nothing() };
        let is_down = !before.up && !now.up;
        let is_first_up = !before.was_up;
        let state = |link: &Link| (link.up, link.carrier, link.mtu, link.master);
        if before.aside || now.aside || is_down || is_first_up || state(before) == state(now) {
            return Concerned::nothing();
        }
        Concerned::everything()
    }

    fn is_aside(&self, index: u32) -> bool {
        self.0.get(&index).is_some_and(|link| link.aside)
    }

    /// Takes note of an interface as a dump has it.
    pub fn learn(&mut self, body: &[u8]) {
        // What cannot be read is not known, and concerns every flow when it is told of.
        let _ = self.told(false, body);
    }
}

fn of_address(goes: bool, body: &[u8], links: &Links) -> Option<Concerned> {
    let (family, index) = (*body.first()?, word(body, 4)?);
    let mut address = None;
    for (kind, value) in Attributes(body.get(8..)?) {
        // Of a point-to-point link IFA_ADDRESS is the other side's.
        if kind == IFA_LOCAL || (kind == IFA_ADDRESS && address.is_none()) {
            address = Some(ip(family, value)?);
        }
    }
    let address = address?;
    if links.is_aside(index) || is_of_link(address) {
        return Some(Concerned::nothing());
    }
    // The routes that name an IPv4 address as their source go with it, without a word.
    let takes_routes = goes && family == AF_INET;
    Some(if takes_routes { Concerned::everything() } else { Concerned::address(address) })
}

fn of_route(body: &[u8], links: &Links) -> Option<Concerned> {
    let (family, length, kind) = (*body.first()?, *body.get(1)?, *body.get(7)?);
    if kind == RTN_MULTICAST || word(body, 8)? & RTM_F_CLONED != 0 {
        return Some(Concerned::nothing());
    }
    let (mut to, mut by) = (None, None);
    for (kind, value) in Attributes(body.get(12..)?) {
        match kind {
            RTA_DST => to = Some(ip(family, value)?),
            RTA_OIF => by = Some(word(value, 0)?),
            _ => {}
        }
    }
    // Endpoints are known by other tables.
    if by.is_some_and(|by| links.is_aside(by)) || to.is_some_and(is_of_link) {
        return Some(Concerned::nothing());
    }
    let everywhere = match family {
        AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    IpNetwork::new(to.unwrap_or(everywhere), length).ok().map(Concerned::network)
}

/// Whether an address has a meaning on its own link only: no flow of ours has it.
fn is_of_link(address: IpAddr) -> bool {
    address.is_multicast()
        || match address {
            IpAddr::V4(address) => address.is_loopback(),
            IpAddr::V6(address) => address.is_unicast_link_local() || address.is_loopback(),
        }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn ip(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
        AF_INET6 => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()),
        _ => None,
    }
}

/// A text that ends with a zero.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default().trim_end_matches('\0')
}

#[cfg(test)]
#[path = "concerned_flows_tests.rs"]
mod tests;

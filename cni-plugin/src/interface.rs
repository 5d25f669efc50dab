//! The attachment's pair of interfaces: making it, setting up its two ends, removing it.

use std::{
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
};

use ipamd_api::{
    AttachmentKey, MacAddr,
    wire::{Assigned, Reservation},
};
use ipamd_netlink::{Batch, NetlinkError, Socket};
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
    link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute, LinkMessage, Prop},
    neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAttribute, RouteScope, RouteType},
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use nix::{
    errno::Errno,
    net::if_::{if_indextoname, if_nametoindex},
};
use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::{
    error::CniError,
    netns::Netns,
    observe::{End, list},
    text::cut,
};

/// The most bytes that Linux takes for an alias, without the zero at its end.
const MAX_ALIAS: usize = 254;
/// Index of a namespace's first interface behind the loopback, which has 1.
const FIRST_INDEX: u32 = 2;
/// Behind the rules of others, before the main table's (32766).
const RULE_PRIORITY: u32 = 32_000;
/// Everything may stand already: an ADD that was broken off left it.
const PUT: u16 = NLM_F_CREATE | NLM_F_REPLACE;

/// The index of the interface of that name in the calling thread's namespace.
pub fn index_of(name: &str) -> Option<u32> {
    if_nametoindex(name).ok()
}

/// Whether there is an interface in the calling thread's namespace that has that name for its first one: Cambric made it,
/// and may remove it.
pub fn is_own(name: &str) -> bool {
    let first = index_of(name).and_then(|index| if_indextoname(index).ok());
    first.is_some_and(|first| first.to_bytes() == name.as_bytes())
}

/// Gives the interface of that index, which another plugin made, Cambric's name for a second one, and unless it has an alias
/// one that tells whose it is.
pub fn name_host_end(
    host: &mut Socket,
    key: &AttachmentKey,
    reservation: &Reservation,
    end: &End,
) -> Result<(), NetlinkError> {
    let (name, first) = (&reservation.host_ifname, &end.name);
    if index_of(name) == Some(end.index) {
        return Ok(());
    }
    let mut batch = Batch::default();
    if end.alias.is_empty() {
        let link = LinkUnspec::new_with_index(end.index).alias(alias_of(key)).build();
        batch.ask(format!("set the alias of {first}"), 0, &RouteNetlinkMessage::SetLink(link));
    }
    let create = NLM_F_CREATE | NLM_F_EXCL | NLM_F_APPEND;
    let named = RouteNetlinkMessage::NewLinkProp(second_name(end.index, name));
    batch.ask(format!("give {first} the name {name} too"), create, &named);
    host.run(&mut batch)
}

/// Takes Cambric's name from an interface that another plugin made; none is fine.
pub fn unname_host_end(host: &mut Socket, name: &str) -> Result<(), NetlinkError> {
    let Some(index) = index_of(name) else { return Ok(()) };
    let named = RouteNetlinkMessage::DelLinkProp(second_name(index, name));
    host.run(&mut Batch::of(format!("take the name {name} away"), 0, &named))
}

fn second_name(index: u32, name: &str) -> LinkMessage {
    let names = LinkAttribute::PropList(vec![Prop::AltIfName(name.to_owned())]);
    LinkUnspec::new_with_index(index).append_extra_attribute(names).build()
}

fn alias_of(key: &AttachmentKey) -> String {
    let mut alias = format!("cambric {key}");
    cut(&mut alias, MAX_ALIAS);
    alias
}

/// The attachments whose ends on the host are there, by the aliases of these.
pub fn keys(host: &mut Socket) -> Result<Vec<AttachmentKey>, NetlinkError> {
    let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
    list(host, "list the interfaces", &all, |link| {
        let RouteNetlinkMessage::NewLink(link) = link else { return None };
        let alias = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfAlias(alias) => Some(alias.as_str()),
            _ => None,
        });
        // Somebody else may have given the alias, or the kernel's limit have cut it: the name tells.
        key_of(alias?).filter(|key| index_of(&key.host_ifname()) == Some(link.header.index))
    })
}

/// The attachment whose alias that is.
fn key_of(alias: &str) -> Option<AttachmentKey> {
    let mut parts = alias.strip_prefix("cambric ")?.split('/').map(str::to_owned);
    let key = AttachmentKey { network: parts.next()?, container_id: parts.next()?, ifname: parts.next()? };
    parts.next().is_none().then_some(key)
}

/// Makes the pair, the container's end right in its namespace, and returns the host end's index. What an ADD that was
/// broken off left under the same name is removed first.
pub fn create(
    host: &mut Socket,
    reservation: &Reservation,
    ifname: &str,
    netns: &Netns,
) -> Result<u32, CniError> {
    let name = &reservation.host_ifname;
    let mut batch = Batch::of(
        format!("create the interface {name} with its other end {ifname} in {}", netns.path().display()),
        NLM_F_CREATE | NLM_F_EXCL,
        &RouteNetlinkMessage::NewLink(pair(reservation, ifname, netns)),
    );
    let created = match host.run(&mut batch) {
        Err(error) if error.errno() == Errno::EEXIST && index_of(name).is_some() => {
            tracing::info!(interface = name, "removing what an earlier ADD left");
            remove(host, name)?;
            host.run(&mut batch)
        }
        created => created,
    };
    created.map_err(|error| match error.errno() {
        Errno::EEXIST => {
            let (ifname, netns) = (ifname.to_owned(), netns.path().to_owned());
            CniError::InterfaceExists { ifname, netns, is_own: false }
        }
        _ => error.into(),
    })?;
    index_of(name)
        .ok_or_else(|| CniError::Kernel(format!("the interface {name} vanished as soon as it was made")))
}

fn pair(reservation: &Reservation, ifname: &str, netns: &Netns) -> LinkMessage {
    let container = LinkUnspec::new_with_name(ifname)
        .address(reservation.container_mac.0.to_vec())
        .mtu(reservation.mtu)
        .setns_by_fd(netns.as_fd().as_raw_fd())
        .build();
    LinkVeth::new(&reservation.host_ifname, ifname)
        .address(reservation.host_mac.0.to_vec())
        .mtu(reservation.mtu)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(container)))
        .build()
}

/// Removes the interface of that name and its other end with it; none is fine.
pub fn remove(host: &mut Socket, name: &str) -> Result<(), NetlinkError> {
    let link = RouteNetlinkMessage::DelLink(LinkUnspec::new_with_name(name).build());
    match host.run(&mut Batch::of(format!("remove the interface {name}"), 0, &link)) {
        Err(error) if error.errno() != Errno::ENODEV => Err(error),
        _ => Ok(()),
    }
}

/// Sets up the host's end: alias, no link-local address, up; routes and neighbours for the container's addresses.
pub fn configure_host_end(
    host: &mut Socket,
    key: &AttachmentKey,
    reservation: &Reservation,
    index: u32,
) -> Result<(), CniError> {
    let name = &reservation.host_ifname;
    let no_link_local = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let link = LinkUnspec::new_with_index(index)
        .up()
        .alias(alias_of(key))
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![no_link_local]))
        .build();
    let mut batch = Batch::of(format!("set {name} up"), 0, &RouteNetlinkMessage::SetLink(link));
    for Assigned { address, gateway } in &reservation.addresses {
        batch.ask(format!("route {address} to {name}"), PUT, &host_route(*address, *gateway, index));
        batch.ask(
            format!("set {} as the neighbour {address} on {name}", reservation.container_mac),
            PUT,
            &neighbour(*address, reservation.container_mac, index),
        );
    }
    run_with_ipv6(host, &mut batch, name)
}

/// Sets up the container's end, in whose namespace the calling thread stands: up, addresses, neighbours for the
/// gateways, default routes.
pub fn configure_container_end(
    container: &mut Socket,
    key: &AttachmentKey,
    reservation: &Reservation,
    ifname: &str,
) -> Result<(), CniError> {
    let index = index_of(ifname).ok_or_else(|| {
        CniError::Kernel(format!("the interface {ifname} vanished from the container's namespace"))
    })?;
    let up = RouteNetlinkMessage::SetLink(LinkUnspec::new_with_index(index).up().build());
    let mut batch = Batch::of(format!("set {ifname} up in the container"), 0, &up);
    for Assigned { address, gateway } in &reservation.addresses {
        batch.ask(format!("add {address} to {ifname} in the container"), PUT, &host_address(*address, index));
        batch.ask(
            format!("set {} as the neighbour {gateway} on {ifname} in the container", reservation.host_mac),
            PUT,
            &neighbour(*gateway, reservation.host_mac, index),
        );
        batch.ask(format!("route by {gateway} in the container"), PUT, &default_route(*gateway, index));
    }
    run_with_ipv6(container, &mut batch, ifname)?;
    if index > FIRST_INDEX {
        answer_by(container, key, reservation, index);
    }
    Ok(())
}

/// Has what the container sends from the interface's addresses leave by it, although its default route is another's: who is
/// asked at an address answers from there. A kernel without policy routing does without.
fn answer_by(container: &mut Socket, key: &AttachmentKey, reservation: &Reservation, index: u32) {
    let table = key.route_table();
    for Assigned { address, gateway } in &reservation.addresses {
        let mut rule = RuleMessage::default();
        rule.header.family = family(*address);
        rule.header.src_len = host_prefix(*address);
        rule.header.action = RuleAction::ToTable;
        rule.attributes = vec![
            RuleAttribute::Source(*address),
            RuleAttribute::Table(table),
            RuleAttribute::Priority(RULE_PRIORITY),
        ];
        let route = route_by(*gateway, index).table_id(table).build();
        let (to_route, to_rule) = (RouteNetlinkMessage::NewRoute(route), RouteNetlinkMessage::NewRule(rule));
        for (what, flags, message) in [
            (format!("route what comes from {address} by {gateway} in the container"), PUT, to_route),
            (
                format!("have a rule for what comes from {address} in the container"),
                NLM_F_CREATE | NLM_F_EXCL,
                to_rule,
            ),
        ] {
            match container.run(&mut Batch::of(what, flags, &message)) {
                // An ADD before this one has made it.
                Err(error) if error.errno() != Errno::EEXIST => {
                    tracing::warn!(%key, %error, "cannot route by source address: answers may leave by another interface");
                }
                _ => {}
            }
        }
    }
}

/// Runs the batch; where IPv6 turns out to be switched off on the interface, switches it on and runs it again. The
/// calling thread stands in the interface's namespace.
fn run_with_ipv6(netlink: &mut Socket, batch: &mut Batch, name: &str) -> Result<(), CniError> {
    match netlink.run(batch) {
        Err(error) if error.errno() == Errno::EACCES => {
            let switch = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
            tracing::info!(interface = name, "switching IPv6 on");
            std::fs::write(&switch, "0").map_err(CniError::io(format!(
                "switch IPv6 on by {switch} after the kernel said: {error}"
            )))?;
            Ok(netlink.run(batch)?)
        }
        ran => Ok(ran?),
    }
}

/// The address family of `address`.
pub fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// The prefix length of a single address of that family.
pub fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn host_address(address: IpAddr, index: u32) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = host_prefix(address);
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    // The daemon has seen to it that nobody else has the address.
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
        AddressAttribute::Flags(AddressFlags::Nodad),
    ];
    RouteNetlinkMessage::NewAddress(message)
}

fn neighbour(address: IpAddr, mac: MacAddr, index: u32) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        NeighbourAttribute::Destination(address.into()),
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
    ];
    RouteNetlinkMessage::NewNeighbour(message)
}

fn route(family: AddressFamily, index: u32) -> RouteMessageBuilder<IpAddr> {
    let mut builder = RouteMessageBuilder::<IpAddr>::new().output_interface(index);
    builder.get_mut().header.address_family = family;
    builder
}

/// A route to everywhere. The gateway lies in no prefix of the interface: its addresses stand alone.
fn route_by(gateway: IpAddr, index: u32) -> RouteMessageBuilder<IpAddr> {
    let mut builder = route(family(gateway), index).onlink();
    builder.get_mut().attributes.push(RouteAttribute::Gateway(gateway.into()));
    builder
}

fn host_route(address: IpAddr, gateway: IpAddr, index: u32) -> RouteNetlinkMessage {
    let mut message = route(family(address), index).scope(RouteScope::Link).build();
    message.header.destination_prefix_length = host_prefix(address);
    message.attributes.push(RouteAttribute::Destination(address.into()));
    message.attributes.push(RouteAttribute::PrefSource(gateway.into()));
    RouteNetlinkMessage::NewRoute(message)
}

/// The metric of the default route: the kernel's own for a container's first interface, and more for each later one,
/// so that its route stands behind theirs and replaces none.
fn default_metric(gateway: IpAddr, index: u32) -> u32 {
    let usual = if gateway.is_ipv4() { 0 } else { 1024 };
    usual + index.saturating_sub(FIRST_INDEX)
}

fn default_route(gateway: IpAddr, index: u32) -> RouteNetlinkMessage {
    let metric = default_metric(gateway, index);
    RouteNetlinkMessage::NewRoute(route_by(gateway, index).priority(metric).build())
}

//! Why an interface is an uplink.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use super::lookup::Lookup;
use crate::observed::Observed;
use ipamd_kernel::netlink::RouteKind;
use ipamd_model::objects::Nodes;

/// Why an interface is an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The configuration names it.
    Named,
    /// It carries an InternalIP of this node's Node.
    InternalIp(IpAddr),
    /// It carries an ExternalIP of this node's Node.
    ExternalIp(IpAddr),
    /// It has a default route of IPv4.
    DefaultRoute4,
    /// It has a default route of IPv6.
    DefaultRoute6,
    /// It is the way to other nodes.
    Way {
        /// The first of them by name.
        node: Arc<str>,
        /// Its address.
        address: IpAddr,
        /// How many more there are.
        more: usize,
    },
}

impl Reason {
    /// Whether other nodes reach this one there, or are reached.
    pub(super) fn is_of_nodes(&self) -> bool {
        matches!(self, Self::InternalIp(_) | Self::Way { .. })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named => f.write_str("named in the configuration"),
            Self::InternalIp(address) => write!(f, "carries the Node's InternalIP {address}"),
            Self::ExternalIp(address) => write!(f, "carries the Node's ExternalIP {address}"),
            Self::DefaultRoute4 => f.write_str("default route IPv4"),
            Self::DefaultRoute6 => f.write_str("default route IPv6"),
            Self::Way { node, address, more: 0 } => write!(f, "way to the node {node} ({address})"),
            Self::Way { node, address, more } => {
                write!(f, "way to the node {node} ({address}) and {more} more")
            }
        }
    }
}

/// Reasons by the index of the interface.
pub(super) type Reasons = BTreeMap<u32, Vec<Reason>>;

/// Every interface that carries an address of this node's Node, a default route, or the way to another node.
pub(super) fn reasons(own: &str, nodes: &Nodes, observed: &Observed) -> Reasons {
    let mut reasons = Reasons::new();
    of_addresses(own, nodes, observed, &mut reasons);
    of_default_routes(observed, &mut reasons);
    of_ways(own, nodes, observed, &mut reasons);
    reasons
}

/// Adds a reason that an interface may have already: a bridge gets those of its ports.
pub(super) fn add(reasons: &mut Reasons, ifindex: u32, reason: Reason) {
    let of_interface = reasons.entry(ifindex).or_default();
    if !of_interface.contains(&reason) {
        of_interface.push(reason);
    }
}

fn of_addresses(own: &str, nodes: &Nodes, observed: &Observed, reasons: &mut Reasons) {
    let Some(node) = nodes.get(own) else { return };
    let internal = node.internal.iter().map(|ip| (*ip, Reason::InternalIp(*ip)));
    let others = node.addresses.iter().filter(|ip| !node.internal.contains(ip));
    for (address, reason) in internal.chain(others.map(|ip| (*ip, Reason::ExternalIp(*ip)))) {
        for carrying in observed.addresses.iter().filter(|it| it.address == address) {
            add(reasons, carrying.ifindex, reason.clone());
        }
    }
}

fn of_default_routes(observed: &Observed, reasons: &mut Reasons) {
    for route in observed.routes.iter().filter(|route| route.destination.prefix() == 0) {
        let RouteKind::Unicast { ifindexes, .. } = &route.kind else { continue };
        let ipv4 = route.destination.is_ipv4();
        for ifindex in ifindexes {
            add(reasons, *ifindex, if ipv4 { Reason::DefaultRoute4 } else { Reason::DefaultRoute6 });
        }
    }
}

fn of_ways(own: &str, nodes: &Nodes, observed: &Observed, reasons: &mut Reasons) {
    let lookup = Lookup::new(&observed.routes);
    let mut ways: BTreeMap<u32, (Arc<str>, IpAddr, Arc<str>, usize)> = BTreeMap::new();
    for node in nodes.values().filter(|node| *node.name != *own) {
        for address in &node.internal {
            for ifindex in lookup.interfaces(*address) {
                let name = || Arc::clone(&node.name);
                let (.., last, count) = ways.entry(*ifindex).or_insert_with(|| (name(), *address, name(), 1));
                if *last != node.name {
                    *last = name();
                    *count += 1;
                }
            }
        }
    }
    for (ifindex, (node, address, _, count)) in ways {
        add(reasons, ifindex, Reason::Way { node, address, more: count - 1 });
    }
}

//! What the kernel has, as the daemon has read it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipamd_kernel::netlink::{Address, Forwarding, Link, Neighbour, Qdisc, Route};
use ipamd_model::endpoint::EndpointEntry;

/// What the kernel has.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The interfaces.
    pub links: Vec<Link>,
    /// Their addresses.
    pub addresses: Vec<Address>,
    /// Broadcast and anycast addresses for which the node receives packets.
    pub of_several_machines: Vec<ipnetwork::IpNetwork>,
    /// The main table's routes, but for those to other nodes' endpoints.
    pub routes: Vec<Route>,
    /// The permanent neighbours, but for those on the overlay.
    pub neighbours: Vec<Neighbour>,
    /// The ways to other nodes, if they were looked at.
    pub node_routes: Option<NodeRoutes>,
    /// Root and ingress queueing disciplines.
    pub qdiscs: Vec<Qdisc>,
    /// What the programs know.
    pub endpoints: BTreeMap<IpAddr, EndpointEntry>,
    /// Interfaces that have pinned links.
    pub pinned: Vec<String>,
    /// Kernel settings by their path below `/proc/sys`; those that the kernel does not have are left out.
    pub sysctls: BTreeMap<String, String>,
    /// Gateway addresses that were given to `lo`, now or under an earlier configuration.
    pub given: BTreeSet<IpAddr>,
}

/// The ways to other nodes that the kernel has.
#[derive(Clone, Debug, Default)]
pub struct NodeRoutes {
    /// The routes to their endpoints.
    pub routes: Vec<Route>,
    /// The permanent neighbours on the overlay.
    pub neighbours: Vec<Neighbour>,
    /// Where frames of VXLAN interfaces go.
    pub forwarding: Vec<Forwarding>,
}

impl Observed {
    /// The interface with an index.
    pub(super) fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == ifindex)
    }
}

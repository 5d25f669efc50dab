//! The plan: the steps that bring the kernel to what the records and the configuration say. It is a pure function of
//! what was observed; the daemon's `reconcile` observes and performs.

mod cidr_owners;
mod endpoints;
mod origins;
mod orphans;
pub mod overlay;
mod pools;
pub mod records;
pub mod remote_nodes;
mod step;
mod uplinks;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipamd_api::AttachmentKey;

pub use endpoints::Shaping;
pub use origins::origins;
pub use orphans::key_of_alias;
pub use overlay::Overlay;
pub use pools::{FORWARDING_V4, FORWARDING_V6, accept_ra};
pub use remote_nodes::Routing;
pub use step::Step;
pub use uplinks::{Reason, Uplinks, uplinks};

use crate::records::{Committed, Records};
use ipamd_addresses::ipam::Pool;
use ipamd_kernel::netlink::{Address, Forwarding, Link, Neighbour, Qdisc, Route};
use ipamd_model::{endpoint::EndpointEntry, objects::Nodes};

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
    fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == ifindex)
    }
}

/// What is to be done, in this order, and what should be looked at by a person.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
    /// Host ends whose programs are to be looked after: name and index.
    pub host_ends: Vec<(String, u32)>,
    /// The overlay, if there is to be one.
    pub overlay: Option<Overlay>,
    /// Sentences.
    pub problems: Vec<String>,
    /// Sentences about the ways to other nodes, if these were looked at.
    pub route_problems: Option<Vec<String>>,
}

/// Compares.
pub fn plan(
    pools: &[Pool],
    uplinks: &Uplinks,
    routing: &Routing,
    nodes: &Nodes,
    records: &Records,
    observed: &Observed,
) -> Plan {
    let mut plan = Plan { problems: uplinks.problems.clone(), ..Plan::default() };
    pools::plan(pools, uplinks, observed, &mut plan);
    plan.overlay = routing.overlay(nodes, uplinks, observed);
    remote_nodes::plan(routing, nodes, plan.overlay, pools, uplinks, observed, &mut plan);
    for endpoint in &records.committed {
        endpoints::plan(pools, endpoint, observed, &mut plan);
    }
    for uncommitted in &records.uncommitted {
        endpoints::plan_uncommitted(uncommitted, observed, &mut plan);
    }
    orphans::plan(records, observed, &mut plan);
    plan
}

/// An endpoint without a record: which it is, and what the programs know of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Adoption {
    /// From its interface's alias.
    pub key: AttachmentKey,
    /// What the programs know of its addresses.
    pub entries: BTreeMap<IpAddr, EndpointEntry>,
}

/// What the programs should know of an endpoint's addresses, and why they do not.
#[derive(Clone, Debug, PartialEq)]
pub struct Restoration {
    /// Which.
    pub endpoint: Committed,
    /// What the programs should know.
    pub entry: EndpointEntry,
    /// Whether only the queueing on its host end has changed.
    pub shaping: Shaping,
}

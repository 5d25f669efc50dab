//! The plan: the steps that bring the kernel to what the records and the configuration say. It is a pure function of
//! what was observed; the daemon's `reconcile` observes and performs.

mod cidr_owners;
mod endpoints;
mod observed;
mod origins;
mod orphans;
pub mod overlay;
mod overlay_interface;
mod plan;
mod pod_mtu;
mod pools;
pub mod records;
mod remote_nodes;
mod routing;
mod settings;
mod step;
mod uplinks;

pub use observed::{NodeRoutes, Observed};
pub use origins::origins;
pub use orphans::key_of_alias;
pub use overlay::Overlay;
pub use overlay_interface::overlay_uplink;
pub use plan::Plan;
pub use pod_mtu::pod_mtu;
pub use routing::Routing;
pub use settings::{FORWARDING_V4, FORWARDING_V6, accept_ra};
pub use step::{Adoption, Restoration, Shaping, Step};
pub use uplinks::{Reason, Uplinks, uplinks};

use crate::records::Records;
use ipamd_addresses::ipam::Pool;
use ipamd_model::objects::Nodes;

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

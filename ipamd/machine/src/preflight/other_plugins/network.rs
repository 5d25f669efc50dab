//! Interfaces and routes, read once for all checks.

use ipamd_config::UplinkRule;
use ipamd_kernel::netlink::{Link, NetlinkError, Route, RouteKind, Routes, Socket};
use ipamd_model::objects::Nodes;
use ipamd_plan as plan;
use ipamd_plan::Observed;

/// What of the network the checks judge.
#[derive(Clone, Debug, Default)]
pub(super) struct Network {
    pub(super) links: Vec<Link>,
    pub(super) routes: Vec<Route>,
}

impl Network {
    pub(super) fn read(socket: &mut Socket) -> Result<Self, NetlinkError> {
        Ok(Self { links: socket.links()?, routes: socket.routes(Routes::Others)? })
    }

    /// How many routes lead through an interface.
    pub(super) fn routes_through(&self, ifindex: u32) -> usize {
        self.routes.iter().filter(|route| leads_through(route, ifindex)).count()
    }

    /// The names of the interfaces that lead out of the node, as far as is known without the cluster's Nodes.
    pub(super) fn uplinks(&self, rule: &UplinkRule) -> Vec<String> {
        let observed =
            Observed { links: self.links.clone(), routes: self.routes.clone(), ..Observed::default() };
        let uplinks = plan::uplinks(rule, "", &Nodes::new(), &observed);
        uplinks.present.into_iter().map(|uplink| uplink.ifname).collect()
    }
}

pub(super) fn leads_through(route: &Route, ifindex: u32) -> bool {
    matches!(&route.kind, RouteKind::Unicast { ifindexes, .. } if ifindexes.contains(&ifindex))
}

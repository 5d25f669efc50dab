//! Reading what the kernel has.

use ipamd_kernel::{netlink::Routes, sysctl};
use ipamd_plan::{
    FORWARDING_V4, FORWARDING_V6, NodeRoutes, Observed, Uplinks, accept_ra, overlay::overlay_link,
};

use super::reconciler::Reconciler;

fn message_of(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Reconciler {
    /// Observes everything but the routes to other nodes, and the sysctls, which depend on the uplinks.
    pub(super) fn observe(&mut self) -> Result<Observed, String> {
        let mut observed = Observed {
            // The interfaces are read before the records: an interface that is seen here has its record by then.
            links: self.socket.links().map_err(message_of)?,
            addresses: self.socket.addresses().map_err(message_of)?,
            of_several_machines: self.socket.addresses_of_several_machines().map_err(message_of)?,
            routes: self.socket.routes(Routes::Others).map_err(message_of)?,
            qdiscs: self.socket.qdiscs().map_err(message_of)?,
            endpoints: self.datapath.endpoints().map_err(message_of)?,
            pinned: self.datapath.pinned_interfaces(),
            given: self.footprint.get().gateways.clone(),
            ..Observed::default()
        };
        let overlay = overlay_link(&observed).map(|link| link.index);
        observed.neighbours =
            self.socket.neighbours(|ifindex| Some(ifindex) != overlay).map_err(message_of)?;
        Ok(observed)
    }

    /// The routes, neighbours and forwarding entries to other nodes. These are many.
    pub(super) fn observe_node_routes(&mut self, observed: &Observed) -> Result<NodeRoutes, String> {
        let overlay = overlay_link(observed).map(|link| link.index);
        Ok(NodeRoutes {
            routes: self.socket.routes(Routes::ToPeers).map_err(message_of)?,
            neighbours: self.socket.neighbours(|ifindex| Some(ifindex) == overlay).map_err(message_of)?,
            forwarding: if overlay.is_some() {
                self.socket.forwarding().map_err(message_of)?
            } else {
                Vec::new()
            },
        })
    }

    pub(super) fn observe_sysctls(uplinks: &Uplinks, observed: &mut Observed) {
        let paths = [FORWARDING_V4.to_owned(), FORWARDING_V6.to_owned()]
            .into_iter()
            .chain(uplinks.present.iter().map(|uplink| accept_ra(&uplink.ifname)));
        observed.sysctls = paths.filter_map(|path| sysctl::read(&path).map(|value| (path, value))).collect();
    }
}

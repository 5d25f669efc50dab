//! Reading what the kernel has.

use ipamd_kernel::{netlink::Routes, sysctl};
use ipamd_plan::{FORWARDING_V4, FORWARDING_V6, Observed, Uplinks, Ways, accept_ra, overlay::overlay_link};

use super::Reconciler;

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Reconciler {
    /// Everything but the kernel settings, which ones depends on the uplinks, and the ways to other nodes.
    pub(super) fn observe(&mut self) -> Result<Observed, String> {
        let mut observed = Observed {
            // The interfaces first: one that appears later has its record by the time that the records are read.
            links: self.socket.links().map_err(said)?,
            addresses: self.socket.addresses().map_err(said)?,
            routes: self.socket.routes(Routes::Others).map_err(said)?,
            qdiscs: self.socket.qdiscs().map_err(said)?,
            endpoints: self.datapath.endpoints().map_err(said)?,
            pinned: self.datapath.pinned_interfaces(),
            given: self.footprint.get().gateways.clone(),
            ..Observed::default()
        };
        let overlay = overlay_link(&observed).map(|link| link.index);
        observed.neighbours = self.socket.neighbours(|ifindex| Some(ifindex) != overlay).map_err(said)?;
        Ok(observed)
    }

    /// The ways to other nodes, which are many.
    pub(super) fn observe_ways(&mut self, observed: &Observed) -> Result<Ways, String> {
        let overlay = overlay_link(observed).map(|link| link.index);
        Ok(Ways {
            routes: self.socket.routes(Routes::ToPeers).map_err(said)?,
            neighbours: self.socket.neighbours(|ifindex| Some(ifindex) == overlay).map_err(said)?,
            forwarding: if overlay.is_some() { self.socket.forwarding().map_err(said)? } else { Vec::new() },
        })
    }

    pub(super) fn observe_sysctls(uplinks: &Uplinks, observed: &mut Observed) {
        let paths = [FORWARDING_V4.to_owned(), FORWARDING_V6.to_owned()]
            .into_iter()
            .chain(uplinks.present.iter().map(|uplink| accept_ra(&uplink.ifname)));
        observed.sysctls = paths.filter_map(|path| sysctl::read(&path).map(|value| (path, value))).collect();
    }
}

//! Reading what the kernel has.

use crate::{
    plan::{FORWARDING_V4, FORWARDING_V6, Observed, Uplinks, accept_ra},
    sysctl,
};

use super::Reconciler;

impl Reconciler {
    /// Everything but the kernel settings, which ones depends on the uplinks.
    pub(super) fn observe(&mut self) -> Result<Observed, String> {
        fn said(error: impl std::fmt::Display) -> String {
            error.to_string()
        }
        Ok(Observed {
            // The interfaces first: one that appears later has its record by the time that the records are read.
            links: self.socket.links().map_err(said)?,
            addresses: self.socket.addresses().map_err(said)?,
            routes: self.socket.routes().map_err(said)?,
            neighbours: self.socket.neighbours().map_err(said)?,
            forwarding: self.socket.forwarding().map_err(said)?,
            qdiscs: self.socket.qdiscs().map_err(said)?,
            endpoints: self.datapath.endpoints().map_err(said)?,
            pinned: self.datapath.pinned_interfaces(),
            given: self.footprint.get().gateways.clone(),
            ..Observed::default()
        })
    }

    pub(super) fn observe_sysctls(uplinks: &Uplinks, observed: &mut Observed) {
        let paths = [FORWARDING_V4.to_owned(), FORWARDING_V6.to_owned()]
            .into_iter()
            .chain(uplinks.present.iter().map(|uplink| accept_ra(&uplink.ifname)));
        observed.sysctls = paths.filter_map(|path| sysctl::read(&path).map(|value| (path, value))).collect();
    }
}

//! Performing one step.

use ipamd_kernel::{
    netlink::{NetlinkError, RouteKind},
    sysctl,
};
use ipamd_machine::footprint::Footprint;
use ipamd_plan::{Observed, Step};

use super::reconciler::Reconciler;

impl Reconciler {
    /// Performs a step. Returns false if it was not needed any more.
    pub(super) fn perform(&mut self, step: &Step, observed: &Observed) -> Result<bool, String> {
        match step {
            Step::Sysctl { path, value } => self.set_sysctl(path, value, observed),
            Step::GiveGateway { lo, address } => {
                self.note(|footprint| {
                    footprint.gateways.insert(*address);
                })?;
                done(self.socket.add_address(*lo, *address))
            }
            Step::TakeGateway { lo, address } => {
                let taken = done(self.socket.remove_address(*lo, *address))?;
                self.note(|footprint| {
                    footprint.gateways.remove(address);
                })?;
                Ok(taken)
            }
            Step::PutRoute(route) => {
                if route.kind == RouteKind::Unreachable {
                    self.note(|footprint| {
                        footprint.unreachable.insert(route.destination);
                    })?;
                }
                done(self.socket.put_route(route))
            }
            Step::RemoveRoute(route) => {
                let removed = done(self.socket.remove_route(route))?;
                self.note(|footprint| {
                    footprint.unreachable.remove(&route.destination);
                })?;
                Ok(removed)
            }
            Step::SetUp { ifindex, .. } => done(self.socket.set_link_up(*ifindex)),
            Step::SetMtu { ifindex, mtu, .. } => done(self.socket.set_link_mtu(*ifindex, *mtu)),
            Step::PutNeighbour(neighbour) | Step::PutPeer(neighbour) => {
                done(self.socket.put_neighbour(neighbour))
            }
            Step::RemoveNeighbour(neighbour) => done(self.socket.remove_neighbour(neighbour)),
            Step::MakeOverlay { ifname, mac, mtu, vxlan } => {
                done(self.socket.add_vxlan(ifname, *mac, *mtu, vxlan))
            }
            Step::MoveOverlay { ifindex, mac, vxlan, .. } => {
                done(self.socket.move_vxlan(*ifindex, *mac, vxlan))
            }
            Step::RemoveOverlay { ifindex, .. } => done(self.socket.remove_link(*ifindex)),
            Step::PutForwarding(forwarding) => done(self.socket.put_forwarding(forwarding)),
            Step::RemoveForwarding(forwarding) => done(self.socket.remove_forwarding(forwarding)),
            Step::Restore(restoration) => {
                with_message(self.node.restore_endpoint(&restoration.endpoint, &restoration.entry))
            }
            Step::Adopt(adoption) => with_message(self.node.adopt(&adoption.key, &adoption.entries)),
            Step::Forget(address) => with_message(self.node.remove_unrecorded(*address)),
            Step::RemoveLink { ifname, ifindex } => Ok(self.node.remove_unrecorded_link(ifname, *ifindex)),
            Step::Unpin(ifname) => Ok(self.node.unpin_unrecorded(ifname)),
        }
    }

    fn set_sysctl(&mut self, path: &str, value: &str, observed: &Observed) -> Result<bool, String> {
        if let Some(found) = observed.sysctls.get(path) {
            // The first value found is the one that the machine had before Cambric.
            self.note(|footprint| {
                footprint.sysctls.entry(path.to_owned()).or_insert_with(|| found.clone());
            })?;
        }
        with_message(sysctl::write(path, value).map(|()| true))
    }

    fn note(&mut self, change: impl FnOnce(&mut Footprint)) -> Result<(), String> {
        with_message(self.footprint.note(change))
    }
}

fn with_message<T>(result: Result<T, impl std::fmt::Display>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

/// It is no error if an interface or a route has gone since it was observed.
fn done(result: Result<(), NetlinkError>) -> Result<bool, String> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

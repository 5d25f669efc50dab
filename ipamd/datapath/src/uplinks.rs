//! The interfaces that lead to the network.

use std::net::{Ipv4Addr, Ipv6Addr};

use bpf::{
    attach,
    layout::{Plain, UPLINK_OVERLAY, UPLINK_POLICED, UPLINK_SEEN_ONLY, Uplink as UplinkValue},
};
use ipamd_api::{key::is_host_ifname, wire::AttachMode};

use super::{
    datapath::{Datapath, HOOKS},
    error::DatapathError,
    hosts::HostLink,
    repairs::Repairs,
};
use ipamd_model::{
    concerned::Concerned,
    uplink::{Frames, Uplink},
};

/// As the programs have it. `policed`: it has a HostEndpoint.
fn value(uplink: &Uplink, policed: bool) -> UplinkValue {
    let policed = if policed { UPLINK_POLICED } else { 0 };
    UplinkValue {
        ipv4: uplink.ipv4.unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
        ipv6: uplink.ipv6.unwrap_or(Ipv6Addr::UNSPECIFIED).into(),
        flags: policed
            | match uplink.overlay {
                None => 0,
                Some(Frames::All) => UPLINK_OVERLAY,
                Some(Frames::Seen) => UPLINK_OVERLAY | UPLINK_SEEN_ONLY,
            },
    }
}

impl Datapath {
    /// Attaches the uplinks' programs and tells the programs their addresses; detaches from those no longer listed.
    /// Changes nothing where all is as wished, so it is called from every reconciliation. Raises the epoch when
    /// something changed. One uplink that fails, for it may be going, leaves the others none the worse; the first failure
    /// is returned. What is done as uplinks come and go is no repair. The first time, the programs take over from those of an
    /// earlier daemon.
    ///
    /// `hosts` are the interfaces that have policies of a HostEndpoint. The programs know these before they are attached.
    pub fn set_uplinks(&self, uplinks: &[Uplink], hosts: &[HostLink]) -> Result<Repairs, DatapathError> {
        let mut changed = false;
        for ifindex in self.set_host_links(hosts)? {
            if self.uplinks.get(&ifindex)?.is_none() {
                self.detach_filters(ifindex);
            }
        }
        // First those that go: they leave room in the map, and perhaps their name to another interface.
        for ifindex in self.uplinks.keys() {
            if !uplinks.iter().any(|uplink| uplink.ifindex == ifindex) {
                self.uplinks.remove(&ifindex)?;
                changed = true;
                self.detach_filters(ifindex);
            }
        }
        for ifname in self.pinned_interfaces() {
            let stays =
                uplinks.iter().any(|uplink| uplink.ifname == ifname) || self.host_links().contains(&ifname);
            if !is_host_ifname(&ifname) && !stays {
                self.detach_links(&ifname);
                self.unpin_links(&ifname);
                tracing::debug!(
                    interface = ifname,
                    "detached the programs: the interface is no longer an uplink"
                );
            }
        }
        let (mut told, mut repairs, mut failed) = (Vec::new(), Vec::new(), None);
        for uplink in uplinks {
            match self.tell_of_uplink(uplink, &mut changed) {
                Ok(is_new) => told.push((uplink, is_new)),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Err(error) = self.take_over() {
            failed = failed.or(Some(error));
        }
        if let Err(error) = self.attach_host_links(hosts) {
            failed = failed.or(Some(error));
        }
        for (uplink, is_new) in told {
            match self.heal_interface(&uplink.ifname, uplink.ifindex) {
                Ok(healed) if !is_new => repairs.extend(healed),
                Ok(_) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if changed {
            self.raise_epoch(&Concerned::everything())?;
        }
        failed.map_or(Ok(repairs), Err)
    }

    /// Tells the programs of an uplink; whether they did not know of it.
    fn tell_of_uplink(&self, uplink: &Uplink, changed: &mut bool) -> Result<bool, DatapathError> {
        let value = value(uplink, self.host_policies.get(&uplink.ifindex)?.is_some());
        let known = self.uplinks.get(&uplink.ifindex)?;
        if known.is_none_or(|known| known.as_bytes() != value.as_bytes()) {
            self.uplinks.put(&uplink.ifindex, &value)?;
            *changed = true;
        }
        Ok(known.is_none())
    }

    fn detach_filters(&self, ifindex: u32) {
        if self.attach_mode == AttachMode::Clsact {
            for direction in HOOKS {
                if let Err(error) = attach::detach_clsact(ifindex, direction) {
                    // Most likely the interface is gone, and its filters with it.
                    tracing::debug!(ifindex, %error, "cannot remove a filter");
                }
            }
        }
    }
}

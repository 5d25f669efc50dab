//! The policies of HostEndpoints: which interfaces have some, and where in the policy tables these are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{MutexGuard, PoisonError},
};

use bpf::{
    attach::Direction,
    layout::{
        EXTERNAL_HOST_POLICIES, HOST_FORWARDED, HOST_LOCAL, HOST_PRE_DNAT, HOST_UNTRACKED, HostPolicy, Plain,
    },
};
use ipamd_model::{concerned::Concerned, endpoint::Slot, host::HostLayer};

use crate::{datapath::Datapath, error::DatapathError, load};

/// What policies an interface has. No interface (0) stands for what pods of this node send to the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLink {
    /// Its index, or 0.
    pub ifindex: u32,
    /// Its name; empty for none.
    pub ifname: String,
    /// Whether it is an uplink, whose programs ask these policies beside all others.
    pub is_uplink: bool,
    /// Where each layer's policy is.
    pub slots: BTreeMap<HostLayer, Slot>,
}

fn place(layer: HostLayer) -> usize {
    match layer {
        HostLayer::Local => HOST_LOCAL,
        HostLayer::Forwarded => HOST_FORWARDED,
        HostLayer::PreDnat => HOST_PRE_DNAT,
        HostLayer::Untracked => HOST_UNTRACKED,
    }
}

fn value(link: &HostLink) -> HostPolicy {
    let mut value = HostPolicy::default();
    for (layer, slot) in &link.slots {
        if let Some(place) = value.slot.get_mut(place(*layer)) {
            *place = slot.0;
        }
    }
    value
}

impl Datapath {
    /// The program that belongs to a hook of an interface.
    pub(super) fn program_for(&self, ifname: &str, direction: Direction) -> &'static str {
        load::program_for(ifname, direction, self.host_links().contains(ifname))
    }

    pub(super) fn host_links(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.host_links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slots that the programs ask, by interface (or 0).
    pub fn host_slots(&self) -> Result<BTreeMap<u32, BTreeMap<HostLayer, Slot>>, DatapathError> {
        let mut slots = BTreeMap::new();
        for ifindex in self.host_policies.keys() {
            let Some(value) = self.host_policies.get(&ifindex)? else { continue };
            let of_layer = |layer| (layer, Slot(value.slot.get(place(layer)).copied().unwrap_or_default()));
            let known = HostLayer::ALL.into_iter().map(of_layer).filter(|(_, slot)| slot.0 > 0);
            slots.insert(ifindex, known.collect());
        }
        Ok(slots)
    }

    /// Tells the programs which interfaces have policies, before the uplinks are set. The postures of all slots are in force.
    /// Flows are judged again if something has changed. Returns the indices of interfaces that have no policies any more.
    pub(super) fn set_host_links(&self, links: &[HostLink]) -> Result<Vec<u32>, DatapathError> {
        let (mut changed, mut gone) = (false, Vec::new());
        for ifindex in self.host_policies.keys() {
            if !links.iter().any(|link| link.ifindex == ifindex) {
                self.host_policies.remove(&ifindex)?;
                gone.push(ifindex);
                changed = true;
            }
        }
        for link in links {
            let value = value(link);
            let known = self.host_policies.get(&link.ifindex)?;
            if known.is_none_or(|known| known.as_bytes() != value.as_bytes()) {
                self.host_policies.put(&link.ifindex, &value)?;
                changed = true;
            }
        }
        *self.host_links() = links
            .iter()
            .filter(|link| link.ifindex > 0 && !link.is_uplink)
            .map(|link| link.ifname.clone())
            .collect();
        let flag = if links.is_empty() { 0 } else { EXTERNAL_HOST_POLICIES };
        if self.node.get(&0)?.unwrap_or_default().external & EXTERNAL_HOST_POLICIES != flag {
            self.change_node(|node| node.external = node.external & !EXTERNAL_HOST_POLICIES | flag)?;
            changed = true;
        }
        if changed {
            self.raise_epoch(&Concerned::everything())?;
        }
        Ok(gone)
    }

    /// Attaches the programs to the interfaces that have policies and are no uplinks.
    pub(super) fn attach_host_links(&self, links: &[HostLink]) -> Result<(), DatapathError> {
        let mut failed = None;
        for link in links.iter().filter(|link| link.ifindex > 0 && !link.is_uplink) {
            // That programs are attached as interfaces come and go is no repair.
            if let Err(error) = self.heal_interface(&link.ifname, link.ifindex) {
                failed = failed.or(Some(error));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

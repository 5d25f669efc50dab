//! What the reconciliation reads from the node, and writes to it.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    records::{Record, local_endpoint},
    this_node::Node,
};
use ipamd_api::AttachmentKey;
use ipamd_plan::records::{Committed, Records, Uncommitted};

use ipamd_addresses::leaks;
use ipamd_datapath::DatapathError;
use ipamd_model::{
    concerned::Concerned,
    endpoint::{EndpointEntry, Slot},
};
use ipamd_policy::enforce::LocalEndpoint;

impl Node {
    /// The records, to be compared with what the kernel has.
    pub fn records(&self) -> Records {
        let state = self.state();
        let mut records =
            Records { leaving: state.leaving.clone(), has_lost: self.store.has_lost(), ..Records::default() };
        for (key, record) in &state.records {
            let host_ifname = key.host_ifname();
            match record.committed {
                Some(at) => {
                    let attachment = record.attachment.clone();
                    records.committed.push(Committed { attachment, host_ifname: host_ifname.clone(), at });
                }
                None => records.uncommitted.push(Uncommitted {
                    key: key.clone(),
                    host_ifname: host_ifname.clone(),
                    fresh: record.touched.age() < leaks::GRACE,
                    unknown: record.attachment.netns.as_os_str().is_empty(),
                }),
            }
            records.host_ifnames.insert(host_ifname);
        }
        records
    }

    /// Called when all endpoints whose records may be missing have been looked for.
    pub fn found_lost(&self) {
        if self.store.has_lost()
            && let Err(error) = self.store.found_lost()
        {
            tracing::warn!(%error, "records that were found again are not written yet");
        }
    }

    /// The committed endpoints as policy needs them, with their slots in the policy tables.
    pub fn local_endpoints(&self) -> Vec<(LocalEndpoint, Option<Slot>)> {
        let state = self.state();
        let placed =
            |record: &Record| record.committed.map(|at| (local_endpoint(&record.attachment), Some(at.slot)));
        state.records.values().filter_map(placed).collect()
    }

    /// Cookies of the namespaces of the committed endpoints.
    pub fn namespaces(&self) -> Vec<u64> {
        let state = self.state();
        let committed = state.records.values().filter(|record| record.committed.is_some());
        committed.filter_map(|record| record.attachment.netns_cookie).collect()
    }

    /// The path of the namespace of that cookie, if it is an endpoint's and still at its path.
    pub fn namespace_path(&self, cookie: u64) -> Option<PathBuf> {
        let state = self.state();
        let attachments = state.records.values().map(|record| &record.attachment);
        let of_cookie = attachments.filter(|it| it.netns_cookie == Some(cookie));
        let there = of_cookie.filter(|it| self.kernel.netns_at(&it.netns) == Some(it.netns_id));
        there.map(|it| it.netns.clone()).next()
    }

    /// Stores the slots that policy assigned to the endpoints. The next pass of the reconciliation writes them to the
    /// programs.
    pub fn set_slots(&self, slots: impl IntoIterator<Item = (AttachmentKey, Slot)>) {
        let mut state = self.state();
        for (key, slot) in slots {
            if let Some(at) = state.records.get_mut(&key).and_then(|record| record.committed.as_mut()) {
                at.slot = slot;
            }
        }
    }

    /// Forgets host ends that were being removed and of which nothing is left among `present`.
    pub fn forget_gone(&self, present: &BTreeMap<u32, String>) {
        self.state().leaving.retain(|ifindex| present.contains_key(ifindex));
    }

    /// Puts an endpoint's addresses into the programs' map as `entry`, if it is still committed with that host end.
    pub fn restore_endpoint(
        &self,
        endpoint: &Committed,
        entry: &EndpointEntry,
    ) -> Result<bool, DatapathError> {
        let state = self.state();
        let record = state.records.get(&endpoint.attachment.key);
        if record.is_none_or(|record| record.committed != Some(endpoint.at)) {
            return Ok(false);
        }
        // What was observed may be from before its commit.
        let known = self.kernel.endpoints()?;
        if endpoint.attachment.ips().all(|ip| known.get(&ip) == Some(entry)) {
            return Ok(false);
        }
        for ip in endpoint.attachment.ips() {
            self.kernel.put_endpoint(ip, entry)?;
        }
        self.kernel.raise_epoch(&endpoint.attachment.ips().collect())?;
        Ok(true)
    }

    /// Removes an address from the programs' map that no record holds.
    pub fn remove_unrecorded(&self, address: std::net::IpAddr) -> Result<bool, DatapathError> {
        let state = self.state();
        if state.allocator.holder(address).is_some() {
            return Ok(false);
        }
        self.kernel.remove_endpoint(address)?;
        self.kernel.raise_epoch(&Concerned::address(address))?;
        Ok(true)
    }

    /// Removes a host end that belongs to no record.
    pub fn remove_unrecorded_link(&self, host_ifname: &str, ifindex: u32) -> bool {
        let mut state = self.state();
        if state.records.keys().any(|key| key.host_ifname() == host_ifname) || !state.leaving.insert(ifindex)
        {
            return false;
        }
        self.kernel.remove_link(host_ifname, ifindex);
        true
    }

    /// Removes link pins that belong to no record and no interface.
    pub fn unpin_unrecorded(&self, host_ifname: &str) -> bool {
        let state = self.state();
        if state.records.keys().any(|key| key.host_ifname() == host_ifname)
            || self.kernel.link_index(host_ifname).is_some()
        {
            return false;
        }
        self.kernel.unpin_links(host_ifname);
        true
    }
}

//! Adopts endpoints that are in the programs' maps but neither in the store nor in a file. Their pods are unknown, so
//! no policy can select them: their traffic is dropped, unless there is no cluster and so no policy.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use ipamd_api::{
    ApiError, AttachmentKey,
    wire::{Assigned, NetnsId},
};

use super::{
    internal_error::internal,
    records::{Record, State, local_endpoint},
    this_node::Node,
    wall_clock::now,
};
use ipamd_addresses::attachment::Attachment;
use ipamd_model::endpoint::EndpointEntry;
use ipamd_plan::records::Placed;
use ipamd_runtime::monotonic::Moment;

impl Node {
    /// Creates a record for an endpoint that has none, from its key (the alias of its interface) and the addresses in
    /// the programs' map. Its namespace, pod and host ports stay unknown. So the programs forget it and its record is
    /// not committed, unless [`Node::let_unknown_pass`] allows it. Returns false if it has a record after all, or if
    /// one of its addresses belongs to another.
    ///
    /// # Errors
    /// Why it could not be recorded; nothing has changed then.
    pub fn adopt(
        &self,
        key: &AttachmentKey,
        entries: &BTreeMap<IpAddr, EndpointEntry>,
    ) -> Result<bool, ApiError> {
        let Some(entry) = entries.values().next() else { return Ok(false) };
        let is_taken = |state: &State| {
            let is_held = |ip: &IpAddr| state.allocator.holder(*ip).is_some();
            state.records.contains_key(key) || entries.keys().any(is_held)
        };
        let pools = {
            let state = self.state();
            if is_taken(&state) {
                return Ok(false);
            }
            state.allocator.pools()
        };
        let assigned = |address: &IpAddr| Assigned { address: *address, gateway: gateway(&pools, *address) };
        let attachment = Attachment {
            key: key.clone(),
            addresses: entries.keys().map(assigned).collect(),
            container_mac: entry.container_mac,
            host_mac: entry.host_mac,
            mtu: entry.mtu.into(),
            netns: PathBuf::new(),
            netns_id: NetnsId { dev: 0, ino: 0 },
            netns_cookie: None,
            pod: None,
            labels: BTreeMap::new(),
            port_mappings: Vec::new(),
            chained: entry.chained,
            created: now(),
        };
        // Not under the lock: policy may be at a large change.
        let slot = if self.lets_unknown_pass {
            Some(self.policy.admit(local_endpoint(&attachment)).map_err(internal)?)
        } else {
            None
        };
        let state = &mut *self.state();
        if is_taken(state) {
            // An ADD has come meanwhile; one of the same attachment has made it known to policy itself.
            if slot.is_some() && !state.records.contains_key(key) {
                self.policy.dismiss_later(key);
            }
            return Ok(false);
        }
        state.allocator.adopt(&attachment);
        let stored = match self.store_new(state, &attachment) {
            Ok(ticket) => Some(ticket),
            // It is found again by the daemon that can write.
            Err(_) if self.store.unwritable().is_some() => None,
            Err(error) => {
                for ip in attachment.ips() {
                    state.allocator.release(ip);
                }
                if slot.is_some() {
                    self.policy.dismiss_later(key);
                }
                return Err(error);
            }
        };
        if slot.is_none() {
            for ip in entries.keys() {
                self.kernel.remove_endpoint(*ip).map_err(internal)?;
            }
            self.kernel.raise_epoch(&entries.keys().copied().collect()).map_err(internal)?;
        }
        let record = Record {
            touched: Moment::now(),
            attachment,
            stored,
            committed: slot.map(|slot| Placed { ifindex: entry.ifindex, slot }),
        };
        state.records.insert(key.clone(), record);
        Ok(true)
    }
}

/// The gateway of the pool that an address lies in; the address itself if the pool is no longer configured.
fn gateway(pools: &[ipamd_api::wire::Pool], address: IpAddr) -> IpAddr {
    let contains = |pool: &&ipamd_api::wire::Pool| {
        pool.cidr.parse::<ipnetwork::IpNetwork>().is_ok_and(|cidr| cidr.contains(address))
    };
    pools.iter().find(contains).map_or(address, |pool| pool.gateway)
}

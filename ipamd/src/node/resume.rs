//! The state of a new daemon from three sources: the store, the endpoints' files, and the programs' maps. What one of
//! them has lost is restored from the others.

use std::collections::{BTreeMap, BTreeSet};

use ipamd_api::{ApiError, AttachmentKey};

use super::{kernel::Kernel, this_node::Node};
use ipamd_addresses::attachment::Attachment;
use ipamd_model::endpoint::Slot;
use ipamd_plan::records::Placed;
use ipamd_store::{Batch, Loaded, endpoint_files::EndpointFiles};

/// An endpoint has no place in the policy tables yet. They count from 1, so that the programs let nothing of it pass.
pub(super) const NO_SLOT: Slot = Slot(0);

/// What the endpoints' files tell.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Indices of host ends that exist, of records that are committed.
    host_ends: BTreeMap<AttachmentKey, u32>,
    /// Records that the store has lost.
    pub lost: Vec<Attachment>,
}

/// Completes what the store held by what the endpoints' files tell. Files of what is gone are removed.
pub(super) fn complete(loaded: &mut Loaded, files: &EndpointFiles, kernel: &dyn Kernel) -> Found {
    let mut found = Found::default();
    let known: BTreeMap<_, _> = loaded.attachments.iter().map(|it| (it.key.clone(), it.created)).collect();
    let mut held: BTreeSet<_> = loaded.attachments.iter().flat_map(Attachment::ips).collect();
    for saved in files.load() {
        let key = saved.attachment.key.clone();
        if kernel.link_index(&key.host_ifname()) != Some(saved.host_ifindex) {
            // It was deleted while no daemon ran, or its interface was.
            files.remove(&key);
            continue;
        }
        match known.get(&key) {
            Some(created) if *created == saved.attachment.created => {}
            // An ADD has begun anew since.
            Some(_) => {
                files.remove(&key);
                continue;
            }
            None if saved.attachment.ips().any(|ip| held.contains(&ip)) => {
                tracing::warn!(%key, "an address of an endpoint that the store has lost belongs to another one now");
                continue;
            }
            None => {
                tracing::warn!(%key, "the store has lost an endpoint; it is known by its file");
                held.extend(saved.attachment.ips());
                loaded.attachments.push(saved.attachment.clone());
                found.lost.push(saved.attachment);
            }
        }
        found.host_ends.insert(key, saved.host_ifindex);
    }
    found
}

/// Where an endpoint is that the programs' maps have lost, if it was committed.
pub(super) fn placed(attachment: &Attachment, found: &Found, kernel: &dyn Kernel) -> Option<Placed> {
    let of_file = found.host_ends.get(&attachment.key).copied();
    let ifindex = of_file.or_else(|| {
        // The namespace's cookie is noted at the commit.
        attachment.netns_cookie?;
        let is_there = kernel.netns_at(&attachment.netns) == Some(attachment.netns_id);
        kernel.link_index(&attachment.key.host_ifname()).filter(|_| is_there)
    })?;
    tracing::warn!(key = %attachment.key, "the programs' maps have lost an endpoint; it is committed again");
    Some(Placed { ifindex, slot: NO_SLOT })
}

impl Node {
    /// Stores what the store had lost.
    pub(super) fn store_restored(&self, lost: &[Attachment]) -> Result<(), ApiError> {
        let mut batch = Batch::new();
        for attachment in lost {
            batch.put(attachment).map_err(|error| self.refusal(&error))?;
        }
        if !lost.is_empty() && self.store.unwritable().is_none() {
            // What is not stored is found again at the next start.
            drop(self.submit(batch)?);
        }
        Ok(())
    }

    /// Writes the files of committed endpoints that are missing.
    pub fn keep_files(&self) {
        let state = self.state();
        let committed = state.records.values().filter_map(|it| Some((&it.attachment, it.committed?.ifindex)));
        self.files.complete(committed);
    }
}

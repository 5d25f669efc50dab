//! What would be in force with the staged policies.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    net::IpAddr,
    sync::Arc,
};

use ipamd_api::{
    AttachmentKey,
    policy::{ObjectName, RefusedObject},
};

use super::overlay::Overlay;
use crate::{
    compile::policy_inputs::LocalEndpoint,
    enforce::{change_log::Told, state::State},
};
use ipamd_model::{
    objects::{Change, ObjectId},
    staged::StagedPolicy,
};

/// The staged set.
#[derive(Debug)]
pub(in crate::enforce) struct StagedSet {
    pub state: State,
    pub overlay: Overlay,
    /// The endpoint that has an address.
    pub endpoints: HashMap<IpAddr, AttachmentKey>,
}

impl StagedSet {
    /// Makes it of a copy of the cluster. `None` if that fails, which the log has.
    pub fn of(mut state: State) -> Option<Self> {
        let mut overlay = Overlay::apply(&mut state.cluster.inputs);
        if let Err(error) = state.begin_copy_with(&mut overlay) {
            tracing::error!(%error, "the staged policies cannot be tried");
            return None;
        }
        let endpoints = state.by_address();
        Some(Self { state, overlay, endpoints })
    }

    /// Takes in what the cluster was told.
    pub fn take_in(&mut self, told: Vec<Told>) {
        let mut changes = Vec::new();
        let mut endpoints_changed = false;
        for told in told {
            if let Told::Change(change) = told {
                // What is before it may say whether there is a policy to be hidden.
                if change.id().kind.is_staged() {
                    self.apply(&mut changes);
                }
                changes.extend(self.overlay.translate(change, &self.state.cluster.inputs));
                continue;
            }
            self.apply(&mut changes);
            endpoints_changed = true;
            match told {
                Told::Endpoint(endpoint) => self.admit(endpoint),
                Told::NoEndpoint(key) => self.state.forget(&key),
                Told::NodeAddresses(addresses) => {
                    let old = mem::replace(&mut self.state.cluster.node_addresses, addresses);
                    self.state.written.touched.extend(old.into_iter().map(ipnetwork::IpNetwork::from));
                    if let Err(error) = self.state.sync_tables(&BTreeSet::new()) {
                        tracing::warn!(%error, "the staged policies are tried as they were");
                    }
                }
                Told::Change(_) => {}
            }
        }
        self.apply(&mut changes);
        if endpoints_changed {
            self.endpoints = self.state.by_address();
        }
    }

    fn apply(&mut self, changes: &mut Vec<Change>) {
        let applied = match mem::take(changes) {
            none if none.is_empty() => Ok(()),
            changes => self.state.apply(changes).map(drop),
        };
        if let Err(error) = applied.and_then(|()| self.state.keep_what_stays(&mut self.overlay)) {
            tracing::warn!(%error, "the staged policies are tried as they were");
        }
    }

    fn admit(&mut self, endpoint: LocalEndpoint) {
        let key = endpoint.key.clone();
        if let Err(error) = self.state.admit(endpoint, None) {
            tracing::warn!(%key, %error, "the staged policies are not tried for this endpoint");
        }
    }

    /// What is tried out.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<StagedPolicy>> {
        self.overlay.staged.values()
    }

    /// Why staged policies are not tried, or not as they are written.
    pub fn left_out(&self) -> Vec<RefusedObject> {
        let staged: BTreeSet<ObjectName> = self.policies().map(|it| (&it.id).into()).collect();
        let mut left_out = self.state.not_in_force();
        left_out.retain(|it| it.object.as_ref().is_some_and(|object| staged.contains(object)));
        for refused in &mut left_out {
            refused.reason = format!("it would not be in force: {}", refused.reason);
            refused.in_force = false;
        }
        left_out
    }

    /// The staged policy that stands for a policy, or is it.
    pub fn staged(&self, id: &ObjectId) -> Option<&Arc<StagedPolicy>> {
        self.overlay.staged.get(&id.enforced())
    }
}

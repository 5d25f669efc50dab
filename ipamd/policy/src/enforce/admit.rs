//! Endpoints that come and go.

use std::{collections::BTreeSet, sync::Arc};

use ipamd_api::AttachmentKey;

use super::{
    error::EnforceError,
    queue::{QueuedChange, QueuedEndpoint},
    slots::EndpointSlot,
    state::{Closed, State},
};
use crate::{compile::policy_inputs::LocalEndpoint, tables::TableError};
use ipamd_model::endpoint::Slot;
use ipamd_runtime::queued_lock::TakeIn;

impl State {
    /// Adds or updates an endpoint; a new one gets this slot, if one is given. When this returns, its policy is
    /// enforced.
    pub fn admit(
        &mut self,
        endpoint: LocalEndpoint,
        slot: Option<Arc<EndpointSlot>>,
    ) -> Result<Slot, EnforceError> {
        if !self.started {
            return Err(EnforceError::NotStarted);
        }
        let key = endpoint.key.clone();
        let before = self.cluster.inputs.locals.get(&key).cloned();
        let mut concerned = BTreeSet::from([key.clone()]);
        let most = self.tables.limits().slots;
        let slot = self.enter_endpoint(endpoint, slot, &mut concerned).ok_or(EnforceError::Slots(most))?;
        let Err(error) = self.sync_tables(&concerned) else { return Ok(slot) };
        match before {
            Some(before) => {
                let mut concerned = BTreeSet::from([key]);
                self.enter_endpoint(before, None, &mut concerned);
                self.roll_back(&concerned)?;
            }
            None => self.dismiss(&key)?,
        }
        Err(error.into())
    }

    /// Adds or updates an endpoint in the cluster, with this slot, or else with the slot it has, or else with any. Returns
    /// `None` if there is no free slot.
    fn enter_endpoint(
        &mut self,
        endpoint: LocalEndpoint,
        slot: Option<Arc<EndpointSlot>>,
        concerned: &mut BTreeSet<AttachmentKey>,
    ) -> Option<Slot> {
        let known = self.cluster.endpoints.get(&endpoint.key).map(|known| Arc::clone(&known.slot));
        let slot =
            slot.or_else(|| known.clone()).or_else(|| self.slots.claim(None, self.tables.limits().slots))?;
        let number = slot.number();
        if known.is_some_and(|known| known.number() != number) {
            // What the tables say is about the other slot.
            self.written.endpoints.remove(&endpoint.key);
        }
        self.cluster.enter_endpoint(endpoint, slot, concerned);
        Some(number)
    }

    /// Adds an endpoint from the queue.
    fn admit_queued(&mut self, queued: QueuedEndpoint) {
        let QueuedEndpoint { endpoint, slot, answer } = queued;
        let key = endpoint.key.clone();
        // An earlier endpoint of the same attachment has another slot.
        self.forget(&key);
        let outcome = self.admit(endpoint.clone(), Some(Arc::clone(&slot)));
        // Nobody waits for the answer, so the ADD has returned already, and only a person can help.
        if let Err(Err(error)) = answer.send(outcome) {
            tracing::warn!(%key, %error, "its policy cannot be put in force: all packets of the endpoint are dropped");
            self.closed.insert(key, Closed { endpoint, slot, reason: error.to_string() });
        }
    }

    /// Tries once more to enforce endpoints that are cut off.
    pub fn retry_closed(&mut self) {
        for (key, Closed { endpoint, slot, .. }) in std::mem::take(&mut self.closed) {
            if let Err(error) = self.admit(endpoint.clone(), Some(Arc::clone(&slot))) {
                self.closed.insert(key, Closed { endpoint, slot, reason: error.to_string() });
            }
        }
    }

    /// Removes an endpoint. A failure is repaired later.
    pub fn forget(&mut self, key: &AttachmentKey) {
        if let Err(error) = self.dismiss(key) {
            self.failed(&error);
        }
    }

    /// Removes an endpoint from the cluster and from the tables.
    fn dismiss(&mut self, key: &AttachmentKey) -> Result<(), TableError> {
        self.closed.remove(key);
        let mut concerned = BTreeSet::new();
        let Some(gone) = self.cluster.remove_endpoint(key, &mut concerned) else { return Ok(()) };
        let in_force = self.written.endpoints.remove(key);
        self.left_out.space_freed = true;
        if self.failure.is_none() {
            gone.slot.clear_posture(&mut *self.tables)?;
            if let Some(in_force) = in_force {
                self.written.release_rules(&in_force.rules, &mut *self.tables);
            }
        }
        // The slot is free before a new set comes into force.
        drop(gone);
        self.roll_back(&concerned)
    }
}

impl TakeIn for State {
    type Waiting = QueuedChange;

    fn take_in(&mut self, waiting: QueuedChange) {
        match waiting {
            QueuedChange::Dismiss(key) => self.forget(&key),
            QueuedChange::Admit(queued) => self.admit_queued(*queued),
        }
    }
}

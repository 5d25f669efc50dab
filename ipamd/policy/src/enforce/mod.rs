//! Keeps the programs' policy tables in step with the cluster.

mod apply;
mod compiled;
mod explain;
mod listing;
pub mod memory;
mod policy_diff;
mod queue;
mod rebuild;
mod slots;
mod state;
#[cfg(test)]
mod tests;
mod trial_budget;
mod write_tables;
mod written_peers;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use ipamd_api::AttachmentKey;

pub use self::{
    apply::EnforceError,
    explain::{Numbers, SeenFlow},
    listing::Counts,
    queue::Admission,
    write_tables::Writes,
};
use self::{apply::Parts, queue::Waiting, slots::SlotAllocator, state::State, write_tables::WriteError};
pub use crate::compile::policy_inputs::LocalEndpoint;
use crate::tables::{self, TableError, Tables};
use ipamd_model::endpoint::Slot;
use ipamd_model::objects::Batch;
use ipamd_runtime::queued_lock::{QueuedLock, TakeIn, locked};

/// Enforces the policies of the cluster on the endpoints of this node.
#[derive(Debug)]
pub struct Enforcer {
    /// Endpoints that come and go wait in its queue.
    state: QueuedLock<State>,
    places: Arc<SlotAllocator>,
    /// How many of them there are.
    most: u32,
    /// How much there was, and what needed a person, when the state was last to be had.
    seen: Mutex<(Counts, Vec<String>)>,
}

/// Says why policy is not as it should be.
fn said(outcome: Result<(), WriteError>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "cannot rebuild the policy tables");
    }
}

/// What a batch came to.
#[derive(Clone, Copy, Debug)]
pub struct Applied {
    /// From the batch to what it says being in force.
    pub took: Duration,
    /// What was written.
    pub writes: Writes,
}

impl Enforcer {
    /// Enforces nothing yet: what is in the tables stays in force until [`Self::start`].
    pub fn new(tables: Box<dyn Tables>) -> Self {
        let most = tables.limits().slots;
        let state = State::new(tables);
        Self {
            places: Arc::clone(&state.places),
            state: QueuedLock::new(state),
            most,
            seen: Mutex::default(),
        }
    }

    /// Puts the cluster in force as it was told first, in place of what the tables have. Endpoints keep their slots where
    /// they can; returns those they have.
    ///
    /// # Errors
    /// Why the tables could not be written; then what they had is still in force.
    pub fn start(
        &self,
        endpoints: impl IntoIterator<Item = (LocalEndpoint, Option<Slot>)>,
        node_addresses: BTreeSet<IpAddr>,
        first: Batch,
    ) -> Result<Vec<(AttachmentKey, Slot)>, EnforceError> {
        let mut state = self.state.change();
        state.node_addresses = node_addresses;
        state.refusals = first.refusals.unwrap_or_default();
        state.inputs.fill(first.changes);
        for (endpoint, slot) in endpoints {
            let place = self.places.claim(slot, self.most).ok_or(EnforceError::Slots(self.most))?;
            state.place(endpoint, place);
        }
        match state.rebuild() {
            Ok(()) => {}
            Err(WriteError::Table(error)) => return Err(EnforceError::Table(error)),
            Err(WriteError::Overflow(overflow)) => return Err(EnforceError::Fit(overflow.to_string())),
        }
        state.started = true;
        Ok(state.endpoints.iter().map(|(key, endpoint)| (key.clone(), endpoint.place.slot())).collect())
    }

    /// Takes an endpoint in, or its new state. When this returns its policy is enforced.
    ///
    /// # Errors
    /// Why it is not.
    pub fn admit(&self, endpoint: LocalEndpoint) -> Result<Slot, EnforceError> {
        self.lock().admit(endpoint, None)
    }

    /// Takes an endpoint in, in place of one of the same attachment, as soon as nothing is in the way: by [`Self::take`], or by
    /// whoever has the state next.
    ///
    /// # Errors
    /// That there is no slot left.
    pub fn queue(&self, endpoint: LocalEndpoint) -> Result<Admission, EnforceError> {
        let place = self.places.claim(None, self.most).ok_or(EnforceError::Slots(self.most))?;
        let (admission, waiting) = Admission::new(endpoint, place);
        self.state.push(waiting);
        Ok(admission)
    }

    /// Forgets an endpoint in the same way.
    pub fn dismiss_later(&self, key: &AttachmentKey) {
        self.state.push(Waiting::Dismiss(key.clone()));
    }

    /// Forgets an endpoint, at once or soon.
    pub fn dismiss(&self, key: &AttachmentKey) {
        self.dismiss_later(key);
        self.forget_dismissed();
    }

    /// Forgets what was dismissed, unless somebody has the state.
    pub fn forget_dismissed(&self) {
        // If a change is under way, the next one, or the next reconciliation, takes care of it.
        self.state.try_take();
    }

    /// Whether somebody should call [`Self::take`]: nobody else is about to.
    pub fn needs_taking(&self) -> bool {
        self.state.needs_taking()
    }

    /// Waits for the state, and takes in what waits for it.
    pub fn take(&self) {
        self.state.take();
    }

    /// For how long changes of the cluster have had the state, all together.
    pub fn time_of_changes(&self) -> Duration {
        self.state.time_of_changes()
    }

    /// The longest time for which a change of the cluster has had the state without a break.
    pub fn longest_change(&self) -> Duration {
        self.state.longest_change()
    }

    /// Whether somebody waits to be taken in. For tests.
    #[doc(hidden)]
    pub fn waits(&self) -> bool {
        self.state.waits()
    }

    /// Has the state as a large change has it. For tests.
    #[doc(hidden)]
    pub fn stall(&self, act: impl FnOnce()) {
        let _changing = self.state.change();
        act();
    }

    /// Takes changes of the cluster in: together, or, if they do not fit together, those that fit. The search for those takes many
    /// turns, and between two of them others have the state: who comes and goes is taken in, who asks is answered.
    pub fn apply(&self, batch: Batch) -> Applied {
        let began = Instant::now();
        if let Some(refusals) = batch.refusals {
            let mut state = self.lock();
            for refusal in refusals.iter().filter(|it| !state.refusals.contains(it)) {
                tracing::warn!(%refusal, "object refused");
            }
            state.refusals = refusals;
        }
        let mut writes = Writes::default();
        if !batch.changes.is_empty() {
            let mut parts = Parts::of(batch.changes);
            while let Some(part) = parts.next() {
                let mut state = self.state.change();
                // A failure was said already, and is tried again.
                writes += state.turn(part, &mut parts).unwrap_or_default();
            }
        }
        Applied { took: began.elapsed(), writes }
    }

    /// Sets the addresses from which the node itself always reaches its endpoints. Not while a change is under way: it is said
    /// at every reconciliation.
    pub fn set_node_addresses(&self, addresses: BTreeSet<IpAddr>) {
        let Some(mut state) = self.state.try_change() else { return };
        if !state.started || state.node_addresses == addresses {
            return;
        }
        let old = std::mem::replace(&mut state.node_addresses, addresses);
        state.derived.touched.extend(old.into_iter().map(ipnetwork::IpNetwork::from));
        if let Err(WriteError::Overflow(overflow)) = state.sync_tables(&BTreeSet::new()) {
            state.failed(&TableError(overflow.to_string().into()));
        }
    }

    /// Tries again what has failed or did not fit, each in a turn of its own, and clears away what is out of use. Not while a
    /// change is under way.
    pub fn retry(&self) {
        let due = {
            let Some(mut state) = self.state.try_change() else { return };
            self.state.take_in(&mut state);
            if !state.started {
                return;
            }
            if state.failure.is_some() {
                return said(state.rebuild());
            }
            state.due()
        };
        for id in due {
            let mut state = self.state.change();
            if let Err(error) = state.retry_unfit(&id) {
                return said(Err(error.into()));
            }
        }
        let Some(mut state) = self.state.try_change() else { return };
        state.retry_closed();
        said(state.compact());
    }

    /// The state, after all who have waited for it longer.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl TakeIn for State {
    type Waiting = Waiting;

    fn take_in(&mut self, waiting: Waiting) {
        match waiting {
            Waiting::Dismiss(key) => self.forget(&key),
            Waiting::Admit(entrant) => self.enter_from_queue(*entrant),
        }
    }
}

//! The enforcer: the state behind its lock, and all that others ask of it.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use ipamd_api::AttachmentKey;
use ipnetwork::IpNetwork;

use super::{
    change_log::Told,
    counts::Counts,
    error::EnforceError,
    parts::Parts,
    queue::{Admission, QueuedChange},
    slots::SlotAllocator,
    state::State,
    trial::{progress::Trial, tally::TrialCounts},
    write_error::WriteError,
    writes::Writes,
};
use crate::{
    compile::policy_inputs::LocalEndpoint,
    tables::{TableError, Tables},
};
use ipamd_model::{endpoint::Slot, objects::Batch, policy::Denied};
use ipamd_runtime::queued_lock::QueuedLock;

/// Enforces the policies of the cluster on the endpoints of this node.
#[derive(Debug)]
pub struct Enforcer {
    /// Endpoints that come and go wait in its queue.
    pub(super) state: QueuedLock<State>,
    slots: Arc<SlotAllocator>,
    /// The number of slots.
    most: u32,
    /// The counts and problems, as of the last time that the lock was free.
    pub(super) last_report: Mutex<(Counts, Vec<String>)>,
    /// What is tried out. Who has it may wait for the state, and never the other way round.
    pub(super) trial: Mutex<Trial>,
    /// What was counted of that. Nobody who has it waits.
    pub(super) trial_counts: Mutex<TrialCounts>,
}

/// Logs why the tables could not be rebuilt.
fn log_failure(outcome: Result<(), WriteError>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "cannot rebuild the policy tables");
    }
}

/// The effect of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Applied {
    /// The time from the batch until it was in force.
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
            slots: Arc::clone(&state.slots),
            state: QueuedLock::new(state),
            most,
            last_report: Mutex::default(),
            trial: Mutex::default(),
            trial_counts: Mutex::default(),
        }
    }

    /// What becomes of packets that are denied, where neither the policy nor the endpoint's namespace says it.
    #[must_use]
    pub fn with_denied(self, denied: Denied) -> Self {
        self.state.change().cluster.denied = denied;
        self
    }

    /// Puts the first state of the cluster in force, in place of what the tables have. Endpoints keep their slots where
    /// they can. Returns the slots.
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
        state.cluster.node_addresses = node_addresses;
        let known = state.tables.domains()?;
        state.cluster.domains.take_over(known);
        state.left_out.refusals = first.refusals.unwrap_or_default();
        state.cluster.inputs.fill(first.changes);
        for (endpoint, slot) in endpoints {
            let slot = self.slots.claim(slot, self.most).ok_or(EnforceError::Slots(self.most))?;
            state.cluster.put_endpoint(endpoint, slot);
        }
        state.rebuild()?;
        state.started = true;
        Ok(state
            .cluster
            .endpoints
            .iter()
            .map(|(key, endpoint)| (key.clone(), endpoint.slot.number()))
            .collect())
    }

    /// Adds an endpoint, or updates it. When this returns, its policy is enforced.
    ///
    /// # Errors
    /// Why it is not.
    pub fn admit(&self, endpoint: LocalEndpoint) -> Result<Slot, EnforceError> {
        self.lock().admit(endpoint, None)
    }

    /// Queues an endpoint, which replaces one of the same attachment. It is added by [`Self::take`], or by whoever has
    /// the lock next.
    ///
    /// # Errors
    /// That there is no slot left.
    pub fn queue(&self, endpoint: LocalEndpoint) -> Result<Admission, EnforceError> {
        let slot = self.slots.claim(None, self.most).ok_or(EnforceError::Slots(self.most))?;
        let (admission, waiting) = Admission::new(endpoint, slot);
        self.state.push(waiting);
        Ok(admission)
    }

    /// Queues the removal of an endpoint.
    pub fn dismiss_later(&self, key: &AttachmentKey) {
        self.state.push(QueuedChange::Dismiss(key.clone()));
    }

    /// Removes an endpoint: now if the lock is free, otherwise soon.
    pub fn dismiss(&self, key: &AttachmentKey) {
        self.dismiss_later(key);
        self.forget_dismissed();
    }

    /// Makes the queued removals, unless somebody has the lock.
    pub fn forget_dismissed(&self) {
        // If a change is under way, the next one, or the next reconciliation, takes care of it.
        self.state.try_take();
    }

    /// Whether [`Self::take`] must be called, because nobody has the lock or waits for it.
    pub fn needs_taking(&self) -> bool {
        self.state.needs_taking()
    }

    /// Waits for the lock, and applies what is queued.
    pub fn take(&self) {
        self.state.take();
    }

    /// The total time for which changes of the cluster have had the lock.
    pub fn time_of_changes(&self) -> Duration {
        self.state.time_of_changes()
    }

    /// The longest time for which a change of the cluster has had the state without a break.
    pub fn longest_change(&self) -> Duration {
        self.state.longest_change()
    }

    /// Whether anything is queued. For tests.
    #[doc(hidden)]
    pub fn waits(&self) -> bool {
        self.state.waits()
    }

    /// Holds the lock as a large change does. For tests.
    #[doc(hidden)]
    pub fn stall(&self, act: impl FnOnce()) {
        let _changing = self.state.change();
        act();
    }

    /// Applies changes of the cluster: all of them, or those that fit. The search for those that fit takes many tries.
    /// Between two tries others get the lock: pods are added and removed, and requests are answered.
    pub fn apply(&self, batch: Batch) -> Applied {
        let began = Instant::now();
        if let Some(refusals) = batch.refusals {
            let mut state = self.lock();
            for refusal in refusals.iter().filter(|it| !state.left_out.refusals.contains(it)) {
                tracing::warn!(%refusal, "object refused");
            }
            state.left_out.refusals = refusals;
        }
        let mut writes = Writes::default();
        if !batch.changes.is_empty() {
            let mut parts = Parts::of(batch.changes);
            while let Some(part) = parts.next() {
                let mut state = self.state.change();
                // The failure is logged already, and is tried again.
                writes += state.try_part(part, &mut parts).unwrap_or_default();
            }
        }
        Applied { took: began.elapsed(), writes }
    }

    /// Sets the addresses from which the node itself always reaches its endpoints. Does nothing while a change is under
    /// way, because every reconciliation calls this again.
    pub fn set_node_addresses(&self, addresses: BTreeSet<IpAddr>) {
        let Some(mut state) = self.state.try_change() else { return };
        if !state.started || state.cluster.node_addresses == addresses {
            return;
        }
        state.cluster.log.push(|| Told::NodeAddresses(addresses.clone()));
        let old = std::mem::replace(&mut state.cluster.node_addresses, addresses);
        state.written.touched.extend(old.into_iter().map(IpNetwork::from));
        if let Err(WriteError::Overflow(overflow)) = state.sync_tables(&BTreeSet::new()) {
            state.failed(&TableError(overflow.to_string().into()));
        }
    }

    /// Tries again what has failed or did not fit, one object at a time, and compacts the tables. Does nothing while a
    /// change is under way.
    pub fn retry(&self) {
        let due = {
            let Some(mut state) = self.state.try_change() else { return };
            self.state.take_in(&mut state);
            if !state.started {
                return;
            }
            if state.failure.is_some() {
                return log_failure(state.rebuild());
            }
            state.left_out.due()
        };
        for id in due {
            let mut state = self.state.change();
            if let Err(error) = state.retry_unfit(&id) {
                return log_failure(Err(error.into()));
            }
        }
        let Some(mut state) = self.state.try_change() else { return };
        state.retry_closed();
        log_failure(state.compact());
    }

    /// The state, once everybody who has waited longer has had it.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

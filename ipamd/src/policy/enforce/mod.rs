//! Keeps the programs' tables in step with the cluster.

mod apply;
mod compiled;
mod explain;
mod listing;
pub mod memory;
mod peers;
mod rebuild;
mod settle;
mod state;
#[cfg(test)]
mod tests;
mod trial;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError, TryLockError},
    time::{Duration, Instant},
};

use ipamd_api::AttachmentKey;

pub use self::{
    apply::EnforceError,
    explain::{Led, Numbers, SeenFlow},
    listing::Counts,
    settle::Writes,
};
use self::{settle::Unsettled, state::State};
use crate::cluster::objects::Batch;
pub use crate::policy::compile::world::LocalEndpoint;
use crate::policy::tables::{self, Slot, TableError, Tables};

/// Enforces the policies of the cluster on the endpoints of this node.
#[derive(Debug)]
pub struct Enforcer {
    state: Mutex<State>,
    /// Endpoints that are gone and are still to be forgotten; whoever has the state next does that.
    dismissed: Mutex<Vec<AttachmentKey>>,
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
        Self { state: Mutex::new(State::new(tables)), dismissed: Mutex::default() }
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
        let mut state = self.lock();
        state.node_addresses = node_addresses;
        state.refusals = first.refusals.unwrap_or_default();
        state.world.fill(first.changes);
        let most = state.tables.limits().slots;
        for (endpoint, slot) in endpoints {
            state.place(endpoint, slot).ok_or(EnforceError::Slots(most))?;
        }
        match state.rebuild() {
            Ok(()) => {}
            Err(Unsettled::Table(error)) => return Err(EnforceError::Table(error)),
            Err(Unsettled::Overflow(overflow)) => return Err(EnforceError::Fit(overflow.to_string())),
        }
        state.started = true;
        Ok(state.endpoints.iter().map(|(key, endpoint)| (key.clone(), endpoint.slot)).collect())
    }

    /// Takes an endpoint in, or its new state. When this returns its policy is enforced.
    ///
    /// # Errors
    /// Why it is not.
    pub fn admit(&self, endpoint: LocalEndpoint) -> Result<Slot, EnforceError> {
        self.lock().admit(endpoint)
    }

    /// Forgets an endpoint, at once or soon.
    pub fn dismiss(&self, key: &AttachmentKey) {
        self.dismissed().push(key.clone());
        match self.state.try_lock() {
            Ok(mut state) => self.drain(&mut state),
            Err(TryLockError::Poisoned(poisoned)) => self.drain(&mut poisoned.into_inner()),
            // A change is under way; the next one, or the next reconciliation, takes care of it.
            Err(TryLockError::WouldBlock) => {}
        }
    }

    /// Takes changes of the cluster in.
    pub fn apply(&self, batch: Batch) -> Applied {
        let began = Instant::now();
        let mut state = self.lock();
        if let Some(refusals) = batch.refusals {
            for refusal in refusals.iter().filter(|it| !state.refusals.contains(it)) {
                tracing::warn!(%refusal, "refused");
            }
            state.refusals = refusals;
        }
        // A failure was said already, and is tried again.
        let writes =
            if batch.changes.is_empty() { Ok(Writes::default()) } else { state.apply(batch.changes) };
        Applied { took: began.elapsed(), writes: writes.unwrap_or_default() }
    }

    /// Sets the addresses from which the node itself always reaches its endpoints.
    pub fn set_node_addresses(&self, addresses: BTreeSet<IpAddr>) {
        let mut state = self.lock();
        if !state.started || state.node_addresses == addresses {
            return;
        }
        let old = std::mem::replace(&mut state.node_addresses, addresses);
        state.derived.touched.extend(old.into_iter().map(ipnetwork::IpNetwork::from));
        if let Err(Unsettled::Overflow(overflow)) = state.bring(BTreeSet::new()) {
            state.failed(&TableError(overflow.to_string().into()));
        }
    }

    /// Tries again what has failed or did not fit, and clears away what is out of use.
    pub fn retry(&self) {
        let mut state = self.lock();
        if !state.started {
            return;
        }
        let outcome = if state.failure.is_some() {
            state.rebuild()
        } else {
            let retried = state.retry_unfit().map_err(Unsettled::from);
            retried.and_then(|()| state.compact())
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "policy could not be enforced anew");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.drain(&mut state);
        state
    }

    fn drain(&self, state: &mut State) {
        let keys = std::mem::take(&mut *self.dismissed());
        for key in keys {
            if let Err(error) = state.dismiss(&key) {
                state.failed(&error);
            }
        }
    }

    fn dismissed(&self) -> MutexGuard<'_, Vec<AttachmentKey>> {
        self.dismissed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

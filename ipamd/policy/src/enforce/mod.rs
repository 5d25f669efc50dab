//! Keeps the programs' tables in step with the cluster.

mod apply;
mod compiled;
mod explain;
mod listing;
pub mod memory;
mod peers;
mod places;
mod queue;
mod rebuild;
mod settle;
mod state;
#[cfg(test)]
mod tests;
mod trial;
mod trials;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ipamd_api::AttachmentKey;

pub use self::{
    apply::EnforceError,
    explain::{Numbers, SeenFlow},
    listing::Counts,
    queue::Admission,
    settle::Writes,
};
use self::{apply::Parts, places::Places, queue::Waiting, settle::Unsettled, state::State};
pub use crate::compile::world::LocalEndpoint;
use crate::tables::{self, TableError, Tables};
use ipamd_model::endpoint::Slot;
use ipamd_model::objects::Batch;

/// Enforces the policies of the cluster on the endpoints of this node.
#[derive(Debug)]
pub struct Enforcer {
    state: Mutex<State>,
    /// Whoever waits for the state has this, so that who has just had it comes behind.
    next: Mutex<()>,
    /// Endpoints that come and go.
    queue: Mutex<Vec<Waiting>>,
    /// Somebody waits for the state to take them in.
    taking: AtomicBool,
    places: Arc<Places>,
    /// How many of them there are.
    most: u32,
    /// Since when a change of the cluster has had the state.
    changing: Mutex<Option<Instant>>,
    /// How much there was, and what needed a person, when the state was last to be had.
    seen: Mutex<(Counts, Vec<String>)>,
}

/// A change of the cluster has the state until this is dropped.
struct Changing<'a>(&'a Enforcer);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        *locked(&self.0.changing) = None;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says why policy is not as it should be.
fn said(outcome: Result<(), Unsettled>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "policy could not be enforced anew");
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
            state: Mutex::new(state),
            next: Mutex::default(),
            queue: Mutex::default(),
            taking: AtomicBool::new(false),
            most,
            changing: Mutex::default(),
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
        let mut state = self.lock();
        let _changing = self.changing();
        state.node_addresses = node_addresses;
        state.refusals = first.refusals.unwrap_or_default();
        state.world.fill(first.changes);
        for (endpoint, slot) in endpoints {
            let place = self.places.claim(slot, self.most).ok_or(EnforceError::Slots(self.most))?;
            state.place(endpoint, place);
        }
        match state.rebuild() {
            Ok(()) => {}
            Err(Unsettled::Table(error)) => return Err(EnforceError::Table(error)),
            Err(Unsettled::Overflow(overflow)) => return Err(EnforceError::Fit(overflow.to_string())),
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
        locked(&self.queue).push(waiting);
        Ok(admission)
    }

    /// Forgets an endpoint in the same way.
    pub fn dismiss_later(&self, key: &AttachmentKey) {
        locked(&self.queue).push(Waiting::Dismiss(key.clone()));
    }

    /// Forgets an endpoint, at once or soon.
    pub fn dismiss(&self, key: &AttachmentKey) {
        self.dismiss_later(key);
        self.forget_dismissed();
    }

    /// Forgets what was dismissed, unless somebody has the state.
    pub fn forget_dismissed(&self) {
        // If a change is under way, the next one, or the next reconciliation, takes care of it.
        if let Some(mut state) = self.try_state() {
            self.drain(&mut state);
        }
    }

    /// Whether somebody should call [`Self::take`]: nobody else is about to.
    pub fn needs_taking(&self) -> bool {
        !locked(&self.queue).is_empty() && !self.taking.swap(true, Ordering::AcqRel)
    }

    /// Waits for the state, and takes in what waits for it.
    pub fn take(&self) {
        loop {
            drop(self.lock());
            self.taking.store(false, Ordering::Release);
            // What came since may have counted on this.
            if !self.needs_taking() {
                return;
            }
        }
    }

    /// Whether a change of the cluster has been under way for so long.
    pub fn is_changing_for(&self, time: Duration) -> bool {
        locked(&self.changing).is_some_and(|since| since.elapsed() >= time)
    }

    /// Whether somebody waits to be taken in. For tests.
    #[doc(hidden)]
    pub fn waits(&self) -> bool {
        !locked(&self.queue).is_empty() || self.taking.load(Ordering::Acquire)
    }

    /// Has the state as a large change has it. For tests.
    #[doc(hidden)]
    pub fn stall(&self, act: impl FnOnce()) {
        let _state = self.lock();
        let _changing = self.changing();
        act();
    }

    /// Takes changes of the cluster in: together, or, if they do not fit together, those that fit. The search for those takes many
    /// turns, and between two of them others have the state: who comes and goes is taken in, who asks is answered.
    pub fn apply(&self, batch: Batch) -> Applied {
        let began = Instant::now();
        if let Some(refusals) = batch.refusals {
            let mut state = self.lock();
            for refusal in refusals.iter().filter(|it| !state.refusals.contains(it)) {
                tracing::warn!(%refusal, "refused");
            }
            state.refusals = refusals;
        }
        let mut writes = Writes::default();
        if !batch.changes.is_empty() {
            let mut parts = Parts::of(batch.changes);
            while let Some(part) = parts.next() {
                let mut state = self.lock();
                let _changing = self.changing();
                // A failure was said already, and is tried again.
                writes += state.turn(part, &mut parts).unwrap_or_default();
            }
        }
        Applied { took: began.elapsed(), writes }
    }

    /// Sets the addresses from which the node itself always reaches its endpoints. Not while a change is under way: it is said
    /// at every reconciliation.
    pub fn set_node_addresses(&self, addresses: BTreeSet<IpAddr>) {
        let Some(mut state) = self.try_state() else { return };
        let _changing = self.changing();
        if !state.started || state.node_addresses == addresses {
            return;
        }
        let old = std::mem::replace(&mut state.node_addresses, addresses);
        state.derived.touched.extend(old.into_iter().map(ipnetwork::IpNetwork::from));
        if let Err(Unsettled::Overflow(overflow)) = state.bring(BTreeSet::new()) {
            state.failed(&TableError(overflow.to_string().into()));
        }
    }

    /// Tries again what has failed or did not fit, each in a turn of its own, and clears away what is out of use. Not while a
    /// change is under way.
    pub fn retry(&self) {
        let due = {
            let Some(mut state) = self.try_state() else { return };
            self.drain(&mut state);
            if !state.started {
                return;
            }
            let _changing = self.changing();
            if state.failure.is_some() {
                return said(state.rebuild());
            }
            state.due()
        };
        for id in due {
            let mut state = self.lock();
            let _changing = self.changing();
            if let Err(error) = state.retry_unfit(&id) {
                return said(Err(error.into()));
            }
        }
        let Some(mut state) = self.try_state() else { return };
        let _changing = self.changing();
        state.retry_closed();
        said(state.compact());
    }

    /// The state, after all who have waited for it longer.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = {
            let _next = locked(&self.next);
            locked(&self.state)
        };
        self.drain(&mut state);
        state
    }

    /// The state, unless somebody has it.
    fn try_state(&self) -> Option<MutexGuard<'_, State>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn changing(&self) -> Changing<'_> {
        *locked(&self.changing) = Some(Instant::now());
        Changing(self)
    }

    fn drain(&self, state: &mut State) {
        let waiting = std::mem::take(&mut *locked(&self.queue));
        for waiting in waiting {
            match waiting {
                Waiting::Dismiss(key) => state.forget(&key),
                Waiting::Admit(entrant) => state.take_in(*entrant),
            }
        }
    }
}

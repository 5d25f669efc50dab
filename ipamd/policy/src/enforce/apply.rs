//! Applies changes of the cluster: each object as a whole, or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipamd_api::AttachmentKey;

use super::{
    queue::QueuedEndpoint,
    slots::EndpointSlot,
    state::{Closed, State, Unfit},
    tables::TableError,
    trial_budget,
    write_tables::{WriteError, Writes},
};
use crate::compile::policy_inputs::LocalEndpoint;
use ipamd_model::endpoint::Slot;
use ipamd_model::objects::{Change, Object, ObjectId};

/// Why an endpoint is not enforced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnforceError {
    /// All slots are in use.
    #[error("there are {0} endpoints, and there is no room for more")]
    Slots(u32),
    /// Its rules, or its addresses, do not fit.
    #[error("its policy does not fit: {0}")]
    Fit(String),
    /// The tables could not be written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The cluster is not known yet.
    #[error("the policies are not known yet")]
    NotStarted,
    /// The thread that was to enforce it has failed.
    #[error("whoever was to enforce its policy has failed; see the log")]
    Abandoned,
}

/// Changes that are tried together.
#[derive(Debug)]
pub(super) struct Part {
    changes: Vec<Change>,
    /// They are half of the changes of one namespace that did not fit together.
    is_half: bool,
}

/// The parts of a change that are still to be tried, one at a time. Between two tries all that is in force is whole,
/// and others may have the lock.
#[derive(Debug, Default)]
pub(super) struct Parts(Vec<Part>);

impl Parts {
    /// A single part with all changes.
    pub fn of(changes: Vec<Change>) -> Self {
        Self(vec![Part { changes, is_half: false }])
    }

    /// The next part.
    pub fn next(&mut self) -> Option<Part> {
        self.0.pop()
    }

    /// Splits changes that do not fit together: by namespace, or, if they are of one namespace, into halves.
    fn split(&mut self, mut changes: Vec<Change>) {
        let first = changes.first().map(Change::id).and_then(|id| id.namespace);
        if changes.iter().all(|it| it.id().namespace == first) {
            let rest = changes.split_off(changes.len() / 2);
            self.0.extend([rest, changes].map(|changes| Part { changes, is_half: true }));
            return;
        }
        // Objects without a namespace come first, because others depend on them.
        let mut namespaces: BTreeMap<Option<Arc<str>>, Vec<Change>> = BTreeMap::new();
        for change in changes {
            namespaces.entry(change.id().namespace).or_default().push(change);
        }
        self.0.extend(namespaces.into_values().rev().map(|changes| Part { changes, is_half: false }));
    }

    /// All changes that were not tried, in order.
    fn rest(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.0).into_iter().rev().flat_map(|part| part.changes).collect()
    }
}

/// Whether a change puts a policy.
fn is_policy(change: &Change) -> bool {
    matches!(change, Change::Put(Object::Policy(_)))
}

impl State {
    /// Writes the tables so that they match the inputs, or rebuilds them after a failed write.
    pub fn sync_tables(&mut self, concerned: &BTreeSet<AttachmentKey>) -> Result<Writes, WriteError> {
        if self.failure.is_some() {
            return self.rebuild().map(|()| Writes::default());
        }
        if self.names.highest() > self.tables.limits().rules as usize / 2 {
            self.forget_rules();
        }
        let written = self.write_tables(concerned);
        if let Err(WriteError::Table(error)) = &written {
            self.failed(error);
        }
        written
    }

    /// Applies changes in as many parts as it takes.
    pub fn apply(&mut self, changes: Vec<Change>) -> Result<Writes, TableError> {
        let (mut parts, mut writes) = (Parts::of(changes), Writes::default());
        while let Some(part) = parts.next() {
            writes += self.try_part(part, &mut parts)?;
        }
        Ok(writes)
    }

    /// Applies a part as a whole. If it does not fit, nothing of it is in force when this returns, and it is split.
    /// After a failed write all remaining changes go into the inputs, from which the tables are rebuilt.
    pub fn try_part(&mut self, part: Part, parts: &mut Parts) -> Result<Writes, TableError> {
        let done = self.try_together(part, parts);
        if done.is_err() {
            for change in parts.rest() {
                self.unfit.remove(&change.id());
                self.apply_to_inputs(change, &mut BTreeSet::new());
            }
        }
        done
    }

    fn try_together(&mut self, part: Part, parts: &mut Parts) -> Result<Writes, TableError> {
        let changes = if part.is_half { self.without_untried(part.changes) } else { part.changes };
        match &*changes {
            [] => return Ok(Writes::default()),
            [change] => return self.apply_alone(change.clone()),
            _ => {}
        }
        let mut concerned = BTreeSet::new();
        let mut undo = Vec::new();
        let space_freed = self.space_freed;
        for change in &changes {
            self.unfit.remove(&change.id());
            undo.extend(self.apply_to_inputs(change.clone(), &mut concerned));
        }
        self.space_freed |= undo.iter().any(|it| matches!(it, Change::Put(_)));
        match self.sync_tables(&concerned) {
            Ok(writes) => return Ok(writes),
            Err(WriteError::Table(error)) => return Err(error),
            Err(WriteError::Overflow(_)) => {}
        }
        for change in undo.into_iter().rev() {
            self.apply_to_inputs(change, &mut concerned);
        }
        parts.split(changes);
        self.space_freed = space_freed;
        self.roll_back_try(concerned)?;
        Ok(Writes::default())
    }

    /// Leaves out the policies of namespaces that have no budget left. Removals are always tried.
    fn without_untried(&mut self, changes: Vec<Change>) -> Vec<Change> {
        let now = trial_budget::now();
        let mut tried = Vec::with_capacity(changes.len());
        for change in changes {
            let id = change.id();
            match &id.namespace {
                Some(namespace) if is_policy(&change) && !self.trial_budget.may_try(namespace, now) => {
                    let reason = format!(
                        "so much of the namespace {namespace} does not fit that this one is tried later only"
                    );
                    self.unfit.insert(id, Unfit { change, reason, tried: false });
                }
                _ => tried.push(change),
            }
        }
        tried
    }

    /// Applies one change. If it does not fit, the state before it stays.
    fn apply_alone(&mut self, change: Change) -> Result<Writes, TableError> {
        let [change] = &*self.without_untried(vec![change]) else { return Ok(Writes::default()) };
        let began = trial_budget::processor_time();
        let mut concerned = BTreeSet::new();
        self.unfit.remove(&change.id());
        let space_freed = self.space_freed;
        let undo = self.apply_to_inputs(change.clone(), &mut concerned);
        self.space_freed |= matches!(undo, Some(Change::Put(_)));
        match self.sync_tables(&concerned) {
            Ok(writes) => Ok(writes),
            Err(WriteError::Table(error)) => Err(error),
            Err(WriteError::Overflow(overflow)) => {
                if let Some(undo) = undo {
                    self.apply_to_inputs(undo, &mut concerned);
                }
                self.leave_out(change.clone(), overflow.to_string());
                // An object that is left out frees no space.
                self.space_freed = space_freed;
                self.roll_back_try(concerned)?;
                if let Some(namespace) = change.id().namespace {
                    let took = trial_budget::processor_time().saturating_sub(began);
                    self.trial_budget.charge(&namespace, took, trial_budget::now());
                }
                Ok(Writes::default())
            }
        }
    }

    /// Writes the tables for the inputs as they were before a change.
    fn roll_back(&mut self, concerned: &BTreeSet<AttachmentKey>) -> Result<(), TableError> {
        match self.sync_tables(concerned) {
            Ok(_) => Ok(()),
            Err(WriteError::Table(error)) => Err(error),
            Err(WriteError::Overflow(overflow)) => {
                // The same inputs fitted before.
                let error = TableError(overflow.to_string().into());
                self.failed(&error);
                Err(error)
            }
        }
    }

    /// The same after a try that did not fit, of which nothing was written. So endpoints with rules have the right ones
    /// in force, and only those without rules are resolved again.
    fn roll_back_try(&mut self, mut concerned: BTreeSet<AttachmentKey>) -> Result<(), TableError> {
        let has_none = |key: &AttachmentKey| {
            self.endpoints.get(key).is_some_and(|it| it.rules.is_none() || it.posture.is_none())
        };
        concerned.retain(has_none);
        self.roll_back(&concerned)
    }

    fn leave_out(&mut self, change: Change, reason: String) {
        let id = change.id();
        match &change {
            Change::Put(_) => {
                tracing::warn!(object = %id, reason, "the policy does not fit and is not enforced");
            }
            // An object that is not in force can simply be forgotten.
            Change::Remove(_) if !self.is_in_force(&id) => return,
            Change::Remove(_) => {
                tracing::warn!(object = %id, reason, "the object is deleted but stays in force: the others do not fit without it");
            }
        }
        self.unfit.insert(id, Unfit { change, reason, tried: true });
    }

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
        let before = self.inputs.locals.get(&key).cloned();
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
        Err(match error {
            WriteError::Table(error) => EnforceError::Table(error),
            WriteError::Overflow(overflow) => EnforceError::Fit(overflow.to_string()),
        })
    }

    /// Adds an endpoint from the queue.
    pub fn admit_queued(&mut self, queued: QueuedEndpoint) {
        let QueuedEndpoint { endpoint, slot, answer } = queued;
        let key = endpoint.key.clone();
        // An earlier endpoint of the same attachment has another slot.
        self.forget(&key);
        let outcome = self.admit(endpoint.clone(), Some(Arc::clone(&slot)));
        // Nobody waits for the answer, so the ADD has returned already, and only a person can help.
        if let Err(Err(error)) = answer.send(outcome) {
            tracing::warn!(%key, %error, "the endpoint is cut off");
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

    /// Removes an endpoint from the inputs and from the tables.
    pub fn dismiss(&mut self, key: &AttachmentKey) -> Result<(), TableError> {
        self.closed.remove(key);
        let mut concerned = BTreeSet::new();
        let Some(gone) = self.remove_endpoint(key, &mut concerned) else { return Ok(()) };
        self.space_freed = true;
        if self.failure.is_none() {
            gone.slot.clear_posture(&mut *self.tables)?;
            if let Some(rules) = &gone.rules {
                self.release_rules(rules);
            }
        }
        // The slot is free before a new set comes into force.
        drop(gone);
        self.roll_back(&concerned)
    }

    /// The objects that did not fit and should be tried again: all if space was freed, otherwise those that were not
    /// tried yet.
    pub fn due(&mut self) -> Vec<ObjectId> {
        let space_freed = std::mem::take(&mut self.space_freed);
        let due = self.unfit.iter().filter(|(_, it)| space_freed || !it.tried);
        let mut due: Vec<_> = due.map(|(id, it)| (it.tried, id.clone())).collect();
        // Objects that were never tried come first.
        due.sort();
        due.into_iter().map(|(_, id)| id).collect()
    }

    /// Tries an object again.
    pub fn retry_unfit(&mut self, id: &ObjectId) -> Result<(), TableError> {
        let Some(Unfit { change, .. }) = self.unfit.get(id) else { return Ok(()) };
        self.apply_alone(change.clone()).map(drop)
    }
}

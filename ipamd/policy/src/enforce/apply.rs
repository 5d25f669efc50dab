//! Applies changes of the cluster: each object as a whole, or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipamd_api::AttachmentKey;

use super::{
    queue::Entrant,
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
    /// There is no slot left.
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
    /// Who was to take it in did not come to an end.
    #[error("whoever was to enforce its policy has failed; see the log")]
    Abandoned,
}

/// Changes that are tried together.
#[derive(Debug)]
pub(super) struct Part {
    changes: Vec<Change>,
    /// It is half of what did not fit, all of one namespace.
    is_half: bool,
}

/// The parts of a change that are still to be tried, each in a turn of its own: between two turns all that is in force is whole, and
/// others may have the state.
#[derive(Debug, Default)]
pub(super) struct Parts(Vec<Part>);

impl Parts {
    /// One part: all of it.
    pub fn of(changes: Vec<Change>) -> Self {
        Self(vec![Part { changes, is_half: false }])
    }

    /// The one whose turn it is.
    pub fn next(&mut self) -> Option<Part> {
        self.0.pop()
    }

    /// What does not fit together is tried namespace by namespace, and of one a half after the other.
    fn split(&mut self, mut changes: Vec<Change>) {
        let first = changes.first().map(Change::id).and_then(|id| id.namespace);
        if changes.iter().all(|it| it.id().namespace == first) {
            let rest = changes.split_off(changes.len() / 2);
            self.0.extend([rest, changes].map(|changes| Part { changes, is_half: true }));
            return;
        }
        // What is in no namespace comes first: it says what the others are.
        let mut namespaces: BTreeMap<Option<Arc<str>>, Vec<Change>> = BTreeMap::new();
        for change in changes {
            namespaces.entry(change.id().namespace).or_default().push(change);
        }
        self.0.extend(namespaces.into_values().rev().map(|changes| Part { changes, is_half: false }));
    }

    /// All that was not tried, in its order.
    fn rest(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.0).into_iter().rev().flat_map(|part| part.changes).collect()
    }
}

/// Whether a change puts a policy.
fn is_policy(change: &Change) -> bool {
    matches!(change, Change::Put(Object::Policy(_)))
}

impl State {
    /// Brings the tables to where the world is.
    pub fn sync_tables(&mut self, concerned: &BTreeSet<AttachmentKey>) -> Result<Writes, WriteError> {
        if self.failure.is_some() {
            return self.rebuild().map(|()| Writes::default());
        }
        if self.names.highest() > self.tables.limits().rules as usize / 2 {
            self.forget_rules();
        }
        let settled = self.write_tables(concerned);
        if let Err(WriteError::Table(error)) = &settled {
            self.failed(error);
        }
        settled
    }

    /// Takes changes in, in as many turns as it takes.
    pub fn apply(&mut self, changes: Vec<Change>) -> Result<Writes, TableError> {
        let (mut parts, mut writes) = (Parts::of(changes), Writes::default());
        while let Some(part) = parts.next() {
            writes += self.turn(part, &mut parts)?;
        }
        Ok(writes)
    }

    /// Takes a part in as a whole. If it does not fit, nothing of it is in force when this returns, and those that it is made of are
    /// tried next. After a write that failed, all that is left is taken into the world: a new set of tables is made of that.
    pub fn turn(&mut self, part: Part, parts: &mut Parts) -> Result<Writes, TableError> {
        let done = self.try_together(part, parts);
        if done.is_err() {
            for change in parts.rest() {
                self.unfit.remove(&change.id());
                self.absorb(change, &mut BTreeSet::new());
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
        let room_made = self.room_made;
        for change in &changes {
            self.unfit.remove(&change.id());
            undo.extend(self.absorb(change.clone(), &mut concerned));
        }
        self.room_made |= undo.iter().any(|it| matches!(it, Change::Put(_)));
        match self.sync_tables(&concerned) {
            Ok(writes) => return Ok(writes),
            Err(WriteError::Table(error)) => return Err(error),
            Err(WriteError::Overflow(_)) => {}
        }
        for change in undo.into_iter().rev() {
            self.absorb(change, &mut concerned);
        }
        parts.split(changes);
        self.room_made = room_made;
        self.roll_back_try(concerned)?;
        Ok(Writes::default())
    }

    /// Leaves out policies that are not to be tried now, for too many of their namespace that did not fit were tried. What goes is
    /// always tried.
    fn without_untried(&mut self, changes: Vec<Change>) -> Vec<Change> {
        let now = trial_budget::now();
        let mut tried = Vec::with_capacity(changes.len());
        for change in changes {
            let id = change.id();
            match &id.namespace {
                Some(namespace) if is_policy(&change) && !self.trials.may_try(namespace, now) => {
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

    /// Takes one change in; if it does not fit, what was there before stays.
    fn apply_alone(&mut self, change: Change) -> Result<Writes, TableError> {
        let [change] = &*self.without_untried(vec![change]) else { return Ok(Writes::default()) };
        let began = trial_budget::processor_time();
        let mut concerned = BTreeSet::new();
        self.unfit.remove(&change.id());
        let room_made = self.room_made;
        let undo = self.absorb(change.clone(), &mut concerned);
        self.room_made |= matches!(undo, Some(Change::Put(_)));
        match self.sync_tables(&concerned) {
            Ok(writes) => Ok(writes),
            Err(WriteError::Table(error)) => Err(error),
            Err(WriteError::Overflow(overflow)) => {
                if let Some(undo) = undo {
                    self.absorb(undo, &mut concerned);
                }
                self.leave_out(change.clone(), overflow.to_string());
                // What was left out makes no room.
                self.room_made = room_made;
                self.roll_back_try(concerned)?;
                if let Some(namespace) = change.id().namespace {
                    let took = trial_budget::processor_time().saturating_sub(began);
                    self.trials.came_to_nothing(&namespace, took, trial_budget::now());
                }
                Ok(Writes::default())
            }
        }
    }

    /// Settles where the tables were before.
    fn roll_back(&mut self, concerned: &BTreeSet<AttachmentKey>) -> Result<(), TableError> {
        match self.sync_tables(concerned) {
            Ok(_) => Ok(()),
            Err(WriteError::Table(error)) => Err(error),
            Err(WriteError::Overflow(overflow)) => {
                // It did fit before.
                let error = TableError(overflow.to_string().into());
                self.failed(&error);
                Err(error)
            }
        }
    }

    /// The same after a try that did not fit, whose changes are taken back: of it nothing was written. So what these endpoints have in
    /// force is what they should have, and only those that have nothing yet are worked out again.
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
                tracing::warn!(object = %id, reason, "the policy does not fit and is not enforced")
            }
            // What is not there goes without being asked.
            Change::Remove(_) if !self.is_in_force(&id) => return,
            Change::Remove(_) => {
                tracing::warn!(object = %id, reason, "the object is deleted but stays in force: the others do not fit without it");
            }
        }
        self.unfit.insert(id, Unfit { change, reason, tried: true });
    }

    /// Takes an endpoint in, or its new state; a new one at this place, if one is given. When this returns it is enforced.
    pub fn admit(
        &mut self,
        endpoint: LocalEndpoint,
        place: Option<Arc<EndpointSlot>>,
    ) -> Result<Slot, EnforceError> {
        if !self.started {
            return Err(EnforceError::NotStarted);
        }
        let key = endpoint.key.clone();
        let before = self.inputs.locals.get(&key).cloned();
        let mut concerned = BTreeSet::from([key.clone()]);
        let most = self.tables.limits().slots;
        let slot = self.enter(endpoint, place, &mut concerned).ok_or(EnforceError::Slots(most))?;
        let Err(unsettled) = self.sync_tables(&concerned) else { return Ok(slot) };
        match before {
            Some(before) => {
                let mut concerned = BTreeSet::from([key]);
                self.enter(before, None, &mut concerned);
                self.roll_back(&concerned)?;
            }
            None => self.dismiss(&key)?,
        }
        Err(match unsettled {
            WriteError::Table(error) => EnforceError::Table(error),
            WriteError::Overflow(overflow) => EnforceError::Fit(overflow.to_string()),
        })
    }

    /// Takes in an endpoint that has waited for the state.
    pub fn enter_from_queue(&mut self, entrant: Entrant) {
        let Entrant { endpoint, place, answer } = entrant;
        let key = endpoint.key.clone();
        // What was there of the same attachment has another place.
        self.forget(&key);
        let outcome = self.admit(endpoint.clone(), Some(Arc::clone(&place)));
        // Its ADD has gone on without its policy, and only a person can tell what to do.
        if let Err(Err(error)) = answer.send(outcome) {
            tracing::warn!(%key, %error, "the endpoint is cut off");
            self.closed.insert(key, Closed { endpoint, place, reason: error.to_string() });
        }
    }

    /// Tries once more to enforce endpoints that are cut off.
    pub fn retry_closed(&mut self) {
        for (key, Closed { endpoint, place, .. }) in std::mem::take(&mut self.closed) {
            if let Err(error) = self.admit(endpoint.clone(), Some(Arc::clone(&place))) {
                self.closed.insert(key, Closed { endpoint, place, reason: error.to_string() });
            }
        }
    }

    /// Forgets an endpoint; what fails is made good later.
    pub fn forget(&mut self, key: &AttachmentKey) {
        if let Err(error) = self.dismiss(key) {
            self.failed(&error);
        }
    }

    /// Forgets an endpoint.
    pub fn dismiss(&mut self, key: &AttachmentKey) -> Result<(), TableError> {
        self.closed.remove(key);
        let mut concerned = BTreeSet::new();
        let Some(gone) = self.leave(key, &mut concerned) else { return Ok(()) };
        self.room_made = true;
        if self.failure.is_none() {
            gone.place.clear_posture(&mut *self.tables)?;
            if let Some(rules) = &gone.rules {
                self.release_rules(rules);
            }
        }
        // Its place is nobody's any more when a new set comes into force.
        drop(gone);
        self.roll_back(&concerned)
    }

    /// What did not fit and should be tried once more: all of it if there may be room now, else what was not tried yet.
    pub fn due(&mut self) -> Vec<ObjectId> {
        let room_made = std::mem::take(&mut self.room_made);
        let due = self.unfit.iter().filter(|(_, it)| room_made || !it.tried);
        let mut due: Vec<_> = due.map(|(id, it)| (it.tried, id.clone())).collect();
        // Who was never tried comes first.
        due.sort();
        due.into_iter().map(|(_, id)| id).collect()
    }

    /// Tries one of them, as it is now.
    pub fn retry_unfit(&mut self, id: &ObjectId) -> Result<(), TableError> {
        let Some(Unfit { change, .. }) = self.unfit.get(id) else { return Ok(()) };
        self.apply_alone(change.clone()).map(drop)
    }
}

//! Changes of the cluster: whole, or not at all.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use ipamd_api::AttachmentKey;

use super::{
    places::Place,
    queue::Entrant,
    settle::{Unsettled, Writes},
    state::{Closed, State, Unfit},
    tables::{Slot, TableError},
};
use crate::{cluster::objects::Change, policy::compile::world::LocalEndpoint};

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

impl State {
    /// Brings the tables to where the world is.
    pub fn bring(&mut self, concerned: BTreeSet<AttachmentKey>) -> Result<Writes, Unsettled> {
        if self.failure.is_some() {
            return self.rebuild().map(|()| Writes::default());
        }
        if self.names.highest() > self.tables.limits().rules as usize / 2 {
            self.forget_rules();
        }
        let settled = self.settle(concerned);
        if let Err(Unsettled::Table(error)) = &settled {
            self.failed(error);
        }
        settled
    }

    /// Takes changes in: together, or, if they do not fit together, those that fit.
    pub fn apply(&mut self, changes: Vec<Change>) -> Result<Writes, TableError> {
        let mut concerned = BTreeSet::new();
        let mut undo = Vec::new();
        let single = changes.len() == 1;
        for change in &changes {
            self.unfit.remove(&change.id());
            undo.extend(self.absorb(change.clone(), &mut concerned));
        }
        self.room_made |= undo.iter().any(|it| matches!(it, Change::Put(_)));
        let overflow = match self.bring(concerned.clone()) {
            Ok(writes) => return Ok(writes),
            Err(Unsettled::Table(error)) => return Err(error),
            Err(Unsettled::Overflow(overflow)) => overflow,
        };
        for change in undo.into_iter().rev() {
            self.absorb(change, &mut concerned);
        }
        let mut writes = Writes::default();
        if single {
            self.leave_out(changes, &overflow.to_string());
            self.back(concerned)?;
        } else {
            self.back(concerned)?;
            for change in changes {
                writes += self.apply_alone(change)?;
            }
        }
        Ok(writes)
    }

    /// Takes one change in; if it does not fit, what was there before stays.
    pub fn apply_alone(&mut self, change: Change) -> Result<Writes, TableError> {
        let mut concerned = BTreeSet::new();
        self.unfit.remove(&change.id());
        let undo = self.absorb(change.clone(), &mut concerned);
        match self.bring(concerned.clone()) {
            Ok(writes) => Ok(writes),
            Err(Unsettled::Table(error)) => Err(error),
            Err(Unsettled::Overflow(overflow)) => {
                if let Some(undo) = undo {
                    self.absorb(undo, &mut concerned);
                }
                self.leave_out(vec![change], &overflow.to_string());
                self.back(concerned)?;
                Ok(Writes::default())
            }
        }
    }

    /// Settles where the tables were before.
    fn back(&mut self, concerned: BTreeSet<AttachmentKey>) -> Result<(), TableError> {
        match self.bring(concerned) {
            Ok(_) => Ok(()),
            Err(Unsettled::Table(error)) => Err(error),
            Err(Unsettled::Overflow(overflow)) => {
                // It did fit before.
                let error = TableError(overflow.to_string().into());
                self.failed(&error);
                Err(error)
            }
        }
    }

    fn leave_out(&mut self, changes: Vec<Change>, reason: &str) {
        for change in changes {
            let id = change.id();
            match &change {
                Change::Put(_) => tracing::warn!(object = %id, reason, "does not fit, and is not enforced"),
                // What is not there goes without being asked.
                Change::Remove(_) if !self.is_in_force(&id) => continue,
                Change::Remove(_) => {
                    tracing::warn!(object = %id, reason, "is gone, and stays in force: the others do not fit without it");
                }
            }
            self.unfit.insert(id, Unfit { change, reason: reason.to_owned() });
        }
    }

    /// Takes an endpoint in, or its new state; a new one at this place, if one is given. When this returns it is enforced.
    pub fn admit(
        &mut self,
        endpoint: LocalEndpoint,
        place: Option<Arc<Place>>,
    ) -> Result<Slot, EnforceError> {
        if !self.started {
            return Err(EnforceError::NotStarted);
        }
        let key = endpoint.key.clone();
        let before = self.world.locals.get(&key).cloned();
        let mut concerned = BTreeSet::from([key.clone()]);
        let most = self.tables.limits().slots;
        let slot = self.enter(endpoint, place, &mut concerned).ok_or(EnforceError::Slots(most))?;
        let Err(unsettled) = self.bring(concerned) else { return Ok(slot) };
        match before {
            Some(before) => {
                let mut concerned = BTreeSet::from([key]);
                self.enter(before, None, &mut concerned);
                self.back(concerned)?;
            }
            None => self.dismiss(&key)?,
        }
        Err(match unsettled {
            Unsettled::Table(error) => EnforceError::Table(error),
            Unsettled::Overflow(overflow) => EnforceError::Fit(overflow.to_string()),
        })
    }

    /// Takes in an endpoint that has waited for the state.
    pub fn take_in(&mut self, entrant: Entrant) {
        let Entrant { endpoint, place, begun, answer } = entrant;
        begun.store(true, Ordering::Relaxed);
        let key = endpoint.key.clone();
        // What was there of the same attachment has another place.
        self.forget(&key);
        let outcome = self.admit(endpoint.clone(), Some(Arc::clone(&place)));
        // Its ADD has gone on without its policy, and only a person can tell what to do.
        if let Err(Err(error)) = answer.send(outcome) {
            tracing::warn!(%key, %error, "is cut off");
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
                self.let_go(rules);
            }
        }
        // Its place is nobody's any more when a new set comes into force.
        drop(gone);
        self.back(concerned)
    }

    /// Tries what did not fit once more.
    pub fn retry_unfit(&mut self) -> Result<(), TableError> {
        if !std::mem::take(&mut self.room_made) {
            return Ok(());
        }
        for (_, Unfit { change, .. }) in std::mem::take(&mut self.unfit) {
            self.apply_alone(change)?;
        }
        // What was left out again made no room.
        self.room_made = false;
        Ok(())
    }
}

//! Applies changes of the cluster: each object as a whole, or not at all. A change goes through these phases:
//!
//! ```text
//! Part -- enter --> Entered -- sync_tables --> Writes
//!                          \-- (it does not fit) take_back --> TakenBack -- roll_back_try
//! ```

use std::collections::BTreeSet;

use ipamd_api::AttachmentKey;

use super::{
    left_out::Unfit,
    parts::{Part, Parts},
    state::State,
    trial_budget,
    write_error::{Overflow, WriteError},
    writes::Writes,
};
use crate::tables::TableError;
use ipamd_model::objects::{Change, ObjectId};

/// Changes that are in the inputs and not in the tables yet.
#[must_use]
struct Entered {
    /// The changes that undo them, in their order.
    undo: Vec<Change>,
    /// The endpoints whose rules may change.
    concerned: BTreeSet<AttachmentKey>,
    /// Whether space was freed before.
    space_freed: bool,
}

/// Changes that did not fit and are out of the inputs again.
#[must_use]
struct TakenBack {
    overflow: Overflow,
    /// The endpoints whose rules may be those of the changes.
    concerned: BTreeSet<AttachmentKey>,
}

/// What became of changes that were tried together.
enum Tried {
    Written(Writes),
    TakenBack(TakenBack),
}

impl State {
    /// Writes the tables so that they match the inputs, or rebuilds them after a failed write.
    pub fn sync_tables(&mut self, concerned: &BTreeSet<AttachmentKey>) -> Result<Writes, WriteError> {
        if self.failure.is_some() {
            return self.rebuild().map(|()| Writes::default());
        }
        if self.cluster.names.highest() > self.tables.limits().rules as usize / 2 {
            self.forget_rules();
        }
        self.forget_domains();
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
                self.left_out.unfit.remove(&change.id());
                self.cluster.apply(change, &mut BTreeSet::new());
            }
        }
        done
    }

    fn try_together(&mut self, part: Part, parts: &mut Parts) -> Result<Writes, TableError> {
        let changes = if part.is_half { self.left_out.without_untried(part.changes) } else { part.changes };
        match &*changes {
            [] => return Ok(Writes::default()),
            [change] => return self.apply_alone(change.clone()),
            _ => {}
        }
        match self.try_changes(&changes)? {
            Tried::Written(writes) => Ok(writes),
            Tried::TakenBack(TakenBack { concerned, .. }) => {
                parts.split(changes);
                self.roll_back_try(concerned)?;
                Ok(Writes::default())
            }
        }
    }

    /// Applies one change. If it does not fit, the state before it stays.
    fn apply_alone(&mut self, change: Change) -> Result<Writes, TableError> {
        let [change] = &*self.left_out.without_untried(vec![change]) else { return Ok(Writes::default()) };
        let began = trial_budget::processor_time();
        match self.try_changes(std::slice::from_ref(change))? {
            Tried::Written(writes) => Ok(writes),
            Tried::TakenBack(TakenBack { overflow, concerned }) => {
                self.leave_out(change.clone(), overflow.to_string());
                self.roll_back_try(concerned)?;
                if let Some(namespace) = change.id().namespace {
                    let took = trial_budget::processor_time().saturating_sub(began);
                    self.left_out.trial_budget.charge(&namespace, took, trial_budget::now());
                }
                Ok(Writes::default())
            }
        }
    }

    /// Enters changes and writes the tables. If that does not fit, the changes are taken back, and [`Self::roll_back_try`] is due.
    fn try_changes(&mut self, changes: &[Change]) -> Result<Tried, TableError> {
        let entered = self.enter(changes);
        match self.sync_tables(&entered.concerned) {
            Ok(writes) => Ok(Tried::Written(writes)),
            Err(WriteError::Table(error)) => Err(error),
            Err(WriteError::Overflow(overflow)) => Ok(Tried::TakenBack(self.take_back(entered, overflow))),
        }
    }

    /// Puts changes into the inputs.
    fn enter(&mut self, changes: &[Change]) -> Entered {
        let space_freed = self.left_out.space_freed;
        let (mut undo, mut concerned) = (Vec::new(), BTreeSet::new());
        for change in changes {
            self.left_out.unfit.remove(&change.id());
            undo.extend(self.cluster.apply(change.clone(), &mut concerned));
        }
        self.left_out.space_freed |= undo.iter().any(|it| matches!(it, Change::Put(_)));
        Entered { undo, concerned, space_freed }
    }

    /// Takes changes that do not fit out of the inputs.
    fn take_back(&mut self, entered: Entered, overflow: Overflow) -> TakenBack {
        let Entered { undo, mut concerned, space_freed } = entered;
        for change in undo.into_iter().rev() {
            self.cluster.apply(change, &mut concerned);
        }
        // A change that is taken back frees no space.
        self.left_out.space_freed = space_freed;
        TakenBack { overflow, concerned }
    }

    /// Writes the tables for the inputs as they were before a change.
    pub fn roll_back(&mut self, concerned: &BTreeSet<AttachmentKey>) -> Result<(), TableError> {
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

    /// Rolls back a try that did not fit, of which nothing was written. So the endpoints that have rules have the right ones in
    /// force, and only the others are resolved again.
    fn roll_back_try(&mut self, mut concerned: BTreeSet<AttachmentKey>) -> Result<(), TableError> {
        concerned.retain(|key| {
            self.cluster.endpoints.contains_key(key) && !self.written.endpoints.contains_key(key)
        });
        self.roll_back(&concerned)
    }

    fn leave_out(&mut self, change: Change, reason: String) {
        let id = change.id();
        match &change {
            Change::Put(_) => {
                tracing::warn!(object = %id, reason, "the policy does not fit and is not enforced");
            }
            // An object that is not in force can simply be forgotten.
            Change::Remove(_) if !self.cluster.is_in_force(&id) => return,
            Change::Remove(_) => {
                tracing::warn!(object = %id, reason, "the object is deleted but stays in force: the others do not fit without it");
            }
        }
        self.left_out.unfit.insert(id, Unfit { change, reason, tried: true });
    }

    /// Tries an object again.
    pub fn retry_unfit(&mut self, id: &ObjectId) -> Result<(), TableError> {
        let Some(Unfit { change, .. }) = self.left_out.unfit.get(id) else { return Ok(()) };
        self.apply_alone(change.clone()).map(drop)
    }
}

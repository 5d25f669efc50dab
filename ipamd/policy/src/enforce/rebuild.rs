//! Builds all policy tables from scratch beside those in force: at start, after a failed write, and to compact classes
//! and predicates that are no longer used.

use std::sync::Arc;

use super::{put_domains::put_domains, state::State, write_error::WriteError, written::Written};
use crate::{
    compile::classes::Classes,
    tables::{Switch, TableError},
};
use ipamd_model::{
    objects::{Change, Object},
    policy::Policy,
};

/// What belongs to the set in force while another is filled.
#[must_use]
struct SetAside {
    classes: Classes,
    written: Written,
    failure: Option<String>,
}

impl State {
    /// Fills a new set of tables from the inputs and puts it in force. Policies that do not fit are left out.
    pub fn rebuild(&mut self) -> Result<(), WriteError> {
        self.tables.begin()?;
        let former = self.set_aside();
        let switched = self.fill().and_then(|()| match self.tables.switch() {
            Switch::Not(error) => Err(WriteError::Table(error)),
            Switch::Done => Ok(None),
            Switch::Unfinished(error) => Ok(Some(error)),
        });
        match switched {
            Ok(unfinished) => {
                self.leave(&former, unfinished);
                Ok(())
            }
            Err(error) => {
                self.return_to(former);
                Err(error)
            }
        }
    }

    /// Keeps what belongs to the set in force, and begins with nothing.
    fn set_aside(&mut self) -> SetAside {
        SetAside {
            classes: std::mem::take(&mut self.cluster.classes),
            written: std::mem::take(&mut self.written),
            failure: self.failure.take(),
        }
    }

    /// The new set is in force, so the former one is given up.
    fn leave(&mut self, former: &SetAside, unfinished: Option<TableError>) {
        self.written.peers.pack();
        self.slots.renewed();
        self.written.in_force = true;
        let named = put_domains(&mut self.cluster, &self.written, &mut *self.tables);
        if let Some(error) = unfinished.or(named.err()) {
            // The new set is in force, but something that belongs to it failed.
            self.failed(&error);
        }
        former.written.retire_maps(&mut *self.tables);
    }

    /// The new set could not be filled, so the former one stays.
    fn return_to(&mut self, former: SetAside) {
        self.tables.abandon();
        self.failure = self.failure.take().or(former.failure);
        self.cluster.classes = former.classes;
        std::mem::replace(&mut self.written, former.written).retire_maps(&mut *self.tables);
        // The new set may have been made for a part of the policies only.
        self.cluster.reselect_all();
    }

    /// Rebuilds the tables if many classes or predicates are unused.
    pub fn compact(&mut self) -> Result<(), WriteError> {
        self.forget_rules();
        if self.compaction.is_due(&self.cluster, &self.written) {
            self.rebuild()?;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<(), WriteError> {
        let all = self.cluster.derive();
        match self.write_tables(&all) {
            Err(WriteError::Overflow(_)) => self.fill_piece_by_piece(),
            written => written.map(drop),
        }
    }

    /// Adds the policies in parts, so that those that do not fit are left out.
    fn fill_piece_by_piece(&mut self) -> Result<(), WriteError> {
        // What is left out is not told one by one.
        self.cluster.log.end();
        let policies = std::mem::take(&mut self.cluster.inputs.policies);
        let unfit = std::mem::take(&mut self.left_out.unfit);
        let filled = self.fill_with(policies.values().cloned());
        if filled.is_ok() {
            // A newer version of an enforced object still waits.
            self.left_out.unfit.extend(unfit);
        } else {
            // The old set stays in force, so the inputs are restored too.
            (self.cluster.inputs.policies, self.left_out.unfit) = (policies, unfit);
        }
        filled
    }

    fn fill_with(&mut self, policies: impl Iterator<Item = Arc<Policy>>) -> Result<(), WriteError> {
        // A part of what did not fit may have been derived already.
        self.written = Written::default();
        let all = self.cluster.derive();
        self.write_tables(&all)?;
        let mut ordered = policies.map(|it| (self.cluster.inputs.rank(&it), it)).collect::<Vec<_>>();
        ordered.sort_by(|(a, _), (b, _)| a.cmp(b));
        let puts = ordered.into_iter().map(|(_, policy)| Change::Put(Object::Policy(policy))).collect();
        self.apply(puts)?;
        Ok(())
    }
}

//! Builds all policy tables from scratch beside those in force: at start, after a failed write, and to compact classes
//! and predicates that are no longer used.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ipamd_api::AttachmentKey;

use super::{
    state::State,
    tables::{ClassId, Posture, Switch, TableError},
    write_tables::WriteError,
};
use crate::compile::rules::SharedRules;
use ipamd_model::{
    objects::{Change, Object},
    policy::{Direction, Policy},
};

/// The number of unused classes or predicates that are tolerated.
const SLACK: usize = 1024;

/// The time until the use is counted again if their number has not changed: policies may have been removed.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// The rules and postures of endpoints in the old set.
type Before = BTreeMap<AttachmentKey, (Option<SharedRules>, Option<Posture>)>;

impl State {
    /// Fills a new set of tables from the inputs and puts it in force. Policies that do not fit are left out.
    pub fn rebuild(&mut self) -> Result<(), WriteError> {
        self.tables.begin()?;
        let failure = self.failure.take();
        let derived = std::mem::take(&mut self.derived);
        let endpoints = self.endpoints.iter_mut();
        let before = endpoints.map(|(key, it)| (key.clone(), (it.rules.take(), it.posture.take())));
        let before = before.collect::<Before>();
        let switched = self.fill().and_then(|()| match self.tables.switch() {
            Switch::Not(error) => Err(WriteError::Table(error)),
            Switch::Done => Ok(None),
            Switch::Unfinished(error) => Ok(Some(error)),
        });
        match switched {
            Ok(unfinished) => {
                self.derived.peers.pack();
                self.slots.renewed();
                if let Some(error) = unfinished {
                    // The new set is in force, but something that belongs to it failed.
                    self.failed(&error);
                }
                for map in derived.maps.values().filter_map(|compiled| compiled.map) {
                    self.tables.retire_map(map);
                }
                Ok(())
            }
            Err(error) => {
                self.tables.abandon();
                self.failure = self.failure.take().or(failure);
                let failed = std::mem::replace(&mut self.derived, derived);
                for (key, (rules, posture)) in before {
                    if let Some(endpoint) = self.endpoints.get_mut(&key) {
                        (endpoint.rules, endpoint.posture) = (rules, posture);
                    }
                }
                for map in failed.maps.values().filter_map(|compiled| compiled.map) {
                    self.tables.retire_map(map);
                }
                // The new set may have been made for a part of the policies only.
                self.ranks = self.inputs.ranks();
                for key in self.endpoints.keys().cloned().collect::<Vec<_>>() {
                    self.reselect(&key);
                }
                Err(error)
            }
        }
    }

    fn fill(&mut self) -> Result<(), WriteError> {
        let all = self.derive();
        match self.write_tables(&all) {
            Err(WriteError::Overflow(_)) => self.fill_piece_by_piece(),
            written => written.map(drop),
        }
    }

    /// Adds the policies in parts, so that those that do not fit are left out.
    fn fill_piece_by_piece(&mut self) -> Result<(), WriteError> {
        let policies = std::mem::take(&mut self.inputs.policies);
        let unfit = std::mem::take(&mut self.unfit);
        let filled = self.fill_with(policies.values().cloned());
        if filled.is_ok() {
            // A newer version of an enforced object still waits.
            self.unfit.extend(unfit);
        } else {
            // The old set stays in force, so the inputs are restored too.
            (self.inputs.policies, self.unfit) = (policies, unfit);
        }
        filled
    }

    fn fill_with(&mut self, policies: impl Iterator<Item = Arc<Policy>>) -> Result<(), WriteError> {
        let all = self.derive();
        self.write_tables(&all)?;
        let mut ordered = policies.map(|it| (self.inputs.rank(&it), it)).collect::<Vec<_>>();
        ordered.sort_by(|(a, _), (b, _)| a.cmp(b));
        let puts = ordered.into_iter().map(|(_, policy)| Change::Put(Object::Policy(policy))).collect();
        self.apply(puts)?;
        Ok(())
    }

    /// Rebuilds the tables if many classes or predicates are unused.
    pub fn compact(&mut self) -> Result<(), WriteError> {
        self.forget_rules();
        let (all_classes, all_atoms) = (self.derived.classes.count(), self.derived.classes.atoms());
        if all_classes.max(all_atoms) <= SLACK || self.was_checked(all_classes, all_atoms) {
            return Ok(());
        }
        self.checked_at = Some((all_classes, all_atoms, Instant::now()));
        let peers = self.derived.peers.iter().map(|(_, peer)| peer.class);
        let classes = peers.chain([ClassId::WORLD]).collect::<BTreeSet<_>>().len();
        let maps = self.derived.maps.keys();
        let mentioned = maps.flat_map(|rules| {
            Direction::BOTH.into_iter().flat_map(|direction| rules.of(direction).mentions())
        });
        let atoms = mentioned.collect::<BTreeSet<_>>().len();
        let too_many = |all: usize, used: usize| all > 2 * used + SLACK;
        if too_many(all_classes, classes) || too_many(all_atoms, atoms) {
            tracing::debug!(classes, atoms, "compacting the policy tables");
            self.rebuild()?;
        }
        Ok(())
    }

    /// Whether the use of these was counted a moment ago. In a large cluster that takes a while.
    fn was_checked(&self, classes: usize, atoms: usize) -> bool {
        self.checked_at.is_some_and(|(of_classes, of_atoms, at)| {
            (of_classes, of_atoms) == (classes, atoms) && at.elapsed() < LOOK_AGAIN
        })
    }

    /// Frees the numbers of rules that no endpoint has any more.
    pub fn forget_rules(&mut self) {
        let rules = self.endpoints.values().filter_map(|endpoint| endpoint.rules.as_ref());
        let used = rules.flat_map(|rules| rules.ids()).collect();
        self.names.retain(&used);
    }

    /// Remembers that a write failed, so that the tables are rebuilt.
    pub fn failed(&mut self, error: &TableError) {
        tracing::error!(%error, "cannot write the policy tables; trying again");
        self.failure = Some(error.to_string());
    }
}

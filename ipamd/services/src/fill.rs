//! The second phase of programming a port: it fills the sets of backends that the port's frontends choose from.

use super::{
    allowance::Resource,
    backend_sets::{BackendSet, FillError},
    claim::{ClaimedPort, PortInProgress},
    maglev,
    owner::Owner,
    plan::{Plan, Scope},
    port::Programmed,
    state::State,
    tables::{Backend, Choice, Family, TableError},
};

/// A port whose sets are filled, and not in force yet. [`State::publish`] is next.
#[derive(Debug)]
#[must_use]
pub(super) struct FilledPort(PortInProgress);

impl FilledPort {
    pub fn into_inner(self) -> PortInProgress {
        self.0
    }
}

/// One of the sets of a port.
#[derive(Clone, Copy, Debug)]
struct SetWanted {
    scope: Scope,
    consistent: bool,
}

impl State {
    /// Fills the sets that the frontends of a port need, and releases those that none needs.
    pub fn fill(&mut self, owner: &Owner, claimed: ClaimedPort) -> FilledPort {
        let PortInProgress { mut port, plan, logged } = claimed.into_inner();
        for scope in [Scope::Cluster, Scope::Local] {
            let needed = plan
                .frontends
                .iter()
                .any(|it| it.inside == scope || (!it.kind.is_external() && it.outside == scope));
            let set = needed.then_some(SetWanted { scope, consistent: false });
            let now = port.round_robin[scope as usize];
            port.round_robin[scope as usize] = self.stage_set(owner, &mut port, now, &plan, set);
        }
        let external = plan.frontends.iter().find(|it| it.kind.is_external());
        let set = external.map(|it| SetWanted { scope: it.outside, consistent: true });
        let now = port.outside;
        port.outside = self.stage_set(owner, &mut port, now, &plan, set);
        FilledPort(PortInProgress { port, plan, logged })
    }

    /// Stages a set. Its old space is freed after the new one is in force.
    fn stage_set(
        &mut self,
        owner: &Owner,
        port: &mut Programmed,
        now: Option<BackendSet>,
        plan: &Plan,
        wanted: Option<SetWanted>,
    ) -> Option<BackendSet> {
        let family = port.key.family;
        let Some(SetWanted { scope, consistent }) = wanted else {
            if let Some(now) = now {
                let hits = self.ledger.staged.ok_or_fail(self.hits_of(family, &now)).unwrap_or_default();
                port.hits += hits.iter().map(|(_, hits)| u64::from(*hits)).sum::<u64>();
                self.account_set(owner, family, &now, false);
                self.ledger.staged.released.push((family, now));
            }
            return None;
        };
        let backends = plan.backends(scope);
        let elsewhere =
            scope == Scope::Local && backends.is_empty() && !plan.backends(Scope::Cluster).is_empty();
        let before = now.map_or(Ok(Vec::new()), |now| self.hits_of(family, &now));
        let Some(before) = self.ledger.staged.ok_or_fail(before) else { return now };
        if let Some(now) = now
            && now.value.elsewhere == elsewhere
            && now.value.choice == choice_of(consistent, backends.len())
            && before.iter().map(|(backend, _)| backend).eq(&backends)
        {
            return Some(now);
        }
        let with_hits: Vec<_> = backends
            .iter()
            .map(|backend| {
                let at = before.binary_search_by_key(backend, |(backend, _)| *backend);
                (*backend, at.map_or(0, |at| before[at].1))
            })
            .collect();
        let set =
            self.check_allowance(owner, family, now.as_ref(), backends.len(), consistent).and_then(|()| {
                Ok(self.ledger.space.fill(
                    &mut *self.tables,
                    family,
                    now.as_ref(),
                    &with_hits,
                    consistent,
                    elsewhere,
                )?)
            });
        match set {
            Ok(set) => {
                if let Some(now) = &now {
                    self.account_set(owner, family, now, false);
                }
                self.account_set(owner, family, &set, true);
                let carried: u64 = with_hits.iter().map(|(_, hits)| u64::from(*hits)).sum();
                let all: u64 = before.iter().map(|(_, hits)| u64::from(*hits)).sum();
                port.hits += all.saturating_sub(carried);
                self.ledger.staged.sets.push((set.number, set.value));
                self.ledger.staged.emptied.extend(now.map(|now| (family, now)));
                Some(set)
            }
            Err(SetError::Table(error)) => {
                self.ledger.staged.failed = Some(error);
                now
            }
            Err(SetError::NoRoom(no_room)) => {
                port.problems.push(format!("{no_room}; what was in force stays"));
                self.ledger.unsatisfied.insert(owner.clone());
                now
            }
        }
    }

    /// Checks the namespace's allowance for a set of this size in place of the old one.
    fn check_allowance(
        &self,
        owner: &Owner,
        family: Family,
        now: Option<&BackendSet>,
        backends: usize,
        consistent: bool,
    ) -> Result<(), SetError> {
        let (places, lookups) = now.map_or((0, 0), |now| (now.backends.1 as usize, lookups(now)));
        let wants_table = choice_of(consistent, backends) == Choice::Maglev;
        let table = if wants_table { usize::from(maglev::PLACES) } else { 0 };
        for (what, wanted) in [
            (Resource::Sets, usize::from(now.is_none())),
            (Resource::Backends, backends.saturating_sub(places)),
            (Resource::Lookups, table.saturating_sub(lookups)),
        ] {
            let asked = self.ledger.allowance.ask(owner.namespace(), family, what, wanted);
            asked.map_err(|exceeded| SetError::NoRoom(exceeded.to_string()))?;
        }
        Ok(())
    }

    /// Adds a set to its owner's account, or removes it.
    pub(super) fn account_set(&mut self, owner: &Owner, family: Family, set: &BackendSet, more: bool) {
        for (what, count) in [
            (Resource::Sets, 1),
            (Resource::Backends, set.backends.1 as usize),
            (Resource::Lookups, lookups(set)),
        ] {
            if more {
                self.ledger.allowance.take(owner.namespace(), family, what, count);
            } else {
                self.ledger.allowance.give(owner.namespace(), family, what, count);
            }
        }
    }

    /// The backends of a set in order, and how often each was chosen.
    pub fn hits_of(&self, family: Family, set: &BackendSet) -> Result<Vec<(Backend, u32)>, TableError> {
        self.tables.backends(family, set.backends.0, set.backends.1)
    }
}

/// Why a set could not be staged.
enum SetError {
    NoRoom(String),
    Table(TableError),
}

impl From<FillError> for SetError {
    fn from(error: FillError) -> Self {
        match error {
            FillError::NoRoom(no_room) => Self::NoRoom(no_room.to_string()),
            FillError::Table(error) => Self::Table(error),
        }
    }
}

/// The places of look-up tables that a set has.
fn lookups(set: &BackendSet) -> usize {
    if set.value.choice == Choice::Maglev { set.value.count.into() } else { 0 }
}

fn choice_of(consistent: bool, backends: usize) -> Choice {
    match consistent {
        false => Choice::RoundRobin,
        true if backends == 0 => Choice::RoundRobin,
        true if maglev::by_table(backends) => Choice::Maglev,
        true => Choice::Rendezvous,
    }
}

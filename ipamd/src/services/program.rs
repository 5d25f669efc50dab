//! From the plan of a port to what is written of it.

use std::{net::IpAddr, sync::Arc};

use bpf::layout::{FRONTEND_INSIDE_LOCAL, FRONTEND_NODE_IN_RANGES, FRONTEND_OUTSIDE_LOCAL, FRONTEND_RANGES};
use ipnetwork::IpNetwork;

use super::{
    balancer::{Owner, State},
    consistent,
    fill::{FillError, Filled},
    leaving::Leaving,
    plan::{Front, Plan, Reach, Scope},
    staged::Ranges,
    tables::{
        Backend, Choice, Family, FrontendKey, FrontendValue, Member, ServiceNumber, SetNumber, TableError,
    },
};
use crate::concerned::Concerned;

/// Which port of an owner, in which family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortKey {
    pub name: Arc<str>,
    pub protocol: u8,
    pub family: Family,
}

/// A port as it is to be.
#[derive(Debug)]
pub(super) struct Wanted {
    pub key: PortKey,
    pub plan: Plan,
    pub source_ranges: Box<[IpNetwork]>,
}

/// A port as it is in the tables.
#[derive(Debug)]
pub(super) struct Programmed {
    pub key: PortKey,
    pub number: ServiceNumber,
    pub plan: Plan,
    pub source_ranges: Box<[IpNetwork]>,
    /// Frontends that are its own: all of the plan, but those that others have.
    pub fronts: Box<[(Front, FrontendValue)]>,
    /// By [`Scope`]: chosen from in turn.
    pub turns: [Option<Filled>; 2],
    /// Chosen from by client, for connections from outside.
    pub outside: Option<Filled>,
    /// Connections that went to places which are given up.
    pub hits: u64,
    /// What could not be done, a sentence each.
    pub problems: Vec<String>,
}

/// One of the sets of a port.
#[derive(Clone, Copy, Debug)]
struct SetWanted {
    scope: Scope,
    consistent: bool,
}

impl State {
    /// Makes an owner's ports those that are wanted.
    pub fn settle(&mut self, owner: &Owner, wanted: Vec<Wanted>) {
        let known = self.programmed.remove(owner).unwrap_or_default();
        self.unsatisfied.remove(owner);
        // What goes goes first: one that comes may be reached where it was.
        let is_wanted = |port: &Programmed| wanted.iter().any(|it| it.key == port.key);
        let (mut known, gone): (Vec<_>, Vec<_>) = known.into_iter().partition(is_wanted);
        for gone in gone {
            self.withdraw(owner, gone);
        }
        let mut kept = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let old = known.iter().position(|it| it.key == wanted.key).map(|at| known.swap_remove(at));
            let old = match old {
                Some(old) => Some(old),
                None => self.inherit(&wanted),
            };
            kept.push(self.program(owner, old, wanted));
        }
        if !kept.is_empty() {
            kept.shrink_to_fit();
            self.programmed.insert(owner.clone(), kept);
        }
    }

    fn program(&mut self, owner: &Owner, old: Option<Programmed>, wanted: Wanted) -> Programmed {
        let Wanted { key, mut plan, source_ranges } = wanted;
        plan.fronts.shrink_to_fit();
        plan.members.shrink_to_fit();
        let mut port = old.unwrap_or_else(|| Programmed {
            key,
            number: self.next_number(),
            plan: Plan { fronts: Vec::new(), members: Vec::new(), affinity: 0, problems: Vec::new() },
            source_ranges: Box::default(),
            fronts: Box::default(),
            turns: [None, None],
            outside: None,
            hits: 0,
            problems: Vec::new(),
        });
        port.problems.clear();
        self.stage_members(owner, &port, &plan.members);
        for scope in [Scope::Cluster, Scope::Local] {
            let needed = plan
                .fronts
                .iter()
                .any(|it| it.inside == scope || (!it.reach.is_external() && it.outside == scope));
            let set = needed.then_some(SetWanted { scope, consistent: false });
            let now = port.turns[scope as usize];
            port.turns[scope as usize] = self.stage_set(owner, &mut port, now, &plan, set);
        }
        let external = plan.fronts.iter().find(|it| it.reach.is_external());
        let set = external.map(|it| SetWanted { scope: it.outside, consistent: true });
        let now = port.outside;
        port.outside = self.stage_set(owner, &mut port, now, &plan, set);
        if port.source_ranges != source_ranges {
            let old = std::mem::replace(&mut port.source_ranges, source_ranges);
            let new = port.source_ranges.clone();
            self.staged.source_ranges.push(Ranges { service: port.number, old, new });
            let old = port.fronts.iter().map(|(front, _)| front);
            for address in old.chain(&plan.fronts).map(|front| front.key.address).collect::<Vec<_>>() {
                self.stage_diversion(address);
            }
        }
        if matches!(owner, Owner::HostPorts(_)) && !plan.problems.is_empty() {
            // It may lead there again when the address or the service has changed.
            self.unsatisfied.insert(owner.clone());
            for problem in plan.problems.iter().filter(|it| !port.plan.problems.contains(it)) {
                tracing::warn!(attachment = %owner, "{problem}");
            }
        }
        port.plan = plan;
        self.stage_fronts(owner, &mut port);
        port
    }

    /// Members that are new or are another's choice now; those that are gone stay for a while, but take nothing new.
    fn stage_members(&mut self, owner: &Owner, port: &Programmed, members: &[Member]) {
        for member in members {
            let before = port.plan.members.binary_search_by_key(&member.backend, |it| it.backend);
            if !before.is_ok_and(|at| port.plan.members[at] == *member) {
                self.stage_member(port.number, *member);
            }
            if before.is_err() {
                self.count_backend(member.backend, true);
            }
        }
        for member in &port.plan.members {
            if members.binary_search_by_key(&member.backend, |it| it.backend).is_err() {
                self.let_go(owner, port, member.backend);
            }
        }
    }

    fn let_go(&mut self, owner: &Owner, port: &Programmed, backend: Backend) {
        self.count_backend(backend, false);
        self.staged.members.push((port.number, Member { backend, in_cluster: false, in_local: false }));
        let leaving = Leaving::new(Some((owner.clone(), port.key.clone())), port.number, backend);
        self.leaving.push_back(leaving);
    }

    /// What a set is to be; its old places are given back when the new ones are in force.
    fn stage_set(
        &mut self,
        owner: &Owner,
        port: &mut Programmed,
        now: Option<Filled>,
        plan: &Plan,
        wanted: Option<SetWanted>,
    ) -> Option<Filled> {
        let family = port.key.family;
        let Some(SetWanted { scope, consistent }) = wanted else {
            if let Some(now) = now {
                let hits = self.staged.note(self.hits_of(family, &now)).unwrap_or_default();
                port.hits += hits.iter().map(|(_, hits)| u64::from(*hits)).sum::<u64>();
                self.staged.released.push((family, now));
            }
            return None;
        };
        let backends = plan.backends(scope);
        let elsewhere =
            scope == Scope::Local && backends.is_empty() && !plan.backends(Scope::Cluster).is_empty();
        let before = now.map_or(Ok(Vec::new()), |now| self.hits_of(family, &now));
        let Some(before) = self.staged.note(before) else { return now };
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
        match self.room.fill(&mut *self.tables, family, now.as_ref(), &with_hits, consistent, elsewhere) {
            Ok(filled) => {
                let carried: u64 = with_hits.iter().map(|(_, hits)| u64::from(*hits)).sum();
                let all: u64 = before.iter().map(|(_, hits)| u64::from(*hits)).sum();
                port.hits += all.saturating_sub(carried);
                self.staged.sets.push((filled.number, filled.value));
                self.staged.emptied.extend(now.map(|now| (family, now)));
                Some(filled)
            }
            Err(FillError::Table(error)) => {
                self.staged.failed = Some(error);
                now
            }
            Err(FillError::NoRoom(no_room)) => {
                port.problems.push(format!("{no_room}; what was in force stays"));
                self.unsatisfied.insert(owner.clone());
                now
            }
        }
    }

    /// The backends of a set in order, and how often each was chosen.
    pub fn hits_of(&self, family: Family, filled: &Filled) -> Result<Vec<(Backend, u32)>, TableError> {
        self.tables.backends(family, filled.backends.0, filled.backends.1)
    }

    fn stage_fronts(&mut self, owner: &Owner, port: &mut Programmed) {
        let before = std::mem::take(&mut port.fronts);
        let mut fronts = Vec::with_capacity(port.plan.fronts.len());
        for front in port.plan.fronts.clone() {
            if *self.owners.entry(front.key).or_insert(port.number) != port.number {
                let FrontendKey { address, port: number, .. } = front.key;
                port.problems.push(format!("port {number} at {address} is another service's"));
                self.unsatisfied.insert(owner.clone());
                continue;
            }
            let value = self.value_of(port, &front);
            let known = before.iter().find(|(it, _)| it.key == front.key);
            if known.is_none() {
                self.count_front(&front, true);
            }
            if known.is_none_or(|(_, before)| *before != value) && !self.is_inherited(front.key, &value) {
                self.staged.frontends.insert(front.key, Some(value));
                if known.is_none_or(|(it, _)| it.ranged != front.ranged) {
                    self.stage_diversion(front.key.address);
                }
            }
            fronts.push((front, value));
        }
        for (front, _) in before.iter().filter(|(it, _)| fronts.iter().all(|(new, _)| new.key != it.key)) {
            self.drop_front(front);
        }
        port.fronts = fronts.into();
    }

    fn value_of(&self, port: &Programmed, front: &Front) -> FrontendValue {
        let number = |filled: Option<Filled>| filled.map_or(SetNumber::default(), |it| it.number);
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let outside =
            if front.reach.is_external() { port.outside } else { port.turns[front.outside as usize] };
        let node_in_ranges = || {
            let in_range = |address| port.source_ranges.iter().any(|range| range.contains(address));
            self.node_addresses.iter().any(|address| in_range(*address))
        };
        FrontendValue {
            service: port.number,
            inside: number(port.turns[front.inside as usize]),
            outside: number(outside),
            flags: (if front.reach == Reach::ClusterIp { self.inside_only() } else { 0 })
                | flag(front.inside == Scope::Local, FRONTEND_INSIDE_LOCAL)
                | flag(front.outside == Scope::Local, FRONTEND_OUTSIDE_LOCAL)
                | flag(front.ranged, FRONTEND_RANGES)
                | flag(front.ranged && node_in_ranges(), FRONTEND_NODE_IN_RANGES),
            affinity: port.plan.affinity,
        }
    }

    /// Has the flows to an address be judged again, whether they are a service's now. No address stands for those of the
    /// node.
    pub fn stage_diversion(&mut self, address: IpAddr) {
        let concerned = match (address.is_unspecified(), self.node_addresses.is_empty()) {
            (false, _) => Concerned::address(address),
            (true, false) => self.node_addresses.iter().copied().collect(),
            (true, true) => Concerned::everything(),
        };
        self.staged.diverts.add(concerned);
    }

    /// Takes a front away that is one's own.
    fn drop_front(&mut self, front: &Front) {
        self.owners.remove(&front.key);
        self.freed = true;
        self.staged.frontends.insert(front.key, None);
        self.stage_diversion(front.key.address);
        self.count_front(front, false);
    }

    /// Takes a port out of the tables.
    fn withdraw(&mut self, owner: &Owner, port: Programmed) {
        for (front, _) in &port.fronts {
            self.drop_front(front);
        }
        for member in &port.plan.members {
            self.let_go(owner, &port, member.backend);
        }
        let filled = port.turns.into_iter().chain([port.outside]).flatten();
        self.staged.released.extend(filled.map(|it| (port.key.family, it)));
        if !port.source_ranges.is_empty() {
            let (service, old) = (port.number, port.source_ranges);
            self.staged.source_ranges.push(Ranges { service, old, new: Box::default() });
        }
    }

    fn count_front(&mut self, front: &Front, more: bool) {
        if front.reach.is_external() {
            if more {
                self.served.add(front.key.port, &mut *self.tables);
            } else {
                // Connections that were made there go on: the mark stays as long as they do.
                self.served.remove(front.key.port);
            }
        } else {
            self.count_address(front.key.address, more);
        }
    }

    /// A backend in the node's own namespace has its port marked.
    fn count_backend(&mut self, backend: Backend, more: bool) {
        if !self.node_addresses.contains(&backend.address) {
            return;
        }
        if more {
            self.of_backends.add(backend.port, &mut *self.tables);
        } else if self.of_backends.remove(backend.port) {
            self.staged.unmarked.push(backend.port);
        }
    }
}

fn choice_of(consistent: bool, backends: usize) -> Choice {
    match consistent {
        false => Choice::Turns,
        true if backends == 0 => Choice::Turns,
        true if consistent::by_table(backends) => Choice::Table,
        true => Choice::Score,
    }
}

//! Programs a port: from its plan to staged writes.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use bpf::layout::{FRONTEND_INSIDE_LOCAL, FRONTEND_NODE_IN_RANGES, FRONTEND_OUTSIDE_LOCAL, FRONTEND_RANGES};
use ipnetwork::IpNetwork;

use super::{
    allowance::Resource,
    backend_sets::{BackendSet, FillError},
    draining::DrainingBackend,
    maglev,
    plan::{Frontend, FrontendKind, Plan, Scope},
    staged_writes::Ranges,
    state::{Owner, State},
    tables::{
        Backend, Choice, Family, FrontendKey, FrontendValue, Member, ServiceNumber, SetNumber, TableError,
    },
};
use ipamd_model::concerned::Concerned;
use ipamd_runtime::work;

/// Which port of an owner, in which family.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    pub frontends: Box<[(Frontend, FrontendValue)]>,
    /// By [`Scope`]: chosen from in turn.
    pub round_robin: [Option<BackendSet>; 2],
    /// Chosen from by client, for connections from outside.
    pub outside: Option<BackendSet>,
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
    /// Programs the ports of an owner, and removes those that it no longer wants.
    pub fn program_ports(&mut self, owner: &Owner, wanted: Vec<Wanted>) {
        let known = self.programmed.remove(owner).unwrap_or_default();
        self.unsatisfied.remove(owner);
        self.stop_waiting(owner, &known);
        let mut kept = Vec::with_capacity(wanted.len());
        // A service may have thousands of ports.
        let mut by_key: HashMap<PortKey, Vec<Programmed>> = HashMap::with_capacity(known.len());
        for port in known {
            by_key.entry(port.key.clone()).or_default().push(port);
        }
        // Removals come first: a new port may use the address and port of a removed one.
        let mut old: Vec<_> = wanted.iter().map(|it| by_key.get_mut(&it.key).and_then(Vec::pop)).collect();
        for gone in by_key.into_values().flatten() {
            self.remove_port(owner, gone);
        }
        for (wanted, old) in wanted.into_iter().zip(old.drain(..)) {
            let old = match old {
                Some(old) => Some(old),
                None => self.inherit(owner, &wanted),
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
        plan.frontends.shrink_to_fit();
        plan.members.shrink_to_fit();
        let mut port = old.unwrap_or_else(|| Programmed {
            key,
            number: self.next_number(),
            plan: Plan { frontends: Vec::new(), members: Vec::new(), affinity: 0, problems: Vec::new() },
            source_ranges: Box::default(),
            frontends: Box::default(),
            round_robin: [None, None],
            outside: None,
            hits: 0,
            problems: Vec::new(),
        });
        let before = std::mem::take(&mut port.problems);
        let source_ranges = self.fitting_ranges(owner, &mut port, source_ranges);
        self.keep_fitting_members(owner, &mut port, &mut plan);
        self.stage_members(owner, &port, &plan.members);
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
        if port.source_ranges != source_ranges {
            let (namespace, family) = (owner.namespace(), port.key.family);
            let old = std::mem::replace(&mut port.source_ranges, source_ranges);
            self.allowance.take(namespace, family, Resource::Ranges, port.source_ranges.len());
            self.allowance.give(namespace, family, Resource::Ranges, old.len());
            let new = port.source_ranges.clone();
            self.staged.source_ranges.push(Ranges { service: port.number, old, new });
            let old = port.frontends.iter().map(|(frontend, _)| frontend);
            for address in old.chain(&plan.frontends).map(|frontend| frontend.key.address).collect::<Vec<_>>()
            {
                self.stage_epoch(address);
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
        self.stage_frontends(owner, &mut port);
        // Owners that wait for another's frontend are shown in the listing instead.
        if self.unsatisfied.contains(owner) {
            for problem in port.problems.iter().filter(|it| !before.contains(it)).take(1) {
                tracing::warn!(service = %owner, port = %port.key.name, "{problem}");
            }
        }
        port
    }

    /// Keeps the endpoints that fit: known ones, and as many new ones as the namespace's allowance has room for.
    fn keep_fitting_members(&mut self, owner: &Owner, port: &mut Programmed, plan: &mut Plan) {
        let known = |member: &Member| {
            port.plan.members.binary_search_by_key(&member.backend, |it| it.backend).is_ok()
        };
        let wanted = plan.members.iter().filter(|member| !known(member)).count();
        let asked = self.allowance.ask(owner.namespace(), port.key.family, Resource::Members, wanted);
        let Err(exceeded) = asked else { return };
        let (mut left, _) = self.allowance.left(owner.namespace(), port.key.family, Resource::Members);
        let all = plan.members.len();
        plan.members.retain(|member| {
            known(member)
                || left > 0 && {
                    left -= 1;
                    true
                }
        });
        port.problems.push(format!("{exceeded}; {} of its {all} endpoints are served", plan.members.len()));
        self.unsatisfied.insert(owner.clone());
    }

    /// Keeps the source ranges that fit. Clients in the others are refused.
    fn fitting_ranges(
        &mut self,
        owner: &Owner,
        port: &mut Programmed,
        ranges: Box<[IpNetwork]>,
    ) -> Box<[IpNetwork]> {
        if port.source_ranges == ranges {
            return ranges;
        }
        let (namespace, family) = (owner.namespace(), port.key.family);
        let Err(exceeded) = self.allowance.ask(namespace, family, Resource::Ranges, ranges.len()) else {
            return ranges;
        };
        let (left, _) = self.allowance.left(namespace, family, Resource::Ranges);
        port.problems.push(format!("{exceeded}; whoever is in the last of its source ranges is refused"));
        self.unsatisfied.insert(owner.clone());
        ranges.into_iter().take(left as usize).collect()
    }

    /// Removes the owner from all waiting lists.
    fn stop_waiting(&mut self, owner: &Owner, known: &[Programmed]) {
        for frontend in known.iter().flat_map(|port| &port.plan.frontends) {
            if let Some(waiting) = self.waiting.get_mut(&frontend.key) {
                waiting.remove(owner);
                if waiting.is_empty() {
                    self.waiting.remove(&frontend.key);
                }
            }
        }
    }

    /// Stages new and changed members. Removed ones drain: they keep their connections for a while and take no new
    /// ones.
    fn stage_members(&mut self, owner: &Owner, port: &Programmed, members: &[Member]) {
        for member in members {
            let before = port.plan.members.binary_search_by_key(&member.backend, |it| it.backend);
            if !before.is_ok_and(|at| port.plan.members[at] == *member) {
                self.stage_member(port.number, *member);
            }
            if before.is_err() {
                self.count_backend(member.backend, true);
                self.allowance.take(owner.namespace(), port.key.family, Resource::Members, 1);
            }
        }
        for member in &port.plan.members {
            if members.binary_search_by_key(&member.backend, |it| it.backend).is_err() {
                self.drain(owner, port, member.backend);
            }
        }
    }

    fn drain(&mut self, owner: &Owner, port: &Programmed, backend: Backend) {
        self.count_backend(backend, false);
        self.allowance.give_own(owner.namespace(), port.key.family, Resource::Members, 1);
        self.staged.members.push((port.number, Member { backend, in_cluster: false, in_local: false }));
        let draining = DrainingBackend::new(Some((owner.clone(), port.key.clone())), port.number, backend);
        self.draining.push_back(draining);
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
                let hits = self.staged.ok_or_fail(self.hits_of(family, &now)).unwrap_or_default();
                port.hits += hits.iter().map(|(_, hits)| u64::from(*hits)).sum::<u64>();
                self.account_set(owner, family, &now, false);
                self.staged.released.push((family, now));
            }
            return None;
        };
        let backends = plan.backends(scope);
        let elsewhere =
            scope == Scope::Local && backends.is_empty() && !plan.backends(Scope::Cluster).is_empty();
        let before = now.map_or(Ok(Vec::new()), |now| self.hits_of(family, &now));
        let Some(before) = self.staged.ok_or_fail(before) else { return now };
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
                Ok(self.space.fill(
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
                self.staged.sets.push((set.number, set.value));
                self.staged.emptied.extend(now.map(|now| (family, now)));
                Some(set)
            }
            Err(SetError::Table(error)) => {
                self.staged.failed = Some(error);
                now
            }
            Err(SetError::NoRoom(no_room)) => {
                port.problems.push(format!("{no_room}; what was in force stays"));
                self.unsatisfied.insert(owner.clone());
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
            let asked = self.allowance.ask(owner.namespace(), family, what, wanted);
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
                self.allowance.take(owner.namespace(), family, what, count);
            } else {
                self.allowance.give(owner.namespace(), family, what, count);
            }
        }
    }

    /// The backends of a set in order, and how often each was chosen.
    pub fn hits_of(&self, family: Family, set: &BackendSet) -> Result<Vec<(Backend, u32)>, TableError> {
        self.tables.backends(family, set.backends.0, set.backends.1)
    }

    fn stage_frontends(&mut self, owner: &Owner, port: &mut Programmed) {
        let before = std::mem::take(&mut port.frontends);
        let mut before: HashMap<_, _> = before.into_iter().map(|it| (it.0.key, it)).collect();
        let mut frontends = Vec::with_capacity(port.plan.frontends.len());
        let in_range = port.plan.frontends.iter().any(|frontend| frontend.ranged) && self.is_in_ranges(port);
        for frontend in port.plan.frontends.clone() {
            work::step(1);
            let FrontendKey { address, port: number, .. } = frontend.key;
            match self.owners.get(&frontend.key) {
                Some(whose) if *whose != port.number => {
                    port.problems.push(format!("port {number} at {address} is another service's"));
                    self.waiting.entry(frontend.key).or_default().insert(owner.clone());
                    continue;
                }
                Some(_) => {}
                None => {
                    let is_first =
                        frontend.kind == FrontendKind::ClusterIp && !self.addresses.contains_key(&address);
                    let (family, wanted) = (port.key.family, 1 + usize::from(is_first));
                    let asked = self.allowance.ask(owner.namespace(), family, Resource::Frontends, wanted);
                    if let Err(exceeded) = asked {
                        port.problems.push(format!("port {number} at {address} is not served: {exceeded}"));
                        self.unsatisfied.insert(owner.clone());
                        continue;
                    }
                    self.owners.insert(frontend.key, port.number);
                    self.allowance.take(owner.namespace(), family, Resource::Frontends, 1);
                }
            }
            let value = self.value_of(port, &frontend, in_range);
            let known = before.remove(&frontend.key);
            if known.is_none() {
                self.count_frontend(&frontend, true);
            }
            if known.is_none_or(|(_, before)| before != value) && !self.is_inherited(frontend.key, &value) {
                self.staged.frontends.insert(frontend.key, Some(value));
                if known.is_none_or(|(it, _): (Frontend, _)| it.ranged != frontend.ranged) {
                    self.stage_epoch(frontend.key.address);
                }
            }
            frontends.push((frontend, value));
        }
        for (frontend, _) in before.into_values() {
            self.remove_frontend(owner, &frontend);
        }
        port.frontends = frontends.into();
    }

    /// Whether the node itself is in the source ranges of a port.
    fn is_in_ranges(&self, port: &Programmed) -> bool {
        let in_range = |address| port.source_ranges.iter().any(|range| range.contains(address));
        self.node_addresses.iter().any(|address| in_range(*address))
    }

    fn value_of(&self, port: &Programmed, frontend: &Frontend, in_range: bool) -> FrontendValue {
        let number = |set: Option<BackendSet>| set.map_or(SetNumber::default(), |it| it.number);
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let outside = if frontend.kind.is_external() {
            port.outside
        } else {
            port.round_robin[frontend.outside as usize]
        };
        FrontendValue {
            service: port.number,
            inside: number(port.round_robin[frontend.inside as usize]),
            outside: number(outside),
            flags: (if frontend.kind == FrontendKind::ClusterIp { self.inside_only() } else { 0 })
                | flag(frontend.inside == Scope::Local, FRONTEND_INSIDE_LOCAL)
                | flag(frontend.outside == Scope::Local, FRONTEND_OUTSIDE_LOCAL)
                | flag(frontend.ranged, FRONTEND_RANGES)
                | flag(frontend.ranged && in_range, FRONTEND_NODE_IN_RANGES),
            affinity: port.plan.affinity,
        }
    }

    /// Raises the epoch for flows to an address, whether it is a service's now or not. The unspecified address stands
    /// for the node's own.
    pub fn stage_epoch(&mut self, address: IpAddr) {
        let concerned = match (address.is_unspecified(), self.node_addresses.is_empty()) {
            (false, _) => Concerned::address(address),
            (true, false) => self.node_addresses.iter().copied().collect(),
            (true, true) => Concerned::everything(),
        };
        self.staged.concerned.add(concerned);
    }

    /// Stages the removal of an own frontend.
    fn remove_frontend(&mut self, owner: &Owner, frontend: &Frontend) {
        self.owners.remove(&frontend.key);
        self.freed.push(frontend.key);
        let family = Family::of(frontend.key.address);
        self.allowance.give_own(owner.namespace(), family, Resource::Frontends, 1);
        self.staged.given_up.push((family, Resource::Frontends, 1));
        self.staged.frontends.insert(frontend.key, None);
        self.stage_epoch(frontend.key.address);
        self.count_frontend(frontend, false);
    }

    /// Stages the removal of a port.
    fn remove_port(&mut self, owner: &Owner, port: Programmed) {
        for (frontend, _) in &port.frontends {
            self.remove_frontend(owner, frontend);
        }
        for member in &port.plan.members {
            self.drain(owner, &port, member.backend);
        }
        for set in port.round_robin.into_iter().chain([port.outside]).flatten() {
            self.account_set(owner, port.key.family, &set, false);
            self.staged.released.push((port.key.family, set));
        }
        if !port.source_ranges.is_empty() {
            let count = port.source_ranges.len();
            self.allowance.give(owner.namespace(), port.key.family, Resource::Ranges, count);
            let (service, old) = (port.number, port.source_ranges);
            self.staged.source_ranges.push(Ranges { service, old, new: Box::default() });
        }
    }

    fn count_frontend(&mut self, frontend: &Frontend, more: bool) {
        if frontend.kind.is_external() {
            if more {
                self.served.add(frontend.key.port, &mut *self.tables);
            } else {
                // Existing connections continue, and the mark stays as long as they do.
                self.served.remove(frontend.key.port);
            }
        } else {
            self.count_address(frontend.key.address, more);
        }
    }

    /// Marks the port of a backend that is a process of the node.
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

//! The first phase of programming a port: it claims the port's number, its source ranges and its members, as far as the
//! allowance of the namespace goes.

use ipnetwork::IpNetwork;

use super::{
    allowance::Resource,
    draining::DrainingBackend,
    owner::Owner,
    plan::Plan,
    port::{Programmed, Wanted},
    staged_writes::Ranges,
    state::State,
    tables::{Backend, Member},
};

/// A port between two phases.
#[derive(Debug)]
pub(super) struct PortInProgress {
    /// The port as far as it is programmed. Its plan is the one that was in force.
    pub port: Programmed,
    /// The new plan, with the members that fit.
    pub plan: Plan,
    /// Problems that were logged before.
    pub logged: Vec<String>,
}

/// A port that has its number, source ranges and members. [`State::fill`] is next.
#[derive(Debug)]
#[must_use]
pub(super) struct ClaimedPort(PortInProgress);

impl ClaimedPort {
    pub fn into_inner(self) -> PortInProgress {
        self.0
    }
}

impl State {
    /// Claims what a port needs before its sets are filled.
    pub fn claim(&mut self, owner: &Owner, old: Option<Programmed>, wanted: Wanted) -> ClaimedPort {
        let Wanted { key, mut plan, source_ranges } = wanted;
        plan.frontends.shrink_to_fit();
        plan.members.shrink_to_fit();
        let mut port = old.unwrap_or_else(|| Programmed::new(key, self.ledger.next_number()));
        let logged = std::mem::take(&mut port.problems);
        let source_ranges = self.fitting_ranges(owner, &mut port, source_ranges);
        self.stage_ranges(owner, &mut port, source_ranges, &plan);
        self.keep_fitting_members(owner, &mut port, &mut plan);
        self.stage_members(owner, &port, &plan.members);
        ClaimedPort(PortInProgress { port, plan, logged })
    }

    /// Stages the source ranges of a port if they have changed.
    fn stage_ranges(
        &mut self,
        owner: &Owner,
        port: &mut Programmed,
        source_ranges: Box<[IpNetwork]>,
        plan: &Plan,
    ) {
        if port.source_ranges == source_ranges {
            return;
        }
        let (namespace, family) = (owner.namespace(), port.key.family);
        let old = std::mem::replace(&mut port.source_ranges, source_ranges);
        self.ledger.allowance.take(namespace, family, Resource::Ranges, port.source_ranges.len());
        self.ledger.allowance.give(namespace, family, Resource::Ranges, old.len());
        let new = port.source_ranges.clone();
        self.ledger.staged.source_ranges.push(Ranges { service: port.number, old, new });
        let old = port.frontends.iter().map(|(frontend, _)| frontend);
        for address in old.chain(&plan.frontends).map(|frontend| frontend.key.address).collect::<Vec<_>>() {
            self.stage_epoch(address);
        }
    }

    /// Keeps the endpoints that fit: the known ones, and as many new ones as the namespace's allowance has room for.
    fn keep_fitting_members(&mut self, owner: &Owner, port: &mut Programmed, plan: &mut Plan) {
        let known = |member: &Member| {
            port.plan.members.binary_search_by_key(&member.backend, |it| it.backend).is_ok()
        };
        let wanted = plan.members.iter().filter(|member| !known(member)).count();
        let asked = self.ledger.allowance.ask(owner.namespace(), port.key.family, Resource::Members, wanted);
        let Err(exceeded) = asked else { return };
        let (mut left, _) = self.ledger.allowance.left(owner.namespace(), port.key.family, Resource::Members);
        let all = plan.members.len();
        plan.members.retain(|member| {
            known(member)
                || left > 0 && {
                    left -= 1;
                    true
                }
        });
        port.problems.push(format!("{exceeded}; {} of its {all} endpoints are served", plan.members.len()));
        self.ledger.unsatisfied.insert(owner.clone());
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
        let Err(exceeded) = self.ledger.allowance.ask(namespace, family, Resource::Ranges, ranges.len())
        else {
            return ranges;
        };
        let (left, _) = self.ledger.allowance.left(namespace, family, Resource::Ranges);
        port.problems.push(format!("{exceeded}; whoever is in the last of its source ranges is refused"));
        self.ledger.unsatisfied.insert(owner.clone());
        ranges.into_iter().take(left as usize).collect()
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
                self.ledger.allowance.take(owner.namespace(), port.key.family, Resource::Members, 1);
            }
        }
        for member in &port.plan.members {
            if members.binary_search_by_key(&member.backend, |it| it.backend).is_err() {
                self.drain(owner, port, member.backend);
            }
        }
    }

    /// Drains a backend that a port no longer has.
    pub fn drain(&mut self, owner: &Owner, port: &Programmed, backend: Backend) {
        self.count_backend(backend, false);
        self.ledger.allowance.give_own(owner.namespace(), port.key.family, Resource::Members, 1);
        self.ledger
            .staged
            .members
            .push((port.number, Member { backend, in_cluster: false, in_local: false }));
        let draining = DrainingBackend::new(Some((owner.clone(), port.key.clone())), port.number, backend);
        self.ledger.draining.push_back(draining);
    }

    /// Marks the port of a backend that is a process of the node.
    fn count_backend(&mut self, backend: Backend, more: bool) {
        if !self.inputs.node_addresses.contains(&backend.address) {
            return;
        }
        if more {
            self.ledger.of_backends.add(backend.port, &mut *self.tables);
        } else if self.ledger.of_backends.remove(backend.port) {
            self.ledger.staged.unmarked.push(backend.port);
        }
    }
}

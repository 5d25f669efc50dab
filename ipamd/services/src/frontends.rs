//! The last phase of programming a port: it gives the port its frontends, which put the sets in force.

use std::{collections::HashMap, net::IpAddr};

use bpf::layout::{FRONTEND_INSIDE_LOCAL, FRONTEND_NODE_IN_RANGES, FRONTEND_OUTSIDE_LOCAL, FRONTEND_RANGES};

use super::{
    allowance::Resource,
    backend_sets::BackendSet,
    claim::PortInProgress,
    fill::FilledPort,
    owner::Owner,
    plan::{Frontend, FrontendKind, Scope},
    port::Programmed,
    state::State,
    tables::{Family, FrontendKey, FrontendValue, SetNumber},
};
use ipamd_model::concerned::Concerned;
use ipamd_runtime::work;

impl State {
    /// Stages the frontends of a port whose sets are filled.
    pub fn publish(&mut self, owner: &Owner, filled: FilledPort) -> Programmed {
        let PortInProgress { mut port, plan, logged } = filled.into_inner();
        if matches!(owner, Owner::HostPorts(_)) && !plan.problems.is_empty() {
            // The conflict may end when an address or a service changes.
            self.ledger.unsatisfied.insert(owner.clone());
            for problem in plan.problems.iter().filter(|it| !port.plan.problems.contains(it)) {
                tracing::warn!(attachment = %owner, "{problem}");
            }
        }
        port.plan = plan;
        self.stage_frontends(owner, &mut port);
        // Owners that wait for another's frontend are shown in the listing instead.
        if self.ledger.unsatisfied.contains(owner) {
            for problem in port.problems.iter().filter(|it| !logged.contains(it)).take(1) {
                tracing::warn!(service = %owner, port = %port.key.name, "{problem}");
            }
        }
        port
    }

    fn stage_frontends(&mut self, owner: &Owner, port: &mut Programmed) {
        let before = std::mem::take(&mut port.frontends);
        let mut before: HashMap<_, _> = before.into_iter().map(|it| (it.0.key, it)).collect();
        let mut frontends = Vec::with_capacity(port.plan.frontends.len());
        let in_range = port.plan.frontends.iter().any(|frontend| frontend.ranged) && self.is_in_ranges(port);
        for frontend in port.plan.frontends.clone() {
            work::step(1);
            let FrontendKey { address, port: number, .. } = frontend.key;
            match self.ledger.owners.get(&frontend.key) {
                Some(whose) if *whose != port.number => {
                    port.problems.push(format!("port {number} at {address} is another service's"));
                    self.ledger.waiting.entry(frontend.key).or_default().insert(owner.clone());
                    continue;
                }
                Some(_) => {}
                None => {
                    let is_first = frontend.kind == FrontendKind::ClusterIp
                        && !self.ledger.addresses.contains_key(&address);
                    let (family, wanted) = (port.key.family, 1 + usize::from(is_first));
                    let asked =
                        self.ledger.allowance.ask(owner.namespace(), family, Resource::Frontends, wanted);
                    if let Err(exceeded) = asked {
                        port.problems.push(format!("port {number} at {address} is not served: {exceeded}"));
                        self.ledger.unsatisfied.insert(owner.clone());
                        continue;
                    }
                    self.ledger.owners.insert(frontend.key, port.number);
                    self.ledger.allowance.take(owner.namespace(), family, Resource::Frontends, 1);
                }
            }
            let value = self.value_of(port, &frontend, in_range);
            let known = before.remove(&frontend.key);
            if known.is_none() {
                self.count_frontend(&frontend, true);
            }
            if known.is_none_or(|(_, before)| before != value) && !self.is_inherited(frontend.key, &value) {
                self.ledger.staged.frontends.insert(frontend.key, Some(value));
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
        self.inputs.node_addresses.iter().any(|address| in_range(*address))
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
        let concerned = match (address.is_unspecified(), self.inputs.node_addresses.is_empty()) {
            (false, _) => Concerned::address(address),
            (true, false) => self.inputs.node_addresses.iter().copied().collect(),
            (true, true) => Concerned::everything(),
        };
        self.ledger.staged.concerned.add(concerned);
    }

    /// Stages the removal of an own frontend.
    pub fn remove_frontend(&mut self, owner: &Owner, frontend: &Frontend) {
        self.ledger.owners.remove(&frontend.key);
        self.ledger.freed.push(frontend.key);
        let family = Family::of(frontend.key.address);
        self.ledger.allowance.give_own(owner.namespace(), family, Resource::Frontends, 1);
        self.ledger.staged.given_up.push((family, Resource::Frontends, 1));
        self.ledger.staged.frontends.insert(frontend.key, None);
        self.stage_epoch(frontend.key.address);
        self.count_frontend(frontend, false);
    }

    fn count_frontend(&mut self, frontend: &Frontend, more: bool) {
        if frontend.kind.is_external() {
            if more {
                self.ledger.served.add(frontend.key.port, &mut *self.tables);
            } else {
                // Existing connections continue, and the mark stays as long as they do.
                self.ledger.served.remove(frontend.key.port);
            }
        } else {
            self.count_address(frontend.key.address, more);
        }
    }
}

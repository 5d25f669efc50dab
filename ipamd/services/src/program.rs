//! Programs the ports of an owner. A port goes through three phases, each of which takes what the one before returns:
//!
//! ```text
//! Wanted -- claim --> ClaimedPort -- fill --> FilledPort -- publish --> Programmed
//! ```
//!
//! They stage writes. [`super::staged_writes`] makes the writes of all owners together, in an order that keeps every
//! packet right.

use std::collections::HashMap;

use super::{
    allowance::Resource,
    owner::Owner,
    port::{PortKey, Programmed, Wanted},
    staged_writes::Ranges,
    state::State,
};

impl State {
    /// Programs the ports of an owner, and removes those that it no longer wants.
    pub fn program_ports(&mut self, owner: &Owner, wanted: Vec<Wanted>) {
        let known = self.ledger.programmed.remove(owner).unwrap_or_default();
        self.ledger.stop_waiting(owner, &known);
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
            self.ledger.programmed.insert(owner.clone(), kept);
        }
    }

    fn program(&mut self, owner: &Owner, old: Option<Programmed>, wanted: Wanted) -> Programmed {
        let claimed = self.claim(owner, old, wanted);
        let filled = self.fill(owner, claimed);
        self.publish(owner, filled)
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
            self.ledger.staged.released.push((port.key.family, set));
        }
        if !port.source_ranges.is_empty() {
            let count = port.source_ranges.len();
            self.ledger.allowance.give(owner.namespace(), port.key.family, Resource::Ranges, count);
            let (service, old) = (port.number, port.source_ranges);
            self.ledger.staged.source_ranges.push(Ranges { service, old, new: Box::default() });
        }
    }
}

//! Removes the backends whose draining is over.

use std::time::Instant;

use super::{
    allowance::Resource, draining::RemovedBackend, state::State, tables::Family, write_failure::has_failed,
};

impl State {
    /// Removes the backends whose draining is over, and returns them.
    pub fn expire_drained(&mut self, now: Instant) -> Vec<RemovedBackend> {
        let mut gone = Vec::new();
        while self.ledger.draining.front().is_some_and(|it| it.until <= now) {
            let Some(it) = self.ledger.draining.pop_front() else { break };
            // If a backend has come back, until this point it is counted twice.
            self.ledger.allowance.give(None, Family::of(it.backend.address), Resource::Members, 1);
            let is_back = it.of.as_ref().is_some_and(|(owner, key)| {
                let ports = self.ledger.programmed.get(owner).into_iter().flatten();
                ports.filter(|port| port.key == *key && port.number == it.service).any(|port| {
                    port.plan.members.binary_search_by_key(&it.backend, |member| member.backend).is_ok()
                })
            });
            if !is_back {
                gone.push(RemovedBackend { service: it.service, backend: it.backend });
            }
        }
        if !gone.is_empty() {
            let members: Vec<_> = gone.iter().map(|it| (it.service, it.backend)).collect();
            // The flows that go to them.
            let concerned = gone.iter().map(|it| it.backend.address).collect();
            let written =
                self.tables.remove_members(&members).and_then(|()| self.tables.raise_epoch(&concerned));
            // A success here does not repair an earlier failure.
            self.failed |= has_failed(&written);
        }
        gone
    }
}

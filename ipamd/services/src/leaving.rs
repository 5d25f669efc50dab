//! Endpoints that their service no longer has, until they are forgotten.

use std::time::{Duration, Instant};

use super::{
    allowance::What,
    program::PortKey,
    state::{Owner, State, has_failed},
    tables::{Backend, Family, ServiceNumber},
};

/// How long an endpoint that its service no longer has keeps the connections that it has: so long a move from one
/// EndpointSlice to another may take.
const PARTING: Duration = Duration::from_secs(1);

/// An endpoint that a service no longer has. Its sockets are to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gone {
    /// The service's port.
    pub service: ServiceNumber,
    /// The endpoint.
    pub backend: Backend,
}

/// A member that has left, until it is forgotten.
#[derive(Debug)]
pub(super) struct Leaving {
    pub until: Instant,
    /// Whose it was; `None`: an earlier daemon's.
    of: Option<(Owner, PortKey)>,
    service: ServiceNumber,
    backend: Backend,
}

impl Leaving {
    pub fn new(of: Option<(Owner, PortKey)>, service: ServiceNumber, backend: Backend) -> Self {
        Self { until: Instant::now() + PARTING, of, service, backend }
    }
}

impl State {
    /// Forgets the endpoints whose time is over, and returns them.
    pub fn part(&mut self, now: Instant) -> Vec<Gone> {
        let mut gone = Vec::new();
        while self.leaving.front().is_some_and(|it| it.until <= now) {
            let Some(it) = self.leaving.pop_front() else { break };
            // One that is back has been counted once more.
            self.allowance.give(None, Family::of(it.backend.address), What::Members, 1);
            let is_back = it.of.as_ref().is_some_and(|(owner, key)| {
                let ports = self.programmed.get(owner).into_iter().flatten();
                ports.filter(|port| port.key == *key && port.number == it.service).any(|port| {
                    port.plan.members.binary_search_by_key(&it.backend, |member| member.backend).is_ok()
                })
            });
            if !is_back {
                gone.push(Gone { service: it.service, backend: it.backend });
            }
        }
        if !gone.is_empty() {
            let members: Vec<_> = gone.iter().map(|it| (it.service, it.backend)).collect();
            // The flows that go to them.
            let concerned = gone.iter().map(|it| it.backend.address).collect();
            let written =
                self.tables.remove_members(&members).and_then(|()| self.tables.raise_epoch(&concerned));
            // What has failed before is not made up for by this.
            self.failed |= has_failed(&written);
        }
        gone
    }
}

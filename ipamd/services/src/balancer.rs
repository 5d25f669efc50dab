//! The balancer: applies changes of the cluster, sets the host ports of containers, and answers requests.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use ipamd_api::{AttachmentKey, PortMapping};

use super::{
    draining::RemovedBackend,
    health::HealthPorts,
    node_addresses::NodeAddresses,
    owner::Owner,
    site::Site,
    state::State,
    tables::{Family, PortRow, TableError, Tables},
};
use ipamd_model::{objects::Change, services::HostPort};
use ipamd_runtime::queued_lock::{QueuedLock, locked};

/// At most this many unsatisfied owners are retried at once, because others wait for the lock meanwhile.
const RETRIED: usize = 200;

/// The effect of a change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Applied {
    /// The time from the change until it was in the tables.
    pub took: Duration,
    /// How many services it concerned.
    pub services: usize,
}

/// Balances connections to the services of the cluster.
#[derive(Debug)]
pub struct Balancer {
    /// Ports of the node that come and go wait in its queue.
    state: QueuedLock<State>,
    /// The problems as of the last time that the lock was free.
    last_report: Mutex<Report>,
}

/// The problems that were reported last.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: Vec<String>,
    pub shadowed: Vec<String>,
}

/// How long an ADD waits for a change that is under way before its host ports are accepted unchecked.
const PATIENCE: Duration = Duration::from_millis(20);

impl Balancer {
    /// Balances nothing yet. The tables stay as they are until [`Self::start`].
    pub fn new(tables: Box<dyn Tables>, site: Site) -> Self {
        Self { state: QueuedLock::new(State::new(tables, site)), last_report: Mutex::default() }
    }

    /// Puts the first state of the services in force, in place of what the tables have.
    ///
    /// # Errors
    /// Why the tables could not be read or written.
    pub fn start(
        &self,
        addresses: NodeAddresses,
        host_ports: impl IntoIterator<Item = HostPort>,
        first: &[Change],
    ) -> Result<Applied, TableError> {
        let began = Instant::now();
        let mut state = self.state.change();
        state.set_node_addresses(addresses);
        for HostPort { key, mapping, backends, .. } in host_ports {
            state.inputs.host_ports.entry(key).or_default().push((mapping, backends));
        }
        let mut concerned = BTreeSet::new();
        for change in first {
            state.inputs.apply_change(change, &mut concerned);
        }
        state.rebuild()?;
        state.started = true;
        Ok(Applied { took: began.elapsed(), services: state.inputs.index.services.len() })
    }

    /// Sets whether clients outside the node reach cluster addresses. Must be called before [`Self::start`].
    pub fn serve_cluster_ips_outside(&self, serves: bool) {
        self.lock().inputs.cluster_ip_external = serves;
    }

    /// Serves health check ports from now on.
    pub fn answer_health_checks(&self, health: HealthPorts) {
        self.lock().health = Some(health);
    }

    /// Applies changes of the cluster.
    pub fn apply<'a>(&self, changes: impl IntoIterator<Item = &'a Change>) -> Applied {
        let began = Instant::now();
        let mut state = self.state.change();
        let mut concerned = BTreeSet::new();
        for change in changes {
            state.inputs.apply_change(change, &mut concerned);
        }
        if !state.started || concerned.is_empty() {
            return Applied::default();
        }
        let services = concerned.len();
        state.sync_tables(concerned.into_iter().map(Owner::Service).collect());
        Applied { took: began.elapsed(), services }
    }

    /// Sets the addresses of the node.
    pub fn set_node_addresses(&self, addresses: NodeAddresses) {
        let mut state = self.state.change();
        if state.inputs.node_addresses == addresses.all && state.inputs.node_ports == addresses.node_ports {
            return;
        }
        state.set_node_addresses(addresses);
        if state.started {
            // The set of backends that are processes of the node may have changed.
            state.write(State::rebuild);
        }
    }

    /// Replaces the host ports of a container. When this returns, they are in force.
    pub fn set_host_ports(&self, key: &AttachmentKey, mappings: &[PortMapping], backends: &[IpAddr]) {
        self.lock().set_host_ports(key, mappings, backends);
    }

    /// Queues the same. It is applied by [`Self::take`], or by whoever has the lock next.
    pub fn set_host_ports_later(
        &self,
        key: &AttachmentKey,
        mappings: Vec<PortMapping>,
        backends: Vec<IpAddr>,
    ) {
        self.state.push((key.clone(), mappings, backends));
    }

    /// Whether [`Self::take`] must be called, because nobody has the lock or waits for it.
    pub fn needs_taking(&self) -> bool {
        self.state.needs_taking()
    }

    /// Waits for the lock, and applies what is queued.
    pub fn take(&self) {
        self.state.take();
    }

    /// The total time for which changes of the cluster have had the lock.
    pub fn time_of_changes(&self) -> Duration {
        self.state.time_of_changes()
    }

    /// Why a container cannot have these host ports, in a sentence. Returns `None` if it can, or if a large change is
    /// under way and the answer is not known; a service keeps its frontends in any case.
    pub fn host_port_conflict(&self, mappings: &[PortMapping]) -> Option<String> {
        let began = Instant::now();
        let state = loop {
            match self.try_lock() {
                Some(state) => break state,
                None if began.elapsed() >= PATIENCE => return None,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        if !state.started {
            return None;
        }
        mappings.iter().find_map(|mapping| {
            let why = state.host_port_conflict(mapping, mapping.host_ip.map(Family::of))?;
            Some(format!("the node's port {} cannot lead to a container: {why}", mapping.host_side()))
        })
    }

    /// The problems of host ports, and of services for which there is no space, a sentence each; while a change is
    /// under way, those before it.
    pub fn problems(&self) -> Vec<String> {
        self.report(|state, report| report.problems = state.all_problems()).problems.clone()
    }

    /// When the next draining ends; `None` if no backend drains.
    pub fn next_drain_end(&self) -> Option<Instant> {
        self.lock().ledger.draining.front().map(|it| it.until)
    }

    /// Removes the backends whose draining is over, and returns them.
    pub fn expire_drained(&self) -> Vec<RemovedBackend> {
        self.lock().expire_drained(Instant::now())
    }

    /// Unmarks the ports where no service is reached from outside, unless a connection that exists was made there.
    pub fn forget_ports(&self, of_connections: &HashSet<u16>) {
        let mut state = self.lock();
        if state.started {
            let State { tables, ledger, .. } = &mut *state;
            tables.keep_ports(PortRow::Served, &|port| {
                ledger.served.has(port) || of_connections.contains(&port)
            });
        }
    }

    /// Tries again what has failed or did not fit.
    pub fn retry(&self) {
        let mut state = self.lock();
        if !state.started {
            return;
        }
        if state.failed {
            state.write(State::rebuild);
        } else if !state.ledger.unsatisfied.is_empty() {
            let owners = state.ledger.next_unsatisfied(RETRIED);
            state.sync_tables(owners);
        }
    }

    /// The last report, updated if the lock is free.
    pub(super) fn report(&self, look: impl FnOnce(&State, &mut Report)) -> MutexGuard<'_, Report> {
        let state = self.try_lock();
        let mut report = locked(&self.last_report);
        if let Some(state) = state {
            look(&state, &mut report);
        }
        report
    }

    /// Holds the lock as a large change does. For tests.
    #[doc(hidden)]
    pub fn stall(&self, act: impl FnOnce()) {
        let _changing = self.state.change();
        act();
    }

    /// The state, with the queue applied, unless somebody has the lock.
    fn try_lock(&self) -> Option<MutexGuard<'_, State>> {
        let mut state = self.state.try_lock()?;
        self.state.take_in(&mut state);
        Some(state)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

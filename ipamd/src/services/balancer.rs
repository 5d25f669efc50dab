//! Keeps the tables of services in step with the cluster.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bpf::layout::{ADDRESS_LOOPBACK, ADDRESS_OF_NODE, ADDRESS_OF_SERVICE};
use ipamd_api::{AttachmentKey, PortMapping};
use ipnetwork::IpNetwork;

use super::{
    fill::Room,
    health::{HealthCheck, HealthPorts},
    inherit::Inherited,
    marks::Marks,
    plan::{self, Front, Plan, Reach, Scope, Site},
    program::{PortKey, Programmed, Wanted},
    staged::Staged,
    tables::{
        Backend, Family, FrontendKey, FrontendValue, Member, PortRow, ServiceNumber, SetNumber, TableError,
        Tables,
    },
    world::{ServiceId, World},
};
use crate::{
    cluster::objects::{Change, Kind, Object},
    node::HostPort,
};

/// How long an endpoint that its service no longer has keeps the connections that it has: so long a move from one
/// EndpointSlice to another may take.
const PARTING: Duration = Duration::from_secs(1);
/// Label of a Node that names its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Whose ports are programmed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Owner {
    Service(ServiceId),
    HostPorts(AttachmentKey),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(id) => write!(f, "{}/{}", id.namespace, id.name),
            Self::HostPorts(key) => write!(f, "{key}"),
        }
    }
}

/// The addresses of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// All.
    pub all: BTreeSet<IpAddr>,
    /// Those that serve node ports; loopback addresses serve the node's own processes only.
    pub node_ports: BTreeSet<IpAddr>,
    /// There are others that do not.
    pub limited: bool,
}

impl NodeAddresses {
    /// Those of the addresses serve node ports that lie in one of the prefixes, or all if there are none; not those that
    /// mean another machine on every link.
    pub fn new(all: BTreeSet<IpAddr>, prefixes: &[IpNetwork]) -> Self {
        let serves = |address: &&IpAddr| {
            let is_of_link = match address {
                IpAddr::V4(address) => address.is_link_local(),
                IpAddr::V6(address) => address.is_unicast_link_local(),
            };
            !is_of_link && (prefixes.is_empty() || prefixes.iter().any(|prefix| prefix.contains(**address)))
        };
        let node_ports = all.iter().filter(serves).copied().collect();
        Self { all, node_ports, limited: !prefixes.is_empty() }
    }
}

/// An endpoint that a service no longer has. Its sockets are to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gone {
    /// The service's port.
    pub service: ServiceNumber,
    /// The endpoint.
    pub backend: Backend,
}

/// What a change came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Applied {
    /// From the change to it being in the tables.
    pub took: Duration,
    /// How many services it concerned.
    pub services: usize,
}

/// A member that has left, until it is forgotten.
#[derive(Debug)]
pub(super) struct Leaving {
    until: Instant,
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

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each says of itself whether something was done")]
pub(super) struct State {
    pub tables: Box<dyn Tables>,
    pub room: Room,
    pub world: World,
    pub site: Site,
    pub node_addresses: BTreeSet<IpAddr>,
    node_ports: BTreeSet<IpAddr>,
    host_ports: BTreeMap<AttachmentKey, Vec<(PortMapping, Vec<IpAddr>)>>,
    pub programmed: BTreeMap<Owner, Vec<Programmed>>,
    pub owners: HashMap<FrontendKey, ServiceNumber>,
    /// How many services have a cluster address.
    addresses: HashMap<IpAddr, u32>,
    pub served: Marks,
    pub of_backends: Marks,
    has_host_backends: bool,
    last_number: u32,
    pub leaving: VecDeque<Leaving>,
    pub staged: Staged,
    pub inherited: Option<Inherited>,
    /// What health check ports are to answer, and who answers.
    health_checks: BTreeMap<u16, HealthCheck>,
    pub health: Option<HealthPorts>,
    /// Who did not get all they want.
    pub unsatisfied: BTreeSet<Owner>,
    /// Something was given up that the unsatisfied may want.
    pub freed: bool,
    /// The tables could not be written.
    failed: bool,
    started: bool,
}

/// Balances connections to the services of the cluster.
#[derive(Debug)]
pub struct Balancer {
    state: Mutex<State>,
}

impl Balancer {
    /// Balances nothing yet: what is in the tables stays in force until [`Self::start`].
    pub fn new(tables: Box<dyn Tables>, site: Site) -> Self {
        let room = Room::new(tables.limits());
        Self {
            state: Mutex::new(State {
                tables,
                room,
                world: World::default(),
                site,
                node_addresses: BTreeSet::new(),
                node_ports: BTreeSet::new(),
                host_ports: BTreeMap::new(),
                programmed: BTreeMap::new(),
                owners: HashMap::new(),
                addresses: HashMap::new(),
                served: Marks::new(PortRow::Served),
                of_backends: Marks::new(PortRow::OfBackends),
                has_host_backends: false,
                last_number: 0,
                leaving: VecDeque::new(),
                staged: Staged::default(),
                inherited: None,
                health_checks: BTreeMap::new(),
                health: None,
                unsatisfied: BTreeSet::new(),
                freed: false,
                failed: false,
                started: false,
            }),
        }
    }

    /// Puts the services in force as the cluster told them first, in place of what the tables have.
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
        let mut state = self.lock();
        state.stand_at(addresses);
        for HostPort { key, mapping, backends, .. } in host_ports {
            state.host_ports.entry(key).or_default().push((mapping, backends));
        }
        let mut concerned = BTreeSet::new();
        for change in first {
            state.absorb(change, &mut concerned);
        }
        state.rebuild()?;
        state.started = true;
        Ok(Applied { took: began.elapsed(), services: state.world.services.len() })
    }

    /// Has health check ports be answered.
    pub fn answer_health_checks(&self, health: HealthPorts) {
        self.lock().health = Some(health);
    }

    /// Takes changes of the cluster in.
    pub fn apply<'a>(&self, changes: impl IntoIterator<Item = &'a Change>) -> Applied {
        let began = Instant::now();
        let mut state = self.lock();
        let mut concerned = BTreeSet::new();
        for change in changes {
            state.absorb(change, &mut concerned);
        }
        if !state.started || concerned.is_empty() {
            return Applied::default();
        }
        let services = concerned.len();
        state.bring(concerned.into_iter().map(Owner::Service).collect());
        Applied { took: began.elapsed(), services }
    }

    /// Sets the addresses of the node.
    pub fn set_node_addresses(&self, addresses: NodeAddresses) {
        let mut state = self.lock();
        if state.node_addresses == addresses.all && state.node_ports == addresses.node_ports {
            return;
        }
        state.stand_at(addresses);
        if state.started {
            // Which backends are the node's own may be another matter now.
            state.fail_safe(State::rebuild);
        }
    }

    /// Leads ports of the node to a container, in place of those that led to it. When this returns they do.
    pub fn set_host_ports(&self, key: &AttachmentKey, mappings: &[PortMapping], backends: &[IpAddr]) {
        let mut state = self.lock();
        let known = state.host_ports.remove(key).is_some();
        if !mappings.is_empty() {
            let ports = mappings.iter().map(|mapping| (*mapping, backends.to_vec())).collect();
            state.host_ports.insert(key.clone(), ports);
        }
        if state.started && (known || state.host_ports.contains_key(key)) {
            state.bring(vec![Owner::HostPorts(key.clone())]);
        }
    }

    /// When [`Self::part`] has something to do; `None`: not before a change.
    pub fn next_parting(&self) -> Option<Instant> {
        self.lock().leaving.front().map(|it| it.until)
    }

    /// Forgets the endpoints whose time is over, and returns them.
    pub fn part(&self) -> Vec<Gone> {
        self.lock().part(Instant::now())
    }

    /// Has packets to a port be looked at no more, if no service is reached there and no connection to one, of those that
    /// there are, was made there.
    pub fn forget_ports(&self, of_connections: &HashSet<u16>) {
        let mut state = self.lock();
        if state.started {
            let State { tables, served, .. } = &mut *state;
            tables.keep_ports(PortRow::Served, &|port| served.has(port) || of_connections.contains(&port));
        }
    }

    /// Tries again what has failed, or did not fit.
    pub fn retry(&self) {
        let mut state = self.lock();
        if !state.started {
            return;
        }
        if state.failed {
            state.fail_safe(State::rebuild);
        } else if !state.unsatisfied.is_empty() {
            let owners = state.unsatisfied.iter().cloned().collect();
            state.bring(owners);
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn stand_at(&mut self, addresses: NodeAddresses) {
        self.node_addresses = addresses.all;
        self.node_ports = addresses.node_ports;
        if let Some(health) = &self.health {
            health.set_addresses(addresses.limited.then(|| self.node_ports.clone()));
        }
    }

    fn absorb(&mut self, change: &Change, concerned: &mut BTreeSet<ServiceId>) {
        self.world.absorb(change, concerned);
        let zone = match change {
            Change::Put(Object::Node(node)) if node.name == self.site.node => {
                node.labels.get(ZONE).map(Arc::from)
            }
            Change::Remove(id) if id.kind == Kind::Node && id.name == self.site.node => None,
            _ => return,
        };
        if self.site.zone != zone {
            self.site.zone = zone;
            concerned.extend(self.world.services.keys().cloned());
        }
    }

    /// Brings the tables to what the owners want now.
    fn bring(&mut self, owners: Vec<Owner>) {
        if self.failed {
            return self.fail_safe(Self::rebuild);
        }
        self.fail_safe(|state| {
            for owner in owners {
                state.settle_owner(&owner);
            }
            if std::mem::take(&mut state.freed) {
                for owner in state.unsatisfied.clone() {
                    state.settle_owner(&owner);
                }
            }
            state.commit()
        });
    }

    fn fail_safe(&mut self, write: impl FnOnce(&mut Self) -> Result<(), TableError>) {
        self.failed = match write(self) {
            Ok(()) => false,
            Err(error) => {
                tracing::error!(%error, "services could not be put in force; this is tried again");
                true
            }
        };
    }

    /// Settles everything anew, on what the tables have.
    fn rebuild(&mut self) -> Result<(), TableError> {
        let inherited = Inherited::read(&*self.tables)?;
        self.last_number = self.last_number.max(inherited.highest());
        self.inherited = Some(inherited);
        self.room = Room::new(self.tables.limits());
        self.staged = Staged::default();
        self.programmed.clear();
        self.owners.clear();
        self.addresses.clear();
        self.health_checks.clear();
        self.leaving.clear();
        self.unsatisfied.clear();
        self.served = Marks::new(PortRow::Served);
        self.of_backends = Marks::new(PortRow::OfBackends);
        let services = self.world.services.keys().cloned().map(Owner::Service);
        let owners: Vec<_> = services.chain(self.host_ports.keys().cloned().map(Owner::HostPorts)).collect();
        for owner in &owners {
            self.settle_owner(owner);
        }
        self.stage_node_addresses();
        self.clear_inheritance()?;
        self.commit()
    }

    fn commit(&mut self) -> Result<(), TableError> {
        if let Some(health) = &self.health {
            health.set(self.health_checks.clone());
        }
        let any = !self.of_backends.is_empty();
        if any != self.has_host_backends {
            self.tables.set_host_backends(any)?;
            self.has_host_backends = any;
        }
        let of_backends = &self.of_backends;
        self.staged.unmarked.retain(|port| !of_backends.has(*port));
        self.staged.commit(&mut *self.tables, &mut self.room)
    }

    fn settle_owner(&mut self, owner: &Owner) {
        let wanted = match owner {
            Owner::Service(id) => {
                self.note_health(id);
                self.wanted_of_service(id)
            }
            Owner::HostPorts(key) => self.wanted_of_container(key),
        };
        self.settle(owner, wanted);
    }

    /// Counts the ready endpoints of this node behind a health check port.
    fn note_health(&mut self, id: &ServiceId) {
        self.health_checks.retain(|_, check| check.namespace != id.namespace || check.name != id.name);
        let Some(service) = self.world.services.get(id) else { return };
        let Some(number) = service.health_check_port else { return };
        let endpoints = self.world.slices_of(id).flat_map(|slice| slice.endpoints.iter());
        let ready: BTreeSet<_> =
            endpoints.filter(|it| it.ready && self.site.is_local(it)).map(|it| it.address).collect();
        let of_family = |family| ready.iter().filter(|address| Family::of(**address) == family).count();
        let local_endpoints = of_family(Family::V4).max(of_family(Family::V6));
        let check =
            HealthCheck { namespace: Arc::clone(&id.namespace), name: Arc::clone(&id.name), local_endpoints };
        self.health_checks.insert(number, check);
    }

    fn wanted_of_service(&self, id: &ServiceId) -> Vec<Wanted> {
        let Some(service) = self.world.services.get(id) else { return Vec::new() };
        let mut wanted = Vec::new();
        for port in &service.ports {
            for family in Family::ALL {
                let Some(plan) = plan::plan(&self.site, service, port, family, self.world.slices_of(id))
                else {
                    continue;
                };
                let is_checked = plan.fronts.iter().any(|front| front.ranged);
                let ranges = service
                    .source_ranges
                    .iter()
                    .filter(|it| is_checked && Family::of(it.network()) == family);
                let key = PortKey { name: Arc::clone(&port.name), protocol: port.protocol, family };
                wanted.push(Wanted { key, plan, source_ranges: ranges.copied().collect() });
            }
        }
        wanted
    }

    fn wanted_of_container(&self, container: &AttachmentKey) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for (mapping, backends) in self.host_ports.get(container).into_iter().flatten() {
            for address in backends {
                let family = Family::of(*address);
                if mapping.host_ip.is_some_and(|ip| Family::of(ip) != family) {
                    continue;
                }
                let backend = Backend { address: *address, port: mapping.container_port };
                let at = mapping.host_ip.unwrap_or_else(|| family.unspecified());
                let front = Front {
                    key: FrontendKey { address: at, port: mapping.host_port, protocol: mapping.protocol },
                    reach: Reach::HostPort,
                    inside: Scope::Cluster,
                    outside: Scope::Cluster,
                    ranged: false,
                };
                let plan = Plan {
                    fronts: vec![front],
                    members: vec![Member { backend, in_cluster: true, in_local: true }],
                    affinity: 0,
                    problems: Vec::new(),
                };
                let name = Arc::from(format!("{at}:{}", mapping.host_port));
                wanted.push(Wanted {
                    key: PortKey { name, protocol: mapping.protocol, family },
                    plan,
                    source_ranges: Box::default(),
                });
            }
        }
        wanted
    }

    pub(super) fn next_number(&mut self) -> ServiceNumber {
        self.last_number += 1;
        ServiceNumber(self.last_number)
    }

    /// The first service at a cluster address has it marked, the last has the mark taken away.
    pub(super) fn count_address(&mut self, address: IpAddr, more: bool) {
        let count = self.addresses.entry(address).or_default();
        let before = *count;
        *count = if more { before + 1 } else { before - 1 };
        match (before, more) {
            (0, true) => self.stage_address(address, ADDRESS_OF_SERVICE),
            (1, false) => {
                self.addresses.remove(&address);
                self.staged.frontends.insert(what_is(address), None);
            }
            _ => {}
        }
    }

    fn stage_node_addresses(&mut self) {
        for address in self.node_ports.clone() {
            let loopback = if address.is_loopback() { ADDRESS_LOOPBACK } else { 0 };
            self.stage_address(address, ADDRESS_OF_NODE | loopback);
        }
    }

    fn stage_address(&mut self, address: IpAddr, flags: u32) {
        let none = SetNumber::default();
        let value =
            FrontendValue { service: ServiceNumber(0), inside: none, outside: none, flags, affinity: 0 };
        if !self.is_inherited(what_is(address), &value) {
            self.staged.frontends.insert(what_is(address), Some(value));
        }
    }

    fn part(&mut self, now: Instant) -> Vec<Gone> {
        let mut gone = Vec::new();
        while self.leaving.front().is_some_and(|it| it.until <= now) {
            let Some(it) = self.leaving.pop_front() else { break };
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
            self.fail_safe(|state| {
                state.tables.remove_members(&members)?;
                state.tables.raise_epoch()
            });
        }
        gone
    }
}

/// The key under which the tables say what an address is.
fn what_is(address: IpAddr) -> FrontendKey {
    FrontendKey { address, port: 0, protocol: 0 }
}

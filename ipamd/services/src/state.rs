//! The balancer's state, behind its lock: the cluster's services, the plan, and what is in the tables.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use ipamd_api::{AttachmentKey, PortMapping};

use super::{
    allowance::Allowance,
    backend_sets::TableSpace,
    balancer::NodeAddresses,
    claimed_frontends::{self, ClaimedFrontends},
    draining::DrainingBackend,
    health::{Claims, HealthPorts},
    inherit::InheritedTables,
    plan::Site,
    port_marks::PortMarks,
    program::{Programmed, Wanted},
    service_index::{ServiceId, ServiceIndex},
    staged_writes::StagedWrites,
    tables::{Family, FrontendKey, PortRow, ServiceNumber, TableError, Tables},
};
use ipamd_model::objects::{Change, Kind, Object};
use ipamd_runtime::{queued_lock::TakeIn, supervisor};

/// At most this many namespaces are named in problems about missing space.
const MOST_PROBLEMS: usize = 20;
/// How many unsatisfied owners are tried again when space is freed.
const AT_ONCE: usize = 5;
/// Label of a Node that names its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// A container, its ports of the node in place of those before, and where they lead.
type HostPorts = (AttachmentKey, Vec<PortMapping>, Vec<IpAddr>);

/// The owner of programmed ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Owner {
    Service(ServiceId),
    HostPorts(AttachmentKey),
}

impl Owner {
    /// The namespace whose allowance it uses; host ports are on the node's own account.
    pub fn namespace(&self) -> Option<&Arc<str>> {
        match self {
            Self::Service(id) => Some(&id.namespace),
            Self::HostPorts(_) => None,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(id) => write!(f, "{}/{}", id.namespace, id.name),
            Self::HostPorts(key) => write!(f, "{key}"),
        }
    }
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each says of itself whether something was done")]
pub(super) struct State {
    pub tables: Box<dyn Tables>,
    pub space: TableSpace,
    pub index: ServiceIndex,
    pub site: Site,
    /// Cluster addresses are served to whoever is beyond the node.
    pub cluster_ip_external: bool,
    pub node_addresses: BTreeSet<IpAddr>,
    pub node_ports: BTreeSet<IpAddr>,
    pub host_ports: BTreeMap<AttachmentKey, Vec<(PortMapping, Vec<IpAddr>)>>,
    /// The frontends that services claim, programmed or not.
    pub claimed: ClaimedFrontends,
    pub programmed: BTreeMap<Owner, Vec<Programmed>>,
    pub owners: HashMap<FrontendKey, ServiceNumber>,
    /// How many services have a cluster address.
    pub addresses: HashMap<IpAddr, u32>,
    pub served: PortMarks,
    pub of_backends: PortMarks,
    has_host_backends: bool,
    last_number: u32,
    pub draining: VecDeque<DrainingBackend>,
    pub staged: StagedWrites,
    pub inherited: Option<InheritedTables>,
    /// What health check ports are to answer, and who answers.
    pub health_checks: Claims,
    pub health: Option<HealthPorts>,
    /// The namespaces' use of the tables.
    pub allowance: Allowance,
    /// Owners that did not get all they want, because there is no space or another has the port.
    pub unsatisfied: BTreeSet<Owner>,
    /// The one of them that was tried last.
    retried: Option<Owner>,
    /// Owners that wait for a frontend that another has.
    pub waiting: HashMap<FrontendKey, BTreeSet<Owner>>,
    /// Frontends that were freed and may have waiting owners.
    pub freed: Vec<FrontendKey>,
    /// A write failed, so the tables must be rebuilt.
    pub failed: bool,
    pub started: bool,
}

impl TakeIn for State {
    type Waiting = HostPorts;

    fn take_in(&mut self, (key, mappings, backends): HostPorts) {
        self.set_host_ports(&key, &mappings, &backends);
    }
}

impl State {
    /// Balances nothing yet.
    pub fn new(tables: Box<dyn Tables>, site: Site) -> Self {
        let space = TableSpace::new(tables.limits());
        let allowance = Allowance::new(tables.limits());
        Self {
            tables,
            space,
            index: ServiceIndex::default(),
            site,
            cluster_ip_external: false,
            node_addresses: BTreeSet::new(),
            node_ports: BTreeSet::new(),
            host_ports: BTreeMap::new(),
            claimed: ClaimedFrontends::default(),
            programmed: BTreeMap::new(),
            owners: HashMap::new(),
            addresses: HashMap::new(),
            served: PortMarks::new(PortRow::Served),
            of_backends: PortMarks::new(PortRow::OfBackends),
            has_host_backends: false,
            last_number: 0,
            draining: VecDeque::new(),
            staged: StagedWrites::default(),
            inherited: None,
            health_checks: Claims::default(),
            health: None,
            allowance,
            unsatisfied: BTreeSet::new(),
            retried: None,
            waiting: HashMap::new(),
            freed: Vec::new(),
            failed: false,
            started: false,
        }
    }

    pub fn all_problems(&self) -> Vec<String> {
        let of_containers = self.programmed.iter().filter(|(owner, _)| matches!(owner, Owner::HostPorts(_)));
        let of_containers = of_containers.flat_map(|(owner, ports)| {
            let of_port = ports.iter().flat_map(|port| port.plan.problems.iter().chain(&port.problems));
            of_port.map(move |problem| format!("a port of {owner}: {problem}"))
        });
        // One of each namespace stands for all of it.
        let mut without_room: BTreeMap<&Arc<str>, (&Owner, usize)> = BTreeMap::new();
        for owner in &self.unsatisfied {
            if let Some(namespace) = owner.namespace() {
                without_room.entry(namespace).or_insert((owner, 0)).1 += 1;
            }
        }
        let of_services = without_room.into_values().filter_map(|(owner, count)| {
            let problem = self.programmed.get(owner)?.iter().find_map(|port| port.problems.first())?;
            let more = match count {
                1 => String::new(),
                several => format!(
                    " (and {} more services of its namespace, see cambricctl service list)",
                    several - 1
                ),
            };
            Some(format!("the service {owner} is not served as a whole: {problem}{more}"))
        });
        of_containers.chain(of_services.take(MOST_PROBLEMS)).collect()
    }

    pub fn set_host_ports(&mut self, key: &AttachmentKey, mappings: &[PortMapping], backends: &[IpAddr]) {
        let known = self.host_ports.remove(key).is_some();
        if !mappings.is_empty() {
            let ports = mappings.iter().map(|mapping| (*mapping, backends.to_vec())).collect();
            self.host_ports.insert(key.clone(), ports);
        }
        if self.started && (known || self.host_ports.contains_key(key)) {
            self.sync_tables(vec![Owner::HostPorts(key.clone())]);
        }
    }

    pub fn set_node_addresses(&mut self, addresses: NodeAddresses) {
        self.node_addresses = addresses.all;
        self.node_ports = addresses.node_ports;
        if let Some(health) = &self.health {
            health.set_addresses(addresses.limited.then(|| self.node_ports.clone()));
        }
    }

    pub fn apply_change(&mut self, change: &Change, concerned: &mut BTreeSet<ServiceId>) {
        supervisor::beat();
        self.index.apply_change(change, concerned);
        let zone = match change {
            Change::Put(Object::Node(node)) if node.name == self.site.node => {
                node.labels.get(ZONE).map(Arc::from)
            }
            Change::Remove(id) if id.kind == Kind::Node && id.name == self.site.node => None,
            _ => return,
        };
        if self.site.zone != zone {
            self.site.zone = zone;
            concerned.extend(self.index.services.keys().cloned());
        }
    }

    /// Programs what these owners want now.
    pub fn sync_tables(&mut self, owners: Vec<Owner>) {
        if self.failed {
            return self.write(Self::rebuild);
        }
        self.write(|state| {
            for owner in owners {
                state.sync_owner(&owner);
            }
            state.serve_waiting();
            state.commit()
        });
    }

    /// Programs the owners that wait for freed frontends: only the first for each, because the others would wait again.
    fn serve_waiting(&mut self) {
        let freed = std::mem::take(&mut self.freed);
        if freed.is_empty() {
            return;
        }
        for key in freed {
            while !self.owners.contains_key(&key)
                && let Some(owner) = self.pop_first_waiting(&key)
            {
                self.sync_owner(&owner);
            }
        }
        // Ports of containers, of which a node has few, may be where a service was.
        let ports = self.unsatisfied.iter().rev().take_while(|it| matches!(it, Owner::HostPorts(_)));
        let ports: Vec<_> = ports.cloned().collect();
        for owner in ports.into_iter().chain(self.next_unsatisfied(AT_ONCE)) {
            self.sync_owner(&owner);
        }
    }

    /// Removes the first owner that waits for a frontend, and returns it.
    fn pop_first_waiting(&mut self, key: &FrontendKey) -> Option<Owner> {
        let waiting = self.waiting.get_mut(key)?;
        let first = waiting.pop_first();
        if waiting.is_empty() {
            self.waiting.remove(key);
        }
        first
    }

    /// The next unsatisfied owners, in turn.
    pub fn next_unsatisfied(&mut self, most: usize) -> Vec<Owner> {
        let after = self.retried.take();
        let behind = |owner: &&Owner| after.as_ref().is_none_or(|after| *owner > after);
        let mut next: Vec<_> = self.unsatisfied.iter().filter(behind).take(most).cloned().collect();
        let rest = most.min(self.unsatisfied.len()) - next.len();
        next.extend(self.unsatisfied.iter().take(rest).cloned());
        next.dedup();
        self.retried = next.last().cloned();
        next
    }

    pub fn write(&mut self, write: impl FnOnce(&mut Self) -> Result<(), TableError>) {
        let written = write(self);
        self.failed = has_failed(&written);
    }

    /// Programs everything from scratch on top of what the tables hold. First it finds the owner of all that is in
    /// force; only then it writes, because a write into space that is in force would redirect another service's
    /// connections.
    pub fn rebuild(&mut self) -> Result<(), TableError> {
        self.space = TableSpace::new(self.tables.limits());
        let mut inherited = InheritedTables::read(&*self.tables, &mut self.space)?;
        self.own_frontends().for_each(|own| inherited.reserve_number(own));
        self.last_number = self.last_number.max(inherited.highest());
        self.allowance = Allowance::new(self.tables.limits());
        for family in Family::ALL {
            // On nobody's account until somebody takes it over.
            for (what, count) in inherited.counts(family) {
                self.allowance.take(None, family, what, count);
            }
        }
        self.inherited = Some(inherited);
        self.staged = StagedWrites::default();
        self.programmed.clear();
        self.owners.clear();
        self.claimed = ClaimedFrontends::default();
        self.addresses.clear();
        self.health_checks.keep(|id| self.index.services.contains_key(id));
        self.draining.clear();
        self.unsatisfied.clear();
        self.waiting.clear();
        self.freed.clear();
        self.served = PortMarks::new(PortRow::Served);
        self.of_backends = PortMarks::new(PortRow::OfBackends);
        for owner in self.all_owners() {
            self.sync_owner(&owner);
        }
        self.stage_node_addresses();
        self.clear_inheritance();
        self.commit()
    }

    fn all_owners(&self) -> Vec<Owner> {
        let services = self.index.services.keys().cloned().map(Owner::Service);
        services.chain(self.host_ports.keys().cloned().map(Owner::HostPorts)).collect()
    }

    fn commit(&mut self) -> Result<(), TableError> {
        if let Some(health) = &self.health {
            health.set(self.health_checks.checks());
        }
        let any = !self.of_backends.is_empty();
        if any != self.has_host_backends {
            self.tables.set_host_backends(any)?;
            self.has_host_backends = any;
        }
        let of_backends = &self.of_backends;
        self.staged.unmarked.retain(|port| !of_backends.has(*port));
        let given_up = std::mem::take(&mut self.staged.given_up);
        self.staged.commit(&mut *self.tables, &mut self.space)?;
        for (family, what, count) in given_up {
            self.allowance.give(None, family, what, count);
        }
        Ok(())
    }

    fn sync_owner(&mut self, owner: &Owner) {
        supervisor::beat();
        let wanted = match owner {
            Owner::Service(id) => {
                self.update_health_check(id);
                let wanted = self.wanted_of_service(id);
                self.move_host_ports(owner, &wanted);
                wanted
            }
            Owner::HostPorts(key) => self.wanted_of_container(key),
        };
        self.program_ports(owner, wanted);
    }

    /// Moves host ports out of the way of a service before it is programmed.
    fn move_host_ports(&mut self, owner: &Owner, wanted: &[Wanted]) {
        let before = self.programmed.get(owner).into_iter().flatten().flat_map(|port| &port.plan.frontends);
        let frontends: Vec<_> = wanted.iter().flat_map(|port| &port.plan.frontends).collect();
        let more = self.claimed.replace(before, &frontends);
        // In a rebuild they come after all services.
        if !more || self.inherited.is_some() {
            return;
        }
        let is_in_the_way = |(key, mappings): (&AttachmentKey, &Vec<(PortMapping, Vec<IpAddr>)>)| {
            let meets = |mapping: &PortMapping| {
                frontends.iter().any(|frontend| claimed_frontends::conflicts(frontend, mapping))
            };
            mappings.iter().any(|(mapping, _)| meets(mapping)).then(|| Owner::HostPorts(key.clone()))
        };
        let in_the_way: Vec<_> = self.host_ports.iter().filter_map(is_in_the_way).collect();
        for owner in in_the_way {
            self.sync_owner(&owner);
        }
    }

    pub fn next_number(&mut self) -> ServiceNumber {
        self.last_number += 1;
        ServiceNumber(self.last_number)
    }
}

/// Logs a failed write; [`super::Balancer::retry`] repairs it.
pub(super) fn has_failed(written: &Result<(), TableError>) -> bool {
    if let Err(error) = written {
        tracing::error!(%error, "cannot write the tables of services; trying again");
    }
    written.is_err()
}

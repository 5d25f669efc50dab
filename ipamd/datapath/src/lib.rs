//! The programs and maps in the kernel. Everything is pinned and keeps working without the daemon; this crate creates,
//! reads and repairs it.

mod age;
mod attachments;
mod batch;
mod changes;
mod conntrack;
mod error;
mod load;
mod map_error;
mod map_use;
mod maps;
mod origins;
mod policy;
mod routes;
mod services;
pub mod socket_termination;
mod uplinks;
mod values;
mod writes;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{Ordering, fence},
    },
};

use bpf::{
    attach::{AttachError, Direction, Pins, program_id},
    layout::{
        COUNTER_ANSWERS_SUPPRESSED, COUNTER_EVENTS_LOST, COUNTER_EVENTS_SUPPRESSED, COUNTER_UNTRACKED,
        CtEntry4, CtEntry6, CtKey4, CtKey6, DROP_REASONS, EVENTS_DROPS, EVENTS_FLOWS, Endpoint,
        EthernetAddress, Ip4, Ip6, Lifetimes, MACHINE_EXTERNAL, MACHINE_SENDS_FRAMES, Node, Plain,
        PlainRoutes, Prefix4, Prefix6, Uplink as UplinkValue,
    },
};
use ipamd_api::wire::{AttachMode, Connection, ConntrackFilter, MapUse};
use ipnetwork::IpNetwork;
use libbpf_rs::{MapCore, MapHandle, MapType};

pub use self::{
    error::DatapathError,
    load::{fib_lookup_flags, probe_attach_mode},
    map_error::MapError,
    map_use::nearly_full,
    policy::PolicyTables,
    routes::RouteCounts,
    services::{ExternalSettings, ServiceTables, TranslatedSocket, TranslatedSockets},
};
use self::{
    load::{Loaded, Programs, Renewed},
    maps::TypedMap,
    values::{endpoint_entry, endpoint_value},
};
use bpf::sizes::MapSizes;
use ipamd_model::{concerned::Concerned, endpoint::EndpointEntry, origins::Origins};

/// How many events one processor may tell a tick (1.07 s).
const EVENT_RATE: u32 = 2_000;
/// How many connections one page of a listing holds.
const PAGE: usize = 500;

/// What a sweep of the conntrack maps has left.
#[derive(Debug)]
pub struct Swept {
    /// The maps of flows, and those of the ones that wait, by their names.
    pub used: BTreeMap<String, MapUse>,
    /// The ports at which connections to services were made.
    pub service_ports: HashSet<u16>,
}

/// What the datapath is to be.
#[derive(Clone, Debug)]
pub struct DatapathConfig {
    /// Where everything is pinned.
    pub pins: Pins,
    /// How programs are attached; `None` takes tcx where the kernel has it, and leaves clsact filters that endpoints have.
    pub attach_mode: Option<AttachMode>,
    /// Entries of the maps that all endpoints share.
    pub sizes: MapSizes,
    /// Whether what leaves the cluster is masqueraded.
    pub masquerade: bool,
    /// The ports (and ICMP identifiers) that masqueraded flows leave from.
    pub masquerade_ports: RangeInclusive<u16>,
    /// How long flows are remembered.
    pub lifetimes: Lifetimes,
    /// Rules that are counted apart.
    pub policy_rules: u32,
    /// The overlay's UDP port and the number of its network, where there may be one.
    pub overlay: Option<(u16, u32)>,
}

/// What was put back, a sentence each.
pub type Repairs = Vec<String>;

/// The loaded programs and their maps. All methods act in the namespace of the calling thread.
#[derive(Debug)]
pub struct Datapath {
    pins: Pins,
    attach_mode: AttachMode,
    /// Endpoints may have clsact filters although the kernel has tcx.
    takes_filters: bool,
    programs: Programs,
    program_ids: BTreeMap<String, u32>,
    node: TypedMap<u32, Node>,
    changes: TypedMap<u32, u32>,
    wall_clock: TypedMap<u32, u32>,
    uplinks: TypedMap<u32, UplinkValue>,
    endpoints4: TypedMap<Ip4, Endpoint>,
    endpoints6: TypedMap<Ip6, Endpoint>,
    no_masquerade4: TypedMap<Prefix4, u8>,
    no_masquerade6: TypedMap<Prefix6, u8>,
    machines4: TypedMap<Ip4, u8>,
    machines6: TypedMap<Ip6, u8>,
    node_prefixes4: TypedMap<Prefix4, Ip4>,
    node_prefixes6: TypedMap<Prefix6, Ip6>,
    node_macs4: TypedMap<Ip4, EthernetAddress>,
    node_macs6: TypedMap<Ip6, EthernetAddress>,
    host_ends: TypedMap<u32, EthernetAddress>,
    plain_routes: TypedMap<u32, PlainRoutes>,
    /// What both hold, once this daemon has written them: nobody else does.
    not_masqueraded: Mutex<Option<Box<[IpNetwork]>>>,
    /// The same of the prefixes of other nodes.
    origins: Mutex<Option<Origins>>,
    conntrack4: TypedMap<CtKey4, CtEntry4>,
    conntrack6: TypedMap<CtKey6, CtEntry6>,
    lifetimes: Lifetimes,
    held_ports: MapHandle,
    drops: MapHandle,
    counters: MapHandle,
    /// Those that only the programs use, kept so that their pins can be put back.
    others: BTreeMap<String, MapHandle>,
    /// The tcx links by (interface, hook). Held open: a link whose pin somebody deletes goes on.
    links: Mutex<BTreeMap<(String, &'static str), OwnedFd>>,
    /// Until the programs have taken over: the maps that those of an earlier daemon still write into.
    to_take_over: Mutex<Option<Vec<Renewed>>>,
    /// Held by who attaches programs to an interface.
    attaching: Mutex<()>,
    /// Changing `node` is a read and a write.
    alone: Mutex<()>,
}

impl Datapath {
    /// Loads the programs, adopting the maps that are pinned. They go into every link that an earlier daemon left, without a gap,
    /// once the uplinks are set: by then all that they look up is there.
    pub fn open(config: &DatapathConfig) -> Result<Self, DatapathError> {
        let attach_mode = config.attach_mode.unwrap_or_else(probe_attach_mode);
        let Loaded { programs, mut maps, renewed } = load::load(config)?;
        let program_ids = programs
            .iter()
            .map(|(name, fd)| Ok((name.clone(), program_id(fd.as_fd())?)))
            .collect::<Result<_, AttachError>>()?;
        let untyped = |maps: &mut BTreeMap<String, MapHandle>, name: &str| {
            maps.remove(name).ok_or_else(|| DatapathError::Layout { map: name.to_owned() })
        };
        let datapath = Self {
            pins: config.pins.clone(),
            attach_mode,
            takes_filters: config.attach_mode.is_none(),
            programs,
            program_ids,
            node: TypedMap::take(&mut maps, "node")?,
            changes: TypedMap::take(&mut maps, "changes")?,
            wall_clock: TypedMap::take(&mut maps, "wall_clock")?,
            uplinks: TypedMap::take(&mut maps, "uplinks")?,
            endpoints4: TypedMap::take(&mut maps, "endpoints4")?,
            endpoints6: TypedMap::take(&mut maps, "endpoints6")?,
            no_masquerade4: TypedMap::take(&mut maps, "no_masquerade4")?,
            no_masquerade6: TypedMap::take(&mut maps, "no_masquerade6")?,
            machines4: TypedMap::take(&mut maps, "machines4")?,
            machines6: TypedMap::take(&mut maps, "machines6")?,
            node_prefixes4: TypedMap::take(&mut maps, "node_prefixes4")?,
            node_prefixes6: TypedMap::take(&mut maps, "node_prefixes6")?,
            node_macs4: TypedMap::take(&mut maps, "node_macs4")?,
            node_macs6: TypedMap::take(&mut maps, "node_macs6")?,
            host_ends: TypedMap::take(&mut maps, "host_ends")?,
            plain_routes: TypedMap::take(&mut maps, "plain_routes")?,
            not_masqueraded: Mutex::default(),
            origins: Mutex::default(),
            conntrack4: TypedMap::take(&mut maps, "conntrack4")?,
            conntrack6: TypedMap::take(&mut maps, "conntrack6")?,
            lifetimes: config.lifetimes,
            held_ports: untyped(&mut maps, "held_ports")?,
            drops: untyped(&mut maps, "drops")?,
            counters: untyped(&mut maps, "counters")?,
            others: maps,
            links: Mutex::default(),
            to_take_over: Mutex::new(Some(renewed)),
            attaching: Mutex::new(()),
            alone: Mutex::default(),
        };
        datapath.change_node(|node| {
            node.masquerade = u32::from(config.masquerade);
            // Who listened to the last daemon is gone.
            node.events = 0;
            node.sample = 1;
            node.event_rate = EVENT_RATE;
        })?;
        datapath.raise_every_place()?;
        datapath.adopt_host_ends()?;
        // What an earlier daemon has told may be of another network namespace.
        datapath.set_plain_routes(RouteCounts::default())?;
        Ok(datapath)
    }

    /// How programs are attached.
    pub fn attach_mode(&self) -> AttachMode {
        self.attach_mode
    }

    /// How an endpoint's programs are attached if nobody else needs the qdisc of filters.
    pub fn quick_mode(&self) -> AttachMode {
        if self.takes_filters { AttachMode::Clsact } else { self.attach_mode }
    }

    /// Path of a pinned program (`from_endpoint`, `to_endpoint`).
    pub fn program_path(&self, name: &str) -> PathBuf {
        self.pins.program(name)
    }

    /// Makes an address forwardable, or changes what is known of it.
    pub fn put_endpoint(&self, address: IpAddr, entry: &EndpointEntry) -> Result<(), DatapathError> {
        self.put_host_end(entry)?;
        match address {
            IpAddr::V4(address) => self.endpoints4.put(&address.into(), &endpoint_value(entry)),
            IpAddr::V6(address) => self.endpoints6.put(&address.into(), &endpoint_value(entry)),
        }
    }

    /// Cuts an address off. Unknown addresses are fine.
    pub fn remove_endpoint(&self, address: IpAddr) -> Result<(), DatapathError> {
        self.remove_host_end(address)?;
        match address {
            IpAddr::V4(address) => self.endpoints4.remove(&address.into()),
            IpAddr::V6(address) => self.endpoints6.remove(&address.into()),
        }
    }

    /// All addresses that the programs know, read from the kernel.
    pub fn endpoints(&self) -> Result<BTreeMap<IpAddr, EndpointEntry>, DatapathError> {
        let mut endpoints = BTreeMap::new();
        self.endpoints4.each(|address, value| {
            endpoints.insert(Ipv4Addr::from(address).into(), endpoint_entry(value));
            true
        })?;
        self.endpoints6.each(|address, value| {
            endpoints.insert(Ipv6Addr::from(address).into(), endpoint_entry(value));
            true
        })?;
        Ok(endpoints)
    }

    /// Which set of peers and postures is in force: 0 or 1.
    fn peer_set(&self) -> Result<u32, DatapathError> {
        Ok(self.node.get(&0)?.unwrap_or_default().set & 1)
    }

    /// Puts the other set in force, by one write. The epoch is to be raised behind it.
    fn put_peer_set(&self, set: u32) -> Result<(), DatapathError> {
        self.change_node(|node| node.set = set)
    }

    /// Sets what the programs tell through the ring of events, and of how many flows one is told.
    pub fn set_events(&self, flows: bool, drops: bool, sample: u32) -> Result<(), DatapathError> {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        self.change_node(|node| {
            node.events = flag(flows, EVENTS_FLOWS) | flag(drops, EVENTS_DROPS);
            node.sample = sample.max(1);
        })
    }

    fn change_node(&self, change: impl FnOnce(&mut Node)) -> Result<(), DatapathError> {
        let _alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let mut node = self.node.get(&0)?.unwrap_or_default();
        change(&mut node);
        // What was written before is seen by whoever sees this: the programs read the epoch first.
        fence(Ordering::SeqCst);
        self.node.put(&0, &node)
    }

    /// Destinations that are not masqueraded: the pools, and `--no-masquerade`. Raises the epoch on a change.
    pub fn set_no_masquerade(&self, networks: &[IpNetwork]) -> Result<(), DatapathError> {
        let mut known = self.not_masqueraded.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() == Some(networks) {
            return Ok(());
        }
        *known = None;
        let mut wanted4 = Vec::new();
        let mut wanted6 = Vec::new();
        for network in networks {
            match network {
                IpNetwork::V4(n) => {
                    wanted4.push(Prefix4 { length: n.prefix().into(), address: n.network().into() });
                }
                IpNetwork::V6(n) => {
                    wanted6.push(Prefix6 { length: n.prefix().into(), address: n.network().into() });
                }
            }
        }
        let changed4 = sync_keys(&self.no_masquerade4, &wanted4)?;
        let changed6 = sync_keys(&self.no_masquerade6, &wanted6)?;
        if changed4 || changed6 {
            self.raise_epoch(&Concerned::everything())?;
        }
        *known = Some(networks.into());
        Ok(())
    }

    /// Sets the addresses of the cluster's nodes, each with whether frames of the overlay are taken from it.
    pub fn set_machines(&self, machines: impl Iterator<Item = (IpAddr, bool)>) -> Result<(), DatapathError> {
        let mut wanted: HashMap<_, u8> = HashMap::new();
        for (machine, sends_frames) in machines {
            *wanted.entry(machine).or_default() |=
                if sends_frames { MACHINE_SENDS_FRAMES } else { MACHINE_EXTERNAL };
        }
        let (mut wanted4, mut wanted6) = (Vec::new(), Vec::new());
        for (machine, value) in wanted {
            match machine {
                IpAddr::V4(ip) => wanted4.push((ip.into(), value)),
                IpAddr::V6(ip) => wanted6.push((ip.into(), value)),
            }
        }
        sync_entries(&self.machines4, &wanted4)?;
        sync_entries(&self.machines6, &wanted6)
    }

    /// Packets dropped since the maps were made, by reason.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>, DatapathError> {
        let named = DROP_REASONS.iter().map(|reason| (*reason).to_owned());
        // The first is no reason.
        Ok(named.zip(maps::sums(&self.drops)?).skip(1).collect())
    }

    /// Flows that passed although conntrack could not take them.
    pub fn untracked(&self) -> Result<u64, DatapathError> {
        maps::sum(&self.counters, COUNTER_UNTRACKED)
    }

    /// Events that the ring had no room for, and that were beyond the rate.
    pub fn events_missed(&self) -> Result<(u64, u64), DatapathError> {
        Ok((
            maps::sum(&self.counters, COUNTER_EVENTS_LOST)?,
            maps::sum(&self.counters, COUNTER_EVENTS_SUPPRESSED)?,
        ))
    }

    /// How full each map is that has a bound which users may meet, by its name; but for those of flows, which the sweep counts. Reads
    /// them whole: tens of milliseconds.
    pub fn map_use(&self) -> Result<BTreeMap<String, MapUse>, DatapathError> {
        let typed = [
            (self.endpoints4.name(), self.endpoints4.handle()),
            (self.endpoints6.name(), self.endpoints6.handle()),
            (self.no_masquerade4.name(), self.no_masquerade4.handle()),
            (self.no_masquerade6.name(), self.no_masquerade6.handle()),
            (self.machines4.name(), self.machines4.handle()),
            (self.machines6.name(), self.machines6.handle()),
            (self.node_prefixes4.name(), self.node_prefixes4.handle()),
            (self.node_prefixes6.name(), self.node_prefixes6.handle()),
        ];
        let bounded =
            |map: &MapHandle| matches!(map.map_type(), MapType::Hash | MapType::LruHash | MapType::LpmTrie);
        let others = self.others.iter().map(|(name, map)| (name.as_str(), map));
        let maps = typed.into_iter().chain(others.filter(|(_, map)| bounded(map)));
        let count = |(name, map): (&str, &MapHandle)| {
            let mut entries = 0;
            batch::each_entry(map, |_, _| {
                entries += 1;
                true
            })
            .map_err(|error| DatapathError::map(name)(error.into()))?;
            Ok((name.to_owned(), MapUse { entries, capacity: map.max_entries().into() }))
        };
        maps.map(count).collect()
    }

    /// Errors and resets that were beyond the rate.
    pub fn answers_suppressed(&self) -> Result<u64, DatapathError> {
        maps::sum(&self.counters, COUNTER_ANSWERS_SUPPRESSED)
    }

    /// Whether the endpoint of an address is no longer the one that has this host end.
    fn is_gone(&self, address: IpAddr, index: u32) -> bool {
        let endpoint = match address {
            IpAddr::V4(address) => self.endpoints4.get(&address.into()),
            IpAddr::V6(address) => self.endpoints6.get(&address.into()),
        };
        endpoint.is_ok_and(|endpoint| endpoint.is_none_or(|endpoint| endpoint.ifindex != index))
    }

    /// Has conntrack entries forgotten that have expired, and those of endpoints that are gone. Calls `ended`, if there is
    /// one, with each connection that was forgotten.
    pub fn sweep_conntrack(
        &self,
        ended: Option<&mut dyn FnMut(&Connection)>,
    ) -> Result<Swept, DatapathError> {
        match self.programs.get(load::AGE) {
            Some(program) => self.age_conntrack(program.as_fd(), ended),
            None => self.sweep_by_hand(ended),
        }
    }

    /// By the program, which looks at each entry where it lies: nothing is copied, but for who listens.
    fn age_conntrack(
        &self,
        program: BorrowedFd<'_>,
        ended: Option<&mut dyn FnMut(&Connection)>,
    ) -> Result<Swept, DatapathError> {
        if let Some(ended) = ended {
            let mut tell = |connection: Option<Connection>| {
                connection.iter().for_each(&mut *ended);
                true
            };
            let (now, lifetimes) = (conntrack::now(), &self.lifetimes);
            self.conntrack4.each(|key, entry| tell(conntrack::expired(&key, &entry, lifetimes, now)))?;
            self.conntrack6.each(|key, entry| tell(conntrack::expired(&key, &entry, lifetimes, now)))?;
        }
        let aged = age::run(program)?;
        Ok(Swept {
            used: self.used(
                conntrack::Left { entries: aged.left4.into(), waiting: aged.waiting4.into() },
                conntrack::Left { entries: aged.left6.into(), waiting: aged.waiting6.into() },
            ),
            service_ports: age::held_ports(&self.held_ports)?.collect(),
        })
    }

    /// By reading the maps, where the kernel has not what the program needs.
    fn sweep_by_hand(&self, mut ended: Option<&mut dyn FnMut(&Connection)>) -> Result<Swept, DatapathError> {
        let mut ports = HashSet::new();
        let known = self.endpoints()?;
        // An endpoint may have come since.
        let is_gone = |address: IpAddr, index: u32| {
            known.get(&address).is_none_or(|endpoint| endpoint.ifindex != index)
                && self.is_gone(address, index)
        };
        let lifetimes = &self.lifetimes;
        let ipv4 = conntrack::sweep(&self.conntrack4, lifetimes, &is_gone, &mut ended, &mut ports)?;
        let ipv6 = conntrack::sweep(&self.conntrack6, lifetimes, &is_gone, &mut ended, &mut ports)?;
        Ok(Swept { used: self.used(ipv4, ipv6), service_ports: ports })
    }

    fn used(&self, ipv4: conntrack::Left, ipv6: conntrack::Left) -> BTreeMap<String, MapUse> {
        let used = |name: &str, map: &MapHandle, entries| {
            (name.to_owned(), MapUse { entries, capacity: map.max_entries().into() })
        };
        let waiting = |name, entries| self.others.get(name).map(|map| used(name, map, entries));
        let kept = [
            used(self.conntrack4.name(), self.conntrack4.handle(), ipv4.entries),
            used(self.conntrack6.name(), self.conntrack6.handle(), ipv6.entries),
        ];
        let waiting = [waiting("waiting4", ipv4.waiting), waiting("waiting6", ipv6.waiting)];
        kept.into_iter().chain(waiting.into_iter().flatten()).collect()
    }

    /// Calls `page` with the matching conntrack entries, a few hundred at a time, until it returns false.
    pub fn conntrack(
        &self,
        filter: &ConntrackFilter,
        page: &mut dyn FnMut(Vec<Connection>) -> bool,
    ) -> Result<(), DatapathError> {
        let now = conntrack::now();
        let mut left = filter.limit.unwrap_or(u64::MAX);
        let mut filling = Vec::new();
        let mut take = |connection: Option<Connection>| {
            if left == 0 {
                return false;
            }
            let Some(connection) = connection.filter(|connection| conntrack::matches(filter, connection))
            else {
                return true;
            };
            left -= 1;
            filling.push(connection);
            filling.len() < PAGE || page(std::mem::take(&mut filling))
        };
        let mut on = true;
        self.conntrack4.each(|key, entry| {
            on = take(conntrack::connection(&key, &entry, &self.lifetimes, now));
            on
        })?;
        if on {
            self.conntrack6
                .each(|key, entry| take(conntrack::connection(&key, &entry, &self.lifetimes, now)))?;
        }
        if !filling.is_empty() {
            page(filling);
        }
        Ok(())
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<(String, &'static str), OwnedFd>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both hooks of an interface.
const HOOKS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Makes the entries of a map those that are wanted.
fn sync_entries<K: Plain, V: Plain>(map: &TypedMap<K, V>, wanted: &[(K, V)]) -> Result<(), DatapathError> {
    let mut present = Vec::new();
    map.each(|key, value| {
        present.push((key, value));
        true
    })?;
    let known: HashMap<_, _> =
        present.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())).collect();
    let all: HashSet<_> = wanted.iter().map(|(key, _)| key.as_bytes()).collect();
    for (key, value) in
        wanted.iter().filter(|(key, value)| known.get(key.as_bytes()) != Some(&value.as_bytes()))
    {
        map.put(key, value)?;
    }
    for (key, _) in present.iter().filter(|(key, _)| !all.contains(key.as_bytes())) {
        map.remove(key)?;
    }
    Ok(())
}

/// Makes the map's keys those that are wanted; whether anything changed.
fn sync_keys<K: Plain>(map: &TypedMap<K, u8>, wanted: &[K]) -> Result<bool, DatapathError> {
    let present = map.keys();
    let known: HashSet<_> = present.iter().map(K::as_bytes).collect();
    let all: HashSet<_> = wanted.iter().map(K::as_bytes).collect();
    let mut changed = false;
    for key in wanted.iter().filter(|key| !known.contains(key.as_bytes())) {
        map.put(key, &1)?;
        changed = true;
    }
    for key in present.iter().filter(|key| !all.contains(key.as_bytes())) {
        map.remove(key)?;
        changed = true;
    }
    Ok(changed)
}

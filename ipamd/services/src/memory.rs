//! Tables in memory, with the look-ups of the programs, for tests without a kernel. They check the contract of
//! `Tables`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bpf::layout::{
    ADDRESS_OF_NODE, ADDRESS_OF_SERVICE, FRONTEND_NODE_IN_RANGES, FRONTEND_RANGES, INSIDE_ONLY,
};
use ipnetwork::IpNetwork;

use super::tables::{
    Backend, Choice, Family, FrontendKey, FrontendValue, Limits, Member, PortRow, ServiceNumber, SetNumber,
    SetValue, TableError, Tables,
};
use ipamd_model::concerned::Concerned;

/// Tables in memory; clones share them.
#[derive(Clone, Debug)]
pub struct Memory {
    limits: Limits,
    contents: Arc<Mutex<Contents>>,
}

#[derive(Debug, Default)]
struct Contents {
    backends: [BTreeMap<u32, (Backend, u32)>; 2],
    lookups: BTreeMap<u32, u32>,
    sets: BTreeMap<SetNumber, SetValue>,
    frontends: BTreeMap<FrontendKey, FrontendValue>,
    members: BTreeMap<(ServiceNumber, Backend), Member>,
    source_ranges: BTreeSet<(ServiceNumber, IpNetwork)>,
    served: BTreeSet<u16>,
    of_backends: BTreeSet<u16>,
    host_backends: bool,
    epoch: u32,
    concerned: Concerned,
    /// Refuses every write while it is set.
    fails: bool,
}

impl Contents {
    /// The sets that frontends name, of one family or both.
    fn sets_in_force(&self, family: Option<Family>) -> BTreeMap<SetNumber, SetValue> {
        let of_family = |key: &FrontendKey| family.is_none_or(|family| Family::of(key.address) == family);
        let named = self.frontends.iter().filter(|(key, _)| of_family(key));
        let named = named.flat_map(|(_, value)| [value.inside, value.outside]);
        named.filter_map(|number| Some((number, *self.sets.get(&number)?))).collect()
    }

    /// The slots of the backends of the sets in force.
    fn backends_in_force(&self, family: Family) -> Vec<(SetNumber, BTreeSet<u32>)> {
        let places = |value: SetValue| {
            let places = value.first..value.first + u32::from(value.count);
            match value.choice {
                Choice::RoundRobin | Choice::Rendezvous => places.collect(),
                Choice::Maglev => places.filter_map(|place| self.lookups.get(&place).copied()).collect(),
            }
        };
        self.sets_in_force(Some(family)).into_iter().map(|(set, value)| (set, places(value))).collect()
    }
}

/// Fails as a full map of the kernel does.
fn full(what: &str, limit: u32, all: impl Iterator<Item = IpAddr>) -> Result<(), TableError> {
    let mut count = [0_u32; 2];
    all.for_each(|address| count[Family::of(address) as usize] += 1);
    let fits = count.iter().all(|count| *count <= limit);
    if fits { Ok(()) } else { Err(TableError(format!("more than {limit} {what} of a family").into())) }
}

/// The client of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum From {
    /// An endpoint of this node.
    Endpoint(IpAddr),
    /// A process in the node's own namespace.
    Node,
    /// A client outside the node.
    Outside(IpAddr),
}

/// The destination of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The address and port belong to no service.
    NotAService,
    /// It goes to one of these.
    Backends(BTreeSet<Backend>),
    /// It is refused at once.
    Refused,
    /// It is dropped.
    Dropped,
}

impl Default for Memory {
    /// Tables with the default limits.
    fn default() -> Self {
        Self::new(Limits {
            sets: 65_536,
            backends: 262_144,
            lookups: 1_048_576,
            frontends: 65_536,
            members: 262_144,
            source_ranges: 65_536,
        })
    }
}

impl Memory {
    /// Empty tables with these limits.
    pub fn new(limits: Limits) -> Self {
        Self { limits, contents: Arc::default() }
    }

    /// Makes every write fail, or succeed again.
    pub fn fail(&self, fails: bool) {
        self.lock().fails = fails;
    }

    /// Looks up the destination of a connection, as the programs do.
    pub fn connect(&self, from: From, to: FrontendKey) -> Destination {
        if to.address.is_unspecified() || (to.address.is_loopback() && from != From::Node) {
            return Destination::NotAService;
        }
        let contents = self.lock();
        let at = |address, port, protocol| contents.frontends.get(&FrontendKey { address, port, protocol });
        let mut kind = 0;
        let found = at(to.address, to.port, to.protocol).or_else(|| {
            let address = at(to.address, 0, 0)?;
            kind = address.flags;
            (kind & ADDRESS_OF_NODE != 0)
                .then(|| at(Family::of(to.address).unspecified(), to.port, to.protocol))
                .flatten()
        });
        if found.map_or(kind, |it| it.flags) & INSIDE_ONLY != 0 && matches!(from, From::Outside(_)) {
            return Destination::Dropped;
        }
        let Some(found) = found else {
            return if kind & ADDRESS_OF_SERVICE != 0 {
                Destination::Refused
            } else {
                Destination::NotAService
            };
        };
        if found.flags & FRONTEND_RANGES != 0 {
            let within = |source: IpAddr| {
                contents
                    .source_ranges
                    .iter()
                    .any(|(number, range)| *number == found.service && range.contains(source))
            };
            let welcome = match from {
                From::Endpoint(source) | From::Outside(source) => within(source),
                From::Node => found.flags & FRONTEND_NODE_IN_RANGES != 0,
            };
            if !welcome {
                return Destination::Dropped;
            }
        }
        let set = if matches!(from, From::Outside(_)) { found.outside } else { found.inside };
        let value = contents.sets.get(&set).copied().unwrap_or_default();
        if value.count == 0 {
            return if value.elsewhere { Destination::Dropped } else { Destination::Refused };
        }
        let places = value.first..value.first + u32::from(value.count);
        let backends = &contents.backends[Family::of(to.address) as usize];
        let backend = |place: u32| backends.get(&place).map(|(backend, _)| *backend);
        Destination::Backends(match value.choice {
            Choice::RoundRobin | Choice::Rendezvous => places.filter_map(backend).collect(),
            Choice::Maglev => places.filter_map(|place| backend(*contents.lookups.get(&place)?)).collect(),
        })
    }

    /// Every frontend that is in force.
    pub fn all_frontends(&self) -> BTreeSet<FrontendKey> {
        self.lock().frontends.keys().copied().collect()
    }

    /// Every member, including those that drain.
    pub fn all_members(&self) -> BTreeSet<Backend> {
        self.lock().members.keys().map(|(_, backend)| *backend).collect()
    }

    /// Whether a port is marked.
    pub fn is_marked(&self, row: PortRow, port: u16) -> bool {
        let contents = self.lock();
        match row {
            PortRow::Served => contents.served.contains(&port),
            PortRow::OfBackends => contents.of_backends.contains(&port) && contents.host_backends,
        }
    }

    /// How often the epoch was raised.
    pub fn epoch(&self) -> u32 {
        self.lock().epoch
    }

    /// The flows for which the epoch was raised since the last call.
    pub fn take_concerned(&self) -> Concerned {
        std::mem::take(&mut self.lock().concerned)
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> Result<MutexGuard<'_, Contents>, TableError> {
        let contents = self.lock();
        if contents.fails { Err(TableError("it was told to fail".into())) } else { Ok(contents) }
    }
}

impl Tables for Memory {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn put_backends(
        &mut self,
        family: Family,
        first: u32,
        backends: &[(Backend, u32)],
    ) -> Result<(), TableError> {
        let mut contents = self.write()?;
        let end = first + u32::try_from(backends.len()).unwrap_or(u32::MAX);
        for (set, places) in contents.backends_in_force(family) {
            assert!(
                places.iter().all(|place| !(first..end).contains(place)),
                "{family:?} backends {first}..{end} are written over those of {set:?}, which is in force"
            );
        }
        contents.backends[family as usize].extend((first..).zip(backends.iter().copied()));
        Ok(())
    }

    fn backends(&self, family: Family, first: u32, count: u32) -> Result<Vec<(Backend, u32)>, TableError> {
        let contents = self.write()?;
        Ok(contents.backends[family as usize].range(first..first + count).map(|(_, it)| *it).collect())
    }

    fn put_lookups(&mut self, first: u32, places: &[u32]) -> Result<(), TableError> {
        let mut contents = self.write()?;
        let end = first + u32::try_from(places.len()).unwrap_or(u32::MAX);
        for (set, value) in contents.sets_in_force(None) {
            let overlap = value.first < end && first < value.first + u32::from(value.count);
            assert!(
                value.choice != Choice::Maglev || !overlap,
                "look-up places {first}..{end} are written over those of {set:?}, which is in force"
            );
        }
        contents.lookups.extend((first..).zip(places.iter().copied()));
        Ok(())
    }

    fn lookups(&self, first: u32, count: u32) -> Result<Vec<u32>, TableError> {
        Ok(self.write()?.lookups.range(first..first + count).map(|(_, it)| *it).collect())
    }

    fn put_set(&mut self, set: SetNumber, value: SetValue) {
        self.lock().sets.insert(set, value);
    }

    fn set(&self, set: SetNumber) -> SetValue {
        self.lock().sets.get(&set).copied().unwrap_or_default()
    }

    fn put_frontends(&mut self, frontends: &[(FrontendKey, FrontendValue)]) -> Result<(), TableError> {
        let limit = self.limits.frontends;
        let mut contents = self.write()?;
        contents.frontends.extend(frontends.iter().copied());
        full("frontends", limit, contents.frontends.keys().map(|key| key.address))
    }

    fn remove_frontends(&mut self, keys: &[FrontendKey]) -> Result<(), TableError> {
        let mut contents = self.write()?;
        for key in keys {
            contents.frontends.remove(key);
        }
        Ok(())
    }

    fn frontends(&self, family: Family) -> Result<Vec<(FrontendKey, FrontendValue)>, TableError> {
        let contents = self.write()?;
        let of_family = contents.frontends.iter().filter(|(key, _)| Family::of(key.address) == family);
        Ok(of_family.map(|(key, value)| (*key, *value)).collect())
    }

    fn put_members(&mut self, members: &[(ServiceNumber, Member)]) -> Result<(), TableError> {
        let limit = self.limits.members;
        let mut contents = self.write()?;
        contents.members.extend(members.iter().map(|(number, it)| ((*number, it.backend), *it)));
        full("members", limit, contents.members.keys().map(|(_, backend)| backend.address))
    }

    fn remove_members(&mut self, members: &[(ServiceNumber, Backend)]) -> Result<(), TableError> {
        let mut contents = self.write()?;
        for key in members {
            contents.members.remove(key);
        }
        Ok(())
    }

    fn members(&self, family: Family) -> Result<Vec<(ServiceNumber, Member)>, TableError> {
        let contents = self.write()?;
        let of_family =
            contents.members.iter().filter(|((_, backend), _)| Family::of(backend.address) == family);
        Ok(of_family.map(|((number, _), member)| (*number, *member)).collect())
    }

    fn put_source_ranges(
        &mut self,
        service: ServiceNumber,
        old: &[IpNetwork],
        new: &[IpNetwork],
    ) -> Result<(), TableError> {
        let mut contents = self.write()?;
        contents.source_ranges.retain(|(number, range)| *number != service || !old.contains(range));
        contents.source_ranges.extend(new.iter().map(|range| (service, *range)));
        full(
            "source ranges",
            self.limits.source_ranges,
            contents.source_ranges.iter().map(|(_, it)| it.network()),
        )
    }

    fn source_ranges(&self) -> Result<Vec<(ServiceNumber, IpNetwork)>, TableError> {
        Ok(self.write()?.source_ranges.iter().copied().collect())
    }

    fn mark_port(&mut self, row: PortRow, port: u16, marked: bool) {
        let mut contents = self.lock();
        let ports = match row {
            PortRow::Served => &mut contents.served,
            PortRow::OfBackends => &mut contents.of_backends,
        };
        if marked {
            ports.insert(port)
        } else {
            ports.remove(&port)
        };
    }

    fn keep_ports(&mut self, row: PortRow, marked: &dyn Fn(u16) -> bool) {
        let mut contents = self.lock();
        match row {
            PortRow::Served => contents.served.retain(|port| marked(*port)),
            PortRow::OfBackends => contents.of_backends.retain(|port| marked(*port)),
        }
    }

    fn set_host_backends(&mut self, any: bool) -> Result<(), TableError> {
        self.write()?.host_backends = any;
        Ok(())
    }

    fn raise_epoch(&mut self, concerned: &Concerned) -> Result<(), TableError> {
        let mut contents = self.write()?;
        contents.epoch += u32::from(!concerned.is_nothing());
        contents.concerned.add(concerned.clone());
        Ok(())
    }
}

//! The maps about services.

mod external;
mod family;
mod mmap_array;
pub(super) mod served_marks;
mod socket_lb;
pub(super) mod translated_sockets;
mod wall_clock;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, atomic::Ordering},
};

use bpf::{
    attach::Pins,
    layout::{
        BackendSet, EXTERNAL_HOST_BACKENDS, LookupPlaces, PORT_WORDS, PORTS_OF_BACKENDS, PORTS_SERVED, Plain,
        SET_BY_SCORE, SET_BY_TABLE, SET_ELSEWHERE, V4, V6, served_bit,
    },
};
use ipnetwork::IpNetwork;
use libbpf_rs::{MapCore, MapHandle};

pub use self::{
    external::ExternalSettings,
    translated_sockets::{TranslatedSocket, TranslatedSockets},
};
use self::{family::OfFamily, mmap_array::MmapArray};
use super::{datapath::Datapath, error::DatapathError, maps::TypedMap};
use ipamd_model::concerned::Concerned;
use ipamd_services::tables::{
    Backend, Choice, Family, FrontendKey, FrontendValue, Limits, Member, PortRow, ServiceNumber, SetNumber,
    SetValue, TableError, Tables,
};

/// The maps about services, written for the programs.
#[derive(Debug)]
pub struct ServiceTables {
    datapath: Arc<Datapath>,
    v4: OfFamily<V4>,
    v6: OfFamily<V6>,
    sets: MmapArray<BackendSet>,
    lookups: TypedMap<u32, LookupPlaces>,
    ports: MmapArray<u64>,
    served: MmapArray<u64>,
}

impl ServiceTables {
    /// The tables of the pinned maps, as an earlier daemon left them.
    ///
    /// # Errors
    /// Why the maps cannot be used.
    pub fn open(datapath: Arc<Datapath>, pins: &Pins) -> Result<Self, DatapathError> {
        let pinned =
            |name: &str| MapHandle::from_pinned_path(pins.map(name)).map_err(DatapathError::map(name));
        Ok(Self {
            v4: OfFamily::open(&pinned)?,
            v6: OfFamily::open(&pinned)?,
            sets: MmapArray::open(&pinned("sets")?)?,
            lookups: TypedMap::open("lookup_tables", pinned)?,
            ports: MmapArray::open(&pinned("ports")?)?,
            served: MmapArray::open(&pinned("served_addresses")?)?,
            datapath,
        })
    }

    fn lookup_pair(&self, index: u32) -> Result<LookupPlaces, TableError> {
        self.lookups.get(&index).map(Option::unwrap_or_default).map_err(failed)
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> TableError {
    TableError(Box::new(error))
}

fn row(row: PortRow) -> u32 {
    PORT_WORDS
        * match row {
            PortRow::Served => PORTS_SERVED,
            PortRow::OfBackends => PORTS_OF_BACKENDS,
        }
}

/// Splits what concerns both families.
fn split<T: Copy>(all: &[T], family: impl Fn(&T) -> Family) -> [Vec<T>; 2] {
    Family::ALL.map(|wanted| all.iter().filter(|it| family(it) == wanted).copied().collect())
}

impl Tables for ServiceTables {
    fn limits(&self) -> Limits {
        Limits {
            sets: self.sets.entries(),
            backends: self.v4.most_backends().min(self.v6.most_backends()),
            lookups: self.lookups.handle().max_entries() * 2,
            frontends: self.v4.most_frontends().min(self.v6.most_frontends()),
            members: self.v4.most_members().min(self.v6.most_members()),
            source_ranges: self.v4.most_source_ranges().min(self.v6.most_source_ranges()),
        }
    }

    fn put_backends(
        &mut self,
        family: Family,
        first: u32,
        backends: &[(Backend, u32)],
    ) -> Result<(), TableError> {
        match family {
            Family::V4 => self.v4.put_backends(first, backends),
            Family::V6 => self.v6.put_backends(first, backends),
        }
        .map_err(failed)
    }

    fn backends(&self, family: Family, first: u32, count: u32) -> Result<Vec<(Backend, u32)>, TableError> {
        match family {
            Family::V4 => self.v4.backends(first, count),
            Family::V6 => self.v6.backends(first, count),
        }
        .map_err(failed)
    }

    fn put_lookups(&mut self, first: u32, places: &[u32]) -> Result<(), TableError> {
        // The first and the last pair may be a neighbour's too.
        let mut pairs = BTreeMap::new();
        for (at, place) in (first..).zip(places) {
            let pair = match pairs.entry(at / 2) {
                Entry::Occupied(pair) => pair.into_mut(),
                Entry::Vacant(free) => free.insert(self.lookup_pair(at / 2)?),
            };
            pair.backend[at as usize % 2] = *place;
        }
        self.lookups.put_all(pairs.into_iter()).map_err(failed)
    }

    fn lookups(&self, first: u32, count: u32) -> Result<Vec<u32>, TableError> {
        let places = first..first.saturating_add(count);
        places.map(|at| Ok(self.lookup_pair(at / 2)?.backend[at as usize % 2])).collect()
    }

    fn put_set(&mut self, set: SetNumber, value: SetValue) {
        let flags = match value.choice {
            Choice::RoundRobin => 0,
            Choice::Rendezvous => SET_BY_SCORE,
            Choice::Maglev => SET_BY_TABLE,
        } | if value.elsewhere { SET_ELSEWHERE } else { 0 };
        let parts = BackendSet { first: value.first, count: value.count, flags, ..BackendSet::default() };
        let mut word = [0; 8];
        word.copy_from_slice(&parts.as_bytes()[..8]);
        // Nodes that all began with the first backend would fall upon it together.
        if self.sets.get(set.0).turn == 0 {
            let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), set.0);
            let turn = u32::try_from(seed >> 32).unwrap_or(1).max(1);
            let now = self.sets.get(set.0);
            self.sets.put(set.0, BackendSet { turn, ..now });
        }
        self.sets.set_word(set.0, u64::from_ne_bytes(word));
    }

    fn set(&self, set: SetNumber) -> SetValue {
        let BackendSet { first, count, flags, .. } = self.sets.get(set.0);
        let choice = match flags {
            flags if flags & SET_BY_TABLE != 0 => Choice::Maglev,
            flags if flags & SET_BY_SCORE != 0 => Choice::Rendezvous,
            _ => Choice::RoundRobin,
        };
        SetValue { first, count, choice, elsewhere: flags & SET_ELSEWHERE != 0 }
    }

    fn put_frontends(&mut self, frontends: &[(FrontendKey, FrontendValue)]) -> Result<(), TableError> {
        // The programs look for no frontend at an address without a mark.
        for (key, _) in frontends {
            let (at, bit) = served_bit(key.address);
            if let Some(word) = self.served.word(at) {
                word.fetch_or(bit, Ordering::Release);
            }
        }
        let [v4, v6] = split(frontends, |(key, _)| Family::of(key.address));
        self.v4.put_frontends(&v4).and_then(|()| self.v6.put_frontends(&v6)).map_err(failed)
    }

    fn remove_frontends(&mut self, keys: &[FrontendKey]) -> Result<(), TableError> {
        let [v4, v6] = split(keys, |key| Family::of(key.address));
        self.v4.remove_frontends(&v4).and_then(|()| self.v6.remove_frontends(&v6)).map_err(failed)
    }

    fn frontends(&self, family: Family) -> Result<Vec<(FrontendKey, FrontendValue)>, TableError> {
        match family {
            Family::V4 => self.v4.all_frontends(),
            Family::V6 => self.v6.all_frontends(),
        }
        .map_err(failed)
    }

    fn put_members(&mut self, members: &[(ServiceNumber, Member)]) -> Result<(), TableError> {
        let [v4, v6] = split(members, |(_, member)| Family::of(member.backend.address));
        self.v4.put_members(&v4).and_then(|()| self.v6.put_members(&v6)).map_err(failed)
    }

    fn remove_members(&mut self, members: &[(ServiceNumber, Backend)]) -> Result<(), TableError> {
        let [v4, v6] = split(members, |(_, backend)| Family::of(backend.address));
        self.v4.remove_members(&v4).and_then(|()| self.v6.remove_members(&v6)).map_err(failed)
    }

    fn members(&self, family: Family) -> Result<Vec<(ServiceNumber, Member)>, TableError> {
        match family {
            Family::V4 => self.v4.all_members(),
            Family::V6 => self.v6.all_members(),
        }
        .map_err(failed)
    }

    fn put_source_ranges(
        &mut self,
        service: ServiceNumber,
        old: &[IpNetwork],
        new: &[IpNetwork],
    ) -> Result<(), TableError> {
        let [old4, old6] = split(old, |it| Family::of(it.ip()));
        let [new4, new6] = split(new, |it| Family::of(it.ip()));
        let v4 = self.v4.put_source_ranges(service, &old4, &new4);
        v4.and_then(|()| self.v6.put_source_ranges(service, &old6, &new6)).map_err(failed)
    }

    fn source_ranges(&self) -> Result<Vec<(ServiceNumber, IpNetwork)>, TableError> {
        Ok(self.v4.all_source_ranges().chain(self.v6.all_source_ranges()).collect())
    }

    fn mark_port(&mut self, of: PortRow, port: u16, marked: bool) {
        let bit = 1_u64 << (port % 64);
        if let Some(word) = self.ports.word(row(of) + u32::from(port / 64)) {
            if marked {
                word.fetch_or(bit, Ordering::Release);
            } else {
                word.fetch_and(!bit, Ordering::Release);
            }
        }
    }

    fn keep_ports(&mut self, of: PortRow, marked: &dyn Fn(u16) -> bool) {
        for port in 0..=u16::MAX {
            let word = self.ports.word(row(of) + u32::from(port / 64));
            let is_marked = word.is_some_and(|word| word.load(Ordering::Relaxed) >> (port % 64) & 1 == 1);
            if is_marked && !marked(port) {
                self.mark_port(of, port, false);
            }
        }
    }

    fn set_host_backends(&mut self, any: bool) -> Result<(), TableError> {
        let changed = self.datapath.change_node(|node| {
            node.external &= !EXTERNAL_HOST_BACKENDS;
            node.external |= if any { EXTERNAL_HOST_BACKENDS } else { 0 };
        });
        changed.map_err(failed)
    }

    fn raise_epoch(&mut self, concerned: &Concerned) -> Result<(), TableError> {
        self.datapath.raise_epoch(concerned).map_err(failed)
    }
}

//! The programs' policy tables: [`Tables`] on the pinned maps.

mod encode;
mod inner_map;
mod inner_map_pool;
mod sets;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use bpf::{
    attach::Pins,
    layout::{
        DOMAIN_ENTRIES, DOMAINS_OF_NAME, Ip4, Ip6, POSTURE_SLOTS, Peer as PeerValue, Plain, PolicyEntry,
        PolicyKey, Posture as PostureValue,
    },
};
use ipnetwork::IpNetwork;
use libbpf_rs::{MapHandle, MapType};

use self::{
    inner_map::{Shape, get, memory},
    inner_map_pool::InnerMapPool,
    sets::{Outer, Set, bytes, prefix4, prefix6},
};
use super::{
    datapath::Datapath,
    error::DatapathError,
    map_error::MapError,
    maps,
    writes::{put, remove},
};
use bpf::sizes::PolicySizes;
use ipamd_model::{
    concerned::Concerned,
    domain::{DomainId, DomainPattern},
    endpoint::Slot,
};
use ipamd_policy::tables::{
    EntryKey, EntryValue, Limits, Peer, PolicyMap, Posture, RuleId, Switch, TableError, Tables,
};

/// The pinned maps as policy tables.
#[derive(Debug)]
pub struct PolicyTables {
    datapath: Arc<Datapath>,
    sizes: PolicySizes,
    outer: Outer,
    postures: MapHandle,
    hits: MapHandle,
    pool: InnerMapPool,
    current: Set,
    begun: Option<Set>,
    /// A number for each policy map in use, by which the programs tell it from one that was at its index before.
    fillings: BTreeMap<PolicyMap, u32>,
    last_filling: u32,
    /// Policy maps of an earlier daemon, in force until the first switch.
    left_behind: BTreeSet<u32>,
}

impl PolicyTables {
    /// The tables of the pinned maps, as an earlier daemon left them.
    ///
    /// # Errors
    /// Why the maps cannot be used.
    pub fn open(datapath: Arc<Datapath>, pins: &Pins, sizes: PolicySizes) -> Result<Self, DatapathError> {
        let pinned =
            |name: &str| MapHandle::from_pinned_path(pins.map(name)).map_err(DatapathError::map(name));
        let outer = Outer {
            peers4: pinned("peers4")?,
            peers6: pinned("peers6")?,
            ranges4: pinned("ranges4")?,
            ranges6: pinned("ranges6")?,
        };
        let shape = Shape {
            kind: MapType::LpmTrie,
            name: "policy",
            key: bytes::<PolicyKey>(),
            value: bytes::<PolicyEntry>(),
            entries: sizes.entries,
        };
        let policies = pinned("policies")?;
        let number = datapath.peer_set()?;
        let postures = pinned("postures")?;
        // What else the array holds is out of use, and overwritten in time: looking costs a grace period for each index
        // on kernels before 6.8.
        let left_behind = named(&postures, number)?;
        let pool = InnerMapPool::new(policies, shape, &left_behind)?;
        let current = match outer.adopt(number)? {
            Some(set) => set,
            None => outer.create(number, sizes)?,
        };
        Ok(Self {
            datapath,
            sizes,
            outer,
            postures,
            hits: pinned("hits")?,
            pool,
            current,
            begun: None,
            fillings: BTreeMap::new(),
            last_filling: 0,
            left_behind,
        })
    }

    fn written(&self) -> &Set {
        self.begun.as_ref().unwrap_or(&self.current)
    }

    fn write_posture(&self, slot: Slot, value: PostureValue) -> Result<(), DatapathError> {
        let at = self.written().number * POSTURE_SLOTS + slot.0;
        Ok(put(&self.postures, "postures", at.as_bytes(), value.as_bytes())?)
    }

    fn write_entries(map: &MapHandle, entries: &[(EntryKey, EntryValue)]) -> Result<(), DatapathError> {
        Ok(entries.iter().try_for_each(|(key, value)| {
            put(map, "policy", encode::key(*key).as_bytes(), encode::entry(value).as_bytes())
        })?)
    }

    fn used(&self, map: PolicyMap) -> Result<Arc<MapHandle>, DatapathError> {
        self.pool.used(map.0).ok_or_else(|| DatapathError::Layout { map: format!("policies[{}]", map.0) })
    }

    fn begin_set(&mut self) -> Result<(), DatapathError> {
        let number = 1 - self.current.number;
        // Until the switch nobody reads these postures.
        for slot in 0..POSTURE_SLOTS {
            let at = number * POSTURE_SLOTS + slot;
            put(&self.postures, "postures", at.as_bytes(), PostureValue::default().as_bytes())?;
        }
        self.begun = Some(self.outer.create(number, self.sizes)?);
        Ok(())
    }

    fn switch_set(&mut self) -> Switch {
        let Some(begun) = self.begun.take() else { return Switch::Done };
        if let Err(error) = self.datapath.put_peer_set(begun.number) {
            self.begun = Some(begun);
            return Switch::Not(error.into());
        }
        // From here on the new set is in force, whatever fails.
        self.current = begun;
        match self.leave_old_set() {
            Ok(()) => Switch::Done,
            Err(error) => Switch::Unfinished(error.into()),
        }
    }

    /// What follows a switch.
    fn leave_old_set(&mut self) -> Result<(), DatapathError> {
        // After the switch: a verdict by the old set must not carry the new epoch.
        self.datapath.raise_epoch(&Concerned::everything())?;
        self.pool.retire_left_behind(std::mem::take(&mut self.left_behind));
        // Waits for the programs that still look at the old set.
        self.outer.put(&self.current)?;
        self.outer.clear(1 - self.current.number)
    }
}

/// The policy maps that the postures of a set name.
fn named(postures: &MapHandle, set: u32) -> Result<BTreeSet<u32>, DatapathError> {
    let mut maps = BTreeSet::new();
    for slot in 0..POSTURE_SLOTS {
        let at = set * POSTURE_SLOTS + slot;
        let value: Option<PostureValue> = get(postures, "postures", at.as_bytes())?;
        let posture = value.and_then(encode::decoded_posture);
        maps.extend(posture.and_then(|posture| posture.map).map(|map| map.0));
    }
    Ok(maps)
}

impl Tables for PolicyTables {
    fn limits(&self) -> Limits {
        Limits {
            slots: POSTURE_SLOTS - 1,
            // Maps that are given up keep their place for a moment.
            maps: self.pool.capacity() / 2,
            entries: self.sizes.entries,
            addresses: self.sizes.addresses,
            prefixes: self.sizes.prefixes,
            rules: self.sizes.rules,
            domains: DOMAIN_ENTRIES / 2,
            domains_of_name: DOMAINS_OF_NAME,
        }
    }

    fn begin(&mut self) -> Result<(), TableError> {
        Ok(self.begin_set()?)
    }

    fn switch(&mut self) -> Switch {
        self.switch_set()
    }

    fn abandon(&mut self) {
        // What is left of it in the arrays is overwritten by the next.
        self.begun = None;
    }

    fn put_peer(&mut self, net: IpNetwork, peer: Peer) -> Result<(), TableError> {
        let (map, name, key) = self.written().place(net);
        Ok(put(map, name, &key, encode::peer(peer).as_bytes())?)
    }

    fn remove_peer(&mut self, net: IpNetwork) -> Result<(), TableError> {
        let (map, name, key) = self.written().place(net);
        Ok(remove(map, name, &key)?)
    }

    fn put_posture(&mut self, slot: Slot, posture: Posture) -> Result<(), TableError> {
        let filling = posture.map.and_then(|map| self.fillings.get(&map)).copied().unwrap_or_default();
        Ok(self.write_posture(slot, encode::posture(posture, filling))?)
    }

    fn clear_posture(&mut self, slot: Slot) -> Result<(), TableError> {
        Ok(self.write_posture(slot, PostureValue::default())?)
    }

    fn add_map(&mut self, entries: &[(EntryKey, EntryValue)]) -> Result<PolicyMap, TableError> {
        let (index, map) = self.pool.take()?;
        if let Err(error) = Self::write_entries(&map, entries) {
            self.pool.retire(index);
            return Err(error.into());
        }
        self.last_filling = self.last_filling.wrapping_add(1);
        self.fillings.insert(PolicyMap(index), self.last_filling);
        Ok(PolicyMap(index))
    }

    fn extend_map(&mut self, map: PolicyMap, entries: &[(EntryKey, EntryValue)]) -> Result<(), TableError> {
        Ok(Self::write_entries(&*self.used(map)?, entries)?)
    }

    fn retire_map(&mut self, map: PolicyMap) {
        self.fillings.remove(&map);
        self.pool.retire(map.0);
    }

    fn put_domains(&mut self, domains: &[(DomainPattern, DomainId)]) -> Result<(), TableError> {
        Ok(self.datapath.put_domains(domains)?)
    }

    fn domains(&self) -> Result<Vec<(DomainPattern, DomainId)>, TableError> {
        Ok(self.datapath.domains())
    }

    fn raise_epoch(&mut self, concerned: &Concerned) -> Result<(), TableError> {
        Ok(self.datapath.raise_epoch(concerned)?)
    }

    fn hits(&self, rule: RuleId) -> Result<u64, TableError> {
        Ok(maps::sum(&self.hits, rule.0)?)
    }

    fn clear_hits(&mut self, rule: RuleId) -> Result<(), TableError> {
        let zeroes = vec![0; size_of::<u64>() * cpus()?];
        Ok(put(&self.hits, "hits", rule.0.as_bytes(), &zeroes)?)
    }

    fn memory(&self) -> u64 {
        let Set { v4, v6, .. } = &self.current;
        let peers = [&v4.addresses, &v4.prefixes, &v6.addresses, &v6.prefixes];
        peers.into_iter().map(memory).sum::<u64>() + self.pool.memory()
    }

    fn peer(&self, address: IpAddr) -> Result<Option<Peer>, TableError> {
        let peers = self.current.peers(address);
        let (host, prefix) = match address {
            IpAddr::V4(address) => {
                (Ip4::from(address).as_bytes().to_vec(), prefix4(address, 32).as_bytes().to_vec())
            }
            IpAddr::V6(address) => {
                (Ip6::from(address).as_bytes().to_vec(), prefix6(address, 128).as_bytes().to_vec())
            }
        };
        let exact = get::<PeerValue>(&peers.addresses, "peers", &host)?;
        let found = match exact {
            Some(found) => Some(found),
            None => get(&peers.prefixes, "ranges", &prefix)?,
        };
        Ok(found.map(encode::decoded_peer))
    }

    fn posture(&self, slot: Slot) -> Result<Option<Posture>, TableError> {
        let at = self.current.number * POSTURE_SLOTS + slot.0;
        let value: Option<PostureValue> = get(&self.postures, "postures", at.as_bytes())?;
        Ok(value.and_then(encode::decoded_posture))
    }

    fn find(&self, map: PolicyMap, key: EntryKey) -> Result<Option<EntryValue>, TableError> {
        let map = self.used(map)?;
        let whole = PolicyKey { length: 64, ..encode::key(EntryKey { port_bits: 16, ..key }) };
        Ok(get(&map, "policy", whole.as_bytes())?.map(encode::decoded_entry))
    }
}

fn cpus() -> Result<usize, DatapathError> {
    libbpf_rs::num_possible_cpus().map_err(DatapathError::map("hits"))
}

impl From<MapError> for TableError {
    fn from(error: MapError) -> Self {
        DatapathError::from(error).into()
    }
}

impl From<DatapathError> for TableError {
    fn from(error: DatapathError) -> Self {
        Self(Box::new(error))
    }
}

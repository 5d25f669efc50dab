//! Tables in memory: what is tried out needs no kernel. In tests they hold whoever writes them to what the trait says.

mod contract;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnetwork::IpNetwork;

use self::contract::Map;
use crate::tables::{
    EntryKey, EntryOf, EntryValue, Limits, Peer, PolicyMap, Posture, RuleId, Switch, TableError, Tables,
};
use ipamd_model::{
    concerned::Concerned,
    domain::{DomainId, DomainPattern},
    endpoint::Slot,
};

/// Tables in memory; clones share them.
#[derive(Clone, Debug)]
pub struct Memory {
    limits: Limits,
    contents: Arc<Mutex<Contents>>,
}

#[derive(Debug, Default)]
struct Contents {
    current: Set,
    begun: Option<Set>,
    maps: BTreeMap<PolicyMap, Map>,
    last_map: u32,
    /// The patterns of DNS names.
    domains: Vec<(DomainPattern, DomainId)>,
    /// The names that endpoints were told, by address.
    told: BTreeMap<(Slot, IpAddr), BTreeSet<String>>,
    epoch: u32,
    concerned: Concerned,
}

#[derive(Debug, Default)]
struct Set {
    peers: BTreeMap<IpNetwork, Peer>,
    postures: BTreeMap<Slot, Posture>,
}

impl Contents {
    fn written(&mut self) -> &mut Set {
        self.begun.as_mut().unwrap_or(&mut self.current)
    }

    /// The patterns of DNS names that the maps in force have entries of.
    fn domains_in_force(&self) -> BTreeSet<DomainId> {
        let maps = self.current.postures.values().filter_map(|posture| posture.map).collect::<BTreeSet<_>>();
        maps.iter().filter_map(|map| self.maps.get(map)).flat_map(contract::patterns).collect()
    }

    /// What is given up must not be in force any more, nor about to be.
    fn check_retirement(&self, map: PolicyMap) {
        for set in [Some(&self.current), self.begun.as_ref()].into_iter().flatten() {
            for (slot, posture) in &set.postures {
                assert!(posture.map != Some(map), "{map:?} is given up, and {slot:?} is judged by it");
            }
        }
    }

    /// Nobody must see one entry of several.
    fn check_extension(&self, entries: &[(EntryKey, EntryValue)]) {
        let set = self.begun.as_ref().unwrap_or(&self.current);
        let in_force = set.peers.values().map(|peer| peer.class).collect::<BTreeSet<_>>();
        for (key, _) in entries {
            if let EntryOf::Class(_, class) = key.of {
                assert!(!in_force.contains(&class), "{key:?} is added, and there are peers of {class:?}");
            }
        }
    }
}

impl Default for Memory {
    /// As much room as the programs' tables have by default.
    fn default() -> Self {
        Self::new(Limits {
            slots: 4095,
            maps: 4096,
            entries: 16_384,
            addresses: 131_072,
            prefixes: 65_536,
            rules: 16_384,
            domains: 4096,
            domains_of_name: 8,
        })
    }
}

impl Memory {
    /// Empty tables of that size.
    pub fn new(limits: Limits) -> Self {
        Self { limits, contents: Arc::default() }
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often flows were to be judged anew.
    pub fn epoch(&self) -> u32 {
        self.contents().epoch
    }

    /// The flows that were to be judged anew since this was asked last.
    pub fn take_concerned(&self) -> Concerned {
        std::mem::take(&mut self.contents().concerned)
    }

    /// The policy maps there are.
    pub fn maps(&self) -> BTreeSet<PolicyMap> {
        self.contents().maps.keys().copied().collect()
    }

    /// The addresses and prefixes in force.
    pub fn peers(&self) -> BTreeMap<IpNetwork, Peer> {
        self.contents().current.peers.clone()
    }

    /// The postures in force.
    pub fn postures(&self) -> BTreeMap<Slot, Posture> {
        self.contents().current.postures.clone()
    }

    /// Has an endpoint be told that a name has an address.
    pub fn tell(&self, slot: Slot, name: &str, address: IpAddr) {
        self.contents().told.entry((slot, address)).or_default().insert(name.to_owned());
    }

    /// The names that an endpoint was told an address of.
    pub fn told(&self, slot: Slot, address: IpAddr) -> Vec<String> {
        self.contents().told.get(&(slot, address)).into_iter().flatten().cloned().collect()
    }

    /// The entries of a policy map.
    pub fn entries(&self, map: PolicyMap) -> BTreeMap<EntryKey, EntryValue> {
        self.contents().maps.get(&map).cloned().unwrap_or_default()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("there is no policy map {}", .0.0)]
struct NoMap(PolicyMap);

impl Tables for Memory {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn begin(&mut self) -> Result<(), TableError> {
        self.contents().begun = Some(Set::default());
        Ok(())
    }

    fn switch(&mut self) -> Switch {
        let mut contents = self.contents();
        if let Some(begun) = contents.begun.take() {
            contents.current = begun;
            contents.epoch += 1;
            contents.concerned.add(Concerned::everything());
        }
        Switch::Done
    }

    fn abandon(&mut self) {
        self.contents().begun = None;
    }

    fn put_peer(&mut self, net: IpNetwork, peer: Peer) -> Result<(), TableError> {
        self.contents().written().peers.insert(net, peer);
        Ok(())
    }

    fn remove_peer(&mut self, net: IpNetwork) -> Result<(), TableError> {
        self.contents().written().peers.remove(&net);
        Ok(())
    }

    fn put_posture(&mut self, slot: Slot, posture: Posture) -> Result<(), TableError> {
        let mut contents = self.contents();
        if cfg!(test) {
            let names_one = posture.map.is_none_or(|map| contents.maps.contains_key(&map));
            assert!(names_one, "{posture:?} names a map that there is not");
            let map = posture.map.and_then(|map| contents.maps.get(&map));
            let wanted = map.map(contract::patterns).unwrap_or_default();
            let listed: BTreeSet<_> = contents.domains.iter().map(|(_, id)| *id).collect();
            let fit = listed.union(&wanted).count() <= self.limits.domains as usize;
            assert!(
                !fit || wanted.is_subset(&listed),
                "{posture:?} has {wanted:?}, and listed is {listed:?}"
            );
        }
        contents.written().postures.insert(slot, posture);
        Ok(())
    }

    fn clear_posture(&mut self, slot: Slot) -> Result<(), TableError> {
        self.contents().written().postures.remove(&slot);
        Ok(())
    }

    fn add_map(&mut self, entries: &[(EntryKey, EntryValue)]) -> Result<PolicyMap, TableError> {
        let mut contents = self.contents();
        contents.last_map += 1;
        let map = PolicyMap(contents.last_map);
        let entries = entries.iter().copied().collect();
        if cfg!(test) {
            contract::check_map(&entries);
        }
        contents.maps.insert(map, entries);
        Ok(map)
    }

    fn extend_map(&mut self, map: PolicyMap, entries: &[(EntryKey, EntryValue)]) -> Result<(), TableError> {
        let mut contents = self.contents();
        if cfg!(test) {
            contents.check_extension(entries);
        }
        let known = contents.maps.get_mut(&map).ok_or_else(|| TableError(Box::new(NoMap(map))))?;
        known.extend(entries.iter().copied());
        if cfg!(test) {
            contract::check_map(known);
        }
        Ok(())
    }

    fn retire_map(&mut self, map: PolicyMap) {
        let mut contents = self.contents();
        if cfg!(test) {
            contents.check_retirement(map);
        }
        contents.maps.remove(&map);
    }

    fn put_domains(&mut self, domains: &[(DomainPattern, DomainId)]) -> Result<(), TableError> {
        let mut contents = self.contents();
        if cfg!(test) {
            contract::check_domains(domains, &contents.domains_in_force(), &contents.domains, self.limits);
        }
        contents.domains = domains.to_vec();
        Ok(())
    }

    fn domains(&self) -> Result<Vec<(DomainPattern, DomainId)>, TableError> {
        Ok(self.contents().domains.clone())
    }

    fn raise_epoch(&mut self, concerned: &Concerned) -> Result<(), TableError> {
        let mut contents = self.contents();
        contents.epoch += u32::from(!concerned.is_nothing());
        contents.concerned.add(concerned.clone());
        Ok(())
    }

    fn hits(&self, _rule: RuleId) -> Result<u64, TableError> {
        Ok(0)
    }

    fn clear_hits(&mut self, _rule: RuleId) -> Result<(), TableError> {
        Ok(())
    }

    fn memory(&self) -> u64 {
        0
    }

    fn peer(&self, address: IpAddr) -> Result<Option<Peer>, TableError> {
        let contents = self.contents();
        let covering = contents.current.peers.iter().filter(|(net, _)| net.contains(address));
        Ok(covering.max_by_key(|(net, _)| net.prefix()).map(|(_, peer)| *peer))
    }

    fn posture(&self, slot: Slot) -> Result<Option<Posture>, TableError> {
        Ok(self.contents().current.postures.get(&slot).copied())
    }

    fn find(&self, map: PolicyMap, key: EntryKey) -> Result<Option<EntryValue>, TableError> {
        let contents = self.contents();
        let entries = contents.maps.get(&map).ok_or_else(|| TableError(Box::new(NoMap(map))))?;
        let by_port = (0..=16_u8).rev().map(|bits| {
            let mask = u16::MAX.checked_shl(16 - u32::from(bits)).unwrap_or(0);
            EntryKey { port: key.port & mask, port_bits: bits, ..key }
        });
        let by_any = EntryKey { protocol: None, port: 0, port_bits: 0, ..key };
        Ok(by_port.chain([by_any]).find_map(|key| entries.get(&key).copied()))
    }
}

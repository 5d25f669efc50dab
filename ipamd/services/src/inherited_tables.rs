//! What an earlier daemon left in the tables, until it is adopted or removed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use ipnetwork::IpNetwork;

use super::{
    allowance::Resource,
    backend_sets::{BackendSet, TableSpace},
    plan::Plan,
    tables::{
        Backend, Family, FrontendKey, FrontendValue, Member, ServiceNumber, SetNumber, TableError, Tables,
    },
};

/// A set that frontends name.
#[derive(Debug)]
pub(super) struct InForce {
    pub family: Family,
    pub set: BackendSet,
    named_by: Vec<FrontendKey>,
}

/// The contents of the tables, without what has been adopted.
#[derive(Debug, Default)]
pub(super) struct InheritedTables {
    pub frontends: HashMap<FrontendKey, FrontendValue>,
    pub members: HashMap<(ServiceNumber, Backend), Member>,
    pub source_ranges: HashMap<ServiceNumber, BTreeSet<IpNetwork>>,
    /// The sets that frontends name. They are in force, so nothing may be written into their space.
    pub sets: HashMap<SetNumber, InForce>,
    /// For each reserved number, the frontend whose port gets it.
    pub reserved: HashMap<ServiceNumber, FrontendKey>,
    /// Numbers that have been adopted.
    pub taken: HashSet<ServiceNumber>,
    /// Frontends that have been adopted.
    pub kept: HashSet<FrontendKey>,
}

impl InheritedTables {
    /// Reads the tables, and takes the space of everything that is in force from `space`. What nobody adopts is in
    /// force too until its removal is written.
    pub fn read(tables: &dyn Tables, space: &mut TableSpace) -> Result<Self, TableError> {
        let mut inherited = Self::default();
        for family in Family::ALL {
            inherited.frontends.extend(tables.frontends(family)?);
            let members = tables.members(family)?;
            inherited.members.extend(members.into_iter().map(|(service, it)| ((service, it.backend), it)));
        }
        for (service, range) in tables.source_ranges()? {
            inherited.source_ranges.entry(service).or_default().insert(range);
        }
        let mut named: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (key, value) in &inherited.frontends {
            for set in [value.inside, value.outside] {
                named.entry((set, Family::of(key.address))).or_default().push(*key);
            }
        }
        named.retain(|(set, _), _| *set != SetNumber::default());
        for ((number, family), named_by) in named {
            if let Some(set) = space.adopt(tables, family, number)? {
                inherited.sets.insert(number, InForce { family, set, named_by });
            }
        }
        Ok(inherited)
    }

    /// Reserves the number of a frontend for the port whose own frontend it is, whichever port comes first.
    pub fn reserve_number(&mut self, own: FrontendKey) {
        if let Some(value) = self.frontends.get(&own) {
            self.reserved.entry(value.service).or_insert(own);
        }
    }

    /// Adopts a set if only wanted frontends name it. A set that another port's frontends name is not changed: the new
    /// owner fills another one, and this one is removed when no frontend names it.
    pub fn take_set(&mut self, family: Family, number: SetNumber, wanted: &Plan) -> Option<BackendSet> {
        let entry = self.sets.get(&number)?;
        let wanted: HashSet<_> = wanted.frontends.iter().map(|frontend| frontend.key).collect();
        let is_own = entry.family == family && entry.named_by.iter().all(|key| wanted.contains(key));
        if is_own { self.sets.remove(&number).map(|entry| entry.set) } else { None }
    }

    /// The number of entries of a family.
    pub fn counts(&self, family: Family) -> [(Resource, usize); 3] {
        let frontends = self.frontends.keys().filter(|key| Family::of(key.address) == family).count();
        let members = self.members.keys().filter(|(_, it)| Family::of(it.address) == family).count();
        let ranges = self.source_ranges.values().flatten();
        let ranges = ranges.filter(|range| Family::of(range.network()) == family).count();
        [(Resource::Frontends, frontends), (Resource::Members, members), (Resource::Ranges, ranges)]
    }

    /// The highest number that is in use.
    pub fn highest(&self) -> u32 {
        let of_frontends = self.frontends.values().map(|it| it.service.0);
        let of_members = self.members.keys().map(|(service, _)| service.0);
        let of_ranges = self.source_ranges.keys().map(|service| service.0);
        of_frontends.chain(of_members).chain(of_ranges).max().unwrap_or(0)
    }
}

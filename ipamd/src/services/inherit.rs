//! What an earlier daemon left in the tables is taken over where it is still right, so that a restart writes little and
//! moves nothing.

use std::collections::{BTreeSet, HashMap, HashSet};

use ipnetwork::IpNetwork;

use super::{
    balancer::State,
    fill::Filled,
    leaving::Leaving,
    plan::{Plan, Scope},
    program::{Programmed, Wanted},
    staged::Ranges,
    tables::{
        Backend, Family, FrontendKey, FrontendValue, Member, PortRow, ServiceNumber, SetNumber, TableError,
        Tables,
    },
};

/// What was found, less what has been taken over.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    frontends: HashMap<FrontendKey, FrontendValue>,
    members: HashMap<(ServiceNumber, Backend), Member>,
    source_ranges: HashMap<ServiceNumber, BTreeSet<IpNetwork>>,
    /// Numbers that belong to somebody now.
    taken: HashSet<ServiceNumber>,
    kept: HashSet<FrontendKey>,
}

impl Inherited {
    /// Reads the tables.
    pub fn read(tables: &dyn Tables) -> Result<Self, TableError> {
        let mut inherited = Self::default();
        for family in Family::ALL {
            inherited.frontends.extend(tables.frontends(family)?);
            let members = tables.members(family)?;
            inherited.members.extend(members.into_iter().map(|(service, it)| ((service, it.backend), it)));
        }
        for (service, range) in tables.source_ranges()? {
            inherited.source_ranges.entry(service).or_default().insert(range);
        }
        Ok(inherited)
    }

    /// The highest number that is in use.
    pub fn highest(&self) -> u32 {
        let of_frontends = self.frontends.values().map(|it| it.service.0);
        let of_members = self.members.keys().map(|(service, _)| service.0);
        let of_ranges = self.source_ranges.keys().map(|service| service.0);
        of_frontends.chain(of_members).chain(of_ranges).max().unwrap_or(0)
    }
}

impl State {
    /// Number and sets of a port that the tables have already.
    pub(super) fn inherit(&mut self, wanted: &Wanted) -> Option<Programmed> {
        let inherited = self.inherited.as_mut()?;
        let values: Vec<_> = wanted
            .plan
            .fronts
            .iter()
            .filter_map(|front| Some((*front, *inherited.frontends.get(&front.key)?)))
            .collect();
        let number = values.first()?.1.service;
        if number.0 == 0 || !inherited.taken.insert(number) {
            return None;
        }
        let source_ranges = inherited.source_ranges.remove(&number).unwrap_or_default();
        let mut turns = [None, None];
        let mut outside = None;
        let family = wanted.key.family;
        for (front, value) in values.into_iter().filter(|(_, value)| value.service == number) {
            let local = value.flags & bpf::layout::FRONTEND_INSIDE_LOCAL != 0;
            let scope = if local { Scope::Local } else { Scope::Cluster };
            self.adopt(family, value.inside, &mut turns[scope as usize]);
            if front.reach.is_external() {
                self.adopt(family, value.outside, &mut outside);
            }
        }
        Some(Programmed {
            key: wanted.key.clone(),
            number,
            plan: Plan { fronts: Vec::new(), members: Vec::new(), affinity: 0, problems: Vec::new() },
            source_ranges: source_ranges.into_iter().collect(),
            fronts: Box::default(),
            turns,
            outside,
            hits: 0,
            problems: Vec::new(),
        })
    }

    fn adopt(&mut self, family: Family, number: SetNumber, place: &mut Option<Filled>) {
        if place.is_none() && number != SetNumber::default() {
            let adopted = self.room.adopt(&*self.tables, family, number);
            *place = self.staged.note(adopted).flatten();
        }
    }

    /// Whether a frontend stands in the tables as it should.
    pub(super) fn is_inherited(&mut self, key: FrontendKey, value: &FrontendValue) -> bool {
        let Some(inherited) = &mut self.inherited else { return false };
        inherited.kept.insert(key);
        inherited.frontends.get(&key) == Some(value)
    }

    /// Has a member written, unless it is there.
    pub(super) fn stage_member(&mut self, service: ServiceNumber, member: Member) {
        let known = self.inherited.as_mut().and_then(|it| it.members.remove(&(service, member.backend)));
        if known != Some(member) {
            self.staged.members.push((service, member));
        }
    }

    /// Has what nobody took over go away.
    pub(super) fn clear_inheritance(&mut self) {
        let Some(inherited) = self.inherited.take() else { return };
        let stale: Vec<_> =
            inherited.frontends.into_keys().filter(|key| !inherited.kept.contains(key)).collect();
        self.staged.diverts |= !stale.is_empty();
        self.staged.frontends.extend(stale.into_iter().map(|key| (key, None)));
        for ((service, backend), member) in inherited.members {
            if member.in_cluster || member.in_local {
                self.staged.members.push((service, Member { backend, in_cluster: false, in_local: false }));
            }
            self.leaving.push_back(Leaving::new(None, service, backend));
        }
        let of_backends = &self.of_backends;
        self.tables.keep_ports(PortRow::OfBackends, &|port| of_backends.has(port));
        for (service, ranges) in inherited.source_ranges {
            let old = ranges.into_iter().collect();
            self.staged.source_ranges.push(Ranges { service, old, new: Box::default() });
        }
    }
}

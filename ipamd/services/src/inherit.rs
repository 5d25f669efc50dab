//! Adopts what an earlier daemon left in the tables as far as it is still right, so that a restart writes little and
//! moves no connection.

use super::{
    allowance::Resource,
    backend_sets::BackendSet,
    draining::DrainingBackend,
    owner::Owner,
    plan::Scope,
    port::{Programmed, Wanted},
    staged_writes::Ranges,
    state::State,
    tables::{Family, FrontendKey, FrontendValue, Member, PortRow, ServiceNumber},
};

impl State {
    /// Adopts the number and the sets of a port if the tables have them already.
    pub(super) fn inherit(&mut self, owner: &Owner, wanted: &Wanted) -> Option<Programmed> {
        let inherited = self.ledger.inherited.as_mut()?;
        let own = wanted.plan.frontends.first()?.key;
        let values: Vec<_> = wanted
            .plan
            .frontends
            .iter()
            .filter_map(|frontend| Some((*frontend, *inherited.frontends.get(&frontend.key)?)))
            .collect();
        let is_free = |number: &ServiceNumber| {
            number.0 != 0
                && !inherited.taken.contains(number)
                && inherited.reserved.get(number).is_none_or(|whose| *whose == own)
        };
        let number = values.iter().map(|(_, value)| value.service).find(is_free)?;
        inherited.taken.insert(number);
        let source_ranges = inherited.source_ranges.remove(&number).unwrap_or_default();
        let mut round_robin = [None, None];
        let mut outside = None;
        let family = wanted.key.family;
        for (frontend, value) in values.into_iter().filter(|(_, value)| value.service == number) {
            let local = value.flags & bpf::layout::FRONTEND_INSIDE_LOCAL != 0;
            let scope = if local { Scope::Local } else { Scope::Cluster };
            let mut adopt = |set, place: &mut Option<BackendSet>| {
                if place.is_none() {
                    *place = inherited.take_set(family, set, &wanted.plan);
                }
            };
            adopt(value.inside, &mut round_robin[scope as usize]);
            if frontend.kind.is_external() {
                adopt(value.outside, &mut outside);
            }
        }
        self.ledger.allowance.give(None, family, Resource::Ranges, source_ranges.len());
        self.ledger.allowance.take(owner.namespace(), family, Resource::Ranges, source_ranges.len());
        for set in round_robin.iter().chain([&outside]).flatten() {
            self.account_set(owner, family, set, true);
        }
        Some(Programmed {
            source_ranges: source_ranges.into_iter().collect(),
            round_robin,
            outside,
            ..Programmed::new(wanted.key.clone(), number)
        })
    }

    /// Whether the tables have a frontend with this value already. Marks it as kept.
    pub(super) fn is_inherited(&mut self, key: FrontendKey, value: &FrontendValue) -> bool {
        let Some(inherited) = &mut self.ledger.inherited else { return false };
        let known = inherited.frontends.get(&key);
        if inherited.kept.insert(key) && known.is_some() {
            // It is on the new owner's account now.
            self.ledger.allowance.give(None, Family::of(key.address), Resource::Frontends, 1);
        }
        known == Some(value)
    }

    /// Stages a member unless the tables have it already.
    pub(super) fn stage_member(&mut self, service: ServiceNumber, member: Member) {
        let known =
            self.ledger.inherited.as_mut().and_then(|it| it.members.remove(&(service, member.backend)));
        if known.is_some() {
            self.ledger.allowance.give(None, Family::of(member.backend.address), Resource::Members, 1);
        }
        if known != Some(member) {
            self.ledger.staged.members.push((service, member));
        }
    }

    /// Stages the removal of everything that nobody has adopted.
    pub(super) fn clear_inheritance(&mut self) {
        let Some(inherited) = self.ledger.inherited.take() else { return };
        let stale: Vec<_> =
            inherited.frontends.into_keys().filter(|key| !inherited.kept.contains(key)).collect();
        for key in &stale {
            self.stage_epoch(key.address);
            self.ledger.staged.given_up.push((Family::of(key.address), Resource::Frontends, 1));
        }
        self.ledger.staged.frontends.extend(stale.into_iter().map(|key| (key, None)));
        self.ledger
            .staged
            .released
            .extend(inherited.sets.into_values().map(|entry| (entry.family, entry.set)));
        for ((service, backend), member) in inherited.members {
            if member.in_cluster || member.in_local {
                self.ledger
                    .staged
                    .members
                    .push((service, Member { backend, in_cluster: false, in_local: false }));
            }
            self.ledger.draining.push_back(DrainingBackend::new(None, service, backend));
        }
        let of_backends = &self.ledger.of_backends;
        self.tables.keep_ports(PortRow::OfBackends, &|port| of_backends.has(port));
        for (service, ranges) in inherited.source_ranges {
            let of_each = ranges.iter().map(|range| (Family::of(range.network()), Resource::Ranges, 1));
            self.ledger.staged.given_up.extend(of_each);
            let old = ranges.into_iter().collect();
            self.ledger.staged.source_ranges.push(Ranges { service, old, new: Box::default() });
        }
    }
}

//! What is asked of whoever writes the tables, as far as DNS names are concerned.

use std::collections::{BTreeMap, BTreeSet};

use crate::tables::{DomainList, EntryKey, EntryOf, EntryValue, Limits, Outcome};
use ipamd_model::{
    domain::{DomainId, DomainPattern},
    policy::Direction,
};

/// The entries of a policy map.
pub(super) type Map = BTreeMap<EntryKey, EntryValue>;

/// The patterns that a map has entries of.
pub(super) fn patterns(map: &Map) -> BTreeSet<DomainId> {
    let of_all = map.keys().filter_map(|key| match key.of {
        EntryOf::Domain(DomainList::ALL, domain) => Some(domain),
        _ => None,
    });
    of_all.collect()
}

/// Only what denies what an endpoint sends has a list, and then all of it does.
pub(super) fn check_map(map: &Map) {
    let all = patterns(map);
    let branches = map.iter().filter_map(|(key, value)| match (key.of, value.outcome) {
        (EntryOf::Class(direction, _), Outcome::BySource(branch)) => Some((branch, direction)),
        _ => None,
    });
    let branches = branches.collect::<BTreeMap<_, _>>();
    for (key, value) in map {
        let direction = match key.of {
            EntryOf::Class(direction, _) => direction,
            EntryOf::Branch(branch) => match branches.get(&branch) {
                Some(direction) => *direction,
                // The entry that leads to it comes after it.
                None => continue,
            },
            EntryOf::Domain(list, domain) => {
                let plain = (key.protocol, key.port, key.port_bits) == (None, 0, 0);
                assert!(plain && list.0 > 0 && all.contains(&domain), "{key:?}");
                assert!(value.outcome == Outcome::Allow && value.domains.is_none(), "{key:?} {value:?}");
                continue;
            }
        };
        let denies = matches!(value.outcome, Outcome::Deny | Outcome::Reject);
        let wanted = direction == Direction::Egress && denies && !all.is_empty();
        assert_eq!(value.domains.is_some(), wanted, "{key:?} {value:?}");
        let numbered = |list: DomainList| (1..=DomainList::LAST.0).contains(&list.0);
        assert!(value.domains.is_none_or(numbered), "{key:?} {value:?}");
    }
}

/// The list has what the maps in force have, and no number of it has stood for another pattern just before.
pub(super) fn check_domains(
    domains: &[(DomainPattern, DomainId)],
    in_force: &BTreeSet<DomainId>,
    before: &[(DomainPattern, DomainId)],
    limits: Limits,
) {
    let numbers: BTreeSet<_> = domains.iter().map(|(_, id)| *id).collect();
    let patterns: BTreeSet<_> = domains.iter().map(|(pattern, _)| pattern).collect();
    assert!(numbers.len() == domains.len() && patterns.len() == domains.len(), "{domains:?}");
    assert!(numbers.is_superset(in_force), "{numbers:?} is listed, and the maps in force have {in_force:?}");
    assert!(domains.len() <= limits.domains as usize && !numbers.contains(&DomainId(0)), "{domains:?}");
    for (pattern, id) in domains {
        let known = before.iter().find(|(_, known)| known == id);
        assert!(known.is_none_or(|(known, _)| known == pattern), "{pattern} has the number of {known:?}");
        let including = patterns.iter().filter(|it| it.includes(pattern)).count();
        assert!(including <= limits.domains_of_name as usize, "{including} patterns include {pattern}");
    }
}

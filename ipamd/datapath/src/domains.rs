//! The patterns of DNS names, as the programs find them: by the longest prefix of a reversed name.

use std::collections::{BTreeMap, BTreeSet};

use bpf::layout::{DOMAIN_ASKED_BY_ALL, Domain, DomainIds};
use ipamd_model::domain::{DomainId, DomainPattern};

/// What the map `domains` is to have, by prefix. Names that `asked_by_all` means may be asked about by every endpoint with domain rules.
pub(super) fn wanted(
    domains: &[(DomainPattern, DomainId)],
    asked_by_all: &[DomainPattern],
) -> BTreeMap<Vec<u8>, Domain> {
    let by_prefix: BTreeMap<Vec<u8>, DomainId> =
        domains.iter().map(|(pattern, id)| (pattern.reversed(), *id)).collect();
    let asked_by_all: Vec<Vec<u8>> = asked_by_all.iter().map(DomainPattern::reversed).collect();
    let prefixes: BTreeSet<&Vec<u8>> = by_prefix.keys().chain(&asked_by_all).collect();
    let value = |prefix: &Vec<u8>| {
        // The narrowest pattern is first: the prefix itself, then what it begins with, the longest first.
        let lengths = (0..=prefix.len()).rev();
        let ids = lengths.filter_map(|length| by_prefix.get(prefix.get(..length)?));
        let own = by_prefix.get(prefix).map_or(0, |id| id.0);
        let mut value = Domain { own, flags: 0, ids: DomainIds::default() };
        for (place, id) in value.ids.id.iter_mut().zip(ids) {
            *place = id.0;
        }
        if asked_by_all.iter().any(|all| prefix.starts_with(all)) {
            value.flags = DOMAIN_ASKED_BY_ALL;
        }
        value
    };
    prefixes.iter().map(|prefix| ((*prefix).clone(), value(prefix))).collect()
}

/// The pattern of a prefix; `None`: it is none.
pub(super) fn pattern(prefix: &[u8]) -> Option<DomainPattern> {
    let (last, reversed) = prefix.split_last()?;
    let name = String::from_utf8(reversed.iter().rev().copied().collect()).ok()?;
    match last {
        b'.' => format!("*.{name}").parse().ok(),
        0 => name.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> DomainPattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_has_all_patterns_that_mean_its_names() {
        let domains = [("*.com", 7), ("*.example.com", 3), ("www.example.com", 9), ("example.com", 4)]
            .map(|(text, id)| (parsed(text), DomainId(id)));
        let wanted = wanted(&domains, &[parsed("*.cluster.local"), parsed("*.example.com")]);
        let ids = |text: &str| {
            let value = wanted.get(&parsed(text).reversed()).unwrap();
            let ids: Vec<u16> = value.ids.id.into_iter().take_while(|id| *id != 0).collect();
            (value.own, value.flags, ids)
        };
        assert_eq!(ids("www.example.com"), (9, 1, vec![9, 3, 7]));
        assert_eq!(ids("*.example.com"), (3, 1, vec![3, 7]));
        assert_eq!(ids("example.com"), (4, 0, vec![4, 7]));
        assert_eq!(ids("*.com"), (7, 0, vec![7]));
        assert_eq!(ids("*.cluster.local"), (0, 1, vec![]));
    }

    #[test]
    fn a_prefix_is_a_pattern_again() {
        for text in ["*.com", "www.example.com"] {
            assert_eq!(pattern(&parsed(text).reversed()), Some(parsed(text)));
        }
        assert_eq!(pattern(b"moc"), None);
    }
}

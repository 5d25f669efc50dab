//! From sets to the entries of the maps. No I/O here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bpf::layout::DENY_SETS;
use ipnetwork::IpNetwork;

/// The prefixes of each deny set, by its name. Their host bits are zero.
pub type DenySets = BTreeMap<String, Arc<[IpNetwork]>>;

/// What no set may deny.
pub(super) const EXEMPT: u32 = 0;
/// The number of all sets for which there is no number of their own.
const LAST: u32 = DENY_SETS - 1;

/// The numbers under which sets are counted.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    by_name: BTreeMap<String, u32>,
    /// Numbers that another set may have had before.
    new: BTreeSet<u32>,
}

impl Numbers {
    /// The number of a set that was given one.
    pub fn of(&self, name: &str) -> u32 {
        self.by_name.get(name).copied().unwrap_or(LAST)
    }

    /// The numbers that were given since this was last asked.
    pub fn take_new(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.new)
    }

    /// Gives every one of these sets a number, and takes those of others away. Sets keep theirs.
    fn renew(&mut self, sets: &DenySets) {
        self.by_name.retain(|name, _| sets.contains_key(name));
        let taken: BTreeSet<u32> = self.by_name.values().copied().collect();
        let mut free = (EXEMPT + 1..LAST).filter(|number| !taken.contains(number));
        for name in sets.keys() {
            if !self.by_name.contains_key(name) {
                let number = free.next().unwrap_or(LAST);
                self.by_name.insert(name.clone(), number);
                self.new.insert(number);
            }
        }
    }
}

/// The number of the set of each prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entries(pub BTreeMap<IpNetwork, u32>);

impl Entries {
    /// Whether nothing is denied.
    pub fn deny_nothing(&self) -> bool {
        self.0.values().all(|number| *number == EXEMPT)
    }
}

/// The entries of these sets. Of sets with the same prefix the first by name counts. What lies in an exempt prefix is left out, and the
/// exempt prefix is an entry of its own, because a set may have a shorter one.
pub(super) fn compile(sets: &DenySets, exempt: &BTreeSet<IpNetwork>, numbers: &mut Numbers) -> Entries {
    numbers.renew(sets);
    let lengths: BTreeSet<u8> = exempt.iter().map(IpNetwork::prefix).collect();
    let is_exempt = |prefix: &IpNetwork| {
        let shorter = lengths.iter().take_while(|length| **length <= prefix.prefix());
        shorter.filter_map(|length| network(*prefix, *length)).any(|above| exempt.contains(&above))
    };
    let mut entries = BTreeMap::new();
    for (name, prefixes) in sets {
        let number = numbers.of(name);
        for prefix in prefixes.iter().filter(|prefix| !is_exempt(prefix)) {
            entries.entry(*prefix).or_insert(number);
        }
    }
    if !entries.is_empty() {
        entries.extend(exempt.iter().map(|prefix| (*prefix, EXEMPT)));
    }
    Entries(entries)
}

/// The prefix of that length that has all of `prefix`; `None` if the length is none of its family.
fn network(prefix: IpNetwork, length: u8) -> Option<IpNetwork> {
    let wide = IpNetwork::new(prefix.ip(), length).ok()?;
    IpNetwork::new(wide.network(), length).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn sets(of: &[(&str, &[&str])]) -> DenySets {
        of.iter().map(|(name, texts)| ((*name).to_owned(), prefixes(texts).into())).collect()
    }

    #[test]
    fn the_first_set_counts_and_exempt_prefixes_are_let_through() {
        let mut numbers = Numbers::default();
        let sets = sets(&[
            ("a", &["192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32"]),
            ("b", &["192.0.2.0/24", "10.1.2.0/24", "10.0.0.0/7"]),
        ]);
        let exempt = prefixes(&["10.0.0.0/8", "198.51.100.7/32"]).into_iter().collect();
        let entries = compile(&sets, &exempt, &mut numbers);
        let shown: Vec<_> = entries.0.iter().map(|(prefix, number)| format!("{prefix}={number}")).collect();
        assert_eq!(
            shown,
            [
                "10.0.0.0/7=2",
                "10.0.0.0/8=0",
                "192.0.2.0/24=1",
                "198.51.100.0/24=1",
                "198.51.100.7/32=0",
                "2001:db8::/32=1"
            ]
        );
        assert_eq!(numbers.take_new(), [1, 2].into());
    }

    #[test]
    fn exempt_prefixes_alone_are_no_entries() {
        let exempt = prefixes(&["10.0.0.0/8"]).into_iter().collect();
        let entries = compile(&sets(&[("a", &["10.2.0.0/16"])]), &exempt, &mut Numbers::default());
        assert!(entries.deny_nothing() && entries.0.is_empty());
    }

    #[test]
    fn sets_keep_their_numbers_and_a_number_that_is_given_again_begins_anew() {
        let mut numbers = Numbers::default();
        let none = BTreeSet::new();
        compile(&sets(&[("a", &["1.0.0.0/8"]), ("b", &["2.0.0.0/8"])]), &none, &mut numbers);
        numbers.take_new();
        compile(&sets(&[("b", &["2.0.0.0/8"])]), &none, &mut numbers);
        assert!(numbers.take_new().is_empty());
        compile(&sets(&[("b", &["2.0.0.0/8"]), ("c", &["3.0.0.0/8"])]), &none, &mut numbers);
        assert_eq!((numbers.of("b"), numbers.of("c")), (2, 1));
        assert_eq!(numbers.take_new(), [1].into());
    }

    #[test]
    fn more_sets_than_numbers_share_the_last() {
        let mut numbers = Numbers::default();
        let many: DenySets =
            (0..DENY_SETS + 5).map(|at| (format!("{at:05}"), prefixes(&["1.0.0.0/8"]).into())).collect();
        compile(&many, &BTreeSet::new(), &mut numbers);
        assert_eq!((numbers.of("00000"), numbers.of("01021"), numbers.of("01022")), (1, LAST - 1, LAST));
    }

    proptest! {
        /// The longest prefix of the entries says what the sets say without any table.
        #[test]
        fn entries_say_what_the_sets_say(
            denied in prop::collection::vec((0_u32..64, 26_u8..=32), 0..12),
            exempt in prop::collection::vec((0_u32..64, 26_u8..=32), 0..4),
        ) {
            let prefix = |(host, length): &(u32, u8)| {
                let address = std::net::Ipv4Addr::from(0x0a00_0000 | host);
                network(IpNetwork::new(address.into(), 32).unwrap(), *length).unwrap()
            };
            let denied: Vec<_> = denied.iter().map(prefix).collect();
            let exempt: BTreeSet<_> = exempt.iter().map(prefix).collect();
            let sets = DenySets::from([("a".to_owned(), denied.clone().into())]);
            let entries = compile(&sets, &exempt, &mut Numbers::default());
            for host in 0..64_u32 {
                let address = std::net::IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 | host));
                let longest = entries.0.iter().filter(|(it, _)| it.contains(address)).max_by_key(|(it, _)| it.prefix());
                let is_denied = longest.is_some_and(|(_, number)| *number != EXEMPT);
                let wanted = denied.iter().any(|it| it.contains(address))
                    && !exempt.iter().any(|it| it.contains(address));
                prop_assert_eq!(is_denied, wanted, "{}", address);
            }
        }
    }
}

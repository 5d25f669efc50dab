//! The numbers of the patterns of DNS names.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipamd_model::domain::{DomainId, DomainPattern};

/// The numbers of patterns. A pattern keeps its number as long as the tables have it. A number that is free again is given last: what
/// the programs are just looking at may still name it.
#[derive(Clone, Debug, Default)]
pub struct Domains {
    numbers: HashMap<DomainPattern, DomainId>,
    patterns: BTreeMap<DomainId, DomainPattern>,
    /// The number that was given last.
    last: u16,
    /// The numbers that the tables have.
    in_tables: BTreeSet<DomainId>,
    /// Patterns that there was no number for.
    missed: usize,
}

impl Domains {
    /// The number of a pattern. `None` if all are in use, of which note is taken.
    pub fn number(&mut self, pattern: &DomainPattern) -> Option<DomainId> {
        if let Some(id) = self.numbers.get(pattern) {
            return Some(*id);
        }
        let mut following = (self.last..u16::MAX).map(|before| before + 1).chain(1..=self.last);
        let Some(id) = following.find(|id| !self.patterns.contains_key(&DomainId(*id))) else {
            self.missed += 1;
            return None;
        };
        self.last = id;
        self.put(pattern.clone(), DomainId(id));
        Some(DomainId(id))
    }

    /// How many patterns got no number since this was last called.
    pub fn take_missed(&mut self) -> usize {
        std::mem::take(&mut self.missed)
    }

    /// Takes over the numbers that the tables have. Of those that contradict each other, the first is taken.
    pub fn take_over(&mut self, known: impl IntoIterator<Item = (DomainPattern, DomainId)>) {
        for (pattern, id) in known {
            // What contradicts others is in the tables, too, until the list is written.
            self.in_tables.insert(id);
            if id.0 > 0 && !self.numbers.contains_key(&pattern) && !self.patterns.contains_key(&id) {
                self.last = self.last.max(id.0);
                self.put(pattern, id);
            }
        }
    }

    fn put(&mut self, pattern: DomainPattern, id: DomainId) {
        self.patterns.insert(id, pattern.clone());
        self.numbers.insert(pattern, id);
    }

    /// The number of a pattern that has one.
    pub fn find(&self, pattern: &DomainPattern) -> Option<DomainId> {
        self.numbers.get(pattern).copied()
    }

    /// The pattern of a number.
    pub fn pattern(&self, id: DomainId) -> Option<&DomainPattern> {
        self.patterns.get(&id)
    }

    /// How many patterns have a number.
    pub fn count(&self) -> usize {
        self.patterns.len()
    }

    /// The numbers that the tables have.
    pub fn in_tables(&self) -> &BTreeSet<DomainId> {
        &self.in_tables
    }

    /// Takes note that the tables have these numbers, and no others. The others are free.
    pub fn written(&mut self, ids: BTreeSet<DomainId>) {
        self.in_tables = ids;
        self.forget(|_| false);
    }

    /// Forgets the numbers that are neither in use nor in the tables.
    pub fn forget(&mut self, is_used: impl Fn(DomainId) -> bool) {
        let in_tables = &self.in_tables;
        self.patterns.retain(|id, _| in_tables.contains(id) || is_used(*id));
        self.numbers.retain(|_, id| in_tables.contains(id) || is_used(*id));
    }

    /// The most of these patterns that one name may belong to.
    pub fn deepest(&self, ids: &BTreeSet<DomainId>) -> usize {
        let is_one = |it: &DomainPattern| self.numbers.get(it).is_some_and(|id| ids.contains(id));
        let patterns = ids.iter().filter_map(|id| self.pattern(*id));
        patterns.map(|pattern| 1 + pattern.wider().filter(is_one).count()).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> DomainPattern {
        text.parse().unwrap()
    }

    fn ids(ids: &[u16]) -> BTreeSet<DomainId> {
        ids.iter().copied().map(DomainId).collect()
    }

    #[test]
    fn a_free_number_is_given_last() {
        let mut domains = Domains::default();
        let number = |domains: &mut Domains, text: &str| domains.number(&pattern(text)).unwrap().0;
        assert_eq!(["a", "b", "a", "c"].map(|it| number(&mut domains, it)), [1, 2, 1, 3]);
        domains.written(ids(&[1, 3]));
        assert_eq!(["d", "b"].map(|it| number(&mut domains, it)), [4, 5]);
        domains.last = u16::MAX - 1;
        assert_eq!(["e", "f", "g"].map(|it| number(&mut domains, it)), [u16::MAX, 2, 6]);
        domains.forget(|id| id.0 == 6);
        assert_eq!(["a", "c", "g", "d"].map(|it| number(&mut domains, it)), [1, 3, 6, 7]);
    }

    #[test]
    fn there_are_as_many_as_the_numbers_have_room_for() {
        let mut domains = Domains::default();
        for at in 1..=u16::MAX {
            assert_eq!(domains.number(&pattern(&format!("n{at}"))), Some(DomainId(at)));
        }
        assert_eq!(
            (domains.number(&pattern("more")), domains.number(&pattern("n7"))),
            (None, Some(DomainId(7)))
        );
        assert_eq!((domains.take_missed(), domains.take_missed()), (1, 0));
    }

    #[test]
    fn numbers_of_a_former_run_are_kept() {
        let mut domains = Domains::default();
        let known = [("a", 7), ("b", 7), ("a", 8), ("c", 0)];
        domains.take_over(known.map(|(text, id)| (pattern(text), DomainId(id))));
        assert_eq!(domains.number(&pattern("a")), Some(DomainId(7)));
        assert_eq!(domains.number(&pattern("b")), Some(DomainId(8)));
        assert_eq!(domains.pattern(DomainId(7)), Some(&pattern("a")));
        assert_eq!(domains.in_tables(), &ids(&[0, 7, 8]));
    }

    #[test]
    fn a_name_may_belong_to_all_patterns_that_include_each_other() {
        let mut domains = Domains::default();
        for (text, id) in [("a.b.c", 1), ("*.b.c", 2), ("*.c", 3), ("b.c", 4), ("*.x", 5)] {
            assert_eq!(domains.number(&pattern(text)), Some(DomainId(id)));
        }
        for (some, deepest) in
            [(&[1, 2, 3, 4, 5][..], 3), (&[1, 2, 4], 2), (&[1, 3, 4], 2), (&[5], 1), (&[], 0)]
        {
            assert_eq!(domains.deepest(&ids(some)), deepest, "{some:?}");
        }
    }
}

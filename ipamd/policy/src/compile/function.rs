//! The entries of a policy map for one class of peers in one direction. They hold decisions by protocol and port, as prefixes.

use std::collections::HashMap;

use super::{
    decide::{Allowing, ByName, Decider, Decision},
    rules::PeerRules,
    sweep::{Answer, pieces},
};
use crate::tables::{DomainList, EntryKey, EntryOf, EntryValue, Outcome, RuleId};
use ipamd_model::{domain::DomainId, policy::Denied};
use ipamd_runtime::supervisor;

/// One entry, without the class that it is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Line {
    protocol: Option<u8>,
    port: u16,
    bits: u8,
    answer: Answer,
}

/// Decisions by protocol and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Function {
    lines: Vec<Line>,
}

/// The numbers of the branches of a policy map, and of its lists of DNS names.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    branches: HashMap<(u8, Vec<(u16, Decision)>), u32>,
    lists: HashMap<ByName, DomainList>,
}

impl Function {
    /// Evaluates the rules once for each interval of ports in which they decide the same.
    ///
    /// # Errors
    /// The lists of DNS names alone need more than `most` entries, at least so many. The rest is not worked out.
    pub fn of(rules: &PeerRules<'_>, most: usize) -> Result<Self, usize> {
        let mut decider = Decider::new(rules, most);
        let other = Answer::Decided(rules.decide(None, 0, 0));
        let mut lines = vec![Line { protocol: None, port: 0, bits: 0, answer: other.clone() }];
        for protocol in rules.protocols() {
            supervisor::beat();
            let pieces = pieces(rules, protocol, &mut decider);
            lines.extend(prefixes(protocol, &pieces, &other));
            decider.check()?;
        }
        Ok(Self { lines })
    }

    /// How many entries it takes, without those of its branches.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether it has no entries, which never happens.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Its entries, and the entries of branches and lists that the map does not have yet.
    pub fn entries(&self, of: EntryOf, numbers: &mut Numbers) -> Vec<(EntryKey, EntryValue)> {
        let mut entries = Vec::with_capacity(self.lines.len());
        for line in &self.lines {
            let value = match &line.answer {
                Answer::Decided(decision) => numbers.value(decision, &mut entries),
                Answer::BySource(pieces) => {
                    let protocol = line.protocol.unwrap_or_default();
                    let branch = numbers.branch(protocol, pieces, &mut entries);
                    let outcome = Outcome::BySource(branch);
                    EntryValue { outcome, rule: RuleId(0), log: None, domains: None }
                }
            };
            entries.push((
                EntryKey { of, protocol: line.protocol, port: line.port, port_bits: line.bits },
                value,
            ));
        }
        entries
    }
}

/// The entry of a list for a pattern of DNS names.
pub fn domain_entry(list: DomainList, domain: DomainId, allowing: Allowing) -> (EntryKey, EntryValue) {
    let of = EntryOf::Domain(list, domain);
    let Allowing { rule, log } = allowing;
    (
        EntryKey { of, protocol: None, port: 0, port_bits: 0 },
        EntryValue { outcome: Outcome::Allow, rule, log, domains: None },
    )
}

impl Numbers {
    /// How many lists of DNS names there are. Their numbers are from 1 to this.
    pub fn lists(&self) -> usize {
        self.lists.len()
    }

    fn value(&mut self, decision: &Decision, entries: &mut Vec<(EntryKey, EntryValue)>) -> EntryValue {
        let outcome = match decision.denied {
            None => Outcome::Allow,
            Some(Denied::Drop) => Outcome::Deny,
            Some(Denied::Reject) => Outcome::Reject,
        };
        let domains = decision.by_name.as_ref().map(|by_name| self.list(by_name, entries));
        EntryValue { outcome, rule: decision.rule, log: decision.log, domains }
    }

    fn list(&mut self, by_name: &ByName, entries: &mut Vec<(EntryKey, EntryValue)>) -> DomainList {
        if let Some(list) = self.lists.get(by_name) {
            return *list;
        }
        // Whether there are more than fit is checked before anything of the map is written.
        let list = DomainList(u16::try_from(self.lists.len() + 1).unwrap_or(u16::MAX));
        self.lists.insert(by_name.clone(), list);
        let patterns = by_name.patterns().iter();
        entries.extend(patterns.map(|(domain, allowing)| domain_entry(list, *domain, *allowing)));
        list
    }

    fn branch(
        &mut self,
        protocol: u8,
        pieces: &[(u16, Decision)],
        entries: &mut Vec<(EntryKey, EntryValue)>,
    ) -> u32 {
        let next = self.branches.len();
        let mut is_new = false;
        let branch = *self.branches.entry((protocol, pieces.to_vec())).or_insert_with(|| {
            is_new = true;
            // A map has fewer than 2^32 entries, and far fewer branches.
            u32::try_from(next).unwrap_or(u32::MAX)
        });
        if is_new {
            for (first, last, decision) in intervals(pieces) {
                let value = self.value(decision, entries);
                for (port, bits) in cover(first, last) {
                    let of = EntryOf::Branch(branch);
                    let key = EntryKey { of, protocol: Some(protocol), port, port_bits: bits };
                    entries.push((key, value));
                }
            }
        }
        branch
    }
}

/// The first and the last port of each piece. `pieces` have the first ports only.
fn intervals<T>(pieces: &[(u16, T)]) -> impl Iterator<Item = (u16, u16, &T)> {
    pieces.iter().enumerate().map(|(at, (first, value))| {
        let last = pieces.get(at + 1).map_or(u16::MAX, |(next, _)| next - 1);
        (*first, last, value)
    })
}

/// The entries of one protocol: one for all its ports, and one for each prefix that differs from it.
fn prefixes(protocol: u8, pieces: &[(u16, Answer)], other: &Answer) -> Vec<Line> {
    let mut ports: HashMap<&Answer, u32> = HashMap::new();
    for (first, last, answer) in intervals(pieces) {
        *ports.entry(answer).or_default() += u32::from(last - first) + 1;
    }
    let count = |answer: &Answer| ports.get(answer).copied().unwrap_or_default();
    let Some((_, base)) = pieces.iter().max_by_key(|(_, answer)| count(answer)) else { return Vec::new() };
    let mut lines = Vec::new();
    if base != other {
        lines.push(Line { protocol: Some(protocol), port: 0, bits: 0, answer: base.clone() });
    }
    for (first, last, answer) in intervals(pieces).filter(|(_, _, answer)| *answer != base) {
        for (port, bits) in cover(first, last) {
            lines.push(Line { protocol: Some(protocol), port, bits, answer: answer.clone() });
        }
    }
    lines
}

/// The fewest prefixes that make up a range of ports.
fn cover(first: u16, last: u16) -> Vec<(u16, u8)> {
    let mut prefixes = Vec::new();
    let (mut from, end) = (u32::from(first), u32::from(last) + 1);
    while from < end {
        let aligned = if from == 0 { 16 } else { from.trailing_zeros().min(16) };
        let fitting = (end - from).ilog2();
        let size = aligned.min(fitting);
        #[allow(clippy::cast_possible_truncation, reason = "below 2^16, and at most 16")]
        prefixes.push((from as u16, 16 - size as u8));
        from += 1 << size;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_range_is_covered_exactly(a: u16, b: u16) {
            let (first, last) = (a.min(b), a.max(b));
            let mut next = u32::from(first);
            for (port, bits) in cover(first, last) {
                prop_assert_eq!(u32::from(port), next);
                next += 1 << (16 - bits);
            }
            prop_assert_eq!(next, u32::from(last) + 1);
        }
    }

    #[test]
    fn whole_ranges_are_one_prefix() {
        assert_eq!(cover(0, u16::MAX), [(0, 0)]);
        assert_eq!(cover(80, 80), [(80, 16)]);
        assert_eq!(cover(8080, 8090), [(8080, 13), (8088, 15), (8090, 16)]);
    }
}

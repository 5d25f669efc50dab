//! Evaluates ordered rules over all ports in one sweep. A clause becomes active at the first port of its range and inactive behind the
//! last, and at each port the first active rule decides. So a thousand port ranges take about a thousand steps and not a million.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    decide::{Decider, Decision},
    rules::{Atoms, PeerRules, PortMatch, PortSet, TrafficMatch},
};
use ipamd_runtime::work;

/// What is decided for a destination port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The same for every source port.
    Decided(Decision),
    /// It depends on the source port. Each entry is the first port of an interval and the decision in it.
    BySource(Vec<(u16, Decision)>),
}

/// One of the alternatives of a rule, with the rule.
#[derive(Clone, Copy)]
struct Clause<'a> {
    /// The rule's number among those of all tiers.
    rule: usize,
    traffic: &'a TrafficMatch,
}

/// The port at which a clause begins to match or stops to (65,536 behind the last port), whether it begins, and which clause it is.
type Edge = (u32, bool, usize);

/// The rules that match, each with the number of its clauses that match.
#[derive(Debug, Default)]
struct Matching(BTreeMap<usize, usize>);

impl Matching {
    fn change(&mut self, rule: usize, begins: bool) {
        let clauses = self.0.entry(rule).or_default();
        *clauses = if begins { *clauses + 1 } else { clauses.saturating_sub(1) };
        if *clauses == 0 {
            self.0.remove(&rule);
        }
    }

    /// Decides a flow that these rules match.
    fn decide(&self, decider: &mut Decider<'_>) -> Decision {
        decider.decide(|range| self.0.range(range).map(|(rule, _)| *rule))
    }
}

/// What rules decide for a protocol: the first port of each interval, and the answer in it. Neighbouring answers differ.
pub fn pieces(rules: &PeerRules<'_>, protocol: u8, decider: &mut Decider<'_>) -> Vec<(u16, Answer)> {
    let all = rules.tiers().flat_map(|(_, of_tier)| of_tier.iter()).enumerate();
    let each = all.flat_map(|(rule, it)| it.rule.traffic.iter().map(move |traffic| Clause { rule, traffic }));
    let clauses = each.filter(|clause| clause.traffic.concerns(Some(protocol))).collect::<Vec<_>>();
    let edges = edges(clauses.iter().copied().enumerate(), rules.atoms(), |traffic| &traffic.destination);
    let mut matching = Matching::default();
    let mut by_source = BTreeSet::new();
    let mut pieces: Vec<(u16, Answer)> = Vec::new();
    for (port, changes) in steps(&edges) {
        for (_, begins, at) in changes {
            match clauses.get(*at) {
                Some(clause) if clause.traffic.source.is_any() => matching.change(clause.rule, *begins),
                _ if *begins => {
                    by_source.insert(*at);
                }
                _ => {
                    by_source.remove(at);
                }
            }
        }
        let Some(port) = port else { continue };
        let answer = if by_source.is_empty() {
            Answer::Decided(matching.decide(decider))
        } else {
            along_sources(rules.atoms(), &clauses, &by_source, &mut matching, decider)
        };
        if pieces.last().is_none_or(|(_, last)| *last != answer) {
            pieces.push((port, answer));
        }
    }
    pieces
}

/// Decides by source port. `by_source` are the clauses that match this destination port and depend on the source port. `matching` is the
/// same at the end as at the beginning.
fn along_sources(
    atoms: Atoms<'_>,
    clauses: &[Clause<'_>],
    by_source: &BTreeSet<usize>,
    matching: &mut Matching,
    decider: &mut Decider<'_>,
) -> Answer {
    let meant = by_source.iter().filter_map(|at| Some((*at, *clauses.get(*at)?)));
    let edges = edges(meant, atoms, |traffic| &traffic.source);
    let mut pieces: Vec<(u16, Decision)> = Vec::new();
    for (port, changes) in steps(&edges) {
        for (_, begins, at) in changes {
            if let Some(clause) = clauses.get(*at) {
                matching.change(clause.rule, *begins);
            }
        }
        let Some(port) = port else { continue };
        let decision = matching.decide(decider);
        if pieces.last().is_none_or(|(_, last)| *last != decision) {
            pieces.push((port, decision));
        }
    }
    match pieces.as_slice() {
        [(_, decision)] => Answer::Decided(decision.clone()),
        _ => Answer::BySource(pieces),
    }
}

/// The ports where clauses begin and stop to match, in order.
fn edges<'a>(
    clauses: impl Iterator<Item = (usize, Clause<'a>)>,
    atoms: Atoms<'_>,
    side: impl Fn(&'a TrafficMatch) -> &'a PortMatch,
) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (at, clause) in clauses {
        for (first, last) in ranges(side(clause.traffic), atoms) {
            edges.extend([(u32::from(first), true, at), (u32::from(last) + 1, false, at)]);
        }
    }
    work::step(edges.len());
    edges.sort_unstable();
    edges
}

/// The edges by port, for port 0 and each port that has some. `None` stands for the place behind the last port.
fn steps(edges: &[Edge]) -> impl Iterator<Item = (Option<u16>, &[Edge])> {
    let from_zero = edges.first().is_some_and(|(port, ..)| *port == 0);
    let first = (!from_zero).then_some((Some(0), &[][..]));
    let groups = edges.chunk_by(|(a, ..), (b, ..)| a == b);
    let steps = groups.map(|group| (group.first().and_then(|(port, ..)| u16::try_from(*port).ok()), group));
    first.into_iter().chain(steps)
}

/// The ports that match, as ranges in order.
fn ranges(ports: &PortMatch, atoms: Atoms<'_>) -> Vec<(u16, u16)> {
    let wanted = match &ports.one_of {
        Some(set) => joined(set, atoms),
        None => vec![(0, u16::MAX)],
    };
    let Some(none_of) = &ports.none_of else { return wanted };
    let mut unwanted = joined(none_of, atoms).into_iter().peekable();
    let mut left = Vec::new();
    for (first, last) in wanted {
        let mut next = u32::from(first);
        while let Some((from, to)) = unwanted.peek().copied().filter(|(from, _)| *from <= last) {
            if let Ok(next) = u16::try_from(next)
                && from > next
            {
                left.push((next, from - 1));
            }
            next = next.max(u32::from(to) + 1);
            if to >= last {
                // This unwanted range may reach into the next wanted one, so it is kept.
                break;
            }
            unwanted.next();
        }
        if let Ok(next) = u16::try_from(next)
            && next <= last
        {
            left.push((next, last));
        }
    }
    left
}

/// The ranges of a set, in order. Ranges that touch are joined.
fn joined(set: &PortSet, atoms: Atoms<'_>) -> Vec<(u16, u16)> {
    let mut ranges = set.numbers(atoms).collect::<Vec<_>>();
    ranges.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match joined.last_mut() {
            Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = (*end).max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*, sample::select};

    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        compile::{
            decide::Allowing,
            rules::{AddressMatch, DirectionRules, DomainMatch, RuleIndex, RuleMatch, TierRules},
        },
        tables::RuleId,
    };
    use ipamd_model::{
        domain::DomainId,
        policy::{
            Action, Denied, TierDefault,
            protocol::{ICMP, TCP, UDP},
        },
    };

    const ATOMS: [u32; 2] = [3, 7];

    fn port() -> impl Strategy<Value = u16> {
        select(&[0, 1, 2, 79, 80, 81, 1000, 65_534, 65_535][..])
    }

    fn set() -> impl Strategy<Value = PortSet> {
        let range = (port(), port()).prop_map(|(a, b)| (a.min(b), a.max(b)));
        (vec(range, 0..3), vec((select(&[3, 5, 7][..]), port()), 0..2))
            .prop_map(|(ranges, peer)| PortSet { ranges, peer })
    }

    fn side(weight: f64) -> impl Strategy<Value = PortMatch> {
        (option::weighted(weight, set()), option::weighted(weight / 2.0, set()))
            .prop_map(|(one_of, none_of)| PortMatch { one_of, none_of })
    }

    fn traffic() -> impl Strategy<Value = TrafficMatch> {
        let protocol = || select(&[ICMP, TCP, UDP, 47][..]);
        (option::weighted(0.7, protocol()), option::weighted(0.1, protocol()), side(0.3), side(0.8)).prop_map(
            |(protocol, not_protocol, source, destination)| TrafficMatch {
                protocol,
                not_protocol,
                source,
                destination,
            },
        )
    }

    /// An address for which the first predicate holds, one for which another does not, or any.
    fn address() -> impl Strategy<Value = AddressMatch> {
        let items = prop_oneof![3 => Just(None), 2 => Just(Some(ATOMS[0])), 1 => Just(Some(5))];
        (items, select(&[false, false, true][..])).prop_map(|(items, not)| AddressMatch {
            items,
            not_items: not.then_some(ATOMS[1]),
            ..AddressMatch::default()
        })
    }

    fn by_name() -> impl Strategy<Value = DomainMatch> {
        (address(), vec(1_u16..8, 1..4)).prop_map(|(address, domains)| DomainMatch {
            address,
            domains: domains.into_iter().map(DomainId).collect(),
        })
    }

    fn direction() -> impl Strategy<Value = DirectionRules> {
        let action = select(&[Action::Allow, Action::Allow, Action::Deny, Action::Pass, Action::Log][..]);
        let denied = || select(&[Denied::Drop, Denied::Reject][..]);
        let domains = prop_oneof![1 => Just(Vec::new()), 1 => vec(by_name(), 1..3)];
        let rule = (action, denied(), vec(traffic(), 1..4), vec(address(), 0..2), domains);
        let default = select(&[TierDefault::Deny, TierDefault::Pass][..]);
        vec((vec(rule, 0..5), default, denied()), 0..4).prop_map(|tiers| {
            let mut ids = (1..).map(RuleId);
            let mut id = || ids.next().unwrap_or_default();
            let tiers = tiers.into_iter().map(|(rules, default, denied)| TierRules {
                rules: rules
                    .into_iter()
                    .map(|(action, denied, traffic, peers, domains)| RuleMatch {
                        id: id(),
                        action,
                        denied,
                        peers,
                        domains: if action == Action::Allow { domains } else { Vec::new() },
                        traffic,
                    })
                    .collect(),
                default,
                default_id: id(),
                denied,
            });
            DirectionRules { tiers: tiers.collect() }
        })
    }

    /// Whether a flow is denied, by which rule, which one logs, and by which names it would be allowed.
    type Told = (Option<Denied>, RuleId, Option<RuleId>, Option<BTreeMap<DomainId, Allowing>>);

    /// What a flow is told by all rules, one after the other.
    fn walk(rules: &DirectionRules, (protocol, source, destination): (u8, u16, u16)) -> Told {
        let (mut log, mut names) = (None, BTreeMap::new());
        let some = rules.tiers.iter().flat_map(|tier| &tier.rules).any(|rule| !rule.domains.is_empty());
        'tiers: for tier in &rules.tiers {
            for rule in &tier.rules {
                if !rule.traffic.iter().any(|it| it.is_of(Some(protocol), source, destination, &ATOMS)) {
                    continue;
                }
                if !rule.peers.iter().any(|it| it.matches(&ATOMS)) {
                    for it in rule.domains.iter().filter(|it| it.address.matches(&ATOMS)) {
                        for domain in &it.domains {
                            names.entry(*domain).or_insert(Allowing { rule: rule.id, log });
                        }
                    }
                    continue;
                }
                match rule.action {
                    Action::Allow => return (None, rule.id, log, None),
                    Action::Deny => return (Some(rule.denied), rule.id, log, some.then_some(names)),
                    Action::Pass => continue 'tiers,
                    Action::Log => log = log.or(Some(rule.id)),
                }
            }
            if tier.default == TierDefault::Deny {
                return (Some(tier.denied), tier.default_id, log, some.then_some(names));
            }
        }
        (None, RuleId(0), log, None)
    }

    fn told(decision: &Decision) -> Told {
        let names = decision.by_name.as_ref().map(|names| names.patterns().iter().copied().collect());
        (decision.denied, decision.rule, decision.log, names)
    }

    proptest! {
        #[test]
        fn what_a_walk_finds_is_what_each_flow_is_told(all in direction()) {
            let about = all.about(&ATOMS);
            let index = RuleIndex::new(&all);
            let rules = all.about_by(&index, &ATOMS);
            for protocol in [ICMP, TCP, UDP, 47] {
                let mut decider = Decider::new(&rules, usize::MAX);
                let pieces = pieces(&rules, protocol, &mut decider);
                prop_assert_eq!(pieces.first().map(|(port, _)| *port), Some(0));
                prop_assert!(pieces.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1));
                let at = |port: u16| &pieces.iter().rev().find(|(first, _)| *first <= port).unwrap().1;
                let ports = [0, 1, 2, 3, 78, 79, 80, 81, 82, 999, 1000, 1001, 65_533, 65_534, 65_535];
                for destination in ports {
                    for source in ports {
                        let found = match at(destination) {
                            Answer::Decided(decision) => decision,
                            Answer::BySource(pieces) => {
                                &pieces.iter().rev().find(|(first, _)| *first <= source).unwrap().1
                            }
                        };
                        let walked = walk(&all, (protocol, source, destination));
                        prop_assert_eq!(&told(found), &walked, "{} {} {}", protocol, source, destination);
                        let asked = about.decide(Some(protocol), source, destination);
                        prop_assert_eq!(told(&asked), walked, "{} {} {}", protocol, source, destination);
                    }
                }
            }
        }
    }
}

//! What rules decide, once it is known which of them match.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    sync::Arc,
};

use super::rules::{PeerRules, RuleMatch};
use crate::tables::RuleId;
use ipamd_model::{
    domain::DomainId,
    policy::{Action, Denied, TierDefault},
};
use ipamd_runtime::work;

/// What is decided for a flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// What becomes of its packets if it is denied. `None` if it passes.
    pub denied: Option<Denied>,
    /// The rule that decided. 0 if all tiers left it open.
    pub rule: RuleId,
    /// The first rule of the action Log that matched on the way.
    pub log: Option<RuleId>,
    /// Of a flow that is denied: the DNS names by which an earlier rule would have allowed it. `None` where no rule of the direction
    /// means names.
    pub by_name: Option<ByName>,
}

/// The patterns of DNS names by which a flow would have been allowed. There may be many, so they are hashed once.
#[derive(Clone, Debug)]
pub struct ByName(Arc<Hashed>);

#[derive(Debug)]
struct Hashed {
    patterns: Box<[(DomainId, Allowing)]>,
    hash: u64,
}

/// The rule that would have allowed a flow by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Allowing {
    /// The rule.
    pub rule: RuleId,
    /// The first rule of the action Log that matched before it.
    pub log: Option<RuleId>,
}

impl ByName {
    fn new(patterns: BTreeMap<DomainId, Allowing>) -> Self {
        let patterns: Box<[_]> = patterns.into_iter().collect();
        let mut hasher = DefaultHasher::new();
        patterns.hash(&mut hasher);
        Self(Arc::new(Hashed { patterns, hash: hasher.finish() }))
    }

    /// The rule that allows by a pattern.
    pub fn of(&self, domain: DomainId) -> Option<Allowing> {
        let at = self.patterns().binary_search_by_key(&domain, |(known, _)| *known).ok()?;
        self.patterns().get(at).map(|(_, allowing)| *allowing)
    }

    /// The patterns in order, each with the first rule that means it.
    pub fn patterns(&self) -> &[(DomainId, Allowing)] {
        &self.0.patterns
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.hash == other.0.hash && self.patterns() == other.patterns()
    }
}

impl Eq for ByName {}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

/// A rule that a flow reached and that means it by name, and the first rule of the action Log before.
type Reached<'a> = (&'a RuleMatch, Option<RuleId>);

/// Decides flows with one peer.
pub struct Decider<'a> {
    rules: &'a PeerRules<'a>,
    /// What follows from the rules that were reached: many flows reach the same.
    known: HashMap<Vec<(RuleId, Option<RuleId>)>, ByName>,
    /// Each of these once.
    said: HashSet<ByName>,
    /// How many patterns they have in all, and how many they may have.
    patterns: usize,
    most: usize,
}

impl<'a> Decider<'a> {
    /// One for the rules about a peer. What is allowed by name is worked out up to so many patterns in all.
    pub fn new(rules: &'a PeerRules<'a>, most: usize) -> Self {
        Self { rules, known: HashMap::new(), said: HashSet::new(), patterns: 0, most }
    }

    /// Checks that all decisions so far are right.
    ///
    /// # Errors
    /// There are more patterns than there may be, at least so many. What is beyond them is not worked out.
    pub fn check(&self) -> Result<(), usize> {
        if self.patterns > self.most { Err(self.patterns) } else { Ok(()) }
    }

    /// Decides a flow. `matching` is asked for each tier: of the rules in this range of numbers, those that match, in order. Rules are
    /// numbered through all tiers.
    pub fn decide<I: Iterator<Item = usize>>(&mut self, matching: impl Fn(Range<usize>) -> I) -> Decision {
        let (mut log, mut first, mut reached) = (None, 0, Vec::new());
        for (tier, of_tier) in self.rules.tiers() {
            let behind = first + of_tier.len();
            let mut passed = false;
            for number in matching(first..behind) {
                let Some(left) = of_tier.get(number - first) else { continue };
                let rule = left.rule;
                match rule.action {
                    _ if left.by_name => reached.push((rule, log)),
                    Action::Log => log = log.or(Some(rule.id)),
                    Action::Allow => return Decision { denied: None, rule: rule.id, log, by_name: None },
                    Action::Deny => return self.denied(rule.denied, rule.id, log, &reached),
                    Action::Pass => {
                        passed = true;
                        break;
                    }
                }
            }
            if !passed && tier.default == TierDefault::Deny {
                return self.denied(tier.denied, tier.default_id, log, &reached);
            }
            first = behind;
        }
        Decision { denied: None, rule: RuleId(0), log, by_name: None }
    }

    fn denied(
        &mut self,
        denied: Denied,
        rule: RuleId,
        log: Option<RuleId>,
        reached: &[Reached<'a>],
    ) -> Decision {
        let by_name = self.rules.names().then(|| self.by_name(reached));
        Decision { denied: Some(denied), rule, log, by_name }
    }

    fn by_name(&mut self, reached: &[Reached<'a>]) -> ByName {
        let key: Vec<_> = reached.iter().map(|(rule, log)| (rule.id, *log)).collect();
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let mut patterns = BTreeMap::new();
        for (rule, log) in reached.iter().filter(|_| self.patterns <= self.most) {
            for domain in rule.domains_of(self.rules.atoms()) {
                patterns.entry(domain).or_insert(Allowing { rule: rule.id, log: *log });
            }
        }
        work::step(patterns.len());
        let by_name = ByName::new(patterns);
        if self.said.insert(by_name.clone()) {
            self.patterns += by_name.patterns().len();
        }
        self.known.insert(key, by_name.clone());
        by_name
    }
}

impl PeerRules<'_> {
    /// Decides a flow. The protocol `None` stands for all protocols that no rule names.
    pub fn decide(&self, protocol: Option<u8>, source: u16, destination: u16) -> Decision {
        let all: Vec<_> = self.tiers().flat_map(|(_, of_tier)| of_tier).map(|left| left.rule).collect();
        Decider::new(self, usize::MAX).decide(|range| {
            let matches = |number: &usize| {
                all.get(*number).is_some_and(|rule| {
                    rule.traffic.iter().any(|it| it.is_of(protocol, source, destination, self.atoms()))
                })
            };
            range.filter(matches)
        })
    }
}

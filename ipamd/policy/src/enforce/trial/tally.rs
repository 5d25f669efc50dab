//! How many flows the staged set would have judged otherwise, by policy and by rule, and which.

use std::collections::{BTreeMap, HashMap};

use ipamd_api::policy::{DecidingRule, FlowChange, Party, StagedTally, Verdict};

use super::otherwise::Otherwise;
use crate::compile::names::RuleName;
use ipamd_model::objects::ObjectId;

/// How many groups of flows are kept, of all staged policies together.
const MOST_GROUPS: usize = 1_000;
/// How many rules are counted apart: a tier's default is another one for each set of policies because of which it holds.
const MOST_RULES: usize = 10_000;

/// What has been counted since the start of the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrialCounts {
    /// New flows that were judged by the staged set.
    pub judged: u64,
    /// Those that were allowed, and would be denied.
    pub would_deny: u64,
    /// Those that were denied, and would be allowed.
    pub would_allow: u64,
    /// Those that were not judged: more than could be told or taken.
    pub lost: u64,
}

impl TrialCounts {
    /// Counts new flows that were judged, and those of them that would be judged otherwise.
    pub(in crate::enforce) fn add(&mut self, judged: u64, otherwise: &[Otherwise]) {
        let denied = otherwise.iter().filter(|it| it.change.after == Verdict::Deny).count() as u64;
        self.judged += judged;
        self.would_deny += denied;
        self.would_allow += otherwise.len() as u64 - denied;
    }
}

/// Counts by policy and by rule, and groups of flows.
#[derive(Debug, Default)]
pub(in crate::enforce) struct Tallies {
    policies: BTreeMap<ObjectId, StagedTally>,
    rules: BTreeMap<(ObjectId, RuleName), StagedTally>,
    groups: HashMap<Group, (u64, Vec<ObjectId>, FlowChange)>,
    /// The time of the groups.
    clock: u64,
}

/// What the flows of a group have in common: all that is told of them but for how many they are.
type Group = String;

fn add(tally: &mut StagedTally, verdict: Verdict, lives: bool) {
    let count = match (verdict, lives) {
        (Verdict::Deny, false) => &mut tally.would_deny,
        (Verdict::Allow, false) => &mut tally.would_allow,
        (Verdict::Deny, true) => &mut tally.live_would_deny,
        (Verdict::Allow, true) => &mut tally.live_would_allow,
    };
    *count += 1;
}

impl Tallies {
    /// Counts a flow that would be judged otherwise.
    pub fn add(&mut self, flow: &Otherwise, lives: bool) {
        let verdict = flow.change.after;
        for policy in &flow.policies {
            add(self.policies.entry(policy.clone()).or_default(), verdict, lives);
            let rule = flow.rule.as_ref().map(|rule| (policy.clone(), rule.clone()));
            if let Some(rule) = rule
                && (self.rules.len() < MOST_RULES || self.rules.contains_key(&rule))
            {
                add(self.rules.entry(rule).or_default(), verdict, lives);
            }
        }
        self.keep(flow);
    }

    fn keep(&mut self, flow: &Otherwise) {
        self.clock += 1;
        let (source, destination) = (&flow.change.source, &flow.change.destination);
        let who = |party: &Party| party.pod.clone().unwrap_or_else(|| party.address.to_string());
        let rule =
            |rule: &Option<DecidingRule>| rule.as_ref().map(|rule| rule.text.clone()).unwrap_or_default();
        let group = format!(
            "{} {} {} {} {:?} {} {} {}",
            flow.change.protocol,
            who(source),
            who(destination),
            destination.port,
            flow.change.icmp,
            flow.change.after,
            rule(&flow.change.before_rule),
            rule(&flow.change.after_rule)
        );
        let (clock, policies) = (self.clock, &flow.policies);
        let kept = self.groups.entry(group).or_insert_with(|| {
            let mut change = flow.change.clone();
            (change.flows, change.source.port) = (0, 0);
            (clock, policies.clone(), change)
        });
        kept.0 = clock;
        kept.2.flows += 1;
        if self.groups.len() > MOST_GROUPS + MOST_GROUPS / 4 {
            let mut times: Vec<_> = self.groups.values().map(|(time, ..)| *time).collect();
            times.sort_unstable_by(|a, b| b.cmp(a));
            let oldest = times.get(MOST_GROUPS).copied().unwrap_or_default();
            self.groups.retain(|_, (time, ..)| *time > oldest);
        }
    }

    /// The counts of a staged policy.
    pub fn of_policy(&self, id: &ObjectId) -> StagedTally {
        self.policies.get(id).copied().unwrap_or_default()
    }

    /// The counts of the rules because of which a staged policy would judge otherwise.
    pub fn of_rules<'a>(&'a self, id: &'a ObjectId) -> impl Iterator<Item = (&'a RuleName, StagedTally)> {
        let of_it = self.rules.iter().filter(move |((policy, _), _)| policy == id);
        of_it.map(|((_, rule), tally)| (rule, *tally))
    }

    /// The flows that a staged policy would judge otherwise, in groups, the latest first.
    pub fn flows(&self, id: &ObjectId, most: usize) -> Vec<FlowChange> {
        let mut of_it: Vec<_> =
            self.groups.values().filter(|(_, policies, _)| policies.contains(id)).collect();
        of_it.sort_unstable_by_key(|(time, ..)| std::cmp::Reverse(*time));
        of_it.into_iter().take(most).map(|(.., change)| change.clone()).collect()
    }

    /// Forgets what was counted of a policy that has changed.
    pub fn forget(&mut self, id: &ObjectId) {
        self.policies.remove(id);
        self.rules.retain(|(policy, _), _| policy != id);
        self.groups.retain(|_, (_, policies, _)| !policies.contains(id));
    }

    /// Forgets the flows that lived: they are judged again.
    pub fn forget_live(&mut self) {
        for tally in self.policies.values_mut().chain(self.rules.values_mut()) {
            (tally.live_would_deny, tally.live_would_allow) = (0, 0);
        }
    }
}

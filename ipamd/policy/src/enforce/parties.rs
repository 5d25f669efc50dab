//! What people are told of addresses and rules instead of numbers.

use std::{collections::BTreeMap, net::IpAddr};

use ipamd_api::policy::{DecidingRule, Party};

use super::cluster::Cluster;
use crate::{
    compile::{decide::ByName, names::RuleName},
    tables::RuleId,
};
use ipamd_model::{
    domain::DomainPattern,
    objects::{Kind, ObjectId},
};

/// The most DNS names of a rule that people are told, and the most rules.
const NAMES_SHOWN: usize = 5;
const RULES_SHOWN: usize = 3;

impl Cluster {
    /// A rule, for people and programs.
    pub fn deciding(&self, rule: RuleId) -> Option<DecidingRule> {
        self.names.name(rule).map(DecidingRule::from)
    }

    /// By which rules, and for which DNS names, a flow would have been allowed that is denied. `None`: for none.
    pub fn allowed_by_name(&self, by_name: &ByName) -> Option<String> {
        let mut by_rule: BTreeMap<RuleId, Vec<&DomainPattern>> = BTreeMap::new();
        for (domain, allowing) in by_name.patterns() {
            by_rule.entry(allowing.rule).or_default().extend(self.domains.pattern(*domain));
        }
        let rules = by_rule.into_iter().filter_map(|(rule, patterns)| {
            let rule = self.names.name(rule)?;
            let (few, more) = patterns.split_at(patterns.len().min(NAMES_SHOWN));
            let few = few.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Some(match (patterns.len(), more.len()) {
                (1, _) => format!("by {rule} if its DNS name is {few}"),
                (_, 0) => format!("by {rule} if its DNS name is one of {few}"),
                (_, more) => format!("by {rule} if its DNS name is one of {few} and {more} more"),
            })
        });
        let rules = rules.collect::<Vec<_>>();
        let (few, more) = rules.split_at(rules.len().min(RULES_SHOWN));
        let more =
            if more.is_empty() { String::new() } else { format!(", or by {} other rules", more.len()) };
        (!few.is_empty()).then(|| format!("it would be allowed {}{more}", few.join(", or ")))
    }

    /// Who has an address.
    pub fn party(&self, address: IpAddr, port: u16) -> Party {
        let owners = self.classes.owners(address);
        let pod = self.classes.pod_at(address).map(pod_name);
        let others = owners.filter(|id| id.kind != Kind::Pod).map(ToString::to_string);
        let node = self.node_addresses.contains(&address).then(|| "this node".to_owned());
        Party { address, port, pod, others: node.into_iter().chain(others).collect() }
    }
}

impl From<&RuleName> for DecidingRule {
    fn from(rule: &RuleName) -> Self {
        let text = rule.to_string();
        match rule {
            RuleName::Rule { policy, direction, index, .. } => Self {
                text,
                direction: direction.to_string(),
                policies: vec![policy.into()],
                index: Some(*index as u64),
            },
            RuleName::Failsafe { direction } | RuleName::HostDefault { direction, .. } => {
                Self { text, direction: direction.to_string(), policies: Vec::new(), index: None }
            }
            RuleName::TierDefault { direction, policies, .. } => Self {
                text,
                direction: direction.to_string(),
                policies: policies.iter().map(Into::into).collect(),
                index: None,
            },
        }
    }
}

/// A pod as NAMESPACE/NAME; a host endpoint with its kind.
pub(super) fn pod_name(id: &ObjectId) -> String {
    if id.kind == Kind::HostEndpoint {
        return id.to_string();
    }
    format!("{}/{}", id.namespace.as_deref().unwrap_or_default(), id.name)
}

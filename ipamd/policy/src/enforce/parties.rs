//! What people are told of addresses and rules instead of numbers.

use std::net::IpAddr;

use ipamd_api::policy::{DecidingRule, Party};

use super::cluster::Cluster;
use crate::{compile::names::RuleName, tables::RuleId};
use ipamd_model::objects::{Kind, ObjectId};

impl Cluster {
    /// A rule, for people and programs.
    pub fn deciding(&self, rule: RuleId) -> Option<DecidingRule> {
        self.names.name(rule).map(DecidingRule::from)
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
            RuleName::TierDefault { direction, policies, .. } => Self {
                text,
                direction: direction.to_string(),
                policies: policies.iter().map(Into::into).collect(),
                index: None,
            },
        }
    }
}

/// A pod as NAMESPACE/NAME.
pub(super) fn pod_name(id: &ObjectId) -> String {
    format!("{}/{}", id.namespace.as_deref().unwrap_or_default(), id.name)
}

//! What is known of the two sides of a flow, and which policies decide about it: for those who watch flows.

use std::{net::IpAddr, sync::Arc};

use ipamd_api::policy::{DecidingRule, Verdict};

use super::{
    cluster::Cluster, enforcer::Enforcer, judge, seen_flow::NamedFlow, seen_flow::SeenFlow, state::State,
};
use crate::{compile::names::RuleName, tables::RuleId};
use ipamd_model::{labels::Labels, objects::Kind, policy::Direction};

/// What is known of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFacts {
    /// Of who opens it.
    pub source: SideFacts,
    /// Of whom it is opened to.
    pub destination: SideFacts,
    /// What the endpoints of this node say: the opener's egress, then the other side's ingress. As with a packet, the second is not
    /// asked if the first denies.
    pub decisions: Vec<FlowDecision>,
}

/// What is known of one side of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SideFacts {
    /// The pod's namespace and name.
    pub pod: Option<(Arc<str>, Arc<str>)>,
    /// The labels of the pod.
    pub labels: Labels,
    /// The pod's service account.
    pub service_account: Option<Arc<str>>,
    /// The node that has the address.
    pub node: Option<Arc<str>>,
    /// Whether it is this node.
    pub is_this_node: bool,
    /// Whether it is an endpoint of this node.
    pub is_local: bool,
}

/// What an endpoint's policies say of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowDecision {
    /// As the endpoint sees it.
    pub direction: Direction,
    /// Whether it passes.
    pub verdict: Verdict,
    /// What decides; `None`: no policy does.
    pub rule: Option<DecidingRule>,
    /// The tier of what decides.
    pub tier: Option<Arc<str>>,
}

impl Cluster {
    fn side(&self, address: IpAddr) -> SideFacts {
        let node =
            self.classes.owners(address).find(|id| id.kind == Kind::Node).map(|id| Arc::clone(&id.name));
        let is_this_node = self.node_addresses.contains(&address);
        let Some(pod) = self.classes.pod_at(address) else {
            return SideFacts { node, is_this_node, ..SideFacts::default() };
        };
        let facts = self.inputs.item(pod).map(|item| item.facts);
        SideFacts {
            pod: Some((pod.namespace.clone().unwrap_or_default(), Arc::clone(&pod.name))),
            service_account: facts.as_ref().and_then(|facts| facts.service_account.clone()),
            labels: facts.map(|facts| facts.labels).unwrap_or_default(),
            node,
            is_this_node,
            is_local: self.endpoint_at(address).is_some(),
        }
    }

    /// The tier of what decides.
    fn tier_of(&self, rule: RuleId) -> Option<Arc<str>> {
        match self.names.name(rule)? {
            RuleName::TierDefault { tier, .. } => Some(Arc::clone(tier)),
            RuleName::Rule { policy, .. } => {
                self.inputs.policies.get(policy).map(|policy| Arc::clone(&policy.tier))
            }
            RuleName::Failsafe { .. } | RuleName::HostDefault { .. } => None,
        }
    }
}

impl State {
    fn flow_facts(&self, named: &NamedFlow) -> FlowFacts {
        let (cluster, flow) = (&self.cluster, &named.flow);
        let mut facts = FlowFacts {
            source: cluster.side(flow.source),
            destination: cluster.side(flow.destination),
            decisions: Vec::new(),
        };
        for (direction, own, peer) in [
            (Direction::Egress, flow.source, flow.destination),
            (Direction::Ingress, flow.destination, flow.source),
        ] {
            let asked = cluster.asked_about(direction, own, peer);
            let Some(key) = asked.filter(|_| flow.source != flow.destination) else {
                continue;
            };
            let judgement = judge::by_rules(key, direction, named, cluster, &self.written);
            let (verdict, rule) = (judgement.verdict(), judgement.rule());
            let decision = FlowDecision {
                direction,
                verdict,
                rule: cluster.deciding(rule),
                tier: cluster.tier_of(rule),
            };
            facts.decisions.push(decision);
            if verdict == Verdict::Deny {
                break;
            }
        }
        facts
    }
}

impl Enforcer {
    /// What is known of a flow. `names` are the DNS names that its opener was told for the destination. This may wait for a change of
    /// policies under way.
    pub fn flow_facts(&self, flow: SeenFlow, names: Vec<String>) -> FlowFacts {
        self.lock().flow_facts(&NamedFlow { flow, names })
    }
}

//! Compares what the staged set says of a flow with what is in force.

use std::{collections::BTreeSet, net::IpAddr};

use ipamd_api::{
    AttachmentKey,
    policy::{FlowChange, Verdict},
};

use super::{otherwise::Otherwise, staged_set::StagedSet};
use crate::{
    compile::names::RuleName,
    enforce::{
        judge::{self, Judgement},
        seen_flow::{NamedFlow, Numbers, SeenFlow},
        state::State,
    },
    tables::RuleId,
};
use ipamd_model::{
    objects::ObjectId,
    policy::{Direction, protocol},
};

/// What an endpoint says of a flow.
type Step = (AttachmentKey, Direction, Judgement);

/// What decides about a flow: the first endpoint of this node that denies it, or the last. `names` are asked for only if that may
/// matter.
fn decide(
    state: &State,
    endpoints: &impl Fn(IpAddr) -> Option<AttachmentKey>,
    flow: &SeenFlow,
    names: &impl Fn(&SeenFlow) -> Vec<String>,
) -> Option<Step> {
    let mut last = None;
    let sides = [(Direction::Egress, flow.source), (Direction::Ingress, flow.destination)];
    for (direction, address) in sides {
        let Some(key) = endpoints(address) else { continue };
        let mut asked = NamedFlow { flow: *flow, names: Vec::new() };
        let mut judgement = judge::by_rules(&key, direction, &asked, &state.cluster, &state.written);
        if matches!(&judgement, Judgement::Decided(decision) if decision.by_name.is_some()) {
            asked.names = names(flow);
            judgement = judge::by_rules(&key, direction, &asked, &state.cluster, &state.written);
        }
        let denies = judgement.verdict() == Verdict::Deny;
        last = Some((key, direction, judgement));
        if denies {
            break;
        }
    }
    last
}

impl StagedSet {
    pub fn decide(&self, flow: &SeenFlow, names: &impl Fn(&SeenFlow) -> Vec<String>) -> Option<Step> {
        // An endpoint always reaches itself.
        if flow.source == flow.destination {
            return None;
        }
        decide(&self.state, &|address| self.endpoints.get(&address).cloned(), flow, names)
    }

    /// What the staged set says of a flow that `state`, which is in force, judges otherwise.
    pub fn compare(&self, named: &NamedFlow, state: &State) -> Option<Otherwise> {
        let flow = &named.flow;
        let told = |_: &SeenFlow| named.names.clone();
        let (key, direction, after) = self.decide(flow, &told)?;
        // Of this node's endpoints both sets know the same.
        let endpoints = |address| self.endpoints.get(&address).cloned();
        let (before_key, before_direction, before) = decide(state, &endpoints, flow, &told)?;
        if after.verdict() == before.verdict() {
            return None;
        }
        // What allows is told of the endpoint that denies.
        let of = |state: &State, key: &AttachmentKey, direction| {
            judge::by_rules(key, direction, named, &state.cluster, &state.written)
        };
        let (key, after, before) = match after.verdict() {
            Verdict::Deny => {
                let before = of(state, &key, direction);
                (key, after, before)
            }
            Verdict::Allow => {
                let after = of(&self.state, &before_key, before_direction);
                (before_key, after, before)
            }
        };
        let name = |state: &State, rule: RuleId| state.cluster.names.name(rule).cloned();
        let (before_name, after_name) = (name(state, before.rule()), name(&self.state, after.rule()));
        let Numbers { source, destination, icmp } = flow.numbers();
        let cluster = &self.state.cluster;
        Some(Otherwise {
            flow: *flow,
            change: FlowChange {
                protocol: protocol::name(flow.protocol),
                flows: 1,
                source: cluster.party(flow.source, source),
                destination: cluster.party(flow.destination, destination),
                icmp,
                before: before.verdict(),
                before_rule: state.cluster.deciding(before.rule()),
                after: after.verdict(),
                after_rule: cluster.deciding(after.rule()),
            },
            policies: self.because_of(&key, before_name.as_ref(), after_name.as_ref(), state),
            rule: after_name.or(before_name),
        })
    }

    /// The staged policies because of which a flow at an endpoint is judged otherwise: those that decide; else those that stand for
    /// what has decided; else all that select the endpoint, or would.
    fn because_of(
        &self,
        key: &AttachmentKey,
        before: Option<&RuleName>,
        after: Option<&RuleName>,
        state: &State,
    ) -> Vec<ObjectId> {
        let of = |rule: Option<&RuleName>| -> Vec<ObjectId> {
            let ids: &[ObjectId] = match rule {
                Some(RuleName::Rule { policy, .. }) => std::slice::from_ref(policy),
                Some(RuleName::TierDefault { policies, .. }) => policies,
                Some(RuleName::Failsafe { .. } | RuleName::HostDefault { .. }) | None => &[],
            };
            ids.iter().filter_map(|id| Some(self.staged(id)?.id.clone())).collect()
        };
        for found in [of(after), of(before)] {
            if !found.is_empty() {
                return found;
            }
        }
        let selecting = [&self.state, state].into_iter().filter_map(|it| it.cluster.endpoints.get(key));
        let selecting = selecting.flat_map(|it| it.selecting.values());
        let found: BTreeSet<_> =
            selecting.filter_map(|policy| Some(self.staged(&policy.id)?.id.clone())).collect();
        found.into_iter().collect()
    }
}

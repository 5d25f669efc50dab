//! Tiers in their order, policies in theirs: whether a packet passes.

use std::{cmp::Ordering, collections::BTreeMap, net::IpAddr};

use serde_json::Value;

use super::{
    cluster::Cluster,
    document::text,
    packet::{Direction, Flow, Packet},
    policy::{Decision, Policy},
};

/// A tier of policies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tier {
    /// Its place; `None`: behind those that have one.
    pub order: Option<f64>,
    /// What its policies select and do not decide goes on to the next tier, where else it would be dropped.
    pub passes: bool,
}

impl Tier {
    /// The tiers that are there without being declared.
    pub fn built_in() -> BTreeMap<String, Self> {
        let tiers = [
            ("kube-admin", 1_000.0, true),
            ("default", 1_000_000.0, false),
            ("kube-baseline", 10_000_000.0, true),
        ];
        let tiers = tiers.map(|(name, order, passes)| (name.to_owned(), Self { order: Some(order), passes }));
        tiers.into_iter().collect()
    }

    /// Reads a tier.
    pub fn read(document: &Value) -> Self {
        let spec = &document["spec"];
        Self { order: spec["order"].as_f64(), passes: text(spec, "defaultAction") == "Pass" }
    }
}

/// What has no place is last.
fn by_order(a: Option<f64>, b: Option<f64>) -> Ordering {
    a.unwrap_or(f64::INFINITY).total_cmp(&b.unwrap_or(f64::INFINITY))
}

impl Cluster {
    /// The policies that apply to a pod, by tiers, all in order. Those of a tier that there is not do not.
    fn applying(&self, pod: &(String, String), direction: Direction) -> Vec<(Tier, Vec<&Policy>)> {
        let Some(pod) = self.pod(pod) else { return Vec::new() };
        let mut tiers = self.tiers.iter().collect::<Vec<_>>();
        tiers.sort_by(|(a_name, a), (b_name, b)| by_order(a.order, b.order).then(a_name.cmp(b_name)));
        let mut applying = Vec::new();
        for (name, tier) in tiers {
            let of_tier = self.policies.iter().filter(|policy| policy.tier == *name);
            let mut policies =
                of_tier.filter(|policy| policy.applies_to(self, pod, direction)).collect::<Vec<_>>();
            policies.sort_by(|a, b| by_order(a.order, b.order).then_with(|| a.place().cmp(&b.place())));
            applying.push((*tier, policies));
        }
        applying
    }

    /// Whether policy lets flows pass between a pod, by its address `own`, and a peer, in a direction.
    pub fn verdicts<'a>(
        &'a self,
        pod: &(String, String),
        direction: Direction,
        own: IpAddr,
        peer: IpAddr,
    ) -> impl Fn(Flow) -> bool + 'a {
        let applying = self.applying(pod, direction);
        let (source, destination) = match direction {
            Direction::Ingress => (peer, own),
            Direction::Egress => (own, peer),
        };
        let (source, destination) = (self.end(source), self.end(destination));
        move |flow| {
            let packet = Packet::between(self, &source, &destination, flow);
            for (tier, policies) in &applying {
                let decision = policies.iter().find_map(|policy| policy.decide(&packet, direction));
                match decision {
                    Some(Decision::Allow) => return true,
                    Some(Decision::Pass) => {}
                    None if policies.is_empty() || tier.passes => {}
                    Some(Decision::Deny) | None => return false,
                }
            }
            true
        }
    }

    /// Whether policy lets one flow pass; see [`verdicts`](Self::verdicts).
    pub fn verdict(
        &self,
        pod: &(String, String),
        direction: Direction,
        own: IpAddr,
        peer: IpAddr,
        flow: Flow,
    ) -> bool {
        self.verdicts(pod, direction, own, peer)(flow)
    }
}

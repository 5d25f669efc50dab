//! Tiers in their order, policies in theirs: whether a packet passes.

use std::{cmp::Ordering, net::IpAddr};

use super::{
    cluster::Cluster,
    decision::Decision,
    packet::{Direction, Flow, Packet},
    policy::Policy,
    tier::Tier,
};

/// What has no place is last.
fn by_order(a: Option<f64>, b: Option<f64>) -> Ordering {
    a.unwrap_or(f64::INFINITY).total_cmp(&b.unwrap_or(f64::INFINITY))
}

impl Cluster {
    /// The policies that apply to a pod, by tiers, all in order. Those of a tier that there is not do not.
    fn applying(&self, pod: &(String, String), direction: Direction) -> Vec<(Tier, Vec<&Policy>)> {
        let Some(pod) = self.inventory.pod(pod) else { return Vec::new() };
        let mut tiers = self.tiers.iter().collect::<Vec<_>>();
        tiers.sort_by(|(a_name, a), (b_name, b)| by_order(a.order, b.order).then(a_name.cmp(b_name)));
        let mut applying = Vec::new();
        for (name, tier) in tiers {
            let of_tier = self.policies.iter().filter(|policy| policy.tier == *name);
            let mut policies = of_tier
                .filter(|policy| policy.applies_to(&self.inventory, pod, direction))
                .collect::<Vec<_>>();
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
        self.verdicts_by_names(pod, direction, own, peer, &[])
    }

    /// The same for a pod that was told the peer's address as one of these DNS names.
    pub fn verdicts_by_names<'a>(
        &'a self,
        pod: &(String, String),
        direction: Direction,
        own: IpAddr,
        peer: IpAddr,
        names: &[String],
    ) -> impl Fn(Flow) -> bool + 'a + use<'a> {
        let applying = self.applying(pod, direction);
        let (source, destination) = match direction {
            Direction::Ingress => (peer, own),
            Direction::Egress => (own, peer),
        };
        // What reaches a pod has no name, whoever asked for one.
        let names = if direction == Direction::Egress { names } else { &[] };
        let (source, destination) = (self.inventory.end(source), self.inventory.end(destination).told(names));
        move |flow| {
            let packet = Packet::between(&self.inventory, &source, &destination, flow);
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

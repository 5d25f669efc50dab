//! Kubernetes' NetworkPolicy, `networking.k8s.io/v1`, in full, with the API server's defaults and checks. An unknown
//! field is refused, because its restriction would be missing.

pub(in crate::policies) mod labels;
pub(in crate::policies) mod peers;
pub(in crate::policies) mod ports;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::Value;

use crate::{
    field::{Field, shown},
    v1,
};
use ipamd_model::{
    field::FieldError,
    host::HostLayer,
    objects::{Kind, Object, Origin},
};
use ipamd_model::{
    policy::{
        Action, DEFAULT_TIER, Direction, Entity, NETWORK_POLICY_ORDER, Order, Policy, Rule, Scope, Traffic,
    },
    selector::Selector,
};

/// Reads a NetworkPolicy.
pub fn read(document: &Value, origin: Option<Origin>) -> Result<Object, FieldError> {
    let root = Field::root(document);
    root.only(&["apiVersion", "kind", "metadata", "spec", "status"])?;
    policy(Kind::NetworkPolicy, &root, origin).map(|policy| Object::Policy(Arc::new(policy)))
}

/// The policy that an object of this kind says: a NetworkPolicy, or one that is staged.
pub(in crate::policies) fn policy(
    kind: Kind,
    root: &Field<'_>,
    origin: Option<Origin>,
) -> Result<Policy, FieldError> {
    let id = v1::id(kind, root)?;
    let namespace = id.namespace.clone().unwrap_or_default();
    let spec = match root.get("spec")? {
        Some(spec) => Spec::read(&spec, &namespace, kind.is_staged())?,
        None => Spec { pods: Selector::All, ingress: Some(Vec::new()), egress: None },
    };
    let mut closed = Vec::new();
    let denied = v1::denied_by_policy(root, &mut closed);
    Ok(Policy {
        layer: HostLayer::Local,
        id,
        origin,
        tier: DEFAULT_TIER.into(),
        order: Order(Some(NETWORK_POLICY_ORDER)),
        subject: peers::pods(Scope::Namespace(namespace), spec.pods),
        ingress: spec.ingress,
        egress: spec.egress,
        denied,
        closed,
    })
}

/// What a policy says.
struct Spec {
    pods: Selector,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
}

impl Spec {
    fn read(spec: &Field<'_>, namespace: &Arc<str>, is_staged: bool) -> Result<Self, FieldError> {
        let known = ["podSelector", "policyTypes", "ingress", "egress", "stagedAction"];
        spec.only(if is_staged { &known } else { &known[..4] })?;
        let pods = match spec.get("podSelector")? {
            Some(selector) => labels::selector(&selector)?,
            None => Selector::All,
        };
        // Rules of a direction that the policy turns out not to speak of are checked all the same.
        let ingress = rules(spec, Direction::Ingress, namespace)?;
        let egress = rules(spec, Direction::Egress, namespace)?;
        let (of_ingress, of_egress) = match spec.get("policyTypes")? {
            Some(types) => directions(&types)?,
            None => None,
        }
        .unwrap_or((true, !egress.is_empty()));
        Ok(Self { pods, ingress: of_ingress.then_some(ingress), egress: of_egress.then_some(egress) })
    }
}

/// Which directions `policyTypes` names; `None` if it is empty.
fn directions(types: &Field<'_>) -> Result<Option<(bool, bool)>, FieldError> {
    let (mut ingress, mut egress, mut count) = (false, false, 0);
    for item in types.items()? {
        match item.text()? {
            "Ingress" => ingress = true,
            "Egress" => egress = true,
            other => return Err(item.refuse(format!("{} is neither Ingress nor Egress", shown(other)))),
        }
        count += 1;
    }
    match count {
        0 => Ok(None),
        1 | 2 => Ok(Some((ingress, egress))),
        _ => Err(types.refuse("there are more than two")),
    }
}

/// The rules for a direction; each allows.
fn rules(spec: &Field<'_>, direction: Direction, namespace: &Arc<str>) -> Result<Vec<Rule>, FieldError> {
    let (list, peers_field) = match direction {
        Direction::Ingress => ("ingress", "from"),
        Direction::Egress => ("egress", "to"),
    };
    let Some(list) = spec.get(list)? else { return Ok(Vec::new()) };
    let mut rules = Vec::new();
    for (index, rule) in list.items()?.enumerate() {
        rule.only(&[peers_field, "ports"])?;
        let peers = match rule.get(peers_field)? {
            Some(list) => list.items()?.map(|it| peers::read(&it, namespace)).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        let traffic = match rule.get("ports")? {
            Some(list) => list.items()?.map(|it| ports::read(&it)).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        // No peers are all peers, and no ports all traffic.
        let peers = if peers.is_empty() { vec![Entity::ANY] } else { peers };
        let traffic = if traffic.is_empty() { vec![Traffic::ANY] } else { traffic };
        let (sources, destinations) = match direction {
            Direction::Ingress => (peers, vec![Entity::ANY]),
            Direction::Egress => (vec![Entity::ANY], peers),
        };
        rules.push(Rule {
            index,
            name: None,
            action: Action::Allow,
            family: None,
            sources,
            destinations,
            traffic,
        });
    }
    Ok(rules)
}

//! ClusterNetworkPolicies of sig-network, `policy.networking.k8s.io/v1beta1` and `v1alpha2`, which have the same fields: rules of
//! the cluster's administrator before and after all NetworkPolicies, with the API server's checks. An unknown field is refused.
//!
//! A peer or a protocol of an unknown kind, perhaps of a later version, closes its rule, as the API demands: a rule
//! that accepts matches nothing; one that denies or passes denies everything. The same holds for domain names where
//! NPEP-133 does not want them: in rules that do not accept, and in the tier Baseline.

mod parts;
mod peers;
mod protocols;
mod subject;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::Value;

use self::{
    parts::{at_most, known, some},
    peers::Place,
};
use crate::{
    field::{Field, shown},
    v1,
};
use ipamd_model::policy::{
    ADMIN_TIER, Action, BASELINE_TIER, Direction, Entity, Order, Policy, Rule, Traffic,
};
use ipamd_model::{
    field::FieldError,
    host::HostLayer,
    objects::{Kind, Object, Origin},
};

/// Most characters of a rule's name.
const LONGEST_NAME: usize = 100;
/// The last priority; the first is 0.
const LAST_PRIORITY: i32 = 1000;

/// Reads a ClusterNetworkPolicy.
pub fn read(document: &Value, origin: Option<Origin>) -> Result<Object, FieldError> {
    let root = Field::root(document);
    root.only(&["apiVersion", "kind", "metadata", "spec", "status"])?;
    let id = v1::id(Kind::ClusterNetworkPolicy, &root)?;
    let spec = root.need("spec")?;
    spec.only(&["tier", "priority", "subject", "ingress", "egress"])?;
    let tier = tier(&spec.need("tier")?)?;
    let order = Order(Some(priority(&spec.need("priority")?)?));
    let subject = subject::read(&spec.need("subject")?)?;
    let mut closed = Vec::new();
    let ingress = rules(&spec, Direction::Ingress, tier, &mut closed)?;
    let egress = rules(&spec, Direction::Egress, tier, &mut closed)?;
    let tier = tier.into();
    let denied = v1::denied_by_policy(&root, &mut closed);
    let layer = HostLayer::Local;
    Ok(Object::Policy(Arc::new(Policy {
        id,
        origin,
        tier,
        order,
        subject,
        layer,
        ingress,
        egress,
        denied,
        closed,
    })))
}

fn tier(field: &Field<'_>) -> Result<&'static str, FieldError> {
    match field.text()? {
        "Admin" => Ok(ADMIN_TIER),
        "Baseline" => Ok(BASELINE_TIER),
        other => Err(field.refuse(format!("{} is neither Admin nor Baseline", shown(other)))),
    }
}

fn priority(field: &Field<'_>) -> Result<f64, FieldError> {
    let priority = i32::try_from(field.integer()?).ok().filter(|it| (0..=LAST_PRIORITY).contains(it));
    priority.map(f64::from).ok_or_else(|| field.is_not(&format!("a priority, from 0 to {LAST_PRIORITY}")))
}

/// The rules for a direction; a policy without any says nothing of it.
fn rules(
    spec: &Field<'_>,
    direction: Direction,
    tier: &str,
    closed: &mut Vec<FieldError>,
) -> Result<Option<Vec<Rule>>, FieldError> {
    let list = match direction {
        Direction::Ingress => spec.get("ingress")?,
        Direction::Egress => spec.get("egress")?,
    };
    let Some(list) = list else { return Ok(None) };
    let rules = at_most(
        &list,
        list.items()?.enumerate().map(|(index, it)| rule(&it, index, (direction, tier), closed)),
    )?;
    Ok(Some(rules).filter(|it| !it.is_empty()))
}

fn rule(
    field: &Field<'_>,
    index: usize,
    (direction, tier): (Direction, &str),
    closed: &mut Vec<FieldError>,
) -> Result<Rule, FieldError> {
    let peers_field = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    field.only(&["name", "action", peers_field, "protocols"])?;
    let name = field.get("name")?.map(|it| name(&it)).transpose()?.filter(|it| !it.is_empty());
    let action = action(&field.need("action")?)?;
    let list = field.need(peers_field)?;
    let place = Place { direction, action, tier };
    let peers = known(some(&list, list.items()?.map(|it| peers::read(&it, place)))?);
    let traffic = match field.get("protocols")? {
        Some(list) => {
            let traffic = known(some(&list, list.items()?.map(|it| protocols::read(&it)))?);
            if let (Ok(traffic), Ok(peers)) = (&traffic, &peers) {
                check_named_ports(&list, traffic, peers)?;
            }
            traffic
        }
        None => Ok(vec![Traffic::ANY]),
    };
    let (action, peers, traffic) = match (peers, traffic) {
        (Ok(peers), Ok(traffic)) => (action, peers, traffic),
        (Err(FieldError { field, reason }), _) | (_, Err(FieldError { field, reason })) => {
            let (peers, becomes) = match action {
                Action::Allow => (Vec::new(), "the rule accepts nothing"),
                _ => (vec![Entity::ANY], "the rule denies everything"),
            };
            closed.push(FieldError { field, reason: format!("{reason}, so {becomes}") });
            (if action == Action::Allow { action } else { Action::Deny }, peers, vec![Traffic::ANY])
        }
    };
    let (sources, destinations) = match direction {
        Direction::Ingress => (peers, vec![Entity::ANY]),
        Direction::Egress => (vec![Entity::ANY], peers),
    };
    Ok(Rule { index, name, action, family: None, sources, destinations, traffic })
}

fn name(field: &Field<'_>) -> Result<String, FieldError> {
    let name = field.text()?;
    if name.chars().count() > LONGEST_NAME {
        return Err(field.refuse(format!("a name has at most {LONGEST_NAME} characters")));
    }
    Ok(name.into())
}

fn action(field: &Field<'_>) -> Result<Action, FieldError> {
    match field.text()? {
        "Accept" => Ok(Action::Allow),
        "Deny" => Ok(Action::Deny),
        "Pass" => Ok(Action::Pass),
        other => Err(field.refuse(format!("{} is not one of Accept, Deny and Pass", shown(other)))),
    }
}

/// Ports have names at pods only.
fn check_named_ports(list: &Field<'_>, traffic: &[Traffic], peers: &[Entity]) -> Result<(), FieldError> {
    let named =
        traffic.iter().position(|it| it.destination_ports.as_ref().is_some_and(|it| !it.names.is_empty()));
    match named {
        Some(at) if peers.iter().any(|peer| !peers::is_of_pods(peer)) => Err(FieldError {
            field: format!("{}[{at}].destinationNamedPort", list.path()),
            reason: "is not possible for nodes, networks and DNS names, whose ports have no names".into(),
        }),
        _ => Ok(()),
    }
}

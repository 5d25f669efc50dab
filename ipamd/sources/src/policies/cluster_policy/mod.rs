//! ClusterNetworkPolicies of sig-network, `policy.networking.k8s.io/v1alpha2`: rules of the cluster's administrator
//! before and after all NetworkPolicies, with the API server's checks. An unknown field is refused.
//!
//! A peer or a protocol of an unknown kind, perhaps of a later version, closes its rule, as the API demands: a rule
//! that accepts matches nothing; one that denies or passes denies everything. The same holds for domain names, which
//! Cambric does not match.

mod peers;
mod protocols;
mod subject;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::Value;

use crate::{
    field::{Field, plain, shown},
    v1,
};
use ipamd_model::policy::{
    ADMIN_TIER, Action, BASELINE_TIER, Direction, Entity, Order, Policy, Rule, Traffic,
};
use ipamd_model::{
    field::FieldError,
    objects::{Kind, Object, Origin},
};

/// Most entries of each list.
const MOST: usize = 25;
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
    let tier = tier(&spec.need("tier")?)?.into();
    let order = Order(Some(priority(&spec.need("priority")?)?));
    let subject = subject::read(&spec.need("subject")?)?;
    let mut closed = Vec::new();
    let ingress = rules(&spec, Direction::Ingress, &mut closed)?;
    let egress = rules(&spec, Direction::Egress, &mut closed)?;
    Ok(Object::Policy(Arc::new(Policy { id, origin, tier, order, subject, ingress, egress, closed })))
}

/// A part of a rule.
enum Part<T> {
    Known(T),
    /// It is of a kind that is not known: which field, and what it is.
    Unknown(FieldError),
}

/// The parts of a list if all of them are known; else the first that is not.
fn known<T>(parts: Vec<Part<T>>) -> Result<Vec<T>, FieldError> {
    let each = parts.into_iter().map(|part| match part {
        Part::Known(part) => Ok(part),
        Part::Unknown(error) => Err(error),
    });
    each.collect()
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
    closed: &mut Vec<FieldError>,
) -> Result<Option<Vec<Rule>>, FieldError> {
    let list = match direction {
        Direction::Ingress => spec.get("ingress")?,
        Direction::Egress => spec.get("egress")?,
    };
    let Some(list) = list else { return Ok(None) };
    let rules =
        at_most(&list, list.items()?.enumerate().map(|(index, it)| rule(&it, index, direction, closed)))?;
    Ok(Some(rules).filter(|it| !it.is_empty()))
}

fn rule(
    field: &Field<'_>,
    index: usize,
    direction: Direction,
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
    let peers = known(some(&list, list.items()?.map(|it| peers::read(&it, direction)))?);
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

/// A part that has none of the fields that are known: it is empty, for the API server drops what it does not know, or has
/// another one.
fn unknown(field: &Field<'_>, what: &str, kinds: &[&str]) -> Option<FieldError> {
    let fields = field.value().as_object()?;
    if fields.keys().any(|key| kinds.contains(&key.as_str())) {
        return None;
    }
    let field =
        fields.keys().next().map_or_else(|| field.path(), |key| format!("{}.{}", field.path(), plain(key)));
    Some(FieldError { field, reason: format!("is {what} of a kind that this version does not know") })
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
            reason: "is not possible for nodes and networks, whose ports have no names".into(),
        }),
        _ => Ok(()),
    }
}

/// The entries of a list, of which there must be at least one.
fn some<T>(
    list: &Field<'_>,
    items: impl Iterator<Item = Result<T, FieldError>>,
) -> Result<Vec<T>, FieldError> {
    let items = at_most(list, items)?;
    if items.is_empty() { Err(list.refuse("there is none")) } else { Ok(items) }
}

/// The entries of a list.
fn at_most<T>(
    list: &Field<'_>,
    items: impl Iterator<Item = Result<T, FieldError>>,
) -> Result<Vec<T>, FieldError> {
    let items: Vec<T> = items.take(MOST + 1).collect::<Result<_, _>>()?;
    if items.len() > MOST {
        return Err(list.refuse(format!("there are more than {MOST}")));
    }
    Ok(items)
}

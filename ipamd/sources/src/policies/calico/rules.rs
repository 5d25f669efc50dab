//! The rules of a policy.

use std::sync::Arc;

use super::{
    entity::{self, Place},
    nets,
    services::{self, Side},
    traffic,
};
use crate::field::{Field, shown};
use ipamd_model::{
    field::FieldError,
    policy::{Action, Direction, Entity, Family, Rule, Traffic, protocol},
    service_name::ServiceName,
};

/// The fields of a rule.
const FIELDS: [&str; 10] = [
    "action",
    "ipVersion",
    "protocol",
    "notProtocol",
    "icmp",
    "notICMP",
    "source",
    "destination",
    "http",
    "metadata",
];

/// Reads the rules for a direction of a policy in a namespace, or of one that is in none.
pub(super) fn read(
    spec: &Field<'_>,
    direction: Direction,
    namespace: Option<&Arc<str>>,
) -> Result<Vec<Rule>, FieldError> {
    let list = match direction {
        Direction::Ingress => spec.get("ingress")?,
        Direction::Egress => spec.get("egress")?,
    };
    let Some(list) = list else { return Ok(Vec::new()) };
    list.items()?.enumerate().map(|(index, it)| rule(&it, index, direction, namespace)).collect()
}

fn rule(
    field: &Field<'_>,
    index: usize,
    direction: Direction,
    namespace: Option<&Arc<str>>,
) -> Result<Rule, FieldError> {
    field.only(&FIELDS)?;
    if let Some(http) = field.get("http")? {
        return Err(http.refuse("Cambric does not look into HTTP"));
    }
    let action = action(&field.need("action")?)?;
    let version = ip_version(field)?;
    let mut traffic = traffic::read(field)?;
    let (source, _) = side(field, Side::Source, direction, Place::Other, namespace)?;
    let place = match (direction, action) {
        (Direction::Egress, Action::Allow) => Place::AllowedDestination,
        _ => Place::Other,
    };
    let (destination, service) = side(field, Side::Destination, direction, place, namespace)?;
    if let Some(service) = service {
        traffic.destination_ports = Some(service.ports());
    }
    check_icmp(field, version, &traffic)?;
    let of_nets = check_nets(field, version, [("source", &source), ("destination", &destination)])?;
    // What is not in a network of one family is not all of the other: of that the rule says nothing, as with Calico.
    let family =
        version.or(of_nets.filter(|_| !source.not_nets.is_empty() || !destination.not_nets.is_empty()));
    Ok(Rule {
        index,
        name: None,
        action,
        family,
        sources: vec![source],
        destinations: vec![destination],
        traffic: vec![traffic],
    })
}

fn action(field: &Field<'_>) -> Result<Action, FieldError> {
    match field.text()? {
        "Allow" => Ok(Action::Allow),
        "Deny" => Ok(Action::Deny),
        "Log" => Ok(Action::Log),
        "Pass" => Ok(Action::Pass),
        other => Err(field.refuse(format!("{} is not one of Allow, Deny, Log and Pass", shown(other)))),
    }
}

fn ip_version(rule: &Field<'_>) -> Result<Option<Family>, FieldError> {
    let Some(version) = rule.get("ipVersion")? else { return Ok(None) };
    match version.value().as_i64() {
        Some(4) => Ok(Some(Family::V4)),
        Some(6) => Ok(Some(Family::V6)),
        _ => Err(version.is_not("4 or 6")),
    }
}

/// A side of a rule, and the Service that it means if it means one.
fn side(
    rule: &Field<'_>,
    side: Side,
    direction: Direction,
    place: Place,
    namespace: Option<&Arc<str>>,
) -> Result<(Entity, Option<ServiceName>), FieldError> {
    let Some(field) = rule.get(side.key())? else { return Ok((Entity::ANY, None)) };
    let entity = entity::read(&field, place, namespace)?;
    let service = services::read(&field, side, direction, namespace)?;
    Ok((service.as_ref().map_or(entity, ServiceName::endpoints), service))
}

/// ICMP is of IPv4 and ICMPv6 of IPv6.
fn check_icmp(rule: &Field<'_>, family: Option<Family>, traffic: &Traffic) -> Result<(), FieldError> {
    let wrong = match family {
        None => return Ok(()),
        Some(Family::V4) => (protocol::ICMPV6, "ICMPv6 needs 6"),
        Some(Family::V6) => (protocol::ICMP, "ICMP needs 4"),
    };
    let (number, reason) = wrong;
    if traffic.protocol == Some(number) || traffic.not_protocol == Some(number) {
        return Err(FieldError { field: format!("{}.ipVersion", rule.path()), reason: reason.into() });
    }
    Ok(())
}

/// All networks of a rule are of one family, that of its `ipVersion` if it has one. Returns it.
fn check_nets(
    rule: &Field<'_>,
    version: Option<Family>,
    sides: [(&str, &Entity); 2],
) -> Result<Option<Family>, FieldError> {
    let mut family = version;
    for (side, entity) in sides {
        for (key, nets) in [("nets", entity.nets.as_deref()), ("notNets", Some(&*entity.not_nets))] {
            for (at, net) in nets.unwrap_or_default().iter().enumerate() {
                if *family.get_or_insert(nets::family(net)) == nets::family(net) {
                    continue;
                }
                let reason = if version.is_some() {
                    format!("{net} is not of the family that ipVersion names")
                } else {
                    format!("{net} is of another family than the networks before it in the rule")
                };
                return Err(FieldError { field: format!("{}.{side}.{key}[{at}]", rule.path()), reason });
            }
        }
    }
    Ok(family)
}

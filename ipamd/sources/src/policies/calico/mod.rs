//! Calico's policies in Calico's own YAML, `projectcalico.org/v3`: NetworkPolicy, GlobalNetworkPolicy, NetworkSet,
//! GlobalNetworkSet and Tier, with Calico's defaults and checks. What Calico can do and Cambric cannot (names of the
//! DNS, Services, HTTP, policy before the translation of addresses or without connection tracking) is refused by the
//! name of its field, and so is a field that Calico does not have: a policy is never half applied.
//!
//! One thing is accepted that Calico refuses: ports in a rule without `protocol`. Such a rule is for all protocols that
//! have ports (TCP, UDP, SCTP, UDPLite) and for no other.

mod entity;
mod nets;
mod rules;
mod selectors;
mod sets;
mod spec;
#[cfg(test)]
mod tests;
mod tier;
mod traffic;

use serde_json::Value;

use crate::field::{Field, shown};
use ipamd_model::{
    field::FieldError,
    objects::{Kind, Object, Origin},
};

/// Longest name of a tier.
const LONGEST_TIER: usize = 63;

/// Reads an object of one of Calico's kinds.
pub fn read(kind: Kind, document: &Value, origin: Option<Origin>) -> Result<Object, FieldError> {
    let root = Field::root(document);
    root.only(&["apiVersion", "kind", "metadata", "spec", "status"])?;
    match kind {
        Kind::CalicoNetworkPolicy | Kind::GlobalNetworkPolicy => spec::read(kind, &root, origin),
        Kind::NetworkSet | Kind::GlobalNetworkSet => sets::read(kind, &root),
        Kind::Tier => tier::read(&root),
        other => Err(root.refuse(format!("{} is not one of Calico's kinds", other.name()))),
    }
}

/// A number that says a place in an order; `None` where there is none.
fn order(spec: &Field<'_>) -> Result<Option<f64>, FieldError> {
    let Some(order) = spec.get("order")? else { return Ok(None) };
    let number = order.value().as_f64().filter(|it| it.is_finite());
    // Minus zero is zero.
    number.map(|it| Some(it + 0.0)).ok_or_else(|| order.is_not("a number"))
}

/// Checks the name of a tier: Calico's policies have it before a dot in their names, so that there is none in it.
fn check_tier_name(name: &str) -> Result<(), String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_label =
        name.chars().all(|c| is_part(c) || c == '-') && name.starts_with(is_part) && name.ends_with(is_part);
    if is_label && name.len() <= LONGEST_TIER {
        return Ok(());
    }
    Err(format!(
        "{} cannot be the name of a tier: small letters, digits and '-' between them, {LONGEST_TIER} at most",
        shown(name)
    ))
}

/// A text that may be left out; an empty one is as good as none.
fn optional_text<'a>(field: &'a Field<'a>, key: &'a str) -> Result<Option<&'a str>, FieldError> {
    Ok(match field.get(key)? {
        Some(it) => Some(it.text()?).filter(|text| !text.is_empty()),
        None => None,
    })
}

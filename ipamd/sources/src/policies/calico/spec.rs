//! NetworkPolicy and GlobalNetworkPolicy: selector, order, tier and directions.

use std::sync::Arc;

use super::{order::order, rules, selectors, tier};
use crate::{
    field::{Field, shown},
    v1,
};
use ipamd_model::{
    field::FieldError,
    host::HostLayer,
    objects::{Kind, ObjectId, Origin},
    policy::{DEFAULT_TIER, Dialect, Direction, ItemKinds, ItemSelector, Order, Policy, Rule, Scope},
    selector::Selector,
};

/// The fields of both kinds.
const FIELDS: [&str; 8] =
    ["tier", "order", "selector", "serviceAccountSelector", "types", "ingress", "egress", "performanceHints"];
/// The fields that only a GlobalNetworkPolicy has.
const GLOBAL_FIELDS: [&str; 4] = ["namespaceSelector", "doNotTrack", "preDNAT", "applyOnForward"];

/// The field that says what a staged policy stands for.
pub(super) const ACTION: &str = "stagedAction";

/// Reads a NetworkPolicy or a GlobalNetworkPolicy, or one of those kinds that is staged.
pub(super) fn read(kind: Kind, root: &Field<'_>, origin: Option<Origin>) -> Result<Policy, FieldError> {
    let id = v1::id(kind, root)?;
    let spec = root.need("spec")?;
    let (is_global, is_staged) = (id.namespace.is_none(), kind.is_staged());
    let known =
        [&FIELDS[..], if is_global { &GLOBAL_FIELDS } else { &[] }, if is_staged { &[ACTION] } else { &[] }];
    spec.only(&known.concat())?;
    let layer = if is_global { layer(&spec)? } else { HostLayer::Local };
    check_hints(&spec)?;
    let subject = subject(&spec, &id)?;
    let tier = spec.optional_text("tier")?.unwrap_or(DEFAULT_TIER);
    tier::check_name(tier).map_err(|reason| FieldError { field: "spec.tier".into(), reason })?;
    let tier = tier.into();
    let order = Order(order(&spec)?);
    // Rules of a direction that the policy turns out not to speak of are checked all the same.
    let ingress = rules::read(&spec, Direction::Ingress, id.namespace.as_ref())?;
    let egress = rules::read(&spec, Direction::Egress, id.namespace.as_ref())?;
    let (of_ingress, of_egress) = directions(&spec, &ingress, &egress)?;
    if layer == HostLayer::PreDnat && of_egress {
        return Err(FieldError {
            field: "spec.egress".into(),
            reason: "a preDNAT policy is about what arrives only: remove it, and Egress from types".into(),
        });
    }
    let (ingress, egress) = (of_ingress.then_some(ingress), of_egress.then_some(egress));
    let mut closed = Vec::new();
    let denied = v1::denied_by_policy(root, &mut closed);
    Ok(Policy { id, origin, tier, order, subject, layer, ingress, egress, denied, closed })
}

/// What a GlobalNetworkPolicy is asked about at host endpoints. The checks are Calico's.
fn layer(spec: &Field<'_>) -> Result<HostLayer, FieldError> {
    let is_set = |key| spec.get(key)?.map_or(Ok(false), |field| field.truth());
    let (forwarded, pre_dnat, untracked) =
        (is_set("applyOnForward")?, is_set("preDNAT")?, is_set("doNotTrack")?);
    let wrong =
        |key: &str, reason: &str| FieldError { field: format!("spec.{key}"), reason: reason.to_owned() };
    match (pre_dnat, untracked) {
        (true, true) => Err(wrong("preDNAT", "a policy cannot have both preDNAT and doNotTrack")),
        (true, _) | (_, true) if !forwarded => Err(wrong(
            "applyOnForward",
            "must be true where preDNAT or doNotTrack is, because these are about all packets",
        )),
        (true, _) => Ok(HostLayer::PreDnat),
        (_, true) => Ok(HostLayer::Untracked),
        _ if forwarded => Ok(HostLayer::Forwarded),
        _ => Ok(HostLayer::Local),
    }
}

/// Hints are about speed alone.
fn check_hints(spec: &Field<'_>) -> Result<(), FieldError> {
    if let Some(hints) = spec.get("performanceHints")? {
        for hint in hints.items()? {
            hint.text()?;
        }
    }
    Ok(())
}

/// The pods that the policy is for: those of its namespace, or of all or some namespaces.
fn subject(spec: &Field<'_>, id: &ObjectId) -> Result<ItemSelector, FieldError> {
    let scope = match &id.namespace {
        Some(namespace) => Scope::Namespace(Arc::clone(namespace)),
        None => selectors::labels(spec, "namespaceSelector")?.map_or(Scope::Any, Scope::Matching),
    };
    Ok(ItemSelector {
        kinds: if id.namespace.is_some() { ItemKinds::Pods } else { ItemKinds::PodsAndHosts },
        scope,
        labels: selectors::labels(spec, "selector")?.unwrap_or(Selector::All),
        dialect: Dialect::Calico,
        service_account_names: None,
        service_accounts: selectors::labels(spec, "serviceAccountSelector")?,
    })
}

/// Whether the policy speaks of ingress and of egress. Without `types` it speaks of what it has rules for, and if it
/// has none, of ingress.
fn directions(spec: &Field<'_>, ingress: &[Rule], egress: &[Rule]) -> Result<(bool, bool), FieldError> {
    let types = match spec.get("types")? {
        Some(types) => named(&types)?,
        None => Vec::new(),
    };
    Ok(match (types.is_empty(), ingress.is_empty(), egress.is_empty()) {
        (false, ..) => (types.contains(&Direction::Ingress), types.contains(&Direction::Egress)),
        (true, no_ingress, no_egress) => (no_egress || !no_ingress, !no_egress),
    })
}

fn named(types: &Field<'_>) -> Result<Vec<Direction>, FieldError> {
    let mut named = Vec::new();
    for item in types.items()? {
        let direction = match item.text()? {
            "Ingress" => Direction::Ingress,
            "Egress" => Direction::Egress,
            other => return Err(item.refuse(format!("{} is neither Ingress nor Egress", shown(other)))),
        };
        if named.contains(&direction) {
            return Err(item.refuse("is there twice"));
        }
        named.push(direction);
    }
    Ok(named)
}

mod entities;
mod examples;
mod fuzz;
mod policies;
mod sets;
mod staged;
mod traffic;

use std::sync::Arc;

use serde_json::json;

use super::*;
use ipamd_model::{
    policy::{Dialect, Entity, ItemKinds, ItemSelector, Policy, Rule, Scope},
    selector::Selector,
    service_name::ServiceName,
};

/// A document with the name `p`, in the namespace `ns` if its kind has one.
fn document(kind: Kind, spec: &Value) -> Value {
    let name = kind.name().trim_end_matches(".projectcalico.org");
    let mut document = json!({
        "apiVersion": "projectcalico.org/v3", "kind": name,
        "metadata": {"name": "p", "annotations": {"a": "b"}, "labels": {"l": "m"}},
        "spec": spec, "status": {"whatever": 1},
    });
    if matches!(kind, Kind::CalicoNetworkPolicy | Kind::NetworkSet) {
        document["metadata"]["namespace"] = json!("ns");
    }
    document
}

fn policy(kind: Kind, spec: &Value) -> Result<Policy, FieldError> {
    match read(kind, &document(kind, spec), None)? {
        Object::Policy(policy) => Ok(Arc::unwrap_or_clone(policy)),
        other => panic!("{other:?}"),
    }
}

/// A NetworkPolicy.
fn namespaced(spec: &Value) -> Result<Policy, FieldError> {
    policy(Kind::CalicoNetworkPolicy, spec)
}

/// A GlobalNetworkPolicy.
fn global(spec: &Value) -> Result<Policy, FieldError> {
    policy(Kind::GlobalNetworkPolicy, spec)
}

/// An ingress rule of a GlobalNetworkPolicy.
fn rule(rule: &Value) -> Result<Rule, FieldError> {
    Ok(global(&json!({"ingress": [rule]}))?.ingress.unwrap().remove(0))
}

/// DNS names.
fn names(names: &[&str]) -> Entity {
    Entity { domains: names.iter().map(|it| it.parse().unwrap()).collect(), ..Entity::ANY }
}

fn selector(text: &str) -> Selector {
    text.parse().unwrap()
}

/// What a source or a destination selects.
fn found(scope: Scope, labels: &str) -> ItemSelector {
    ItemSelector {
        kinds: ItemKinds::PodsAndNetworkSets,
        scope,
        labels: selector(labels),
        dialect: Dialect::Calico,
        service_account_names: None,
        service_accounts: None,
    }
}

fn selected(scope: Scope, labels: &str) -> Entity {
    Entity { items: Some(found(scope, labels)), ..Entity::ANY }
}

/// What a policy is for.
fn pods(scope: Scope, labels: &str) -> ItemSelector {
    let kinds = if matches!(scope, Scope::Namespace(_)) { ItemKinds::Pods } else { ItemKinds::PodsAndHosts };
    ItemSelector { kinds, ..found(scope, labels) }
}

fn within(namespace: &str) -> Scope {
    Scope::Namespace(namespace.into())
}

fn matching(labels: &str) -> Scope {
    Scope::Matching(selector(labels))
}

/// What is said of a policy of a kind that cannot be understood.
fn said(kind: Kind, spec: &Value) -> String {
    read(kind, &document(kind, spec), None).unwrap_err().to_string()
}

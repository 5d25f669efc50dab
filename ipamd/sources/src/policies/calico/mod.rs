//! Calico's policies in Calico's own YAML, `projectcalico.org/v3`: NetworkPolicy, GlobalNetworkPolicy, NetworkSet,
//! GlobalNetworkSet, HostEndpoint and Tier, and the staged kinds, with Calico's defaults and checks. What Calico can do and
//! Cambric cannot (HTTP) is refused by the name of its field, and so is a field that Calico does not have: a policy is never
//! half applied.
//!
//! One thing is accepted that Calico refuses: ports in a rule without `protocol`. Such a rule is for all protocols that
//! have ports (TCP, UDP, SCTP, UDPLite) and for no other.

mod entity;
mod host_endpoint;
mod nets;
mod order;
mod rules;
mod selectors;
mod services;
mod sets;
mod spec;
mod staged;
#[cfg(test)]
mod tests;
mod tier;
mod traffic;

use std::sync::Arc;

use serde_json::Value;

use crate::field::Field;
use ipamd_model::{
    field::FieldError,
    objects::{Kind, Object, Origin},
};

/// Reads an object of one of Calico's kinds.
pub fn read(kind: Kind, document: &Value, origin: Option<Origin>) -> Result<Object, FieldError> {
    let root = Field::root(document);
    root.only(&["apiVersion", "kind", "metadata", "spec", "status"])?;
    match kind {
        Kind::CalicoNetworkPolicy | Kind::GlobalNetworkPolicy => {
            spec::read(kind, &root, origin).map(|policy| Object::Policy(Arc::new(policy)))
        }
        Kind::NetworkSet | Kind::GlobalNetworkSet => sets::read(kind, &root),
        Kind::HostEndpoint => host_endpoint::read(&root),
        Kind::Tier => tier::read(&root),
        kind if kind.is_staged() => staged::read(kind, &root, origin),
        other => Err(root.refuse(format!("{} is not one of Calico's kinds", other.name()))),
    }
}

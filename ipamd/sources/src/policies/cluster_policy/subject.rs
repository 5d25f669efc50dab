//! Pods by their namespaces and labels: the subject of a policy, and the peers that are pods.

use crate::{
    field::Field,
    policies::kubernetes::{labels, peers::pods},
};
use ipamd_model::{
    field::FieldError,
    policy::{ItemSelector, Scope},
    selector::Selector,
};

/// Reads a subject.
pub(super) fn read(field: &Field<'_>) -> Result<ItemSelector, FieldError> {
    field.only(&["namespaces", "pods"])?;
    match (field.get("namespaces")?, field.get("pods")?) {
        (Some(namespaces), None) => in_namespaces(&namespaces),
        (None, Some(pods)) => in_namespaces_by_labels(&pods),
        (Some(_), Some(pods)) => Err(pods.refuse("is not possible together with namespaces")),
        (None, None) => Err(field.refuse("says of nobody: it has neither namespaces nor pods")),
    }
}

/// All pods of some namespaces.
pub(super) fn in_namespaces(namespaces: &Field<'_>) -> Result<ItemSelector, FieldError> {
    Ok(pods(Scope::Matching(labels::selector(namespaces)?), Selector::All))
}

/// Some pods of some namespaces; of all, if these are not said.
pub(super) fn in_namespaces_by_labels(field: &Field<'_>) -> Result<ItemSelector, FieldError> {
    field.only(&["namespaceSelector", "podSelector"])?;
    let namespaces = match field.get("namespaceSelector")? {
        Some(selector) => labels::selector(&selector)?,
        None => Selector::All,
    };
    Ok(pods(Scope::Matching(namespaces), labels::selector(&field.need("podSelector")?)?))
}

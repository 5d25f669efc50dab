//! Pods by their namespaces and labels: the subject of a policy, and the peers that are pods.

use crate::{
    place::Place,
    policies::kubernetes::{labels, pods},
};
use ipamd_model::{
    field::FieldError,
    policy::{ItemSelector, Scope},
    selector::Selector,
};

/// Reads a subject.
pub(super) fn read(place: &Place<'_>) -> Result<ItemSelector, FieldError> {
    place.only(&["namespaces", "pods"])?;
    match (place.get("namespaces")?, place.get("pods")?) {
        (Some(namespaces), None) => in_namespaces(&namespaces),
        (None, Some(pods)) => in_namespaces_by_labels(&pods),
        (Some(_), Some(pods)) => Err(pods.refuse("is not possible together with namespaces")),
        (None, None) => Err(place.refuse("says of nobody: it has neither namespaces nor pods")),
    }
}

/// All pods of some namespaces.
pub(super) fn in_namespaces(namespaces: &Place<'_>) -> Result<ItemSelector, FieldError> {
    Ok(pods(Scope::Matching(labels::selector(namespaces)?), Selector::All))
}

/// Some pods of some namespaces; of all, if these are not said.
pub(super) fn in_namespaces_by_labels(place: &Place<'_>) -> Result<ItemSelector, FieldError> {
    place.only(&["namespaceSelector", "podSelector"])?;
    let namespaces = match place.get("namespaceSelector")? {
        Some(selector) => labels::selector(&selector)?,
        None => Selector::All,
    };
    Ok(pods(Scope::Matching(namespaces), labels::selector(&place.need("podSelector")?)?))
}

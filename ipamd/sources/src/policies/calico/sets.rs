//! NetworkSet and GlobalNetworkSet: networks and DNS names with labels that selectors match.

use super::nets;
use crate::{field::Field, policies::domains, v1};
use ipamd_model::{
    field::FieldError,
    objects::{Kind, NetworkSet, Object},
};

/// The label that says which namespace something is in; it is not for people to set.
const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";

/// Reads a NetworkSet or a GlobalNetworkSet.
pub(super) fn read(kind: Kind, root: &Field<'_>) -> Result<Object, FieldError> {
    let id = v1::id(kind, root)?;
    let labels = v1::labels(root)?.unwrap_or_default();
    if labels.get(NAMESPACE_LABEL).is_some() {
        return Err(FieldError {
            field: format!("metadata.labels.{NAMESPACE_LABEL}"),
            reason: "is set by the namespace, not by hand".into(),
        });
    }
    let (mut networks, mut names) = (Vec::new(), Vec::new());
    if let Some(spec) = root.get("spec")? {
        spec.only(&["nets", "allowedEgressDomains"])?;
        networks = nets::read(&spec, "nets")?;
        names = domains::read(&spec, "allowedEgressDomains")?;
    }
    Ok(Object::NetworkSet(NetworkSet {
        namespace: id.namespace,
        name: id.name,
        labels,
        nets: networks,
        domains: names,
    }))
}

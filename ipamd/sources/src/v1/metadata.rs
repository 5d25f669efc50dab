//! Metadata that every object has: name, namespace, labels.

use crate::field::{Field, shown};
use ipamd_model::{
    field::FieldError,
    labels::Labels,
    objects::{Kind, ObjectId},
    policy::Denied,
};

/// Longest name, and longest label value; the API server's own bounds are not above these.
const LONGEST: usize = 253;
/// Most labels of one object.
const MOST_LABELS: usize = 4096;
/// The namespace of what should have one and names none.
const DEFAULT_NAMESPACE: &str = "default";

/// The id of an object of a kind.
pub fn id(kind: Kind, root: &Field<'_>) -> Result<ObjectId, FieldError> {
    let metadata = root.need("metadata")?;
    let name = name(&metadata.need("name")?)?;
    if !is_namespaced(kind) {
        // Whoever writes one of these into a namespace believes that it ends there.
        if (kind.is_policy() || matches!(kind, Kind::GlobalNetworkSet | Kind::HostEndpoint | Kind::Tier))
            && let Some(namespace) = metadata.get("namespace")?
            && namespace.value() != ""
        {
            return Err(
                namespace.refuse(format!("a {} is of the whole cluster, and in no namespace", kind.name()))
            );
        }
        return Ok(ObjectId::global(kind, name));
    }
    Ok(match metadata.get("namespace")? {
        Some(namespace) => ObjectId::namespaced(kind, self::name(&namespace)?, name),
        None => ObjectId::namespaced(kind, DEFAULT_NAMESPACE, name),
    })
}

/// `metadata.labels`; `None` where an object does not have the field.
pub fn labels(root: &Field<'_>) -> Result<Option<Labels>, FieldError> {
    let metadata = root.need("metadata")?;
    let Some(labels) = metadata.get("labels")? else { return Ok(None) };
    let mut read = Vec::new();
    for (key, value) in labels.each_field()? {
        let text = value.text()?;
        if key.is_empty() || key.len() > 2 * LONGEST || key.chars().any(char::is_control) {
            return Err(labels.refuse(format!("{} cannot be the key of a label", shown(key))));
        }
        if text.len() > LONGEST || text.chars().any(char::is_control) {
            return Err(value.refuse(format!("{} cannot be the value of a label", shown(text))));
        }
        if read.len() == MOST_LABELS {
            return Err(labels.refuse(format!("there are more than {MOST_LABELS} labels")));
        }
        read.push((key, text));
    }
    Ok(Some(read.into_iter().collect()))
}

/// What becomes of packets that are denied, by an annotation of a policy or a namespace ([`Denied::ANNOTATION`]).
///
/// # Errors
/// Why the annotation says nothing. The object counts all the same: the API server checks no annotation, and an object that were
/// refused for one would deny nothing.
pub fn denied(root: &Field<'_>) -> Result<Option<Denied>, FieldError> {
    let metadata = root.need("metadata")?;
    let Some(annotations) = metadata.get("annotations")? else { return Ok(None) };
    let Some(denied) = annotations.get(Denied::ANNOTATION)? else { return Ok(None) };
    let text = denied.text()?;
    let parsed = text.parse().map(Some);
    parsed.map_err(|wrong: String| denied.refuse(format!("{} is {wrong}, so it says nothing", shown(text))))
}

/// The same of a policy. What is wrong with the annotation is added to what else of the policy is not understood.
pub fn denied_by_policy(root: &Field<'_>, not_understood: &mut Vec<FieldError>) -> Option<Denied> {
    denied(root).unwrap_or_else(|wrong| {
        not_understood.push(wrong);
        None
    })
}

/// A name, as loosely as it may be told from other things.
fn name<'a>(field: &Field<'a>) -> Result<&'a str, FieldError> {
    let text = field.text()?;
    let wrong = match text {
        "" => Some("a name must not be empty".to_owned()),
        _ if text.len() > LONGEST => Some(format!("a name has at most {LONGEST} characters")),
        _ if text.contains('/') || text.chars().any(|c| c.is_control() || c.is_whitespace()) => {
            Some(format!("{} cannot be a name", shown(text)))
        }
        _ => None,
    };
    wrong.map_or(Ok(text), |wrong| Err(field.refuse(wrong)))
}

fn is_namespaced(kind: Kind) -> bool {
    match kind {
        Kind::Pod
        | Kind::ServiceAccount
        | Kind::NetworkSet
        | Kind::NetworkPolicy
        | Kind::CalicoNetworkPolicy
        | Kind::StagedNetworkPolicy
        | Kind::StagedKubernetesNetworkPolicy
        | Kind::Service
        | Kind::EndpointSlice => true,
        Kind::Namespace
        | Kind::Node
        | Kind::GlobalNetworkSet
        | Kind::HostEndpoint
        | Kind::Tier
        | Kind::GlobalNetworkPolicy
        | Kind::StagedGlobalNetworkPolicy
        | Kind::ClusterNetworkPolicy => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn names_and_namespaces_are_checked_and_defaulted() {
        let of = |kind, metadata: Value| id(kind, &Field::root(&json!({"metadata": metadata})));
        let said = |metadata| of(Kind::Pod, metadata).unwrap_err().to_string();
        assert_eq!(of(Kind::Pod, json!({"name": "a"})), Ok(ObjectId::namespaced(Kind::Pod, "default", "a")));
        assert_eq!(
            of(Kind::Tier, json!({"name": "a", "namespace": ""})),
            Ok(ObjectId::global(Kind::Tier, "a"))
        );
        for kind in
            [Kind::GlobalNetworkPolicy, Kind::GlobalNetworkSet, Kind::Tier, Kind::ClusterNetworkPolicy]
        {
            let refused = of(kind, json!({"name": "a", "namespace": "b"})).unwrap_err().to_string();
            let wrong = format!("a {} is of the whole cluster, and in no namespace", kind.name());
            assert_eq!(refused, format!("metadata.namespace: {wrong}"));
        }
        assert_eq!(said(json!({})), "metadata.name: is missing");
        assert_eq!(said(json!({"name": 5})), "metadata.name: 5 is not a string; quotes make it one");
        assert_eq!(said(json!({"name": ""})), "metadata.name: a name must not be empty");
        assert_eq!(said(json!({"name": "a/b"})), "metadata.name: \"a/b\" cannot be a name");
        assert_eq!(
            said(json!({"name": "a", "namespace": "\n"})),
            "metadata.namespace: \"\\n\" cannot be a name"
        );
        assert_eq!(
            said(json!({"name": "a".repeat(254)})),
            "metadata.name: a name has at most 253 characters"
        );
    }

    #[test]
    fn an_annotation_says_what_becomes_of_denied_packets() {
        let of = |it: Value| denied(&Field::root(&json!({"metadata": {"name": "a", "annotations": it}})));
        assert_eq!(of(Value::Null), Ok(None));
        assert_eq!(of(json!({"other": 5})), Ok(None));
        assert_eq!(of(json!({"cambric.io/denied": "reject"})), Ok(Some(Denied::Reject)));
        assert_eq!(of(json!({"cambric.io/denied": "drop"})), Ok(Some(Denied::Drop)));
        assert_eq!(
            of(json!({"cambric.io/denied": "Reject"})).unwrap_err().to_string(),
            "metadata.annotations.cambric.io/denied: \"Reject\" is neither \"drop\" nor \"reject\", so it says nothing"
        );
    }

    #[test]
    fn label_values_are_strings() {
        let of = |it: Value| labels(&Field::root(&json!({"metadata": {"name": "a", "labels": it}})));
        assert_eq!(of(json!({"a": "b", "c": ""})), Ok(Some([("a", "b"), ("c", "")].into_iter().collect())));
        assert_eq!(of(Value::Null), Ok(None));
        assert_eq!(of(json!({})), Ok(Some(Labels::default())));
        for (labels, field) in [
            (json!({"a": true}), "metadata.labels.a"),
            (json!({"a.b/c": 1}), "metadata.labels.a.b/c"),
            (json!({"a": null}), "metadata.labels.a"),
            (json!([]), "metadata.labels"),
            (json!({"a": {}}), "metadata.labels.a"),
        ] {
            assert_eq!(of(labels).unwrap_err().field, field);
        }
    }
}

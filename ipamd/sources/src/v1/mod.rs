//! The readers of Kubernetes' core API and of EndpointSlices. Fields that are not read here do not concern Cambric.

mod endpoint_slice;
mod ip_address;
mod metadata;
mod pod;
mod refused;
mod service;
mod traffic;

use ipnetwork::IpNetwork;
use serde_json::Value;

use self::ip_address::ip_address;
pub use self::{
    metadata::{denied_by_policy, id, labels},
    service::SOURCE_RANGES,
};
use crate::field::{Field, shown};
use ipamd_model::{
    field::FieldError,
    objects::{Kind, Namespace, Node, Object, ServiceAccount},
};

/// Reads an object of one of the kinds of the core API.
pub fn read(kind: Kind, document: &Value) -> Result<Object, FieldError> {
    let root = Field::root(document);
    match kind {
        Kind::Namespace => namespace(&root),
        Kind::Pod => pod::read(&root),
        Kind::ServiceAccount => service_account(&root),
        Kind::Node => node(&root),
        Kind::Service => service::read(&root),
        Kind::EndpointSlice => endpoint_slice::read(&root),
        other => Err(root.refuse(format!("{} is not of the core API", other.name()))),
    }
}

fn namespace(root: &Field<'_>) -> Result<Object, FieldError> {
    let id = id(Kind::Namespace, root)?;
    Ok(Object::Namespace(Namespace {
        name: id.name,
        labels: labels(root)?.unwrap_or_default(),
        denied: metadata::denied(root),
    }))
}

fn service_account(root: &Field<'_>) -> Result<Object, FieldError> {
    let id = id(Kind::ServiceAccount, root)?;
    Ok(Object::ServiceAccount(ServiceAccount {
        namespace: id.namespace.unwrap_or_default(),
        name: id.name,
        labels: labels(root)?.unwrap_or_default(),
    }))
}

fn node(root: &Field<'_>) -> Result<Object, FieldError> {
    let id = id(Kind::Node, root)?;
    let (mut addresses, mut internal) = (Vec::new(), Vec::new());
    if let Some(status) = root.get("status")?
        && let Some(list) = status.get("addresses")?
    {
        for item in list.items()? {
            let kind = item.need("type")?.text()?;
            if matches!(kind, "InternalIP" | "ExternalIP") {
                let address = ip_address(&item.need("address")?)?;
                addresses.push(address);
                internal.extend((kind == "InternalIP").then_some(address));
            }
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok(Object::Node(Node {
        name: id.name,
        labels: labels(root)?.unwrap_or_default(),
        addresses,
        internal,
        pod_cidrs: pod_cidrs(root)?,
    }))
}

/// The prefixes that a node's pods have their addresses from.
fn pod_cidrs(root: &Field<'_>) -> Result<Vec<IpNetwork>, FieldError> {
    let mut cidrs = Vec::new();
    let Some(spec) = root.get("spec")? else { return Ok(cidrs) };
    if let Some(list) = spec.get("podCIDRs")? {
        for item in list.items()? {
            cidrs.push(prefix(&item)?);
        }
    }
    // One that only fills in the older field.
    if let Some(cidr) = spec.get("podCIDR")?
        && cidrs.is_empty()
        && cidr.value() != ""
    {
        cidrs.push(prefix(&cidr)?);
    }
    Ok(cidrs)
}

fn prefix(field: &Field<'_>) -> Result<IpNetwork, FieldError> {
    let text = field.text()?;
    let network: Option<IpNetwork> = text.contains('/').then(|| text.parse().ok()).flatten();
    let network = network.and_then(|it| IpNetwork::new(it.network(), it.prefix()).ok());
    network.ok_or_else(|| field.refuse(format!("{} is not a prefix", shown(text))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_has_the_addresses_that_traffic_comes_from() {
        let document = json!({"metadata": {"name": "a", "labels": {"zone": "x"}}, "status": {"addresses": [
            {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "a"},
            {"type": "ExternalIP", "address": "::ffff:192.0.2.1"}, {"type": "InternalIP", "address": "10.0.0.1"},
        ]}});
        assert_eq!(
            read(Kind::Node, &document).unwrap(),
            Object::Node(Node {
                name: "a".into(),
                labels: [("zone", "x")].into_iter().collect(),
                addresses: vec!["10.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap()],
                internal: vec!["10.0.0.1".parse().unwrap(), "10.0.0.1".parse().unwrap()],
                pod_cidrs: Vec::new(),
            })
        );
    }

    #[test]
    fn a_node_has_the_prefixes_of_its_pods() {
        let cidrs = |spec: Value| -> Result<Vec<String>, FieldError> {
            match read(Kind::Node, &json!({"metadata": {"name": "a"}, "spec": spec}))? {
                Object::Node(node) => Ok(node.pod_cidrs.iter().map(ToString::to_string).collect()),
                other => panic!("{other:?}"),
            }
        };
        let both = json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"]});
        assert_eq!(cidrs(both), Ok(vec!["10.1.0.0/24".to_owned(), "fd00:1::/64".to_owned()]));
        assert_eq!(cidrs(json!({"podCIDR": "10.1.0.7/24"})), Ok(vec!["10.1.0.0/24".to_owned()]));
        assert_eq!(cidrs(json!({"podCIDR": ""})), Ok(Vec::new()));
        assert_eq!(cidrs(json!({"podCIDRs": ["10.1.0.0"]})).unwrap_err().field, "spec.podCIDRs[0]");
    }

    #[test]
    fn a_namespace_and_a_service_account_are_a_name_and_labels() {
        let document =
            json!({"metadata": {"name": "a", "namespace": "ns", "labels": {"k": "v"}}, "spec": {"x": 1}});
        let labels = || [("k", "v")].into_iter().collect();
        assert_eq!(
            read(Kind::Namespace, &document).unwrap(),
            Object::Namespace(Namespace { name: "a".into(), labels: labels(), denied: Ok(None) })
        );
        assert_eq!(
            read(Kind::ServiceAccount, &document).unwrap(),
            Object::ServiceAccount(ServiceAccount {
                namespace: "ns".into(),
                name: "a".into(),
                labels: labels()
            })
        );
        assert!(read(Kind::Tier, &document).is_err());
    }
}

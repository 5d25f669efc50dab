//! The objects of Kubernetes' core API, and the slices of their endpoints. What is not said here of an object does not concern Cambric.

mod endpoint_slice;
mod metadata;
mod pod;
mod service;
mod traffic;

use std::net::IpAddr;

use serde_json::Value;

pub use self::metadata::{id, labels};
use super::{
    field::FieldError,
    objects::{Kind, Namespace, Node, Object, ServiceAccount},
    place::{Place, shown},
};

/// Reads an object of one of the kinds of the core API.
pub fn read(kind: Kind, document: &Value) -> Result<Object, FieldError> {
    let root = Place::root(document);
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

fn namespace(root: &Place<'_>) -> Result<Object, FieldError> {
    let id = id(Kind::Namespace, root)?;
    Ok(Object::Namespace(Namespace { name: id.name, labels: labels(root)?.unwrap_or_default() }))
}

fn service_account(root: &Place<'_>) -> Result<Object, FieldError> {
    let id = id(Kind::ServiceAccount, root)?;
    Ok(Object::ServiceAccount(ServiceAccount {
        namespace: id.namespace.unwrap_or_default(),
        name: id.name,
        labels: labels(root)?.unwrap_or_default(),
    }))
}

fn node(root: &Place<'_>) -> Result<Object, FieldError> {
    let id = id(Kind::Node, root)?;
    let mut addresses = Vec::new();
    if let Some(status) = root.get("status")?
        && let Some(list) = status.get("addresses")?
    {
        for item in list.items()? {
            if matches!(item.need("type")?.text()?, "InternalIP" | "ExternalIP") {
                addresses.push(address(&item.need("address")?)?);
            }
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok(Object::Node(Node { name: id.name, labels: labels(root)?.unwrap_or_default(), addresses }))
}

/// An address; one of IPv4 in the form of IPv6 is one of IPv4.
fn address(place: &Place<'_>) -> Result<IpAddr, FieldError> {
    let text = place.text()?;
    let address: IpAddr =
        text.parse().map_err(|_| place.refuse(format!("{} is not an IP address", shown(text))))?;
    Ok(address.to_canonical())
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
            })
        );
    }

    #[test]
    fn a_namespace_and_a_service_account_are_a_name_and_labels() {
        let document =
            json!({"metadata": {"name": "a", "namespace": "ns", "labels": {"k": "v"}}, "spec": {"x": 1}});
        let labels = || [("k", "v")].into_iter().collect();
        assert_eq!(
            read(Kind::Namespace, &document).unwrap(),
            Object::Namespace(Namespace { name: "a".into(), labels: labels() })
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

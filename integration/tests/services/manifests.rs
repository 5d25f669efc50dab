//! Services and EndpointSlices as text.

use std::net::IpAddr;

use serde_json::{Value, json};

/// A Service of namespace `shop` with one port each of TCP and UDP, 80 to 8080, and more of `spec`.
pub fn service(name: &str, spec: &Value) -> Value {
    let mut document = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name},
        "spec": {"ports": [
            {"name": "tcp", "port": 80, "targetPort": 8080},
            {"name": "udp", "port": 80, "targetPort": 8080, "protocol": "UDP"},
        ]},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        document["spec"][key] = value.clone();
    }
    document
}

/// An endpoint of this node that is ready, with more of `rest`.
pub fn endpoint(address: impl Into<IpAddr>, rest: &Value) -> Value {
    let mut endpoint =
        json!({"addresses": [address.into()], "nodeName": "node", "conditions": {"ready": true}});
    for (key, value) in rest.as_object().into_iter().flatten() {
        endpoint[key] = value.clone();
    }
    endpoint
}

/// The slice of a Service's endpoints of a family, at port 8080.
pub fn slice(service: &str, family: &str, endpoints: &[Value]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
        "metadata": {
            "namespace": "shop", "name": format!("{service}-{}", family.to_lowercase()),
            "labels": {"kubernetes.io/service-name": service},
        },
        "ports": [{"name": "tcp", "port": 8080}, {"name": "udp", "port": 8080, "protocol": "UDP"}],
        "endpoints": endpoints,
    })
}

/// One file of all of them.
pub fn file(documents: &[Value]) -> String {
    documents.iter().flat_map(|it| ["---\n".to_owned(), it.to_string(), "\n".to_owned()]).collect()
}

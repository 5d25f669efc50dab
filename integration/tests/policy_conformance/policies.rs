//! Documents of policies.

use serde_json::{Value, json};

fn document(api: &str, kind: &str, metadata: &Value, spec: Value) -> Value {
    let mut document = json!({"apiVersion": api, "kind": kind, "metadata": metadata});
    document["spec"] = spec;
    document
}

/// A NetworkPolicy of Kubernetes.
pub fn network_policy(namespace: &str, name: &str, spec: Value) -> Value {
    let metadata = json!({"namespace": namespace, "name": name});
    document("networking.k8s.io/v1", "NetworkPolicy", &metadata, spec)
}

/// A NetworkPolicy of Calico.
pub fn calico_policy(namespace: &str, name: &str, spec: Value) -> Value {
    let metadata = json!({"namespace": namespace, "name": name});
    document("projectcalico.org/v3", "NetworkPolicy", &metadata, spec)
}

/// Something of Calico's that is of the whole cluster; it has its name as a label.
pub fn calico(kind: &str, name: &str, spec: Value) -> Value {
    document("projectcalico.org/v3", kind, &json!({"name": name, "labels": {"name": name}}), spec)
}

/// A GlobalNetworkPolicy.
pub fn global_policy(name: &str, spec: Value) -> Value {
    calico("GlobalNetworkPolicy", name, spec)
}

/// A ClusterNetworkPolicy.
pub fn cluster_policy(name: &str, spec: Value) -> Value {
    let metadata = json!({"name": name});
    document("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", &metadata, spec)
}

/// A selector of the namespace of that name, by the label that Kubernetes gives it.
pub fn named(namespace: &str) -> Value {
    json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}})
}

/// A selector of the pods `a`, `b` or `c`.
pub fn pod(name: &str) -> Value {
    json!({"matchLabels": {"pod": name}})
}

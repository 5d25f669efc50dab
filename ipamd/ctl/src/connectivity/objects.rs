//! The cluster's objects that a run makes, in the form of manifests.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::plan::{GUARDED, PORT, SERVICE_PORT};

/// By which what a run makes is known to be that, beside its name.
pub(super) const LABEL: (&str, &str) = ("app.kubernetes.io/name", "cambric-connectivity");
/// What sort of agent a pod is.
pub(super) const ROLE: &str = "role";
/// Which agent it is.
pub(super) const AGENT: &str = "agent";

/// Labels of the pod of an agent: `server-0` has the role `server`.
pub(super) fn labels(agent: &str) -> [(&'static str, String); 3] {
    let role = agent.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-');
    [(LABEL.0, LABEL.1.to_owned()), (ROLE, role.to_owned()), (AGENT, agent.to_owned())]
}

/// The namespace. Pods in it may be in their node's network and have ports of the node, so it says that it is privileged.
pub(super) fn namespace(run: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": run, "labels": {
            (LABEL.0): LABEL.1,
            "pod-security.kubernetes.io/enforce": "privileged",
            "pod-security.kubernetes.io/warn": "privileged",
            "pod-security.kubernetes.io/audit": "privileged",
        }},
    })
}

/// The guarded pod is spoken to by clients only, and speaks to the first port of servers only.
pub(super) fn policies(run: &str) -> [Value; 2] {
    let policy = |name: &str, spec: Value| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": run}, "spec": spec,
        })
    };
    let role = |role: &str| json!({"podSelector": {"matchLabels": {(ROLE): role}}});
    let ports = json!([{"port": PORT, "protocol": "TCP"}, {"port": PORT, "protocol": "UDP"}]);
    let guarded = json!({"matchLabels": {(ROLE): GUARDED}});
    [
        policy(
            "guarded-ingress",
            json!({
                "podSelector": guarded, "policyTypes": ["Ingress"],
                "ingress": [{"from": [role("client")], "ports": ports}],
            }),
        ),
        policy(
            "guarded-egress",
            json!({
                "podSelector": guarded, "policyTypes": ["Egress"],
                "egress": [{"to": [role("server")], "ports": ports}],
            }),
        ),
    ]
}

/// The service of all servers, with a port of every node.
pub(super) fn service_of_servers(run: &str) -> Value {
    service(run, "servers", "NodePort", &json!({(ROLE): "server"}))
}

/// A service that leads a client to itself.
pub(super) fn service_of_client(run: &str, client: &str) -> Value {
    service(run, client, "ClusterIP", &json!({(AGENT): client}))
}

fn service(run: &str, name: &str, kind: &str, selector: &Value) -> Value {
    let port = |protocol: &str| {
        json!({
            "name": protocol.to_lowercase(), "port": SERVICE_PORT, "targetPort": PORT, "protocol": protocol,
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": run},
        "spec": {
            "type": kind, "selector": selector, "ipFamilyPolicy": "PreferDualStack",
            "ports": [port("TCP"), port("UDP")],
        },
    })
}

/// The endpoints of a service: where no controller makes them of pods.
pub(super) fn slice(run: &str, service: &str, family: &str, backends: &[IpAddr]) -> Value {
    let port = |protocol: &str| json!({"name": protocol.to_lowercase(), "port": PORT, "protocol": protocol});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{}", family.to_lowercase()), "namespace": run,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family, "ports": [port("TCP"), port("UDP")],
        "endpoints": backends.iter().map(|it| json!({"addresses": [it.to_string()]})).collect::<Vec<_>>(),
    })
}

/// Objects as a manifest.
pub(super) fn text(objects: &[Value]) -> String {
    let documents: Vec<_> = objects.iter().map(Value::to_string).collect();
    documents.join("\n---\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_role_is_its_name_without_its_number() {
        let role = |agent: &str| labels(agent)[1].1.clone();
        assert_eq!(
            [role("server-0"), role("node-client-12"), role("guarded")],
            ["server", "node-client", "guarded"]
        );
    }

    #[test]
    fn cambric_itself_understands_all_of_it() {
        use ipamd_sources::manifest;

        let backends = ["10.0.0.1".parse().unwrap()];
        let mut objects =
            vec![namespace("run"), service_of_servers("run"), service_of_client("run", "client-0")];
        objects.push(slice("run", "servers", "IPv4", &backends));
        objects.extend(policies("run"));
        for service in objects.iter_mut().filter(|it| it["kind"] == "Service") {
            service["spec"]["clusterIPs"] = json!(["10.96.0.1"]);
            service["spec"]["clusterIP"] = json!("10.96.0.1");
        }
        let text = text(&objects);
        let read = manifest::read(std::path::Path::new("test"), &text);
        assert!(read.refusals.is_empty(), "{:?}", read.refusals);
        assert_eq!(read.objects.len(), objects.len());
    }
}

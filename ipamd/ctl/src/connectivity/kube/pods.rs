//! Pods of a run: how they are made, and what has become of them.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::super::{
    objects,
    plan::{PORT, SECOND_PORT},
};

/// A pod to be.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub name: String,
    /// The Node that it runs on.
    pub node: String,
    pub in_network_of_node: bool,
    pub serve: Vec<u16>,
    pub host_port: Option<u16>,
    pub arguments: Vec<String>,
}

impl Agent {
    /// The object.
    pub fn object(&self, run: &str, image: &str) -> Value {
        let mut ports: Vec<Value> = Vec::new();
        for port in self.serve.iter().filter(|port| [PORT, SECOND_PORT].contains(port)) {
            for protocol in ["TCP", "UDP"] {
                let mut mapping = json!({
                    "name": format!("{}-{port}", protocol.to_lowercase()), "containerPort": port, "protocol": protocol,
                });
                if let Some(host_port) = self.host_port.filter(|_| *port == PORT) {
                    mapping["hostPort"] = json!(host_port);
                }
                ports.push(mapping);
            }
        }
        let command: Vec<_> = ["cambricctl".to_owned()].into_iter().chain(self.arguments.clone()).collect();
        let labels: serde_json::Map<_, _> = objects::labels(&self.name)
            .into_iter()
            .map(|(key, value)| (key.to_owned(), json!(value)))
            .collect();
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "namespace": run, "labels": labels},
            "spec": {
                // By its name, past the scheduler: on this node or nowhere.
                "nodeName": self.node,
                "tolerations": [{"operator": "Exists"}],
                "hostNetwork": self.in_network_of_node,
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "containers": [{
                    "name": "agent", "image": image, "imagePullPolicy": "IfNotPresent",
                    "command": command, "ports": ports,
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "seccompProfile": {"type": "RuntimeDefault"},
                        // For ICMP echoes.
                        "capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]},
                    },
                }],
            },
        })
    }
}

/// What has become of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It does not run yet, for this reason as far as it is known.
    Waiting(String),
    /// It runs, at these addresses.
    Running(Vec<IpAddr>),
    /// It has done what it was there for.
    Done,
    /// It will not run.
    Failed(String),
}

impl State {
    pub fn of(pod: &Value) -> Self {
        let status = &pod["status"];
        let addresses: Vec<IpAddr> = status["podIPs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|ip| ip["ip"].as_str()?.parse().ok())
            .collect();
        match status["phase"].as_str() {
            Some("Succeeded") => Self::Done,
            Some("Failed") => Self::Failed(why(status)),
            Some("Running") if !addresses.is_empty() => Self::Running(addresses),
            _ => Self::Waiting(why(status)),
        }
    }
}

/// Why a pod is not running, from its conditions and its container.
fn why(status: &Value) -> String {
    let container = &status["containerStatuses"][0]["state"];
    let unscheduled =
        status["conditions"].as_array().into_iter().flatten().find(|it| it["status"] == "False");
    let told = [&container["waiting"], &container["terminated"], status, unscheduled.unwrap_or(&Value::Null)];
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned);
    let words = told.into_iter().map(|it| [text(&it["reason"]), text(&it["message"])]);
    let mut words = words.filter(|words| words.iter().any(Option::is_some));
    words.next().map_or_else(
        || "the kubelet says nothing of it".to_owned(),
        |words| words.into_iter().flatten().collect::<Vec<_>>().join(": "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_does_not_run_says_why() {
        let pulling = json!({"status": {"phase": "Pending", "containerStatuses": [
            {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}},
        ]}});
        assert_eq!(State::of(&pulling), State::Waiting("ImagePullBackOff: no such image".into()));
        let rejected =
            json!({"status": {"phase": "Failed", "reason": "NodePorts", "message": "port is taken"}});
        assert_eq!(State::of(&rejected), State::Failed("NodePorts: port is taken".into()));
        assert_eq!(State::of(&json!({})), State::Waiting("the kubelet says nothing of it".into()));
    }

    #[test]
    fn a_pod_that_runs_has_addresses() {
        let pod = |ips: Value| json!({"status": {"phase": "Running", "podIPs": ips}});
        assert_eq!(State::of(&pod(json!([{"ip": "10.0.0.1"}]))), State::Running(vec![[10, 0, 0, 1].into()]));
        assert!(matches!(State::of(&pod(json!([]))), State::Waiting(_)));
        assert_eq!(State::of(&json!({"status": {"phase": "Succeeded"}})), State::Done);
    }

    #[test]
    fn a_ports_of_the_node_is_that_of_the_first_port() {
        let agent = Agent {
            name: "server-0".into(),
            node: "n".into(),
            in_network_of_node: false,
            serve: vec![PORT, SECOND_PORT],
            host_port: Some(24_681),
            arguments: vec!["connectivity".into()],
        };
        let object = agent.object("run", "image");
        let ports = object["spec"]["containers"][0]["ports"].as_array().unwrap();
        let mapped: Vec<_> =
            ports.iter().filter(|it| it["hostPort"] == 24_681).map(|it| &it["containerPort"]).collect();
        assert_eq!(mapped, [&json!(PORT), &json!(PORT)]);
        assert_eq!(object["metadata"]["labels"]["role"], "server");
        // Every key of it is one that Kubernetes has.
        let typed: k8s_openapi::api::core::v1::Pod = serde_json::from_value(object.clone()).unwrap();
        assert_eq!(serde_json::to_value(&typed).unwrap()["spec"]["nodeName"], object["spec"]["nodeName"]);
    }
}

//! The cluster: its objects by number, as large as real ones are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use integration::testbed::NODE4;
use serde_json::{Value, json};

/// The node whose daemon is measured; the first of all.
pub const OWN: &str = "node";
/// The port of each service.
pub const SERVICE_PORT: u16 = 80;
/// The port of each endpoint.
pub const PORT: u16 = 8080;
/// Pods behind a service.
const ENDPOINTS: u32 = 10;
const NAMESPACES: u32 = 200;
const TEAMS: u32 = 20;
const TIERS: u32 = 5;
/// Nodes that share the subnet of the one that is measured. The others are beyond.
const NEAR: u32 = 250;
/// As many images as a kubelet tells of.
const IMAGES: u32 = 50;

/// How large the cluster is.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Population {
    /// Nodes
    #[arg(long, default_value_t = 5_000)]
    pub nodes: u32,
    /// Pods
    #[arg(long, default_value_t = 100_000)]
    pub pods: u32,
    /// Services, of ten pods each
    #[arg(long, default_value_t = 10_000)]
    pub services: u32,
    /// Network policies
    #[arg(long, default_value_t = 1_000)]
    pub policies: u32,
    /// Pods of the node that is measured; from 100 on their policies tell of every pod of the cluster
    #[arg(long, default_value_t = 110)]
    pub local: u32,
    /// Only IPv4
    #[arg(long)]
    pub single: bool,
}

/// A pod by its number. Those from the number of pods on are made and deleted while is measured.
#[derive(Clone, Copy, Debug)]
pub struct Pod(pub u32);

/// What a pod is like beyond what its number says.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Empty before it runs.
    pub addresses: Vec<IpAddr>,
    /// Times that its container was started again.
    pub restarts: u32,
    /// Counted from the tier that follows from its number.
    pub tier: u32,
}

impl Pod {
    /// Its service.
    pub fn service(self, population: &Population) -> u32 {
        self.0 / ENDPOINTS % population.services
    }

    /// Namespace and name.
    pub fn key(self, population: &Population) -> (String, String) {
        let service = self.service(population);
        (
            namespace(service),
            format!("svc-{service}-{:08x}-{:05}", service.wrapping_mul(2_654_435_761), self.0),
        )
    }

    pub fn uid(self) -> String {
        format!("{:08x}-6c1d-4e0f-9b3a-5d2f{:08x}", self.0.wrapping_mul(0x9e37_79b9), self.0)
    }
}

impl Population {
    /// The node that a pod is on: the first pods of as many services are this node's.
    fn node_of(&self, pod: Pod) -> u32 {
        if self.is_local(pod) { 0 } else { 1 + pod.0 % (self.nodes - 1) }
    }

    /// Whether it is a pod of the node that is measured: one of each of the first services.
    pub fn is_local(&self, pod: Pod) -> bool {
        pod.0.is_multiple_of(ENDPOINTS) && pod.0 / ENDPOINTS < self.local && pod.0 < self.pods
    }

    /// The pods of the node that is measured.
    pub fn locals(&self) -> impl Iterator<Item = Pod> {
        (0..self.local).map(|number| Pod(number * ENDPOINTS))
    }

    /// The addresses of a pod elsewhere.
    pub fn addresses(&self, pod: Pod) -> Vec<IpAddr> {
        let node = self.node_of(pod);
        // The gateway has the first.
        let host = 2 + pod.0 / (self.nodes - 1) % 250;
        let v4 = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 32, 0, 0)) + node * 256 + host);
        let v6 = Ipv6Addr::new(0xfd00, 0x10, low(node), 0, 0, 0, 0, low(host));
        self.of_families([v4.into(), v6.into()])
    }

    fn of_families(&self, both: [IpAddr; 2]) -> Vec<IpAddr> {
        both.into_iter().take(if self.single { 1 } else { 2 }).collect()
    }

    /// Everything but nodes, pods and slices.
    pub fn others(&self) -> impl Iterator<Item = Value> {
        let spaces = (0..NAMESPACES).flat_map(|number| {
            let name = format!("ns-{number}");
            let labels = json!({"team": format!("team-{}", number % TEAMS), "kubernetes.io/metadata.name": name});
            [
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
                    "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}),
            ]
        });
        spaces.chain((0..self.services).map(Self::service)).chain((0..self.policies).map(policy))
    }

    /// A Node.
    pub fn node(&self, number: u32, heartbeat: u32) -> Value {
        let name = if number == 0 { OWN.to_owned() } else { format!("node-{number}") };
        let machine = match number {
            0 => NODE4,
            // The first three addresses are the router's, this node's and nobody's.
            1..NEAR => Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 0, 2, 3)) + number),
            _ => Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 0)) + number),
        };
        let v4 = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 32, 0, 0)) + number * 256);
        let v6 = Ipv6Addr::new(0xfd00, 0x10, low(number), 0, 0, 0, 0, 0);
        let cidrs: Vec<_> = self
            .of_families([v4.into(), v6.into()])
            .iter()
            .zip([24, 64])
            .map(|(ip, bits)| format!("{ip}/{bits}"))
            .collect();
        let zone = format!("zone-{}", number % 3);
        let beat = time(heartbeat);
        let condition = |kind: &str, status: &str, reason: &str| {
            json!({"type": kind, "status": status, "reason": reason, "lastHeartbeatTime": beat,
                "lastTransitionTime": time(0), "message": format!("kubelet has {reason} and says so at some length")})
        };
        let images: Vec<_> = (0..IMAGES)
            .map(|image| {
                let repository = format!("registry.example/platform/component-{image}");
                json!({"sizeBytes": 30_000_000 + image, "names": [
                    format!("{repository}@sha256:{:064x}", u128::from(image).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c)),
                    format!("{repository}:v1.{image}.0")]})
            })
            .collect();
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                "name": name, "creationTimestamp": time(0),
                "labels": {
                    "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                    "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "node.kubernetes.io/instance-type": "m5.4xlarge",
                    "topology.kubernetes.io/region": "region-1", "topology.kubernetes.io/zone": zone,
                    "node-role.kubernetes.io/worker": "",
                },
                "annotations": {
                    "node.alpha.kubernetes.io/ttl": "300", "volumes.kubernetes.io/controller-managed-attach-detach": "true",
                    "csi.volume.kubernetes.io/nodeid": format!("{{\"ebs.csi.example\":\"i-{number:017x}\"}}"),
                },
                "managedFields": managed("kubelet", 12),
            },
            "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs, "providerID": format!("example:///{zone}/i-{number:017x}")},
            "status": {
                "addresses": [{"type": "InternalIP", "address": machine.to_string()}, {"type": "Hostname", "address": name}],
                "allocatable": {"cpu": "15890m", "memory": "60691308Ki", "pods": "110", "ephemeral-storage": "95551679124"},
                "capacity": {"cpu": "16", "memory": "63708012Ki", "pods": "110", "ephemeral-storage": "104845292Ki"},
                "conditions": [
                    condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                    condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                    condition("PIDPressure", "False", "KubeletHasSufficientPID"),
                    condition("Ready", "True", "KubeletReady"),
                ],
                "images": images,
                "nodeInfo": {"architecture": "amd64", "kernelVersion": "6.12.0", "kubeletVersion": "v1.34.1",
                    "machineID": format!("{number:032x}"), "osImage": "Example Linux", "operatingSystem": "linux",
                    "containerRuntimeVersion": "containerd://2.1.4"},
            },
        })
    }

    fn service(service: u32) -> Value {
        let name = format!("svc-{service}");
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": namespace(service), "creationTimestamp": time(0),
                "labels": {"app": name, "helm.sh/chart": "component-1.2.3", "app.kubernetes.io/managed-by": "Helm"},
                "annotations": {"meta.helm.sh/release-name": name}, "managedFields": managed("helm", 4)},
            "spec": {"type": "ClusterIP", "clusterIP": cluster_ip(service).to_string(),
                "clusterIPs": [cluster_ip(service).to_string()], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                "internalTrafficPolicy": "Cluster", "sessionAffinity": "None", "selector": {"app": name},
                "ports": [{"name": "http", "protocol": "TCP", "port": SERVICE_PORT, "targetPort": "http"}]},
            "status": {"loadBalancer": {}},
        })
    }

    /// A service's EndpointSlice: of its ten pods, and of one more.
    pub fn slice(&self, service: u32, more: Option<Pod>) -> Value {
        let name = format!("svc-{service}");
        let first = service * ENDPOINTS;
        let endpoints: Vec<_> = (first..first + ENDPOINTS)
            .map(Pod)
            .chain(more)
            .map(|pod| {
                let (namespace, name) = pod.key(self);
                let node = self.node_of(pod);
                json!({"addresses": [self.addresses(pod)[0]], "nodeName": format!("node-{node}"), "zone": format!("zone-{}", node % 3),
                    "conditions": {"ready": true, "serving": true, "terminating": false},
                    "targetRef": {"kind": "Pod", "name": name, "namespace": namespace, "uid": pod.uid()}})
            })
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
            "metadata": {"name": format!("{name}-x7k2p"), "namespace": namespace(service), "generateName": format!("{name}-"),
                "labels": {"kubernetes.io/service-name": name, "app": name,
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": name, "uid": format!("uid-{service}"), "controller": true}],
                "managedFields": managed("kube-controller-manager", 3)},
            "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
        })
    }

    /// A Pod.
    pub fn pod(&self, pod: Pod, state: &State) -> Value {
        let (namespace, name) = pod.key(self);
        let service = pod.service(self);
        let app = format!("svc-{service}");
        let node = self.node_of(pod);
        let node = if node == 0 { OWN.to_owned() } else { format!("node-{node}") };
        let running = !state.addresses.is_empty();
        let condition = |kind: &str, holds: bool| {
            json!({"type": kind, "status": if holds { "True" } else { "False" },
            "lastProbeTime": null, "lastTransitionTime": time(1)})
        };
        let container_status = |name: &str| {
            json!({"name": name, "ready": running, "started": running, "restartCount": state.restarts,
                "image": "registry.example/platform/component:v1.0.0",
                "imageID": format!("registry.example/platform/component@sha256:{service:064x}"),
                "containerID": format!("containerd://{:064x}", pod.0), "state": {"running": {"startedAt": time(2)}}})
        };
        let mut status = json!({
            "phase": if running { "Running" } else { "Pending" }, "hostIP": "192.0.2.9", "qosClass": "Burstable", "startTime": time(1),
            "conditions": [condition("PodReadyToStartContainers", running), condition("Initialized", true), condition("Ready", running),
                condition("ContainersReady", running), condition("PodScheduled", true)],
            "containerStatuses": [container_status("main"), container_status("sidecar")],
        });
        if let Some(first) = state.addresses.first() {
            status["podIP"] = json!(first);
            status["podIPs"] = state.addresses.iter().map(|ip| json!({"ip": ip})).collect();
        }
        let container = |name: &str, ports: Value| {
            let env: Vec<_> = (0..10)
                .map(|at| json!({"name": format!("SETTING_{at}"), "value": format!("value-{at}-of-{app}")}))
                .collect();
            json!({"name": name, "image": "registry.example/platform/component:v1.0.0", "imagePullPolicy": "IfNotPresent", "env": env,
                "ports": ports, "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"}, "periodSeconds": 10, "timeoutSeconds": 1},
                "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http", "scheme": "HTTP"}, "periodSeconds": 10, "timeoutSeconds": 1},
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "terminationMessagePath": "/dev/termination-log", "volumeMounts": [
                    {"mountPath": "/etc/config", "name": "config"},
                    {"mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "name": "kube-api-access", "readOnly": true}]})
        };
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": namespace, "uid": pod.uid(), "creationTimestamp": time(0),
                "generateName": format!("{app}-{:08x}-", service.wrapping_mul(2_654_435_761)),
                "labels": {"app": app, "pod-template-hash": format!("{:08x}", service.wrapping_mul(2_654_435_761)),
                    "tier": format!("tier-{}", (service + state.tier) % TIERS), "app.kubernetes.io/version": "1.0.0"},
                "annotations": {"checksum/config": format!("{service:064x}"), "prometheus.io/scrape": "true"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true, "name": app, "uid": format!("uid-{service}")}],
                "managedFields": managed("kubelet", 8),
            },
            "spec": {
                "nodeName": node, "serviceAccountName": "default", "serviceAccount": "default", "restartPolicy": "Always",
                "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler", "priority": 0, "terminationGracePeriodSeconds": 30,
                "containers": [container("main", json!([{"name": "http", "containerPort": PORT, "protocol": "TCP"}])),
                    container("sidecar", json!([{"name": "metrics", "containerPort": 9090, "protocol": "TCP"}]))],
                "volumes": [{"name": "config", "configMap": {"name": app, "defaultMode": 420}},
                    {"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": [
                        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}]}}],
                "tolerations": [{"effect": "NoExecute", "key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 300},
                    {"effect": "NoExecute", "key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 300}],
            },
            "status": status,
        })
    }
}

/// Where a service is reached.
pub fn cluster_ip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 30, 1, 0)) + service)
}

fn namespace(service: u32) -> String {
    format!("ns-{}", service % NAMESPACES)
}

/// In each namespace one for each tier: it is reached by a tier of a team's namespaces and from a block, and reaches the
/// next tier and DNS. A hundred pods in namespaces of their own have policies that name every tier of every team.
fn policy(number: u32) -> Value {
    let (space, tier) = (number % NAMESPACES, number / NAMESPACES);
    let tier_of = |number: u32| json!({"matchLabels": {"tier": format!("tier-{}", number % TIERS)}});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": format!("policy-{number}"), "namespace": format!("ns-{space}"), "managedFields": managed("kubectl", 3)},
        "spec": {
            "podSelector": tier_of(tier), "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [{"podSelector": tier_of(tier + space / TEAMS), "namespaceSelector": {"matchLabels": {"team": format!("team-{}", (space + tier) % TEAMS)}}}],
                    "ports": [{"port": "http"}, {"protocol": "TCP", "port": 9000, "endPort": 9100}]},
                {"from": [{"ipBlock": {"cidr": format!("198.18.{space}.0/24"), "except": [format!("198.18.{space}.128/25")]}}]}],
            "egress": [{"to": [{"podSelector": tier_of(tier + 1)}], "ports": [{"port": "http"}]}, {"ports": [{"protocol": "UDP", "port": 53}]}],
        },
    })
}

/// What the API server notes of who set which field, in so many parts.
fn managed(by: &str, parts: u32) -> Value {
    let fields: serde_json::Map<_, _> = (0..parts)
        .map(|at| {
            (
                format!("f:field-{at}"),
                json!({".": {}, "f:type": {}, "f:lastTransitionTime": {}, "k:{\"type\":\"Ready\"}": {}}),
            )
        })
        .collect();
    json!([{"manager": by, "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "time": time(0), "fieldsV1": fields}])
}

fn time(seconds: u32) -> String {
    format!("2026-01-01T{:02}:{:02}:{:02}Z", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

/// The lower half.
#[expect(clippy::cast_possible_truncation, reason = "what is said")]
fn low(number: u32) -> u16 {
    number as u16
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SOME: Population =
        Population { nodes: 50, pods: 1_000, services: 100, policies: 10, local: 11, single: false };

    #[test]
    fn pods_have_names_and_addresses_of_their_own() {
        let pods = || (0..SOME.pods + 100).map(Pod);
        assert_eq!(pods().map(|pod| pod.key(&SOME)).collect::<BTreeSet<_>>().len(), 1_100);
        let elsewhere: Vec<_> = pods().filter(|pod| !SOME.is_local(*pod)).collect();
        let addresses: BTreeSet<_> = elsewhere.iter().flat_map(|pod| SOME.addresses(*pod)).collect();
        assert_eq!(addresses.len(), 2 * elsewhere.len());
        assert_eq!(SOME.locals().filter(|pod| SOME.is_local(*pod)).count(), 11);
    }

    #[test]
    fn objects_are_as_large_as_real_ones() {
        let pod = SOME
            .pod(Pod(7), &State { addresses: SOME.addresses(Pod(7)), ..State::default() })
            .to_string()
            .len();
        assert!((4_000..7_000).contains(&pod), "{pod}");
        let node = SOME.node(7, 0).to_string().len();
        assert!((10_000..20_000).contains(&node), "{node}");
    }
}

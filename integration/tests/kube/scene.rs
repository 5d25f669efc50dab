//! A node of a cluster, and the cluster's API server beside it.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::{
    apiserver::ApiServer,
    testbed::{Listeners, Machine, NEIGHBOUR4, Node, Pod, Settings, allowed, denied, eventually, hold, tcp},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a change may take to be in force, on a machine that runs other tests.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The server, and a node that follows it.
pub struct Scene {
    // Dropped in this order: the node before what it talks to.
    pub node: Node,
    pub server: ApiServer,
    _folder: TempDir,
}

impl Scene {
    /// A node whose daemon is not started yet, with its Node, the namespace `shop` and its service account.
    pub fn new() -> Result<Self> {
        Self::with(Settings::default().pools(&[]))
    }

    pub fn with(settings: Settings) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let kubeconfig = folder.path().join("kubeconfig");
        let node = Node::new(settings.flag(format!("--cluster=kube:{}", kubeconfig.display())))?;
        let server = ApiServer::start(node.neighbour.netns(), (NEIGHBOUR4, 6443).into())?;
        server.kubeconfig(&kubeconfig)?;
        server.put(node_object(&json!(["10.88.0.0/16", "fd00:88::/64"])));
        server.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"n": "shop"}}}));
        server.put(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "shop"}}));
        Ok(Self { node, server, _folder: folder })
    }

    /// The daemon runs, and is ready.
    pub fn started() -> Result<Self> {
        let scene = Self::new()?;
        scene.node.start_daemon()?;
        Ok(scene)
    }

    /// Starts a pod of `shop` as the scheduler and the kubelet do: its object first, then its sandbox, then its addresses.
    pub fn start_pod(&self, name: &str, labels: &Value) -> Result<Pod<'_>> {
        let uid = format!("uid-of-{name}");
        self.server.put(pod_object(name, &uid, labels, &[]));
        let pod = self.node.kubelet_sandbox(&format!("shop/{name}"), &uid)?.add()?;
        self.server.put(pod_object(name, &uid, labels, &addresses(&pod)));
        Ok(pod)
    }

    /// What `cambricctl status` says of the cluster.
    pub fn cluster(&self) -> Result<Value> {
        Ok(self.node.status()?["cluster"].clone())
    }

    /// Waits until the daemon says that it hears of every change, or not.
    pub fn wait_until_live(&self, live: bool) -> Result<()> {
        let is = || self.cluster().is_ok_and(|cluster| cluster["live"] == live);
        ensure!(eventually(PATIENCE, is), "live is not {live}: {}", self.cluster()?);
        Ok(())
    }

    /// Waits until exactly these policies are in force.
    pub fn wait_for_policies(&self, names: &[&str]) -> Result<()> {
        let holds = || self.policies().is_ok_and(|found| found == names);
        ensure!(eventually(PATIENCE, holds), "{names:?} are wanted, in force are {:?}", self.policies()?);
        Ok(())
    }

    fn policies(&self) -> Result<Vec<String>> {
        let listing = self.node.ctl(&["policy", "list"])?;
        let policies = listing["policies"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<_> =
            policies.iter().filter_map(|it| it["policy"]["name"].as_str().map(ToOwned::to_owned)).collect();
        names.sort();
        Ok(names)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.server.stop();
    }
}

/// This node's object.
pub fn node_object(cidrs: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node", "labels": {"topology.kubernetes.io/zone": "a"}},
        "spec": {"podCIDRs": cidrs},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.2"}, {"type": "Hostname", "address": "node"}]},
    })
}

/// A pod of `shop` on this node.
pub fn pod_object(name: &str, uid: &str, labels: &Value, addresses: &[String]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "labels": labels},
        "spec": {"nodeName": "node", "containers": [{"name": "c", "image": "i"}], "serviceAccountName": "default"},
        "status": {
            "phase": if addresses.is_empty() { "Pending" } else { "Running" },
            "podIPs": addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
        },
    })
}

pub fn addresses(pod: &Pod<'_>) -> Vec<String> {
    pod.addresses().iter().map(ToString::to_string).collect()
}

/// Pods with `app: guarded` are spoken to by those with `app: friend` only.
pub fn guard(name: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "guarded"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}],
        },
    })
}

/// Three pods, of whom one guards itself.
pub struct Pods<'n> {
    pub guarded: Pod<'n>,
    pub friend: Pod<'n>,
    pub stranger: Pod<'n>,
    _listeners: Vec<Listeners>,
}

impl<'n> Pods<'n> {
    pub fn start(scene: &'n Scene) -> Result<Self> {
        let [guarded, friend, stranger] =
            ["guarded", "friend", "stranger"].map(|app| scene.start_pod(app, &json!({"app": app})));
        let (guarded, friend, stranger) = (guarded?, friend?, stranger?);
        let listeners = vec![guarded.serve(guarded.addresses(), &[tcp(80)])?];
        Ok(Self { guarded, friend, stranger, _listeners: listeners })
    }

    /// The guard is on duty.
    pub fn are_guarded(&self) -> Result<()> {
        let mut table = allowed(&self.friend, &self.guarded, tcp(80));
        table.extend(denied(&self.stranger, &self.guarded, tcp(80)));
        hold(table)
    }

    /// The guard is off.
    pub fn are_open(&self) -> Result<()> {
        let mut table = allowed(&self.friend, &self.guarded, tcp(80));
        table.extend(allowed(&self.stranger, &self.guarded, tcp(80)));
        hold(table)
    }
}

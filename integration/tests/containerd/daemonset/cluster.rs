//! A node of a cluster, new but for its containerd; and what becomes of it by manifests.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    apiserver::{ApiServer, Right},
    manifests,
    testbed::{Addressed, Machine, NEIGHBOUR4, Netns, Node, Settings, eventually},
};
use k8s_openapi::api::apps::v1::DaemonSet;
use serde_json::{Value, json};

use super::kubelet::{Kubelet, Running};
use crate::runtime::{Containerd, node_files, run};

/// The image that the manifests name.
pub const IMAGE: &str = "localhost/cambric:0.1.0";

/// How long a change may take to be in force, on a machine that runs other tests.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The node and its API server, which the neighbour has.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: the node before what it talks to.
    pub node: Node,
    pub server: ApiServer,
}

impl Cluster {
    pub fn new() -> Result<Self> {
        let node = Node::new(Settings::default())?;
        let server = ApiServer::start(node.neighbour.netns(), (NEIGHBOUR4, 6443).into())?;
        server.put(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"},
            "spec": {"podCIDRs": ["10.88.0.0/16", "fd00:88::/64"]},
            "status": {
                "addresses": [{"type": "InternalIP", "address": "192.0.2.2"}],
                "conditions": [{"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"}],
            },
        }));
        let rights = Right::of_role(&manifests::find("cambric.yaml", "ClusterRole")?);
        server.behave(|server| server.rights = Some(rights));
        server.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
        server.put(json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "shop"},
        }));
        // Where the testbed looks for the daemon's socket.
        std::os::unix::fs::symlink(node_files(&node).join("run/cambric"), node.folder().join("run"))?;
        Ok(Self { node, server })
    }

    /// Makes an image of the binaries under test, of which the plugin has some more bytes at its end; returns the archive.
    pub fn image(&self, name: &str, more: &str) -> Result<PathBuf> {
        let folder = self.node.folder().join(name.replace(['/', ':'], "-"));
        fs::create_dir(&folder)?;
        let binaries = self.node.binaries();
        for binary in [binaries.plugin(), binaries.daemon(), binaries.ctl()] {
            let target = folder.join(binary.file_name().context("a name")?);
            run(Command::new("strip").arg("-o").arg(&target).arg(&binary))?;
        }
        let plugin = folder.join("cambric");
        let mut content = fs::read(&plugin)?;
        content.extend(more.as_bytes());
        fs::write(plugin, content)?;
        let archive = folder.join("image.tar");
        let mut image = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/image"));
        image.args(["--compress", "0", "--name", name, "--binaries"]).arg(&folder);
        run(image.arg("--output").arg(&archive))?;
        Ok(archive)
    }

    /// Starts its containerd, which has the image.
    pub fn containerd(&self) -> Result<Containerd> {
        let containerd = Containerd::start_on_new_node(&self.node)?;
        if !containerd.images()?.contains(IMAGE) {
            containerd.import(&self.image(IMAGE, "")?)?;
            ensure!(
                containerd.images()?.contains(IMAGE),
                "imported by another name: {}",
                containerd.images()?
            );
        }
        Ok(containerd)
    }

    pub fn kubelet<'n>(&'n self, containerd: &'n Containerd) -> Kubelet<'n> {
        Kubelet { node: &self.node, containerd, server: &self.server }
    }

    /// The network configuration, where the node has it.
    pub fn conflist(&self) -> PathBuf {
        node_files(&self.node).join("etc/cni/net.d/10-cambric.conflist")
    }

    /// The plugin, where the node has it.
    pub fn plugin(&self) -> PathBuf {
        node_files(&self.node).join("opt/cni/bin/cambric")
    }

    /// As after a boot: nothing is left of what was in memory only. The runtime must have ended.
    pub fn boot(&self) -> Result<()> {
        fs::remove_dir_all(node_files(&self.node).join("run"))?;
        for link in self.node.pod_links()? {
            self.node.netns().ip(&format!("link del {link}"))?;
        }
        for family in ["-4", "-6"] {
            self.node.netns().ip(&format!("{family} route flush type unreachable"))?;
            self.node.netns().ip(&format!("{family} address flush dev lo scope global"))?;
        }
        for setting in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            self.node.netns().sysctl(setting, "0")?;
        }
        Ok(())
    }

    pub fn network_is_available(&self) -> Result<()> {
        let node = || self.server.get("nodes", "node");
        let condition = || {
            let conditions = node()?["status"]["conditions"].as_array()?.clone();
            conditions.into_iter().find(|it| it["type"] == "NetworkUnavailable")
        };
        let available = || condition().is_some_and(|it| it["status"] == "False");
        ensure!(eventually(PATIENCE, available), "{:?}", condition());
        Ok(())
    }

    /// Runs a pod of the namespace `shop`, whose only label is `app`.
    pub fn run_pod(&self, containerd: &Containerd, app: &str) -> Result<Workload> {
        self.server.put(pod_object(app, &[]));
        let sandbox = containerd.run_sandbox_of("shop", app)?;
        let addresses = containerd.cri.addresses(&sandbox)?;
        self.server.put(pod_object(app, &addresses));
        let endpoints = self.node.ctl(&["endpoint", "list"])?;
        let mut all = endpoints.as_array().into_iter().flatten();
        let endpoint = all.find(|it| it["key"]["container_id"] == *sandbox).context("its endpoint")?;
        // /var/run leads to /run, but on this machine, if it were followed from here.
        let path = endpoint["netns"].as_str().context("a namespace")?.trim_start_matches("/var");
        let namespace = path.rsplit('/').next().unwrap_or_default().to_owned();
        let netns = Netns::of_others(containerd.seen(path))?;
        Ok(Workload { name: app.into(), sandbox, addresses, namespace, netns })
    }

    /// What `/proc` has of the daemon.
    pub fn daemon(&self) -> Result<PathBuf> {
        let here = identity(self.node.netns().path())?;
        let is_daemon = |process: &PathBuf| {
            fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == "cambric-ipamd")
                && identity(&process.join("ns/net")).is_ok_and(|it| it == here)
        };
        fs::read_dir("/proc")?.flatten().map(|it| it.path()).find(is_daemon).context("a daemon")
    }

    /// Whether the daemon, by the path that it was told, finds the pod's namespace.
    pub fn daemon_sees(&self, pod: &Workload) -> Result<bool> {
        let seen = identity(&self.daemon()?.join("root/run/netns").join(&pod.namespace));
        Ok(seen.is_ok_and(|seen| identity(pod.netns.path()).is_ok_and(|it| it == seen)))
    }

    /// Pods with `app: guarded` are spoken to by those with `app: friend` only, from when this returns.
    pub fn guard(&self) -> Result<()> {
        self.server.put(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "guard", "namespace": "shop"},
            "spec": {
                "podSelector": {"matchLabels": {"app": "guarded"}},
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}],
            },
        }));
        let in_force = || {
            let listing = self.node.ctl(&["policy", "list"]);
            listing.is_ok_and(|it| it["policies"].as_array().is_some_and(|policies| !policies.is_empty()))
        };
        ensure!(eventually(PATIENCE, in_force), "{:?}", self.node.ctl(&["policy", "list"]));
        Ok(())
    }
}

/// The device and the number of a file.
fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    fs::metadata(path).map(|it| (it.dev(), it.ino()))
}

fn pod_object(app: &str, addresses: &[IpAddr]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": app, "namespace": "shop", "uid": format!("uid-of-{app}"), "labels": {"app": app}},
        "spec": {"nodeName": "node", "containers": [{"name": "c", "image": "i"}], "serviceAccountName": "default"},
        "status": {
            "phase": if addresses.is_empty() { "Pending" } else { "Running" },
            "podIPs": addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
        },
    })
}

/// The DaemonSet of a manifest, with another image.
pub fn daemon_set(file: &str, image: &str) -> Result<DaemonSet> {
    let mut set: DaemonSet = manifests::find(file, "DaemonSet")?;
    let pod = set.spec.template.spec.as_mut().context("a pod")?;
    for container in pod.init_containers.iter_mut().flatten().chain(&mut pod.containers) {
        ensure!(container.image.as_deref() == Some(IMAGE), "another image: {:?}", container.image);
        container.image = Some(image.into());
    }
    Ok(set)
}

/// Runs what `conf/kubernetes/cambric.yaml` says until it is ready.
pub fn install<'k>(kubelet: &'k Kubelet<'k>, image: &str) -> Result<Running<'k>> {
    let running = kubelet.run(&daemon_set("cambric.yaml", image)?)?;
    running.wait_until_ready()?;
    Ok(running)
}

/// A pod with a network of its own.
#[derive(Debug)]
pub struct Workload {
    name: String,
    pub sandbox: String,
    addresses: Vec<IpAddr>,
    /// The name of its network namespace.
    namespace: String,
    netns: Netns,
}

impl Machine for Workload {
    fn netns(&self) -> &Netns {
        &self.netns
    }
}

impl Addressed for Workload {
    fn known_by(&self) -> Vec<IpAddr> {
        self.addresses.clone()
    }

    fn called(&self) -> String {
        self.name.clone()
    }
}

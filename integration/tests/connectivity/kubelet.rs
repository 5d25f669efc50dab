//! What a cluster has beside its API server: kubelets that run pods in namespaces of the testbed, and the controller that
//! makes EndpointSlices of them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    apiserver::ApiServer,
    fleet::Place,
    testbed::{Machine, Netns, Node, Pod, time_passes},
};
use serde_json::{Value, json};

/// The kubelets of a cluster.
pub struct Kubelets<'n> {
    pub server: &'n ApiServer,
    pub nodes: Vec<(&'n Node, Place)>,
    /// What pods see as their `/etc/resolv.conf`, and what they have printed.
    pub folder: &'n Path,
}

/// A pod that was started.
struct Started<'n> {
    pod: Option<Pod<'n>>,
    child: Child,
    log: PathBuf,
    ended: bool,
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'n> Kubelets<'n> {
    /// Runs them while `act` does; all pods must be gone when it has ended, or go with them.
    pub fn beside<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let running = scope.spawn(|| self.run(&stop));
            let done = act();
            stop.store(true, Ordering::Relaxed);
            running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            done
        })
    }

    fn run(&self, stop: &AtomicBool) -> Result<()> {
        let mut started = BTreeMap::new();
        while !stop.load(Ordering::Relaxed) {
            self.look(&mut started)?;
            time_passes(Duration::from_millis(30), "a kubelet looks now and then");
        }
        started.into_values().try_for_each(end)
    }

    fn look(&self, started: &mut BTreeMap<String, Started<'n>>) -> Result<()> {
        let pods = self.server.all("pods");
        let known: Vec<_> = pods.iter().map(key).collect();
        let gone: Vec<_> = started.keys().filter(|key| !known.contains(key)).cloned().collect();
        for key in gone {
            started.remove(&key).map_or(Ok(()), end)?;
        }
        for pod in &pods {
            let key = key(pod);
            match started.get_mut(&key) {
                None => {
                    let (pod, addresses) = self.start(pod)?;
                    started.insert(key.clone(), pod);
                    self.tell(&key, "Running", Some(&addresses));
                }
                Some(running) => {
                    self.server.log(&key, fs::read_to_string(&running.log)?);
                    if let (false, Some(status)) = (running.ended, running.child.try_wait()?) {
                        running.ended = true;
                        self.tell(&key, if status.success() { "Succeeded" } else { "Failed" }, None);
                    }
                }
            }
        }
        self.lead();
        Ok(())
    }

    fn start(&self, object: &Value) -> Result<(Started<'n>, Vec<String>)> {
        let spec = &object["spec"];
        let name = spec["nodeName"].as_str().context("a pod without a node")?;
        let (node, place) =
            self.nodes.iter().find(|(node, _)| node.name() == name).context("an unknown node")?;
        if spec["hostNetwork"] == true {
            let addresses = place.addresses().iter().map(ToString::to_string).collect();
            return Ok((self.launch(object, node, node.netns(), None)?, addresses));
        }
        let container = &spec["containers"][0];
        let ports =
            container["ports"].as_array().into_iter().flatten().filter(|port| port["hostPort"].is_number());
        let mapping = |port: &Value| {
            json!({
                "hostPort": port["hostPort"], "containerPort": port["containerPort"],
                "protocol": port["protocol"].as_str().unwrap_or("TCP").to_lowercase(),
            })
        };
        let mappings: Vec<_> = ports.map(mapping).collect();
        let uid = object["metadata"]["uid"].as_str().context("a UID")?;
        let sandbox = node.kubelet_sandbox(&key(object), uid)?;
        let result = sandbox.cni("ADD").set("runtimeConfig", json!({"portMappings": mappings})).run()?;
        let pod = sandbox.added(result)?;
        let addresses = pod.addresses().iter().map(ToString::to_string).collect();
        let mut started = self.launch(object, node, pod.netns(), None)?;
        started.pod = Some(pod);
        Ok((started, addresses))
    }

    fn launch(
        &self,
        object: &Value,
        node: &Node,
        netns: &Netns,
        pod: Option<Pod<'n>>,
    ) -> Result<Started<'n>> {
        let words: Vec<_> =
            object["spec"]["containers"][0]["command"].as_array().context("a command")?.iter().collect();
        ensure!(words[0] == "cambricctl", "{words:?} is not in the image");
        let log = self.folder.join(key(object).replace('/', "-"));
        let printed = File::create(&log)?;
        let mut command = netns.command("unshare")?;
        command.args(["--mount", "sh", "-c", r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#]);
        command.arg(self.folder.join("resolv.conf")).arg(node.binaries().ctl());
        command.args(words[1..].iter().filter_map(|word| word.as_str()));
        command.stdin(Stdio::null()).stdout(printed.try_clone()?).stderr(printed);
        Ok(Started { pod, child: command.spawn()?, log, ended: false })
    }

    fn tell(&self, key: &str, phase: &str, addresses: Option<&[String]>) {
        // It may have been deleted meanwhile.
        let Some(mut pod) = self.server.get("pods", key) else { return };
        pod["status"]["phase"] = json!(phase);
        if let Some(addresses) = addresses {
            pod["status"]["podIP"] = json!(addresses.first());
            pod["status"]["podIPs"] = addresses.iter().map(|ip| json!({"ip": ip})).collect();
            pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        }
        self.server.put(pod);
    }

    /// Has the EndpointSlices say which pods are behind services.
    fn lead(&self) {
        let pods = self.server.all("pods");
        for service in self.server.all("services") {
            let (metadata, spec) = (&service["metadata"], &service["spec"]);
            let Some(selector) = spec["selector"].as_object() else { continue };
            let selected = |pod: &&Value| {
                pod["metadata"]["namespace"] == metadata["namespace"]
                    && pod["status"]["phase"] == "Running"
                    && selector.iter().all(|(label, value)| pod["metadata"]["labels"][label] == *value)
            };
            let backends: Vec<_> = pods.iter().filter(selected).collect();
            for family in ["IPv4", "IPv6"] {
                self.put_slice(&service, family, &backends);
            }
        }
    }

    fn put_slice(&self, service: &Value, family: &str, backends: &[&Value]) {
        let (metadata, spec) = (&service["metadata"], &service["spec"]);
        let (service, namespace) = (text(&metadata["name"]), text(&metadata["namespace"]));
        let name = format!("{service}-{}", family.to_lowercase());
        let ports = spec["ports"].as_array().into_iter().flatten().map(
            |port| json!({"name": port["name"], "port": port["targetPort"], "protocol": port["protocol"]}),
        );
        let endpoints = backends.iter().flat_map(|pod| {
            let addresses =
                pod["status"]["podIPs"].as_array().into_iter().flatten().map(|ip| text(&ip["ip"]));
            let of_family = addresses.filter(|ip| ip.contains(':') == (family == "IPv6"));
            of_family.map(|ip| {
                json!({
                    "addresses": [ip], "conditions": {"ready": true}, "nodeName": pod["spec"]["nodeName"],
                    "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"], "namespace": namespace},
                })
            })
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
            "addressType": family, "ports": ports.collect::<Vec<_>>(), "endpoints": endpoints.collect::<Vec<_>>(),
        });
        let resource = "endpointslices.discovery.k8s.io";
        let known = self.server.get(resource, &format!("{namespace}/{name}"));
        if known.is_none_or(|it| it["endpoints"] != slice["endpoints"])
            && self.server.get("namespaces", &namespace).is_some()
        {
            self.server.put(slice);
        }
    }
}

/// Ends a pod: its process, then its interface.
fn end(mut started: Started<'_>) -> Result<()> {
    let pod = started.pod.take();
    drop(started);
    pod.map_or(Ok(()), |pod| pod.del())
}

fn key(pod: &Value) -> String {
    format!("{}/{}", text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

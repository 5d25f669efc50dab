//! As much of a kubelet as the pod of a DaemonSet meets on a node.
//!
//! Volumes are what the manifest says, at the paths that it says: the node's folders are its own. So is all else, but for
//! the API server's address, which pods are told directly, as they are where `kube-api-server` is set.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use integration::{
    apiserver::ApiServer,
    manifests,
    testbed::{Machine, Node, eventually},
};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, Container, HTTPGetAction, PodSpec, Volume},
};

use super::config::Pod;
use crate::{cri::State, runtime::Containerd};

/// How long a container may take to end, or to be ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs pods on a node.
#[derive(Debug)]
pub struct Kubelet<'n> {
    pub node: &'n Node,
    pub containerd: &'n Containerd,
    pub server: &'n ApiServer,
}

/// A pod whose containers have been started.
#[derive(Debug)]
pub struct Running<'k> {
    kubelet: &'k Kubelet<'k>,
    sandbox: String,
    containers: Vec<(Container, String)>,
    grace: u64,
    logs: PathBuf,
}

impl<'k> Kubelet<'k> {
    /// Runs the pod of a manifest's DaemonSet: its containers for beginning one after the other, then the others.
    pub fn run(&'k self, set: &DaemonSet) -> Result<Running<'k>> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let uid = format!("uid-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let spec = set.spec.template.spec.as_ref().context("a pod")?;
        let namespace = set.metadata.namespace.as_deref().context("a namespace")?;
        let folder = self.node.folder().join("kubelet").join(&uid);
        let logs = folder.join("logs");
        fs::create_dir_all(&logs)?;
        let volumes = self.volumes(spec, &folder)?;
        let account = (spec.automount_service_account_token != Some(false)).then(|| folder.join("account"));
        if let Some(account) = &account {
            fs::create_dir(account)?;
            self.server.service_account(account, namespace)?;
        }
        let address = self.server.address();
        let pod = Pod {
            name: set.metadata.name.as_deref().context("a name")?,
            namespace,
            uid: &uid,
            cgroup: self.containerd.cgroup(),
            logs: logs.clone(),
            spec,
            volumes,
            account,
            node: "node",
            environment: vec![
                ("KUBERNETES_SERVICE_HOST".into(), address.ip().to_string()),
                ("KUBERNETES_SERVICE_PORT".into(), address.port().to_string()),
            ],
        };
        let config = pod.sandbox();
        let sandbox = self.containerd.cri.run_sandbox(&config)?;
        let grace = spec.termination_grace_period_seconds.unwrap_or(30).try_into()?;
        let mut running = Running { kubelet: self, sandbox, containers: Vec::new(), grace, logs };
        for container in spec.init_containers.iter().flatten() {
            let id = running.start(&pod, container, &config)?;
            let ended = || self.containerd.cri.state(&id).is_ok_and(|state| state != State::Runs);
            let ended = eventually(PATIENCE, ended);
            let state = self.containerd.cri.state(&id)?;
            ensure!(
                ended && state == State::Ended(0),
                "{}: {state:?}\n{}",
                container.name,
                running.log(&container.name)
            );
        }
        for container in &spec.containers {
            let id = running.start(&pod, container, &config)?;
            running.containers.push((container.clone(), id));
        }
        Ok(running)
    }

    fn volumes(&self, spec: &PodSpec, folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
        let volumes = spec.volumes.iter().flatten();
        volumes.map(|volume| Ok((volume.name.clone(), self.volume(volume, folder)?))).collect()
    }

    fn volume(&self, volume: &Volume, folder: &Path) -> Result<PathBuf> {
        if let Some(source) = &volume.config_map {
            let map: ConfigMap = manifests::find("cambric.yaml", "ConfigMap")?;
            ensure!(map.metadata.name.as_deref() == Some(&*source.name), "another ConfigMap: {map:?}");
            let files = folder.join(&volume.name);
            fs::create_dir(&files)?;
            for (name, content) in map.data.iter().flatten() {
                fs::write(files.join(name), content)?;
            }
            return Ok(files);
        }
        let source = volume.host_path.as_ref().context("a volume of the node or a ConfigMap")?;
        let there = self.containerd.seen(&source.path);
        match source.type_.as_deref() {
            Some("DirectoryOrCreate") => fs::create_dir_all(there)?,
            Some("Directory") => ensure!(there.is_dir(), "the node has no {}", source.path),
            other => bail!("the tests' kubelet does not know volumes of the type {other:?}"),
        }
        Ok(source.path.clone().into())
    }
}

impl Running<'_> {
    fn start(&self, pod: &Pod<'_>, container: &Container, of_sandbox: &[u8]) -> Result<String> {
        let config = pod.container(container, 0)?;
        let started = self.kubelet.containerd.cri.run_container(&self.sandbox, &config, of_sandbox);
        started.with_context(|| format!("start {}", container.name))
    }

    /// What a container has said.
    pub fn log(&self, container: &str) -> String {
        fs::read_to_string(self.logs.join(format!("{container}.log"))).unwrap_or_default()
    }

    /// Waits until the probes say that it is ready; without probes it is as soon as it runs.
    pub fn wait_until_ready(&self) -> Result<()> {
        for (container, id) in &self.containers {
            let probe = container.readiness_probe.as_ref().and_then(|probe| probe.http_get.as_ref());
            let runs = || self.kubelet.containerd.cri.state(id).is_ok_and(|state| state == State::Runs);
            let ready = || probe.is_none_or(|probe| self.answers(probe));
            let ready = eventually(PATIENCE, || ready() || !runs());
            ensure!(ready && runs(), "{} is not ready:\n{}", container.name, self.log(&container.name));
        }
        Ok(())
    }

    fn answers(&self, probe: &HTTPGetAction) -> bool {
        use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::{Int, String};
        let port = match &probe.port {
            Int(port) => port.to_string(),
            String(name) => name.clone(),
        };
        let host = probe.host.as_deref().unwrap_or("127.0.0.1");
        let path = probe.path.as_deref().unwrap_or("/");
        let curl = self.kubelet.node.netns().command("curl").and_then(|mut curl| {
            curl.args(["-sf", "--max-time", "1", "-o", "/dev/null"])
                .arg(format!("http://{host}:{port}{path}"));
            Ok(curl.status()?)
        });
        curl.is_ok_and(|status| status.success())
    }

    /// Ends it as the kubelet does: by SIGTERM, within its time.
    pub fn stop(self) -> Result<()> {
        for (container, id) in &self.containers {
            self.kubelet.containerd.cri.stop_container(id, self.grace)?;
            let state = self.kubelet.containerd.cri.state(id)?;
            ensure!(state == State::Ended(0), "{}: {state:?}\n{}", container.name, self.log(&container.name));
        }
        self.kubelet.containerd.cri.remove_sandbox(&self.sandbox)
    }
}

//! What a kubelet makes of a pod's specification: the configurations that it hands to the runtime.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Container, PodSpec, SecurityContext, VolumeMount};

use crate::cri::message::{count, field, text};

/// Of `NamespaceMode`.
const POD: u64 = 0;
const CONTAINER: u64 = 1;
const NODE: u64 = 2;

/// What a kubelet hides of the kernel's files, unless a container is privileged, and what it lets only be read.
const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What the kubelet knows of a pod besides its specification.
#[derive(Debug)]
pub struct Pod<'p> {
    pub name: &'p str,
    pub namespace: &'p str,
    pub uid: &'p str,
    pub cgroup: &'p str,
    pub logs: PathBuf,
    pub spec: &'p PodSpec,
    /// The paths of its volumes on the node.
    pub volumes: BTreeMap<String, PathBuf>,
    /// Where it finds its service account, if it does.
    pub account: Option<PathBuf>,
    /// The name of the node, and where services find the API server.
    pub node: &'p str,
    pub environment: Vec<(String, String)>,
}

impl Pod<'_> {
    /// `PodSandboxConfig`.
    pub fn sandbox(&self) -> Vec<u8> {
        let metadata = [text(1, self.name), text(2, self.uid), text(3, self.namespace)].concat();
        let security = field(1, &self.namespaces(POD));
        let linux = [text(1, self.cgroup), field(2, &security)].concat();
        let logs = self.logs.display().to_string();
        [field(1, &metadata), text(3, &logs), field(8, &linux)].concat()
    }

    /// `ContainerConfig`.
    pub fn container(&self, container: &Container, attempt: u64) -> Result<Vec<u8>> {
        let variables = self.variables(container)?;
        let metadata = [text(1, &container.name), count(2, attempt)].concat();
        let image = container.image.as_deref().context("an image")?;
        let mut config = vec![field(1, &metadata), field(2, &text(1, image))];
        let words = |tag, words: &Option<Vec<String>>| {
            words.iter().flatten().map(|word| text(tag, &expanded(word, &variables))).collect::<Vec<_>>()
        };
        config.extend(words(3, &container.command));
        config.extend(words(4, &container.args));
        config
            .extend(variables.iter().map(|(key, value)| field(6, &[text(1, key), text(2, value)].concat())));
        for mount in container.volume_mounts.iter().flatten() {
            config.push(field(7, &self.mount(mount)?));
        }
        if let Some(account) = &self.account {
            let there = text(1, "/var/run/secrets/kubernetes.io/serviceaccount");
            config.push(field(7, &[there, text(2, &account.display().to_string()), count(3, 1)].concat()));
        }
        config.push(text(11, &format!("{}.log", container.name)));
        let default = SecurityContext::default();
        let context = container.security_context.as_ref().unwrap_or(&default);
        config.push(field(15, &field(2, &self.security(context)?)));
        Ok(config.concat())
    }

    fn mount(&self, mount: &VolumeMount) -> Result<Vec<u8>> {
        let volume = self.volumes.get(&mount.name).with_context(|| format!("no volume {}", mount.name))?;
        let propagation = match mount.mount_propagation.as_deref() {
            None | Some("None") => 0,
            Some("HostToContainer") => 1,
            Some("Bidirectional") => 2,
            Some(other) => bail!("{other} is no propagation of mounts"),
        };
        Ok([
            text(1, &mount.mount_path),
            text(2, &volume.display().to_string()),
            count(3, mount.read_only.unwrap_or(false).into()),
            count(5, propagation),
        ]
        .concat())
    }

    /// `LinuxContainerSecurityContext`.
    fn security(&self, context: &SecurityContext) -> Result<Vec<u8>> {
        let mut security = Vec::new();
        if let Some(capabilities) = &context.capabilities {
            let add = capabilities.add.iter().flatten().map(|name| text(1, name));
            let drop = capabilities.drop.iter().flatten().map(|name| text(2, name));
            security.push(field(1, &add.chain(drop).collect::<Vec<_>>().concat()));
        }
        security.push(count(2, context.privileged.unwrap_or(false).into()));
        security.push(field(3, &self.namespaces(CONTAINER)));
        security.push(count(7, context.read_only_root_filesystem.unwrap_or(false).into()));
        security.push(count(11, (context.allow_privilege_escalation == Some(false)).into()));
        security.extend(MASKED.map(|path| text(13, path)));
        security.extend(READ_ONLY.map(|path| text(14, path)));
        let of_pod = || self.spec.security_context.as_ref()?.seccomp_profile.as_ref();
        let profile = match context.seccomp_profile.as_ref().or_else(of_pod).map(|it| &*it.type_) {
            Some("RuntimeDefault") => 0,
            None | Some("Unconfined") => 1,
            Some(other) => bail!("the tests' kubelet has no seccomp profile {other}"),
        };
        security.push(field(15, &count(1, profile)));
        Ok(security.concat())
    }

    /// `NamespaceOption`, where processes are by default those of `process`.
    fn namespaces(&self, process: u64) -> Vec<u8> {
        let on_node = |asked: Option<bool>, otherwise| if asked == Some(true) { NODE } else { otherwise };
        let network = on_node(self.spec.host_network, POD);
        let process = on_node(self.spec.host_pid, process);
        [count(1, network), count(2, process), count(3, on_node(self.spec.host_ipc, POD))].concat()
    }

    fn variables(&self, container: &Container) -> Result<Vec<(String, String)>> {
        let mut variables = self.environment.clone();
        for variable in container.env.iter().flatten() {
            let from = variable.value_from.as_ref().and_then(|it| it.field_ref.as_ref());
            let value = match (&variable.value, from.map(|it| &*it.field_path)) {
                (Some(value), None) => expanded(value, &variables),
                (None, Some("spec.nodeName")) => self.node.to_owned(),
                (None, Some("metadata.name")) => self.name.to_owned(),
                (None, Some("metadata.namespace")) => self.namespace.to_owned(),
                other => bail!("the tests' kubelet has no value for {}: {other:?}", variable.name),
            };
            variables.push((variable.name.clone(), value));
        }
        Ok(variables)
    }
}

/// A word of a command, with `$(VARIABLE)` replaced.
fn expanded(word: &str, variables: &[(String, String)]) -> String {
    variables.iter().fold(word.to_owned(), |word, (key, value)| word.replace(&format!("$({key})"), value))
}

//! Containers: a namespace, and what ADD made in it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use bpf::attach::{self, Direction};
use serde_json::{Value, json};

use super::{machine::Machine, netns::Netns, node::Node, plugin::Invocation};

/// A container's namespace on a node.
#[derive(Debug)]
pub struct Sandbox<'n> {
    node: &'n Node,
    name: String,
    netns: Netns,
    identity: Option<Identity>,
}

/// What a runtime tells of the pod that a container is.
#[derive(Debug)]
struct Identity {
    args: String,
    labels: Value,
}

impl Node {
    /// A container's namespace without an interface.
    pub fn sandbox(&self, name: &str) -> Result<Sandbox<'_>> {
        Sandbox::new(self, name)
    }

    /// A pod: a sandbox, and ADD.
    pub fn add_pod(&self, name: &str) -> Result<Pod<'_>> {
        self.sandbox(name)?.add()
    }

    /// A sandbox of a pod, `namespace/name`, with labels.
    pub fn sandbox_of(&self, pod: &str, labels: &[(&str, &str)]) -> Result<Sandbox<'_>> {
        Sandbox::of(self, pod, labels)
    }

    /// A pod, `namespace/name`, with labels.
    pub fn add_pod_of(&self, pod: &str, labels: &[(&str, &str)]) -> Result<Pod<'_>> {
        self.sandbox_of(pod, labels)?.add()
    }

    /// A sandbox of a pod, `namespace/name`, as the kubelet has it started.
    pub fn kubelet_sandbox(&self, pod: &str, uid: &str) -> Result<Sandbox<'_>> {
        Sandbox::of_kubelet(self, pod, uid)
    }
}

impl<'n> Sandbox<'n> {
    fn new(node: &'n Node, name: &str) -> Result<Self> {
        Ok(Self { node, name: name.into(), netns: Netns::new(name)?, identity: None })
    }

    /// Of a pod, `namespace/name`, with labels.
    fn of(node: &'n Node, pod: &str, labels: &[(&str, &str)]) -> Result<Self> {
        let (namespace, name) = pod.split_once('/').context("a namespace and a name")?;
        let mut sandbox = Self::new(node, &format!("{namespace}-{name}"))?;
        let labels = labels.iter().map(|(key, value)| json!({"key": key, "value": value}));
        sandbox.identity = Some(Identity {
            args: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}"),
            labels: json!({"cni": {"labels": labels.collect::<Vec<_>>()}}),
        });
        Ok(sandbox)
    }

    /// Of a pod as the kubelet has it started: its name and its UID are told, its labels are the API's affair.
    fn of_kubelet(node: &'n Node, pod: &str, uid: &str) -> Result<Self> {
        let mut sandbox = Self::of(node, pod, &[])?;
        if let Some(identity) = &mut sandbox.identity {
            identity.args =
                format!("{};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={uid}", identity.args, sandbox.name);
            identity.labels = json!({});
        }
        Ok(sandbox)
    }

    /// The container's id.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An invocation of `cambric` for this container and its namespace.
    pub fn cni(&self, command: &str) -> Invocation<'n> {
        let invocation = self.node.cni(command, &self.name).netns(self.netns.path());
        match &self.identity {
            Some(identity) => invocation.args(&identity.args).set("args", identity.labels.clone()),
            None => invocation,
        }
    }

    /// ADD.
    pub fn add(self) -> Result<Pod<'n>> {
        let result = self.cni("ADD").run()?;
        self.added(result)
    }

    /// The pod whose ADD had this result.
    pub fn added(self, result: Value) -> Result<Pod<'n>> {
        let addresses = result["ips"].as_array().context("a result with ips")?.iter();
        let addresses = addresses.map(|ip| {
            let text = ip["address"].as_str().context("an address")?;
            Ok(text.split('/').next().unwrap_or_default().parse()?)
        });
        Ok(Pod { addresses: addresses.collect::<Result<_>>()?, sandbox: self, result })
    }
}

impl Machine for Sandbox<'_> {
    fn netns(&self) -> &Netns {
        &self.netns
    }
}

/// A container with its interface.
#[derive(Debug)]
pub struct Pod<'n> {
    sandbox: Sandbox<'n>,
    addresses: Vec<IpAddr>,
    /// What ADD printed.
    pub result: Value,
}

impl<'n> Pod<'n> {
    /// What it was made in.
    pub fn sandbox(&self) -> &Sandbox<'n> {
        &self.sandbox
    }

    /// Its addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its IPv4 address.
    ///
    /// # Panics
    /// If it has none.
    pub fn ipv4(&self) -> Ipv4Addr {
        let found = self.addresses.iter().find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        });
        found.expect("the pod has an IPv4 address")
    }

    /// Its IPv6 address.
    ///
    /// # Panics
    /// If it has none.
    pub fn ipv6(&self) -> Ipv6Addr {
        let found = self.addresses.iter().find_map(|ip| match ip {
            IpAddr::V6(ip) => Some(*ip),
            IpAddr::V4(_) => None,
        });
        found.expect("the pod has an IPv6 address")
    }

    /// Name of its host end.
    ///
    /// # Panics
    /// If the result does not name it.
    pub fn host_ifname(&self) -> String {
        let interfaces = self.result["interfaces"].as_array().into_iter().flatten();
        let mut host = interfaces.filter(|interface| interface["sandbox"].as_str().is_none_or(str::is_empty));
        host.next()
            .and_then(|interface| interface["name"].as_str())
            .expect("the result names the host end")
            .to_owned()
    }

    /// The container's id.
    pub fn name(&self) -> &str {
        self.sandbox.name()
    }

    /// An invocation of `cambric` for this pod, with its result as `prevResult` unless it is ADD.
    pub fn cni(&self, command: &str) -> Invocation<'n> {
        let invocation = self.sandbox.cni(command);
        if command == "ADD" { invocation } else { invocation.set("prevResult", self.result.clone()) }
    }

    /// CHECK.
    pub fn check(&self) -> Result<()> {
        self.cni("CHECK").run().map(drop)
    }

    /// Takes a program off the pod's host end, as somebody else would.
    pub fn detach(&self, direction: Direction) -> Result<()> {
        let (host_ifname, name) = match direction {
            Direction::Ingress => (self.host_ifname(), "from_endpoint"),
            Direction::Egress => (self.host_ifname(), "to_endpoint"),
        };
        self.sandbox.node.netns().inside(move || {
            let index = nix::net::if_::if_nametoindex(host_ifname.as_str())?;
            let attached = attach::unlinked_tcx_programs(name, index, direction)?;
            ensure!(attached.len() == 1, "{name} is attached to {host_ifname} {} times", attached.len());
            Ok(attach::detach_tcx_program(attached[0], index, direction)?)
        })
    }

    /// DEL; the namespace stays.
    pub fn del(&self) -> Result<()> {
        self.cni("DEL").run().map(drop)
    }
}

impl Machine for Pod<'_> {
    fn netns(&self) -> &Netns {
        self.sandbox.netns()
    }
}

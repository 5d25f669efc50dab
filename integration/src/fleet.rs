//! Several nodes: two subnets, a router between them, and beside the router the API server, or a directory of manifests in
//! its place.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    apiserver::ApiServer,
    testbed::{Addressed, Machine, Neighbour, Node, Pod, Settings},
};

/// A subnet of the fleet's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subnet {
    /// `192.0.2.0/24`, `2001:db8::/64`.
    First,
    /// `198.51.100.0/24`, `2001:db8:2::/64`.
    Second,
}

impl Subnet {
    fn bridge(self) -> &'static str {
        match self {
            Self::First => "lan1",
            Self::Second => "lan2",
        }
    }

    /// The router's addresses in it.
    pub fn router(self) -> (Ipv4Addr, Ipv6Addr) {
        match self {
            Self::First => (Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
            Self::Second => (Ipv4Addr::new(198, 51, 100, 1), Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1)),
        }
    }
}

/// Families of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Both.
    Both,
}

impl Families {
    /// Whether an address is of them.
    pub fn have(self, address: IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
            Self::Both => true,
        }
    }
}

/// A node's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its subnet.
    pub subnet: Subnet,
    /// The last byte of its addresses.
    pub host: u8,
    /// The number of its pods' prefixes.
    pub pods: u8,
    /// The families that its Node tells addresses of.
    pub told: Families,
}

impl Place {
    /// A place whose Node tells both addresses, with its pods' prefixes of the same number.
    pub const fn new(subnet: Subnet, host: u8) -> Self {
        Self { subnet, host, pods: host, told: Families::Both }
    }

    /// Its addresses.
    pub fn addresses(self) -> [IpAddr; 2] {
        [self.ipv4().into(), self.ipv6().into()]
    }

    /// Its IPv4 address.
    pub fn ipv4(self) -> Ipv4Addr {
        let [a, b, c, _] = self.subnet.router().0.octets();
        [a, b, c, self.host].into()
    }

    /// Its IPv6 address.
    pub fn ipv6(self) -> Ipv6Addr {
        let mut segments = self.subnet.router().1.segments();
        segments[7] = self.host.into();
        segments.into()
    }

    /// The prefixes of its pods.
    pub fn pod_cidrs(self) -> [String; 2] {
        [format!("10.244.{}.0/24", self.pods), format!("fd00:244:{:x}::/64", self.pods)]
    }

    /// The node's own addresses in them.
    pub fn gateways(self) -> [IpAddr; 2] {
        [
            Ipv4Addr::new(10, 244, self.pods, 1).into(),
            Ipv6Addr::new(0xfd00, 0x244, self.pods.into(), 0, 0, 0, 0, 1).into(),
        ]
    }
}

/// Where nodes learn of each other.
#[derive(Debug)]
enum Source {
    Api(ApiServer),
    Directory(PathBuf),
}

/// The router, with the API server.
#[derive(Debug)]
pub struct Fleet {
    /// What leads from one subnet to the other; it knows nothing of pods.
    pub router: Neighbour,
    source: Source,
    families: Families,
    folder: TempDir,
}

impl Fleet {
    /// A router between two empty subnets, of both families.
    pub fn new() -> Result<Self> {
        Self::of(Families::Both)
    }

    /// As [`new`](Self::new), but nodes and pods have addresses of these families only.
    pub fn of(families: Families) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let router = router()?;
        let (v4, v6) = Subnet::First.router();
        let address: IpAddr = if families == Families::V6 { v6.into() } else { v4.into() };
        let server = ApiServer::start(router.netns(), (address, 6443).into())?;
        server.kubeconfig(&folder.path().join("kubeconfig"))?;
        Ok(Self { router, source: Source::Api(server), families, folder })
    }

    /// As [`new`](Self::new), but the nodes learn of each other by a directory of manifests.
    pub fn of_directory() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let manifests = folder.path().join("cluster");
        fs::create_dir(&manifests)?;
        let source = Source::Directory(manifests);
        Ok(Self { router: router()?, source, families: Families::Both, folder })
    }

    /// A node that follows the cluster, and whose daemon runs. Its pods' prefixes are those of its Node.
    pub fn node(&self, name: &str, place: Place, flags: &[&str]) -> Result<Node> {
        let node = self.machine(name, place, flags)?;
        self.register(name, place)?;
        node.start_daemon()?;
        Ok(node)
    }

    /// A node whose daemon does not run, and which the cluster does not know.
    pub fn machine(&self, name: &str, place: Place, flags: &[&str]) -> Result<Node> {
        let source = match &self.source {
            Source::Api(_) => format!("kube:{}", self.kubeconfig().display()),
            Source::Directory(path) => format!("dir:{}", path.display()),
        };
        let mut settings = Settings::default().pools(&[]);
        settings.flags.retain(|flag| !flag.starts_with("--node-name"));
        settings = settings.flag(format!("--node-name={name}")).flag(format!("--cluster={source}"));
        for flag in flags {
            settings = settings.flag(*flag);
        }
        let subnet = place.subnet;
        let node = Node::on_bridge(settings, &self.router, subnet.bridge(), subnet.router(), place.host)?;
        match self.families {
            Families::V4 => drop(node.netns().ip("-6 address flush dev uplink")?),
            Families::V6 => drop(node.netns().ip("-4 address flush dev uplink")?),
            Families::Both => {}
        }
        Ok(node)
    }

    /// Creates or changes a Node.
    pub fn register(&self, name: &str, place: Place) -> Result<()> {
        let told = |address: &IpAddr| place.told.have(*address) && self.families.have(*address);
        let addresses: Vec<_> = place.addresses().into_iter().filter(told).collect();
        let mut cidrs = place.pod_cidrs().to_vec();
        cidrs.retain(|cidr| match self.families {
            Families::V4 => !cidr.contains(':'),
            Families::V6 => cidr.contains(':'),
            Families::Both => true,
        });
        self.put(&node_object(name, &addresses, &cidrs))
    }

    /// Deletes a Node.
    pub fn unregister(&self, name: &str) -> Result<()> {
        self.delete(&json!({"kind": "Node", "metadata": {"name": name}}))
    }

    /// The API server, where nodes learn of each other by one.
    pub fn server(&self) -> Option<&ApiServer> {
        match &self.source {
            Source::Api(server) => Some(server),
            Source::Directory(_) => None,
        }
    }

    /// A kubeconfig for it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Creates or replaces an object.
    pub fn put(&self, object: &Value) -> Result<()> {
        match &self.source {
            Source::Api(server) => server.put(object.clone()),
            Source::Directory(path) => {
                // Whole at once.
                let beside = self.folder.path().join("written");
                fs::write(&beside, object.to_string())?;
                fs::rename(beside, file_of(path, object)).context("put a manifest")?;
            }
        }
        Ok(())
    }

    /// Deletes an object.
    pub fn delete(&self, object: &Value) -> Result<()> {
        let name = object["metadata"]["name"].as_str().context("a name")?;
        match &self.source {
            Source::Api(server) => {
                let resource = match object["kind"].as_str().context("a kind")? {
                    "Node" => "nodes",
                    "Pod" => "pods",
                    "NetworkPolicy" => "networkpolicies.networking.k8s.io",
                    other => anyhow::bail!("{other} is not deleted by any test"),
                };
                let namespace = object["metadata"]["namespace"].as_str();
                let key = namespace.map_or(name.to_owned(), |namespace| format!("{namespace}/{name}"));
                server.delete(resource, &key);
            }
            Source::Directory(path) => fs::remove_file(file_of(path, object)).context("remove a manifest")?,
        }
        Ok(())
    }

    /// A pod of the namespace `shop` on a node, with its object. It is called `name` by its label `app`, too.
    pub fn add_pod<'n>(&self, node: &'n Node, name: &str) -> Result<Pod<'n>> {
        let object = |addresses: &[IpAddr]| {
            let addresses: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": {"app": name}},
                "spec": {"nodeName": node.name(), "containers": []},
                "status": {"podIPs": addresses},
            })
        };
        self.put(&object(&[]))?;
        let pod = node.kubelet_sandbox(&format!("shop/{name}"), name)?.add()?;
        self.put(&object(pod.addresses()))?;
        Ok(pod)
    }

    /// Has a node's machine be at another place of the network. Its Node does not know of it yet.
    pub fn relocate(&self, node: &Node, from: Place, to: Place) -> Result<()> {
        let netns = node.netns();
        let link = format!("{}-{}", from.subnet.bridge(), from.host);
        self.router.netns().ip(&format!("link set dev {link} master {}", to.subnet.bridge()))?;
        netns.ip("address flush dev uplink scope global")?;
        let (router4, router6) = to.subnet.router();
        netns.ip(&format!("address add {}/24 dev uplink", to.ipv4()))?;
        netns.ip(&format!("address add {}/64 dev uplink nodad", to.ipv6()))?;
        netns.ip(&format!("route replace default via {router4}"))?;
        netns.ip(&format!("-6 route replace default via {router6}"))?;
        Ok(())
    }
}

fn router() -> Result<Neighbour> {
    let router = Neighbour::new()?;
    let netns = router.netns();
    for subnet in [Subnet::First, Subnet::Second] {
        let (bridge, (v4, v6)) = (subnet.bridge(), subnet.router());
        netns.ip(&format!("link add {bridge} type bridge"))?;
        netns.ip(&format!("address add {v4}/24 dev {bridge}"))?;
        netns.ip(&format!("address add {v6}/64 dev {bridge} nodad"))?;
        netns.ip(&format!("link set dev {bridge} up"))?;
    }
    netns.sysctl("net/ipv4/ip_forward", "1")?;
    netns.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    Ok(router)
}

/// A Node.
pub fn node_object(name: &str, addresses: &[IpAddr], pod_cidrs: &[String]) -> Value {
    let addresses: Vec<_> =
        addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()})).collect();
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "spec": {"podCIDRs": pod_cidrs},
        "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn file_of(folder: &Path, object: &Value) -> PathBuf {
    let part = |value: &Value| value.as_str().unwrap_or("-").to_lowercase();
    let (kind, metadata) = (part(&object["kind"]), &object["metadata"]);
    folder.join(format!("{kind}.{}.{}.json", part(&metadata["namespace"]), part(&metadata["name"])))
}

/// A node by the addresses of its place.
#[derive(Debug)]
pub struct Placed<'n>(pub &'n Node, pub Place);

impl Machine for Placed<'_> {
    fn netns(&self) -> &crate::testbed::Netns {
        self.0.netns()
    }
}

impl Addressed for Placed<'_> {
    fn known_by(&self) -> Vec<IpAddr> {
        self.1.addresses().to_vec()
    }

    fn called(&self) -> String {
        self.0.name()
    }
}

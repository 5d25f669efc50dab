//! Several nodes: two subnets, a router between them, and beside the router the API server.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use serde_json::json;
use tempfile::TempDir;

use super::{Machine, Neighbour, Node, Settings};
use crate::apiserver::ApiServer;

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

/// A node's place.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its subnet.
    pub subnet: Subnet,
    /// The last byte of its addresses, which also numbers its pods' prefixes.
    pub host: u8,
}

impl Place {
    /// Its address.
    pub fn ipv4(self) -> Ipv4Addr {
        let [a, b, c, _] = self.subnet.router().0.octets();
        [a, b, c, self.host].into()
    }

    /// The prefixes of its pods.
    pub fn pod_cidrs(self) -> [String; 2] {
        [format!("10.244.{}.0/24", self.host), format!("fd00:244:{:x}::/64", self.host)]
    }
}

/// The router, with the API server.
#[derive(Debug)]
pub struct Fleet {
    /// What leads from one subnet to the other; it knows nothing of pods.
    pub router: Neighbour,
    /// The API server.
    pub server: ApiServer,
    folder: TempDir,
}

impl Fleet {
    /// A router between two empty subnets.
    pub fn new() -> Result<Self> {
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
        let server = ApiServer::start(netns, (Subnet::First.router().0, 6443).into())?;
        let folder = tempfile::tempdir()?;
        server.kubeconfig(&folder.path().join("kubeconfig"))?;
        Ok(Self { router, server, folder })
    }

    /// A node that follows the server, and whose daemon runs. Its pods' prefixes are those of its Node.
    pub fn node(&self, name: &str, place: Place, flags: &[&str]) -> Result<Node> {
        self.register(name, place);
        let kubeconfig = self.folder.path().join("kubeconfig");
        let mut settings = Settings::default().pools(&[]);
        settings.flags.retain(|flag| !flag.starts_with("--node-name"));
        settings = settings
            .flag(format!("--node-name={name}"))
            .flag(format!("--cluster=kube:{}", kubeconfig.display()));
        for flag in flags {
            settings = settings.flag(*flag);
        }
        let subnet = place.subnet;
        let node = Node::on_bridge(settings, &self.router, subnet.bridge(), subnet.router(), place.host)?;
        node.start_daemon()?;
        Ok(node)
    }

    /// Creates or changes a Node.
    pub fn register(&self, name: &str, place: Place) {
        self.server.put(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "spec": {"podCIDRs": place.pod_cidrs()},
            "status": {"addresses": [{"type": "InternalIP", "address": place.ipv4().to_string()}]},
        }));
    }
}

//! Pods whose interfaces another plugin makes: Debian's, first in a chain in which `cambric` comes second.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    binaries::Binaries,
    machine::Machine,
    node::{Node, Settings},
    plugin::Invocation,
    pod::{Pod, Sandbox},
};

/// A plugin that makes interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// A pair for each container, routed.
    Ptp,
    /// A bridge for all of them.
    Bridge,
    /// An interface without an end on the node.
    Macvlan,
}

impl First {
    /// Its configuration on a node. What leaves the node by the uplink gets the node's address, by its own rules.
    pub fn config(self, node: &Node) -> Value {
        let mut config = json!({
            "cniVersion": "1.0.0", "name": "net", "ipMasq": true,
            "ipam": {
                "type": "host-local", "dataDir": node.folder().join("host-local"),
                "ranges": [[{"subnet": "10.99.0.0/24"}], [{"subnet": "fd00:99::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        });
        match self {
            Self::Ptp => config["type"] = json!("ptp"),
            Self::Bridge => {
                config["type"] = json!("bridge");
                config["bridge"] = json!("cni0");
                config["isGateway"] = json!(true);
            }
            Self::Macvlan => {
                config["type"] = json!("macvlan");
                config["master"] = json!("uplink");
            }
        }
        config
    }
}

impl Settings {
    /// Of a daemon that stands behind other plugins.
    #[must_use]
    pub fn behind_others(self) -> Self {
        self.pools(&[]).flag("--chained=true")
    }
}

impl<'n> Sandbox<'n> {
    /// A command of the plugin that comes first.
    pub fn first(&self, node: &Node, command: &str, first: First, result: Option<&Value>) -> Invocation<'n> {
        let mut config = first.config(node);
        if let Some(result) = result {
            config["prevResult"] = result.clone();
        }
        self.cni(command).plugin(Binaries::others(), config)
    }

    /// ADD of `cambric` behind what returned this.
    pub fn cni_behind(&self, result: &Value) -> Invocation<'n> {
        self.cni("ADD").set("cniVersion", json!("1.0.0")).set("prevResult", result.clone())
    }

    /// ADD of both.
    pub fn add_behind(self, node: &Node, first: First) -> Result<Pod<'n>> {
        for netns in [node.netns(), self.netns()] {
            // The other plugin's addresses are in use at once.
            netns.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        }
        let made = self.first(node, "ADD", first, None).run().with_context(|| format!("ADD of {first:?}"))?;
        let result = self.cni_behind(&made).run().context("ADD of cambric behind it")?;
        self.added(result)
    }
}

impl Pod<'_> {
    /// DEL of `cambric`, and then of the plugin before it.
    pub fn del_behind(&self, node: &Node, first: First) -> Result<()> {
        self.del()?;
        self.sandbox().first(node, "DEL", first, Some(&self.result)).run().map(drop)
    }
}

//! The record of one attachment: what the store keeps and everything else is derived from.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use ipamd_api::{
    AttachmentKey, MacAddr, PortMapping,
    wire::{Assigned, NetnsId, Pod},
};
use serde::{Deserialize, Serialize};

/// One attachment, from its reservation to its release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// What identifies it.
    pub key: AttachmentKey,
    /// Its addresses with their gateways: at most one of each family, IPv4 first; all that another plugin assigned.
    pub addresses: Vec<Assigned>,
    /// Ethernet address of the container end.
    pub container_mac: MacAddr,
    /// Ethernet address of the host end.
    pub host_mac: MacAddr,
    /// Bytes, for both ends.
    pub mtu: u32,
    /// The container's namespace, as the runtime named it.
    pub netns: PathBuf,
    /// That namespace's identity; tells it from another that has come to the same path.
    pub netns_id: NetnsId,
    /// That namespace's cookie, by which programs know it; `None` before the commit, or where the kernel has none.
    #[serde(default)]
    pub netns_cookie: Option<u64>,
    /// The pod, where the runtime names it.
    pub pod: Option<Pod>,
    /// The labels of `args.cni.labels`.
    pub labels: BTreeMap<String, String>,
    /// The node's ports that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    /// Whether another plugin made its interface and assigned its addresses. Cambric's name for the host end is a second one
    /// then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chained: bool,
    /// When it was reserved, in seconds since the Unix epoch.
    pub created: u64,
}

impl Attachment {
    /// The first of its addresses of each family.
    pub fn first_ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        [true, false].into_iter().filter_map(|v4| self.ips().find(|ip| ip.is_ipv4() == v4))
    }

    /// Its bare addresses.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(|assigned| assigned.address)
    }
}

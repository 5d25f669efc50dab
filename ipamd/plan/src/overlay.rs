//! The overlay: a VXLAN interface of each node, whose Ethernet address follows from the node's name.

use std::net::{IpAddr, Ipv6Addr};

use ipamd_api::MacAddr;

use crate::observed::Observed;
use ipamd_kernel::netlink::{Link, Vxlan};
use ipamd_model::objects::Node;
pub use ipamd_model::uplink::OVERLAY;

/// The overlay's interface as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Its Ethernet address.
    pub(super) mac: MacAddr,
    /// What it is.
    pub(super) vxlan: Vxlan,
    /// Bytes.
    pub mtu: u32,
}

/// The address that other nodes reach a node at through the overlay: they all must mean the same.
pub(super) fn machine_of(node: &Node) -> Option<IpAddr> {
    node.internal.iter().find(|address| address.is_ipv4()).or_else(|| node.internal.first()).copied()
}

/// A node's Ethernet address in the overlay: of the locally administered ones, from its name, which it keeps wherever it
/// is. There is room for 40 bits of a hash (FNV-1a): of 80,000 clusters of 5,000 nodes, one has two nodes with the same.
pub(super) fn mac_of(node: &str) -> MacAddr {
    let hash = node.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut mac = [0; 6];
    mac.copy_from_slice(&(hash ^ hash >> 40).to_be_bytes()[2..]);
    mac[0] = 0x06;
    MacAddr(mac)
}

/// A node's IPv6 address on the overlay's link.
pub(super) fn link_local_of(mac: MacAddr) -> Ipv6Addr {
    let mut address = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).octets();
    address[10..].copy_from_slice(&mac.0);
    address.into()
}

/// Whether an interface is the overlay's.
pub(super) fn is_overlay(link: &Link) -> bool {
    link.name == OVERLAY && link.vxlan.is_some()
}

/// The overlay's interface, if there is one.
pub fn overlay_link(observed: &Observed) -> Option<&Link> {
    observed.links.iter().find(|link| is_overlay(link))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_make_addresses() {
        let [one, two] = ["node-1", "node-2"].map(mac_of);
        assert!(one != two && one.0[0] == 0x06 && two.0[0] == 0x06);
        let [.., a, b, c] = link_local_of(one).segments();
        assert_eq!([a, b, c].map(u16::to_be_bytes).concat(), one.0);
    }
}

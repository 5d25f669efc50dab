//! The addresses of the node that services depend on.

use std::{collections::BTreeSet, net::IpAddr};

use ipnetwork::IpNetwork;

/// The addresses of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// All.
    pub all: BTreeSet<IpAddr>,
    /// Those that serve node ports; loopback addresses serve the node's own processes only.
    pub node_ports: BTreeSet<IpAddr>,
    /// There are others that do not.
    pub limited: bool,
}

impl NodeAddresses {
    /// The addresses that lie in one of the prefixes serve node ports, or all addresses if there are no prefixes.
    /// Link-local addresses never do, because they mean another machine on every link.
    pub fn new(all: BTreeSet<IpAddr>, prefixes: &[IpNetwork]) -> Self {
        let serves = |address: &&IpAddr| {
            let is_of_link = match address {
                IpAddr::V4(address) => address.is_link_local(),
                IpAddr::V6(address) => address.is_unicast_link_local(),
            };
            !is_of_link && (prefixes.is_empty() || prefixes.iter().any(|prefix| prefix.contains(**address)))
        };
        let node_ports = all.iter().filter(serves).copied().collect();
        Self { all, node_ports, limited: !prefixes.is_empty() }
    }
}

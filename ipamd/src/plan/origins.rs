//! From where packets of other nodes' endpoints are believed: by the overlay, or directly from the node. Which of both a node
//! does is its own choice (`--routing`), so a node takes both.

use super::{Observed, Routing, Uplinks, claims::Claims, peers::Site};
use crate::{
    config::RoutingMode,
    datapath::{NearNode, Origins},
    ipam::Pool,
    peers::Nodes,
};

/// The prefixes of other nodes, each with the address of the node that its packets may come from directly. A prefix that the
/// network may lead to itself is left out, for what it leads comes from a router.
pub fn origins(
    routing: &Routing,
    nodes: &Nodes,
    pools: &[Pool],
    uplinks: &Uplinks,
    observed: &Observed,
) -> Origins {
    let mut origins = Origins::new();
    if routing.mode == RoutingMode::None {
        return origins;
    }
    let by_network = routing.mode == RoutingMode::Direct || routing.keeps_sources;
    let site = Site { overlay: None, uplinks, observed };
    let mut claims = Claims::default();
    for pool in pools {
        // Pools are disjoint.
        let _ = claims.claim(pool.cidr(), &routing.own);
    }
    for node in nodes.values().filter(|node| *node.name != *routing.own) {
        for cidr in &node.pod_cidrs {
            // What several claim is one's, as the routes are.
            if claims.claim(*cidr, &node.name).is_err() {
                continue;
            }
            let near = site.directly(node, *cidr).map(|(ifindex, address)| NearNode { ifindex, address });
            if near.is_some() || !by_network {
                origins.insert(*cidr, near);
            }
        }
    }
    origins
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc};

    use super::*;
    use crate::{cluster::objects::Node, datapath::Uplink, netlink::Address, policy::labels::Labels};

    fn nodes() -> Nodes {
        let node = |name: &str, addresses: &[&str], cidrs: &[&str]| {
            let node = Node {
                name: name.into(),
                labels: Labels::default(),
                addresses: Vec::new(),
                internal: addresses.iter().map(|it| it.parse().unwrap()).collect(),
                pod_cidrs: cidrs.iter().map(|it| it.parse().unwrap()).collect(),
            };
            (name.into(), Arc::new(node))
        };
        Nodes::from([
            node("own", &["192.0.2.1"], &["10.1.0.0/24"]),
            node("near", &["192.0.2.2"], &["10.2.0.0/24", "fd00:2::/64"]),
            node("far", &["198.51.100.3"], &["10.3.0.0/24"]),
            // It says that it has what is others'.
            node("zed", &["192.0.2.9"], &["10.1.0.128/25", "10.2.0.0/24"]),
        ])
    }

    fn told(mode: RoutingMode, keeps_sources: bool) -> Vec<(String, Option<IpAddr>)> {
        let routing = Routing { mode, own: "own".into(), vxlan_id: 7, vxlan_port: 4789, keeps_sources };
        let uplink = Uplink { ifindex: 2, ifname: "eth0".into(), ..Uplink::default() };
        let uplinks = Uplinks { present: vec![uplink], ..Uplinks::default() };
        let address = Address { ifindex: 2, address: "192.0.2.1".parse().unwrap(), prefix: 24, usable: true };
        let observed = Observed { addresses: vec![address], ..Observed::default() };
        let pools = [Pool::new("own", "10.1.0.0/24".parse().unwrap()).unwrap()];
        let origins = origins(&routing, &nodes(), &pools, &uplinks, &observed);
        origins
            .into_iter()
            .map(|(prefix, node)| (prefix.to_string(), node.map(|node| node.address)))
            .collect()
    }

    #[test]
    fn each_prefix_is_its_nodes_and_comes_directly_from_it_or_by_the_overlay() {
        let near = ("10.2.0.0/24".to_owned(), "192.0.2.2".parse().ok());
        // Of IPv6 the near node tells no address.
        let rest = [("10.3.0.0/24".to_owned(), None), ("fd00:2::/64".to_owned(), None)];
        let [far, six] = rest;
        for mode in [RoutingMode::Auto, RoutingMode::Vxlan] {
            assert_eq!(told(mode, false), [near.clone(), far.clone(), six.clone()]);
            // Without masquerade an endpoint's address is met beyond the overlay.
            assert_eq!(told(mode, true), std::slice::from_ref(&near));
        }
        assert_eq!(told(RoutingMode::Direct, false), [near]);
        assert_eq!(told(RoutingMode::None, false), []);
    }
}

//! From where packets of other nodes' endpoints are believed: by the overlay, or directly from the node. Which of both a node
//! does is its own choice (`--routing`), so a node takes both.

use std::net::IpAddr;

use ipnetwork::{IpNetwork, Ipv4Network};

use super::{Observed, Routing, Uplinks, claims::Claims, peers::Site};
use crate::{
    config::RoutingMode,
    datapath::{NearNode, Origin, Origins},
    ipam::Pool,
    peers::Nodes,
};

/// What nobody beyond an uplink has: the addresses of the pools, of which the endpoints are known, and the addresses of the
/// uplinks' networks as such: the broadcast address, and the first, which was one, too.
fn here(pools: &[Pool], uplinks: &Uplinks, observed: &Observed) -> Origins {
    let of_all = |address: &super::Address| match address.address {
        // RFC 3021: a network of two has none.
        IpAddr::V4(ip) if address.prefix <= 30 => {
            let network = Ipv4Network::new(ip, address.prefix).ok()?;
            let addresses = [network.network(), network.broadcast()];
            // Linux lets a machine have the first. This one then has.
            Some(addresses.into_iter().filter(move |it| *it != ip).map(|it| IpNetwork::from(IpAddr::V4(it))))
        }
        _ => None,
    };
    let is_uplink = |ifindex| uplinks.present.iter().any(|uplink| uplink.ifindex == ifindex);
    let addresses = observed.addresses.iter().filter(|address| is_uplink(address.ifindex));
    let of_all = addresses.filter_map(of_all).flatten().map(|address| (address, Origin::AllOfNetwork));
    pools.iter().map(|pool| (pool.cidr(), Origin::Here)).chain(of_all).collect()
}

/// From where senders are believed, by their prefix: what is this node's own, and the prefixes of other nodes, each with the address of the node that its packets may come from directly. A prefix that the
/// network may lead to itself is left out, for what it leads comes from a router.
pub fn origins(
    routing: &Routing,
    nodes: &Nodes,
    pools: &[Pool],
    uplinks: &Uplinks,
    observed: &Observed,
) -> Origins {
    let mut origins = here(pools, uplinks, observed);
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
            match site.directly(node, *cidr) {
                Some((ifindex, address)) => {
                    origins.insert(*cidr, Origin::Node(NearNode { ifindex, address }));
                }
                None if by_network => {}
                None => drop(origins.insert(*cidr, Origin::Overlay)),
            }
        }
    }
    origins
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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

    fn told(mode: RoutingMode, keeps_sources: bool) -> Vec<(String, Origin)> {
        let routing = Routing { mode, own: "own".into(), vxlan_id: 7, vxlan_port: 4789, keeps_sources };
        let uplink = Uplink { ifindex: 2, ifname: "eth0".into(), ..Uplink::default() };
        let uplinks = Uplinks { present: vec![uplink], ..Uplinks::default() };
        let address = Address { ifindex: 2, address: "192.0.2.1".parse().unwrap(), prefix: 24, usable: true };
        let observed = Observed { addresses: vec![address], ..Observed::default() };
        let pools = [Pool::new("own", "10.1.0.0/24".parse().unwrap()).unwrap()];
        let origins = origins(&routing, &nodes(), &pools, &uplinks, &observed);
        origins.into_iter().map(|(prefix, origin)| (prefix.to_string(), origin)).collect()
    }

    #[test]
    fn each_prefix_is_its_nodes_and_comes_directly_from_it_or_by_the_overlay() {
        let is = |prefix: &str, origin| (prefix.to_owned(), origin);
        let near = Origin::Node(NearNode { ifindex: 2, address: "192.0.2.2".parse().unwrap() });
        let (pool, near) = (is("10.1.0.0/24", Origin::Here), is("10.2.0.0/24", near));
        let [first, broadcast] =
            ["192.0.2.0/32", "192.0.2.255/32"].map(|address| is(address, Origin::AllOfNetwork));
        // Of IPv6 the near node tells no address.
        let far = [is("10.3.0.0/24", Origin::Overlay), is("fd00:2::/64", Origin::Overlay)];
        let [far, six] = far;
        for mode in [RoutingMode::Auto, RoutingMode::Vxlan] {
            assert_eq!(
                told(mode, false),
                [pool.clone(), near.clone(), far.clone(), first.clone(), broadcast.clone(), six.clone()]
            );
            // Without masquerade an endpoint's address is met beyond the overlay.
            assert_eq!(told(mode, true), [pool.clone(), near.clone(), first.clone(), broadcast.clone()]);
        }
        assert_eq!(told(RoutingMode::Direct, false), [pool.clone(), near, first.clone(), broadcast.clone()]);
        assert_eq!(told(RoutingMode::None, false), [pool, first, broadcast]);
    }
}

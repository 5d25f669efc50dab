//! Which ways packets of other nodes' endpoints may arrive by: the overlay, or directly from the node. Each node
//! chooses its own routing (`--routing`), so both are accepted from any node.

use std::{collections::HashSet, net::IpAddr};

use ipnetwork::IpNetwork;

use crate::{
    cidr_owners::CidrOwners, observed::Observed, remote_nodes::Site, routing::Routing, uplinks::Uplinks,
};
use ipamd_addresses::ipam::Pool;
use ipamd_config::RoutingMode;
use ipamd_kernel::netlink::Address;
use ipamd_model::{
    objects::Nodes,
    origins::{NearNode, Origin, Origins},
};

/// What nobody beyond an uplink has: the addresses of the pools, of which the endpoints are known, and the addresses that mean all of
/// a network of the node's: the broadcast address, and the first, which was one, too. In IPv6 the first is the one of all routers
/// (RFC 4291, 2.6.1), for which the kernel receives where it forwards. What is sent there is for the node, by whatever interface it
/// comes. The same holds for each broadcast and anycast route of the table `local`: some follow from peer addresses, and anybody may
/// add one.
fn here(pools: &[Pool], observed: &Observed) -> Origins {
    let of_all = |address: &Address| {
        let network = IpNetwork::new(address.address, address.prefix).ok()?;
        // RFC 3021, RFC 6164: a network of two has none.
        let has_some = address.prefix <= if network.is_ipv4() { 30 } else { 126 };
        let (first, last) = (network.network(), network.is_ipv4().then(|| network.broadcast()));
        let ends = has_some.then_some([Some(first), last]).into_iter().flatten().flatten();
        Some(ends.chain(address.broadcast.map(IpAddr::from)))
    };
    let of_link =
        |address: &&Address| matches!(address.address, IpAddr::V6(ip) if ip.is_unicast_link_local());
    // Linux lets a machine have the first. This one then has.
    let own: HashSet<_> = observed.addresses.iter().map(|address| address.address).collect();
    let of_all = observed.addresses.iter().filter(|it| !of_link(it)).filter_map(of_all).flatten();
    // The programs know link-local addresses and multicast by themselves.
    let is_elsewhere_known = |network: &&IpNetwork| match network.ip() {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_loopback() || ip.is_multicast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_multicast(),
    };
    let by_route = observed.of_several_machines.iter().filter(|it| !is_elsewhere_known(it)).copied();
    let of_all = of_all
        .map(IpNetwork::from)
        .chain(by_route)
        .filter(|network| !own.contains(&network.ip()))
        .map(|network| (network, Origin::AllOfNetwork));
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
    let mut origins = here(pools, observed);
    if routing.mode == RoutingMode::None {
        return origins;
    }
    let by_network = routing.mode == RoutingMode::Direct || routing.keeps_sources;
    let site = Site { overlay: None, uplinks, observed };
    let mut owners = CidrOwners::default();
    for pool in pools {
        // Pools are disjoint.
        let _ = owners.claim(pool.cidr(), &routing.own);
    }
    for node in nodes.values().filter(|node| *node.name != *routing.own) {
        for cidr in &node.pod_cidrs {
            // What several claim is one's, as the routes are.
            if owners.claim(*cidr, &node.name).is_err() {
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
    use ipamd_model::{labels::Labels, objects::Node, uplink::Uplink};

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
        let address = Address {
            ifindex: 2,
            address: "192.0.2.1".parse().unwrap(),
            prefix: 24,
            broadcast: None,
            usable: true,
        };
        // On a network that is no uplink's, with a broadcast address that somebody has chosen; and one that has none.
        let other =
            |text: &str, prefix| Address { ifindex: 3, address: text.parse().unwrap(), prefix, ..address };
        let odd = Address { broadcast: Some("172.31.0.255".parse().unwrap()), ..other("172.31.0.1", 16) };
        let six = [
            ("2001:db8:7::1", 64),
            ("2001:db8:8::7", 127),
            ("2001:db8:9::9", 128),
            ("fe80::1", 64),
            ("2001:db8:a::", 64),
            ("2001:db8:a::1", 64),
        ];
        let mut addresses = vec![address, odd, other("203.0.113.7", 31), other("203.0.113.9", 32)];
        addresses.extend(six.map(|(text, prefix)| other(text, prefix)));
        // What the kernel has of the first address, what somebody has added, and what the programs know by themselves.
        let of_several_machines = ["192.0.2.255/32", "203.0.113.128/25", "127.255.255.255/32", "fe80::/128"]
            .map(|text| text.parse().unwrap())
            .into();
        let observed = Observed { addresses, of_several_machines, ..Observed::default() };
        let pools = [Pool::new("own", "10.1.0.0/24".parse().unwrap()).unwrap()];
        let origins = origins(&routing, &nodes(), &pools, &uplinks, &observed);
        origins.into_iter().map(|(prefix, origin)| (prefix.to_string(), origin)).collect()
    }

    #[test]
    fn each_prefix_is_its_nodes_and_comes_directly_from_it_or_by_the_overlay() {
        let is = |prefix: &str, origin| (prefix.to_owned(), origin);
        let near = Origin::Node(NearNode { ifindex: 2, address: "192.0.2.2".parse().unwrap() });
        let (pool, near) = (is("10.1.0.0/24", Origin::Here), is("10.2.0.0/24", near));
        let all = [
            "172.31.0.0/32",
            "172.31.0.255/32",
            "172.31.255.255/32",
            "192.0.2.0/32",
            "192.0.2.255/32",
            "203.0.113.128/25",
        ]
        .map(|address| is(address, Origin::AllOfNetwork));
        // Of IPv6 the near node tells no address.
        let far = [is("10.3.0.0/24", Origin::Overlay), is("fd00:2::/64", Origin::Overlay)];
        let [far, six] = far;
        let routers = [is("2001:db8:7::/128", Origin::AllOfNetwork)];
        let with = |ways: &[(String, Origin)], six: &[(String, Origin)]| [ways, &all, &routers, six].concat();
        for mode in [RoutingMode::Auto, RoutingMode::Vxlan] {
            assert_eq!(
                told(mode, false),
                with(&[pool.clone(), near.clone(), far.clone()], std::slice::from_ref(&six))
            );
            // Without masquerade an endpoint's address is met beyond the overlay.
            assert_eq!(told(mode, true), with(&[pool.clone(), near.clone()], &[]));
        }
        assert_eq!(told(RoutingMode::Direct, false), with(&[pool.clone(), near], &[]));
        assert_eq!(told(RoutingMode::None, false), with(&[pool], &[]));
    }
}

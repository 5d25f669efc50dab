use std::sync::Arc;

use super::*;
use crate::overlay::OVERLAY;
use ipamd_kernel::netlink::{Address, Route, RouteKind, Vxlan};
use ipamd_model::{
    endpoint::{EndpointEntry, Slot},
    labels::Labels,
    objects::Node,
};

pub(super) fn route(destination: &str, ifindexes: &[u32]) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        kind: RouteKind::Unicast { ifindexes: ifindexes.to_vec(), gateway: None, on_link: false },
        source: None,
        ours: false,
        protocol: 3,
        metric: 0,
    }
}

pub(super) fn unreachable(destination: &str) -> Route {
    Route { kind: RouteKind::Unreachable, ..route(destination, &[]) }
}

fn link(index: u32, name: &str, mtu: u32) -> Link {
    Link { index, name: name.into(), up: true, mtu, ..Link::default() }
}

fn address(ifindex: u32, text: &str, usable: bool) -> Address {
    Address { ifindex, address: text.parse().unwrap(), prefix: 24, broadcast: None, usable }
}

fn node(name: &str, internal: &[&str], external: &[&str]) -> Node {
    let parsed = |texts: &[&str]| texts.iter().map(|it| it.parse().unwrap()).collect::<Vec<IpAddr>>();
    let internal = parsed(internal);
    Node {
        name: name.into(),
        labels: Labels::default(),
        addresses: internal.iter().copied().chain(parsed(external)).collect(),
        internal,
        pod_cidrs: Vec::new(),
    }
}

fn cluster(nodes: &[Node]) -> Nodes {
    nodes.iter().map(|node| (Arc::clone(&node.name), Arc::new(node.clone()))).collect()
}

/// What leads out of the node `own`.
fn found(rule: &UplinkRule, nodes: &[Node], observed: &Observed) -> Uplinks {
    uplinks(rule, "own", &cluster(nodes), observed)
}

/// The uplinks by the default rule: each by its name, with the reasons.
fn said(nodes: &[Node], observed: &Observed) -> Vec<String> {
    told(&found(&UplinkRule::default(), nodes, observed))
}

fn told(found: &Uplinks) -> Vec<String> {
    let told = found.present.iter().map(|uplink| {
        format!("{}: {}", uplink.ifname, found.reasons(uplink.ifindex).collect::<Vec<_>>().join(", "))
    });
    told.collect()
}

fn names(rule: &UplinkRule, observed: &Observed) -> Vec<String> {
    found(rule, &[], observed).present.into_iter().map(|uplink| uplink.ifname).collect()
}

fn named(names: &[&str]) -> UplinkRule {
    UplinkRule { named: names.iter().map(|&name| name.to_owned()).collect(), excluded: Vec::new() }
}

fn without(patterns: &[&str]) -> UplinkRule {
    UplinkRule { named: Vec::new(), excluded: patterns.iter().map(|it| it.parse().unwrap()).collect() }
}

/// Its default route is by one interface.
fn machine() -> Observed {
    Observed {
        links: vec![link(1, "lo", 65536), link(3, "eth1", 9000), link(2, "eth0", 1450)],
        addresses: vec![
            address(2, "192.0.2.9", false),
            address(2, "192.0.2.1", true),
            address(2, "192.0.2.2", true),
            address(2, "fd00::1", true),
            address(2, "2001:db8::1", true),
        ],
        routes: vec![route("0.0.0.0/0", &[2])],
        ..Observed::default()
    }
}

/// The management network has the default route, the cluster's has none.
fn two_networks() -> Observed {
    let mut observed = machine();
    observed.addresses.extend([address(3, "10.0.0.1", true), address(3, "2001:db8:c::1", true)]);
    observed.routes.extend([route("10.0.0.0/24", &[3]), route("2001:db8:c::/64", &[3])]);
    observed
}

#[test]
fn a_default_route_makes_an_uplink() {
    let found = found(&UplinkRule::default(), &[], &machine());
    let eth0 = Uplink {
        ifindex: 2,
        ifname: "eth0".into(),
        ipv4: Some("192.0.2.1".parse().unwrap()),
        ipv6: Some("2001:db8::1".parse().unwrap()),
        overlay: None,
    };
    assert_eq!(told(&found), ["eth0: default route IPv4"]);
    assert_eq!((found.present, found.mtu, found.problems), (vec![eth0], Some(1450), vec![]));
}

#[test]
fn default_routes_of_every_family_metric_and_leg_do_and_those_that_lead_nowhere_do_not() {
    let mut observed = machine();
    observed.routes = vec![
        Route { metric: 100, ..route("0.0.0.0/0", &[2, 3]) },
        Route { metric: 9, ..route("0.0.0.0/0", &[4]) },
        route("::/0", &[3]),
        unreachable("::/0"),
    ];
    observed.links.push(link(4, "eth2", 1500));
    assert_eq!(
        said(&[], &observed),
        [
            "eth0: default route IPv4",
            "eth1: default route IPv4, default route IPv6",
            "eth2: default route IPv4"
        ]
    );
    observed.routes =
        vec![unreachable("0.0.0.0/0"), Route { kind: RouteKind::Blackhole, ..unreachable("::/0") }];
    let found = found(&UplinkRule::default(), &[], &observed);
    assert_eq!(found.present, []);
    assert!(found.problems.len() == 1 && found.problems[0].contains("has no uplink"), "{:?}", found.problems);
}

#[test]
fn a_network_without_a_default_route_is_one_by_the_node_s_address_and_the_way_to_others() {
    let own = node("own", &["10.0.0.1"], &["192.0.2.1", "203.0.113.1"]);
    let nodes = [own, node("b", &["10.0.0.2"], &[]), node("c", &["10.0.0.3", "2001:db8:c::3"], &[])];
    let observed = two_networks();
    let rule = UplinkRule::default();
    assert_eq!(
        told(&found(&rule, &nodes, &observed)),
        [
            "eth0: carries the Node's ExternalIP 192.0.2.1, default route IPv4",
            "eth1: carries the Node's InternalIP 10.0.0.1, way to the node b (10.0.0.2) and 1 more",
        ]
    );
    assert_eq!(found(&rule, &nodes, &observed).problems, Vec::<String>::new());
    assert_eq!(found(&rule, &nodes, &observed).mtu, Some(1450));
    // Without the others' objects, and without its own.
    assert_eq!(said(&nodes[..1], &observed)[1], "eth1: carries the Node's InternalIP 10.0.0.1");
    assert_eq!(said(&[], &observed), ["eth0: default route IPv4"]);
}

#[test]
fn a_way_by_ipv6_alone_is_one() {
    let nodes = [node("own", &[], &[]), node("b", &["2001:db8:c::2"], &[])];
    assert_eq!(said(&nodes, &two_networks())[1], "eth1: way to the node b (2001:db8:c::2)");
    let mut observed = two_networks();
    observed.routes.push(unreachable("2001:db8:c::2/128"));
    assert_eq!(said(&nodes, &observed).len(), 1, "the longest prefix says no");
}

#[test]
fn a_bridge_or_a_bond_takes_the_reasons_of_its_ports_and_a_vrf_does_not() {
    let mut observed = two_networks();
    let master = |index, name: &str, kind: &str| Link { kind: kind.into(), ..link(index, name, 1500) };
    observed.links[1].bridge = Some(7);
    for (kind, expected) in [
        ("bridge", "master: carries the Node's InternalIP 10.0.0.1"),
        ("bond", "master: carries the Node's InternalIP 10.0.0.1"),
        ("vrf", "eth1: carries the Node's InternalIP 10.0.0.1"),
    ] {
        let mut observed = observed.clone();
        observed.links.push(master(7, "master", kind));
        let nodes = [node("own", &["10.0.0.1"], &[])];
        assert_eq!(said(&nodes, &observed)[1], expected, "{kind}");
        assert_eq!(found(&UplinkRule::default(), &nodes, &observed).problems, Vec::<String>::new());
    }
    // A port of a bond that is a bridge's port, without a word about either.
    let mut bond = master(7, "bond0", "bond");
    bond.bridge = Some(8);
    observed.links.extend([bond, master(8, "br0", "bridge")]);
    assert_eq!(said(&[node("own", &["10.0.0.1"], &[])], &observed).len(), 2);
    assert!(said(&[node("own", &["10.0.0.1"], &[])], &observed)[1].starts_with("br0: "));
}

#[test]
fn a_vlan_and_the_device_below_it_are_each_what_they_carry() {
    let mut observed = two_networks();
    observed.links[1].name = "eth0.100".into();
    let nodes = [node("own", &["10.0.0.1"], &[])];
    assert_eq!(
        said(&nodes, &observed),
        ["eth0: default route IPv4", "eth0.100: carries the Node's InternalIP 10.0.0.1"]
    );
    observed.routes.clear();
    assert_eq!(said(&nodes, &observed), ["eth0.100: carries the Node's InternalIP 10.0.0.1"]);
}

#[test]
fn the_default_route_s_source_is_masqueraded_with_then_the_node_s_own_address() {
    let ipv4 = |rule: &UplinkRule, nodes: &[Node], observed: &Observed| {
        found(rule, nodes, observed).present[0].ipv4.map(|ip| ip.to_string()).unwrap_or_default()
    };
    let rule = UplinkRule::default();
    let mut observed = machine();
    let own = [node("own", &["192.0.2.2"], &[])];
    assert_eq!(ipv4(&rule, &[], &observed), "192.0.2.1");
    assert_eq!(ipv4(&rule, &own, &observed), "192.0.2.2");
    observed.routes[0].source = Some("192.0.2.1".parse().unwrap());
    assert_eq!(ipv4(&rule, &own, &observed), "192.0.2.1");

    // The addresses are on `lo`, and told to routers by two links that have none.
    observed.addresses.iter_mut().for_each(|it| it.ifindex = 1);
    observed.routes = vec![route("0.0.0.0/0", &[2, 3])];
    let unnumbered = found(&rule, &own, &observed);
    assert_eq!(unnumbered.present.len(), 2);
    for uplink in &unnumbered.present {
        assert_eq!((uplink.ipv4, uplink.ipv6), ("192.0.2.2".parse().ok(), None));
    }
    assert_eq!(unnumbered.problems, Vec::<String>::new());
}

#[test]
fn an_address_of_ipv6_that_is_good_everywhere_comes_before_the_node_s_of_this_site() {
    let own = [node("own", &["fd00::1"], &[])];
    assert_eq!(found(&UplinkRule::default(), &own, &machine()).present[0].ipv6, "2001:db8::1".parse().ok());
}

#[test]
fn named_uplinks_are_these_alone_and_are_missed_by_name() {
    let nodes = [node("own", &["10.0.0.1", "192.0.2.1"], &[])];
    let found = found(&named(&["eth1", "eth7"]), &nodes, &two_networks());
    assert_eq!(told(&found), ["eth1: named in the configuration"]);
    assert_eq!(found.problems.len(), 2, "{:?}", found.problems);
    assert_eq!(found.problems[0], "the uplink eth7 does not exist");
    assert!(found.problems[1].contains("InternalIP 192.0.2.1 is on eth0, which is no uplink"));
    assert!(found.problems[1].contains("--uplink=eth0"));
}

#[test]
fn what_is_excluded_is_none_and_the_node_s_address_on_it_is_told_of() {
    assert_eq!(names(&without(&["eth1"]), &two_networks()), ["eth0"]);
    assert_eq!(names(&without(&["eth*"]), &two_networks()), Vec::<String>::new());
    let nodes = [node("own", &["10.0.0.1"], &[])];
    let found = found(&without(&["eth1"]), &nodes, &two_networks());
    assert_eq!(told(&found), ["eth0: default route IPv4"]);
    assert!(found.problems.len() == 1 && found.problems[0].contains("take it out of uplink-exclude"));
}

#[test]
fn a_node_s_address_that_the_machine_does_not_have_is_told_of() {
    let found = found(&UplinkRule::default(), &[node("own", &["10.9.9.9"], &[])], &machine());
    assert!(
        found.problems.len() == 1 && found.problems[0].contains("InternalIP 10.9.9.9 is on no interface"),
        "{:?}",
        found.problems
    );
}

#[test]
fn an_interface_without_an_ethernet_header_is_none_and_told_of() {
    let mut observed = two_networks();
    observed.links[1] = Link { headless: true, ..link(3, "wg0", 1420) };
    let nodes = [node("own", &["192.0.2.1"], &[]), node("b", &["10.0.0.2"], &[])];
    let rule = UplinkRule::default();
    assert_eq!(said(&nodes, &observed).len(), 1);
    let problems = found(&rule, &nodes, &observed).problems;
    assert!(
        problems.len() == 1 && problems[0].contains("wg0 cannot be an uplink (way to the node b"),
        "{problems:?}"
    );
    assert_eq!(found(&without(&["wg*"]), &nodes, &observed).problems, Vec::<String>::new());
    // Nodes are reached by it all the same, and what comes by it is seen by no program.
    for rule in [rule, without(&["wg*"]), named(&["eth0"])] {
        assert_eq!(found(&rule, &nodes, &observed).elsewhere, ["wg0"], "{rule:?}");
        assert_eq!(found(&rule, &nodes[..1], &observed).elsewhere, Vec::<String>::new(), "{rule:?}");
    }
    let of_name = found(&named(&["wg0"]), &[], &observed);
    assert!(of_name.present.is_empty() && of_name.problems[0].contains("no Ethernet header"));
}

#[test]
fn containers_and_the_overlay_are_no_way_out_and_bridges_of_others_are_none_without_a_reason() {
    let mut observed = machine();
    observed.links.extend([
        link(9, "cmbaaaaaaaaaaaa", 1500),
        Link { second_names: vec!["cmbbbbbbbbbbbbb".into()], ..link(10, "veth1", 1500) },
        link(11, "of-endpoint", 1500),
        Link {
            vxlan: Some(Vxlan { id: 7, port: 4789, local: "192.0.2.1".parse().unwrap() }),
            ..link(12, OVERLAY, 1450)
        },
        Link { kind: "bridge".into(), ..link(13, "docker0", 1500) },
    ]);
    let entry = EndpointEntry {
        ifindex: 11,
        container_mac: ipamd_api::MacAddr([2; 6]),
        host_mac: ipamd_api::MacAddr([2; 6]),
        mtu: 1500,
        shaped: false,
        chained: false,
        slot: Slot(0),
    };
    observed.endpoints.insert("10.88.0.2".parse().unwrap(), entry);
    observed.routes = vec![route("0.0.0.0/0", &[1, 9, 10, 11, 12])];
    observed.addresses.push(address(13, "172.17.0.1", true));
    observed.routes.push(route("172.17.0.0/16", &[13]));
    let nodes = [node("own", &[], &[]), node("b", &["198.51.100.1"], &[])];
    assert_eq!(said(&nodes, &observed), Vec::<String>::new());
}

#[test]
fn what_changes_is_followed() {
    let nodes = [node("own", &["10.0.0.1"], &[]), node("b", &["10.0.0.2"], &[])];
    let mut observed = two_networks();
    assert_eq!(said(&nodes, &observed).len(), 2);
    observed.routes[0] = route("0.0.0.0/0", &[3]);
    assert_eq!(said(&nodes, &observed).len(), 1, "the default route has moved");
    observed.addresses.retain(|it| it.ifindex != 3);
    observed.routes.clear();
    assert_eq!(said(&nodes, &observed), Vec::<String>::new());
}

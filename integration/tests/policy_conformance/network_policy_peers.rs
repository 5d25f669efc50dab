//! Upstream's cases of NetworkPolicy about who may be a peer.

use anyhow::Result;
use serde_json::json;

use crate::{
    grid::{Grid, name, ns},
    policies::{named, network_policy, pod},
};

#[test]
fn a_policy_without_rules_denies_the_directions_that_it_names() -> Result<()> {
    let mut grid = Grid::new()?;
    let deny = |types| network_policy("x", "deny", json!({"podSelector": {}, "policyTypes": types}));
    grid.alone(deny(json!(["Ingress"])), |_, to, _| ns(to) != "x")?;
    grid.alone(deny(json!(["Egress"])), |from, _, _| ns(from) != "x")?;
    grid.alone(deny(json!(["Ingress", "Egress"])), |from, to, _| ns(from) != "x" && ns(to) != "x")?;
    // Without types a policy is about ingress, and about egress if it has rules for that.
    grid.alone(deny(json!(null)), |_, to, _| ns(to) != "x")?;
    let empty = json!({"podSelector": {}, "ingress": [], "egress": []});
    grid.alone(network_policy("x", "empty", empty), |_, to, _| ns(to) != "x")?;
    let one = json!({"podSelector": {}, "egress": [{"to": [{"podSelector": {}}]}]});
    grid.alone(network_policy("x", "one", one), |from, to, _| {
        ns(to) != "x" && (ns(from) != "x" || ns(to) == "x")
    })?;
    let unused = json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [], "egress": [{}]});
    grid.alone(network_policy("x", "unused", unused), |_, _, _| true)
}

#[test]
fn peers_are_pods_of_the_own_namespace() -> Result<()> {
    let mut grid = Grid::new()?;
    for selector in [
        pod("b"),
        json!({"matchExpressions": [{"key": "pod", "operator": "In", "values": ["b"]}]}),
        json!({"matchExpressions": [{"key": "pod", "operator": "NotIn", "values": ["a", "c"]}]}),
        json!({
            "matchLabels": {"pod": "b"},
            "matchExpressions": [
                {"key": "pod", "operator": "Exists"},
                {"key": "other", "operator": "DoesNotExist"},
            ],
        }),
    ] {
        let spec = json!({"podSelector": pod("a"), "ingress": [{"from": [{"podSelector": selector}]}]});
        grid.alone(network_policy("x", "from-b", spec), |from, to, _| to != "x/a" || from == "x/b")?;
    }
    let any = json!({
        "podSelector": pod("a"),
        "ingress": [{"from": [{"podSelector": pod("b")}, {"podSelector": pod("c")}]}],
    });
    grid.alone(network_policy("x", "any", any), |from, to, _| to != "x/a" || ns(from) == "x")?;
    // What other namespaces have is out, even if everything is selected.
    let all = json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]});
    grid.alone(network_policy("x", "all", all), |from, to, _| ns(to) != "x" || ns(from) == "x")
}

#[test]
fn peers_are_namespaces() -> Result<()> {
    let mut grid = Grid::new()?;
    for selector in [
        named("y"),
        json!({"matchLabels": {"ns": "y"}}),
        json!({"matchExpressions": [{"key": "ns", "operator": "In", "values": ["y"]}]}),
        json!({"matchExpressions": [
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["x", "z"]},
        ]}),
    ] {
        let spec = json!({"podSelector": pod("a"), "ingress": [{"from": [{"namespaceSelector": selector}]}]});
        grid.alone(network_policy("x", "from-y", spec), |from, to, _| to != "x/a" || ns(from) == "y")?;
    }
    let all = json!({"podSelector": pod("a"), "ingress": [{"from": [{"namespaceSelector": {}}]}]});
    grid.alone(network_policy("x", "all", all), |_, _, _| true)?;
    let not_y = json!({"matchExpressions": [
        {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["y"]},
    ]});
    let egress = json!({
        "podSelector": pod("a"),
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"namespaceSelector": not_y}]}],
    });
    grid.alone(network_policy("x", "not-y", egress), |from, to, _| from != "x/a" || ns(to) != "y")
}

#[test]
fn two_selectors_in_one_entry_both_hold_and_two_entries_either() -> Result<()> {
    let mut grid = Grid::new()?;
    let not_x = json!({"matchExpressions": [
        {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["x"]},
    ]});
    let from =
        |peers| network_policy("x", "from", json!({"podSelector": pod("a"), "ingress": [{"from": peers}]}));
    let either = json!([{"namespaceSelector": not_x}, {"podSelector": pod("b")}]);
    grid.alone(from(either), |from, to, _| to != "x/a" || ns(from) != "x" || from == "x/b")?;
    let both = json!([{"namespaceSelector": not_x, "podSelector": pod("b")}]);
    grid.alone(from(both), |from, to, _| to != "x/a" || (ns(from) != "x" && name(from) == "b"))?;
    let b_or_c = json!({"matchExpressions": [{"key": "pod", "operator": "In", "values": ["b", "c"]}]});
    let several = json!([{"namespaceSelector": not_x, "podSelector": b_or_c}]);
    grid.alone(from(several), |from, to, _| to != "x/a" || (ns(from) != "x" && name(from) != "a"))?;
    let one = json!([{"namespaceSelector": named("y"), "podSelector": pod("a")}]);
    grid.alone(from(one), |from, to, _| to != "x/a" || from == "y/a")
}

#[test]
fn what_one_policy_allows_another_does_not_take_away() -> Result<()> {
    let mut grid = Grid::new()?;
    grid.put(network_policy("x", "deny", json!({"podSelector": {}, "policyTypes": ["Ingress"]})))?;
    let all = json!([{"podSelector": {}, "namespaceSelector": {}}]);
    let allow = json!({"podSelector": pod("a"), "ingress": [{"from": all}]});
    grid.put(network_policy("x", "allow-all-to-a", allow))?;
    grid.holds(|_, to, _| ns(to) != "x" || to == "x/a")?;
    let from_y = json!({"podSelector": pod("b"), "ingress": [{"from": [{"namespaceSelector": named("y")}]}]});
    grid.put(network_policy("x", "from-y-to-b", from_y))?;
    grid.holds(|from, to, _| ns(to) != "x" || to == "x/a" || (to == "x/b" && ns(from) == "y"))
}

#[test]
fn a_client_may_be_held_back_though_the_server_lets_it_in() -> Result<()> {
    let mut grid = Grid::new()?;
    let to_y_a = json!([{"namespaceSelector": named("y"), "podSelector": pod("a")}]);
    let egress = json!({"podSelector": pod("a"), "policyTypes": ["Egress"], "egress": [{"to": to_y_a}]});
    let egress = network_policy("x", "to-y-a", egress);
    grid.alone(egress.clone(), |from, to, _| from != "x/a" || to == "y/a")?;
    grid.put(egress)?;
    for server in ["a", "b"] {
        let from_x_a = json!([{"namespaceSelector": named("x"), "podSelector": pod("a")}]);
        let ingress = json!({"podSelector": pod(server), "ingress": [{"from": from_x_a}]});
        grid.put(network_policy("y", &format!("from-x-a-on-{server}"), ingress))?;
    }
    grid.holds(|from, to, _| match (from, to) {
        ("x/a", to) => to == "y/a",
        (_, "y/a" | "y/b") => false,
        _ => true,
    })
}

#[test]
fn blocks_are_of_addresses_those_of_pods_too() -> Result<()> {
    let mut grid = Grid::new()?;
    let to = |blocks| {
        let spec = json!({"podSelector": pod("a"), "policyTypes": ["Egress"], "egress": [{"to": blocks}]});
        network_policy("x", "to", spec)
    };
    let one = json!([{"ipBlock": {"cidr": "10.0.2.2/32"}}, {"ipBlock": {"cidr": "fd00::2:2/128"}}]);
    grid.alone(to(one), |from, to, _| from != "x/a" || to == "y/b")?;
    let but_one = json!([
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.1.2/32"]}},
        {"ipBlock": {"cidr": "fd00::/16", "except": ["fd00::1:2/128"]}},
    ]);
    grid.put(to(but_one))?;
    grid.holds(|from, to, _| (from, to) != ("x/a", "x/b"))?;
    // Replaced by what was left out before.
    let only = json!([{"ipBlock": {"cidr": "10.0.1.2/32"}}, {"ipBlock": {"cidr": "fd00::1:2/128"}}]);
    grid.put(to(only))?;
    grid.holds(|from, to, _| from != "x/a" || to == "x/b")?;
    // What one block leaves out another may have.
    let both = json!([
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.1.0/24"]}},
        {"ipBlock": {"cidr": "10.0.1.2/32"}},
    ]);
    grid.put(to(both))?;
    let service = crate::grid::tcp(80);
    for (peer, passes) in [
        ("10.0.1.2", true),
        ("10.0.1.3", false),
        ("10.0.2.1", true),
        ("198.51.100.7", true),
        ("fd00::1:2", false),
    ] {
        grid.says("x/a", integration::oracle::Direction::Egress, peer, service, passes)?;
    }
    Ok(())
}

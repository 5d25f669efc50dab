//! What the API of ClusterNetworkPolicy promises.

use anyhow::Result;
use integration::oracle::{Direction, protocol};
use serde_json::{Value, json};

use crate::{
    grid::{Grid, icmp, name, ns, sctp, tcp, udp},
    policies::{cluster_policy, named, network_policy, pod},
};

const OUTSIDE: &str = "198.51.100.1";

/// A policy for all pods, with rules for these directions.
fn policy(name: &str, tier: &str, priority: u32, mut rules: Value) -> Value {
    rules["tier"] = json!(tier);
    rules["priority"] = json!(priority);
    rules["subject"] = json!({"namespaces": {}});
    cluster_policy(name, rules)
}

#[test]
fn the_admin_tier_is_before_network_policies_and_the_baseline_behind() -> Result<()> {
    let mut grid = Grid::new()?;
    let from = |action: &str, namespace: &str| json!({"ingress": [{"action": action, "from": [{"namespaces": named(namespace)}]}]});
    grid.put(policy("no-z", "Admin", 10, from("Deny", "z")))?;
    grid.put(policy("always-y", "Admin", 20, from("Accept", "y")))?;
    grid.put(policy("no-x", "Baseline", 10, from("Deny", "x")))?;
    grid.holds(|from, _, _| ns(from) == "y")?;
    // Its own rule is final for the pods that it selects: the baseline is not asked.
    let from_x = json!([{"namespaceSelector": named("x")}]);
    grid.put(network_policy("x", "from-x", json!({"podSelector": pod("a"), "ingress": [{"from": from_x}]})))?;
    grid.holds(|from, to, _| ns(from) == "y" || (ns(from) == "x" && to == "x/a"))
}

#[test]
fn what_is_passed_on_skips_the_rest_of_the_tier() -> Result<()> {
    let mut grid = Grid::new()?;
    let rules = json!({"ingress": [
        {"action": "Pass", "from": [{"pods": {"namespaceSelector": named("y"), "podSelector": pod("a")}}]},
        {"action": "Deny", "from": [{"namespaces": named("y")}]},
    ]});
    grid.put(policy("some-of-y", "Admin", 0, rules))?;
    grid.put(policy(
        "none-of-y",
        "Admin",
        1000,
        json!({"ingress": [{"action": "Deny", "from": [{"namespaces": named("y")}]}]}),
    ))?;
    grid.holds(|from, _, _| ns(from) != "y" || from == "y/a")?;
    let deny = network_policy("x", "deny", json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    grid.put(deny.clone())?;
    grid.holds(|from, to, _| ns(to) != "x" && (ns(from) != "y" || from == "y/a"))?;
    grid.remove(&deny)?;
    grid.put(policy(
        "none-at-all",
        "Baseline",
        0,
        json!({"ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}]}),
    ))?;
    grid.holds(|_, _, _| false)?;
    grid.says("x/a", Direction::Ingress, OUTSIDE, tcp(80), true)
}

#[test]
fn lower_priorities_are_asked_first() -> Result<()> {
    let mut grid = Grid::new()?;
    let all = |action: &str| json!({"egress": [{"action": action, "to": [{"namespaces": {}}]}]});
    grid.put(policy("deny", "Admin", 50, all("Deny")))?;
    grid.holds(|_, _, _| false)?;
    grid.put(policy("zebra", "Admin", 49, all("Accept")))?;
    grid.holds(|_, _, _| true)?;
    grid.put(policy("zebra", "Admin", 51, all("Accept")))?;
    grid.holds(|_, _, _| false)
}

#[test]
fn a_policy_is_for_the_pods_of_its_subject_and_the_directions_that_it_has_rules_for() -> Result<()> {
    let mut grid = Grid::new()?;
    let deny = json!([{"action": "Deny", "from": [{"namespaces": {}}]}]);
    let of = |subject: Value| {
        cluster_policy("of", json!({"tier": "Admin", "priority": 1, "subject": subject, "ingress": deny}))
    };
    grid.alone(of(json!({"namespaces": named("x")})), |_, to, _| ns(to) != "x")?;
    let pods = json!({"pods": {"namespaceSelector": named("x"), "podSelector": pod("b")}});
    grid.alone(of(pods), |_, to, _| to != "x/b")?;
    let everywhere = json!({"pods": {"namespaceSelector": {}, "podSelector": pod("b")}});
    grid.alone(of(everywhere), |_, to, _| name(to) != "b")?;
    grid.alone(policy("without-rules", "Baseline", 1, json!({"ingress": [], "egress": []})), |_, _, _| true)
}

#[test]
fn protocols_have_ports_by_number_range_and_name() -> Result<()> {
    let mut grid = Grid::new()?;
    let rules = |protocols| {
        json!({"ingress": [
            {"action": "Accept", "from": [{"namespaces": {}}], "protocols": protocols},
            {"action": "Deny", "from": [{"namespaces": {}}]},
        ]})
    };
    let port = |port| json!({"destinationPort": port});
    for (protocols, expected) in [
        (json!([{"tcp": port(json!({"number": 80}))}]), vec![tcp(80)]),
        (json!([{"udp": port(json!({"range": {"start": 80, "end": 81}}))}]), vec![udp(80), udp(81)]),
        (
            json!([{"sctp": port(json!({"number": 81}))}, {"tcp": port(json!({"number": 81}))}]),
            vec![sctp(81), tcp(81)],
        ),
        (json!([{"destinationNamedPort": "serve-80-udp"}]), vec![udp(80)]),
    ] {
        grid.alone(policy("ports", "Admin", 1, rules(protocols)), |_, _, by| expected.contains(&by))?;
    }
    grid.put(policy("ports", "Admin", 1, rules(json!([{"destinationNamedPort": "serve-80-udp"}]))))?;
    grid.says("x/a", Direction::Ingress, "10.0.2.1", icmp(protocol::ICMP, 8, 0), false)
}

#[test]
fn egress_knows_networks_and_nodes() -> Result<()> {
    let mut grid = Grid::new()?;
    grid.put(json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n1", "labels": {"role": "control-plane"}},
        "status": {"addresses": [
            {"type": "InternalIP", "address": "172.16.0.1"},
            {"type": "InternalIP", "address": "fd01::1"},
            {"type": "Hostname", "address": "n1"},
        ]},
    }))?;
    let rules = json!({"egress": [
        {"action": "Accept", "to": [{"nodes": {"matchLabels": {"role": "control-plane"}}}],
            "protocols": [{"tcp": {"destinationPort": {"number": 6443}}}]},
        {"action": "Accept", "to": [{"networks": ["198.51.100.0/24"]}, {"pods": {"namespaceSelector": {}, "podSelector": pod("b")}}]},
        {"action": "Deny", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]},
    ]});
    grid.put(policy("out", "Admin", 1, rules))?;
    grid.holds(|_, to, _| name(to) == "b")?;
    for (peer, service, passes) in [
        ("172.16.0.1", tcp(6443), true),
        ("172.16.0.1", tcp(6444), false),
        ("172.16.0.2", tcp(6443), false),
        ("fd01::1", tcp(6443), true),
        (OUTSIDE, udp(53), true),
        (OUTSIDE, icmp(protocol::ICMP, 8, 0), true),
        ("198.51.101.0", tcp(80), false),
        ("2001:db8::1", icmp(protocol::ICMPV6, 128, 0), false),
    ] {
        grid.says("x/a", Direction::Egress, peer, service, passes)?;
        grid.says("x/a", Direction::Ingress, peer, service, true)?;
    }
    Ok(())
}

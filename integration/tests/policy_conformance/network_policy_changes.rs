//! Upstream's cases of NetworkPolicy about what changes: policies, and labels of pods and namespaces.

use anyhow::Result;
use serde_json::json;

use crate::{
    grid::{Grid, namespace, ns, pod_document, tcp},
    policies::{network_policy, pod},
};

#[test]
fn a_policy_that_allows_everything_changes_nothing_and_may_change_to_the_opposite() -> Result<()> {
    let mut grid = Grid::new()?;
    let policy = |ingress| network_policy("x", "mutable", json!({"podSelector": {}, "ingress": ingress}));
    grid.put(policy(json!([{}])))?;
    grid.holds(|_, _, _| true)?;
    grid.put(policy(json!([])))?;
    grid.holds(|_, to, _| ns(to) != "x")?;
    grid.remove(&policy(json!([])))?;
    grid.holds(|_, _, _| true)
}

#[test]
fn a_policy_that_allows_everything_wins_over_narrower_ones() -> Result<()> {
    let mut grid = Grid::new()?;
    let port_80 = json!([{"ports": [{"port": 80}]}]);
    grid.put(network_policy("x", "in-80", json!({"podSelector": {}, "ingress": port_80})))?;
    grid.holds(|_, to, by| ns(to) != "x" || by == tcp(80))?;
    grid.put(network_policy("x", "in", json!({"podSelector": {}, "ingress": [{}]})))?;
    grid.holds(|_, _, _| true)?;
    let out = |name: &str, egress| {
        network_policy("x", name, json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": egress}))
    };
    grid.put(out("out-80", port_80))?;
    grid.holds(|from, _, by| ns(from) != "x" || by == tcp(80))?;
    grid.put(out("out", json!([{}])))?;
    grid.holds(|_, _, _| true)
}

#[test]
fn the_two_directions_of_a_pod_are_apart() -> Result<()> {
    let mut grid = Grid::new()?;
    let egress = json!({"podSelector": pod("a"), "policyTypes": ["Egress"], "egress": [{}]});
    grid.put(network_policy("x", "out", egress))?;
    grid.holds(|_, _, _| true)?;
    grid.put(network_policy("x", "in", json!({"podSelector": pod("a"), "policyTypes": ["Ingress"]})))?;
    grid.holds(|_, to, _| to != "x/a")
}

#[test]
fn a_deleted_policy_is_enforced_no_more() -> Result<()> {
    let mut grid = Grid::new()?;
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let policy = network_policy("x", "deny", spec);
    grid.put(policy.clone())?;
    grid.holds(|from, to, _| ns(from) != "x" && ns(to) != "x")?;
    grid.remove(&policy)?;
    grid.holds(|_, _, _| true)
}

#[test]
fn a_namespace_becomes_a_peer_by_a_new_label() -> Result<()> {
    let mut grid = Grid::new()?;
    let from = json!([{"namespaceSelector": {"matchLabels": {"ns2": "updated"}}}]);
    grid.put(network_policy("x", "from", json!({"podSelector": pod("a"), "ingress": [{"from": from}]})))?;
    grid.holds(|_, to, _| to != "x/a")?;
    grid.put(namespace("y", &json!({"ns": "y", "ns2": "updated"})))?;
    grid.holds(|from, to, _| to != "x/a" || ns(from) == "y")?;
    grid.put(namespace("y", &json!({"ns": "y"})))?;
    grid.holds(|_, to, _| to != "x/a")
}

#[test]
fn a_pod_becomes_a_peer_by_a_new_label() -> Result<()> {
    let mut grid = Grid::new()?;
    let from = json!([{"podSelector": {"matchLabels": {"pod": "b", "pod2": "updated"}}}]);
    grid.put(network_policy("x", "from", json!({"podSelector": pod("a"), "ingress": [{"from": from}]})))?;
    grid.holds(|_, to, _| to != "x/a")?;
    grid.put(pod_document("x/b", &json!({"pod": "b", "pod2": "updated"})))?;
    grid.holds(|from, to, _| to != "x/a" || from == "x/b")
}

#[test]
fn a_pod_becomes_isolated_by_a_new_label() -> Result<()> {
    let mut grid = Grid::new()?;
    let isolated = json!({"matchLabels": {"target": "isolated"}});
    grid.put(network_policy("x", "isolate", json!({"podSelector": isolated, "policyTypes": ["Ingress"]})))?;
    grid.holds(|_, _, _| true)?;
    grid.put(pod_document("x/a", &json!({"pod": "a", "target": "isolated"})))?;
    grid.holds(|_, to, _| to != "x/a")?;
    grid.put(pod_document("x/a", &json!({"pod": "a"})))?;
    grid.holds(|_, _, _| true)
}

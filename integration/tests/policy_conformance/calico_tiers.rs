//! Calico's tiers: what is decided in one, what is passed on, and what becomes of what none decides.

use anyhow::Result;
use integration::oracle::Direction;
use serde_json::{Value, json};

use crate::{
    grid::{Grid, name, ns, tcp, udp},
    policies::{calico, calico_policy, global_policy, network_policy},
};

fn tier(name: &str, spec: Value) -> Value {
    calico("Tier", name, spec)
}

#[test]
fn what_a_tier_selects_and_does_not_decide_is_dropped() -> Result<()> {
    let mut grid = Grid::new()?;
    grid.put(tier("security", json!({"order": 300})))?;
    let spec = json!({
        "tier": "security",
        "selector": "pod == 'a'",
        "types": ["Ingress"],
        "ingress": [
            {"action": "Allow", "destination": {"ports": [80]}},
            {"action": "Pass", "protocol": "UDP"},
        ],
    });
    grid.put(global_policy("security.some", spec))?;
    grid.holds(|_, to, by| name(to) != "a" || by.port == 80 || by == udp(81))?;
    // What was passed on is for the next tier to decide; what was allowed is not.
    grid.put(network_policy("x", "deny", json!({"podSelector": {}, "policyTypes": ["Ingress"]})))?;
    grid.holds(|_, to, by| match to {
        "x/a" => by.port == 80,
        _ if ns(to) == "x" => false,
        _ => name(to) != "a" || by.port == 80 || by == udp(81),
    })
}

#[test]
fn a_tier_may_pass_on_what_it_does_not_decide() -> Result<()> {
    let mut grid = Grid::new()?;
    let spec = |action: &str| json!({"order": 300, "defaultAction": action});
    grid.put(tier("security", spec("Pass")))?;
    let deny_b = json!({
        "tier": "security",
        "ingress": [{"action": "Deny", "source": {"selector": "pod == 'b'"}}],
    });
    grid.put(global_policy("no-b", deny_b))?;
    grid.holds(|from, _, _| name(from) != "b")?;
    grid.put(network_policy(
        "x",
        "on-80",
        json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}),
    ))?;
    grid.holds(|from, to, by| name(from) != "b" && (ns(to) != "x" || by == tcp(80)))?;
    grid.put(tier("security", spec("Deny")))?;
    grid.holds(|_, _, _| false)?;
    // Egress is none of that policy's.
    grid.says("x/a", Direction::Egress, "198.51.100.1", tcp(80), true)
}

#[test]
fn tiers_are_asked_in_their_order() -> Result<()> {
    let mut grid = Grid::new()?;
    let with = |tier: &str, action: &str| {
        let rules = json!([{"action": action, "destination": {"ports": [80]}}, {"action": "Pass"}]);
        global_policy(tier, json!({"tier": tier, "ingress": rules}))
    };
    grid.put(tier("platform", json!({"order": 200})))?;
    grid.put(tier("security", json!({"order": 100})))?;
    grid.put(with("platform", "Allow"))?;
    grid.put(with("security", "Deny"))?;
    grid.holds(|_, _, by| by.port != 80)?;
    grid.put(tier("security", json!({"order": 300})))?;
    grid.holds(|_, _, _| true)?;
    // A tier without an order is the last one.
    grid.put(tier("platform", json!({})))?;
    grid.holds(|_, _, by| by.port != 80)?;
    grid.put(tier("security", json!({"order": 2_000_000})))?;
    grid.put(calico_policy("x", "in-default", json!({"ingress": [{"action": "Allow"}]})))?;
    grid.holds(|_, to, by| ns(to) == "x" || by.port != 80)
}

#[test]
fn policies_of_a_tier_that_there_is_not_are_not_enforced() -> Result<()> {
    let mut grid = Grid::new()?;
    let deny = json!({"tier": "security", "types": ["Ingress", "Egress"]});
    grid.put(global_policy("deny", deny))?;
    grid.holds(|_, _, _| true)?;
    let security = tier("security", json!({"order": 1}));
    grid.put(security.clone())?;
    grid.holds(|_, _, _| false)?;
    grid.remove(&security)?;
    grid.holds(|_, _, _| true)
}

#[test]
fn ties_go_by_name_then_by_namespace_and_who_has_none_is_first() -> Result<()> {
    let mut grid = Grid::new()?;
    let spec = |action: &str| json!({"order": 10, "ingress": [{"action": action}]});
    grid.put(calico_policy("x", "beta", spec("Deny")))?;
    grid.put(global_policy("gamma", spec("Allow")))?;
    grid.holds(|_, to, _| ns(to) != "x")?;
    grid.put(global_policy("alpha", spec("Allow")))?;
    grid.holds(|_, _, _| true)?;
    grid.remove(&global_policy("alpha", json!({})))?;
    grid.put(global_policy("beta", spec("Allow")))?;
    grid.holds(|_, _, _| true)?;
    // A NetworkPolicy of Kubernetes stands at 1000, by its own name.
    let deny = json!({"order": 1000, "ingress": [{"action": "Deny"}]});
    grid.remove(&global_policy("beta", json!({})))?;
    grid.remove(&global_policy("gamma", json!({})))?;
    grid.remove(&calico_policy("x", "beta", json!({})))?;
    grid.put(network_policy("x", "same", json!({"podSelector": {}, "ingress": [{}]})))?;
    grid.put(global_policy("same", deny.clone()))?;
    grid.holds(|_, _, _| false)?;
    grid.remove(&global_policy("same", json!({})))?;
    grid.put(calico_policy("x", "same", deny))?;
    grid.holds(|_, _, _| true)
}

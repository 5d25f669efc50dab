//! Upstream's cases of NetworkPolicy about protocols and ports.

use anyhow::Result;
use integration::oracle::{Direction, protocol};
use serde_json::{Value, json};

use crate::{
    grid::{Grid, icmp, ns, sctp, tcp, udp},
    policies::{named, network_policy, pod},
};

/// To pod `a` of `x`, from everybody, by these ports.
fn ports(name: &str, ports: &Value) -> Value {
    network_policy("x", name, json!({"podSelector": pod("a"), "ingress": [{"ports": ports}]}))
}

#[test]
fn a_port_is_of_a_protocol_and_that_is_tcp_if_none_is_named() -> Result<()> {
    let mut grid = Grid::new()?;
    for (port, service) in [
        (json!({"port": 81}), tcp(81)),
        (json!({"port": 81, "protocol": "TCP"}), tcp(81)),
        (json!({"port": 80, "protocol": "UDP"}), udp(80)),
        (json!({"port": 81, "protocol": "SCTP"}), sctp(81)),
    ] {
        grid.alone(ports("one", &json!([port])), |_, to, by| to != "x/a" || by == service)?;
    }
    let several = json!([{"port": 80}, {"port": 81, "protocol": "UDP"}]);
    grid.alone(ports("several", &several), |_, to, by| to != "x/a" || by == tcp(80) || by == udp(81))
}

#[test]
fn a_protocol_without_a_port_is_all_of_its_ports() -> Result<()> {
    let mut grid = Grid::new()?;
    grid.alone(ports("tcp", &json!([{"protocol": "TCP"}])), |_, to, by| {
        to != "x/a" || by.protocol == protocol::TCP
    })?;
    grid.alone(ports("sctp", &json!([{"protocol": "SCTP"}])), |_, to, by| {
        to != "x/a" || by.protocol == protocol::SCTP
    })
}

#[test]
fn ports_come_in_ranges() -> Result<()> {
    let mut grid = Grid::new()?;
    grid.alone(ports("both", &json!([{"port": 80, "endPort": 81}])), |_, to, by| {
        to != "x/a" || by == tcp(80) || by == tcp(81)
    })?;
    grid.alone(ports("from-81", &json!([{"port": 81, "endPort": 65535}])), |_, to, by| {
        to != "x/a" || by == tcp(81)
    })?;
    grid.put(ports("some", &json!([{"port": 8080, "endPort": 8090, "protocol": "UDP"}])))?;
    for (port, passes) in [(8079, false), (8080, true), (8085, true), (8090, true), (8091, false)] {
        grid.says("x/a", Direction::Ingress, "10.0.2.1", udp(port), passes)?;
        grid.says("x/a", Direction::Ingress, "fd00::2:1", udp(port), passes)?;
        grid.says("x/a", Direction::Ingress, "10.0.2.1", tcp(port), false)?;
    }
    Ok(())
}

#[test]
fn a_named_port_is_what_the_destination_calls_so() -> Result<()> {
    let mut grid = Grid::new()?;
    let by_name = json!({"podSelector": {}, "ingress": [{"ports": [{"port": "serve-81-tcp"}]}]});
    grid.alone(network_policy("x", "ingress", by_name), |_, to, by| ns(to) != "x" || by == tcp(81))?;
    let from_y = json!({
        "podSelector": pod("a"),
        "ingress": [{"from": [{"namespaceSelector": named("y")}], "ports": [{"port": "serve-80-tcp"}]}],
    });
    grid.alone(network_policy("x", "from-y", from_y), |from, to, by| {
        to != "x/a" || (ns(from) == "y" && by == tcp(80))
    })?;
    let egress = json!({
        "podSelector": {},
        "policyTypes": ["Egress"],
        "egress": [{"ports": [{"port": "serve-80-udp", "protocol": "UDP"}]}],
    });
    grid.put(network_policy("x", "egress", egress))?;
    grid.holds(|from, _, by| ns(from) != "x" || by == udp(80))?;
    // Who is no pod calls nothing by any name.
    grid.says("x/a", Direction::Egress, "198.51.100.1", udp(80), false)?;
    // A name of another protocol's port.
    let wrong = json!([{"port": "serve-80-tcp", "protocol": "UDP"}]);
    grid.alone(ports("wrong", &wrong), |from, to, by| to != "x/a" && (ns(from) != "x" || by == udp(80)))
}

#[test]
fn ports_and_peers_both_hold() -> Result<()> {
    let mut grid = Grid::new()?;
    let from_y = |name: &str, port: u16| {
        let rule = json!({"from": [{"namespaceSelector": named("y")}], "ports": [{"port": port}]});
        network_policy("x", name, json!({"podSelector": pod("a"), "ingress": [rule]}))
    };
    grid.put(from_y("on-81", 81))?;
    grid.holds(|from, to, by| to != "x/a" || (ns(from) == "y" && by == tcp(81)))?;
    grid.put(from_y("on-80", 80))?;
    grid.holds(|from, to, by| to != "x/a" || (ns(from) == "y" && by.protocol == protocol::TCP))
}

#[test]
fn rules_for_both_directions_hold_apart() -> Result<()> {
    let mut grid = Grid::new()?;
    let spec = json!({
        "podSelector": pod("a"),
        "policyTypes": ["Egress", "Ingress"],
        "ingress": [{"from": [{"podSelector": pod("b")}]}],
        "egress": [{"ports": [{"port": 80}]}],
    });
    grid.alone(network_policy("x", "both", spec), |from, to, by| {
        (to != "x/a" || from == "x/b") && (from != "x/a" || by == tcp(80))
    })
}

#[test]
fn what_is_allowed_for_one_protocol_isolates_from_the_others() -> Result<()> {
    let mut grid = Grid::new()?;
    let deny = network_policy("x", "deny", json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    grid.put(deny.clone())?;
    grid.put(ports("sctp-81", &json!([{"port": 81, "protocol": "SCTP"}])))?;
    grid.holds(|_, to, by| ns(to) != "x" || (to == "x/a" && by == sctp(81)))?;
    grid.remove(&deny)?;
    grid.holds(|_, to, by| to != "x/a" || by == sctp(81))?;
    grid.alone(ports("udp-81", &json!([{"port": 81, "protocol": "UDP"}])), |_, to, by| {
        to != "x/a" || by == sctp(81) || by == udp(81)
    })
}

#[test]
fn a_rule_without_ports_is_for_every_protocol_and_one_with_ports_for_none_that_has_none() -> Result<()> {
    let mut grid = Grid::new()?;
    let policy = |rule| network_policy("x", "rule", json!({"podSelector": {}, "ingress": [rule]}));
    let echo = icmp(protocol::ICMP, 8, 0);
    let gre = crate::grid::Service { protocol: protocol::GRE, port: 0 };
    for (rule, passes) in [
        (json!({"from": [{"namespaceSelector": {}}]}), true),
        (json!({"ports": []}), true),
        (json!({"ports": [{"port": 80}]}), false),
        (json!({"ports": [{"protocol": "UDP"}]}), false),
    ] {
        grid.put(policy(rule))?;
        for service in [echo, gre] {
            grid.says("x/a", Direction::Ingress, "10.0.2.1", service, passes)?;
        }
        grid.says("x/a", Direction::Ingress, "fd00::2:1", icmp(protocol::ICMPV6, 128, 0), passes)?;
    }
    Ok(())
}

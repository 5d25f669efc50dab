//! Calico's documented examples: who is meant by a selector, and what of the traffic.

use anyhow::Result;
use integration::oracle::{Direction, protocol};
use serde_json::json;

use crate::{
    grid::{Grid, icmp, name, namespace, ns, pod_document, sctp, tcp, udp},
    policies::{calico, calico_policy, global_policy},
};

const OUTSIDE: &str = "198.51.100.1";

#[test]
fn a_policy_of_a_namespace_is_about_its_own_pods_unless_it_names_other_namespaces() -> Result<()> {
    let mut grid = Grid::new()?;
    let policy = |source| {
        let ingress = json!([{
            "action": "Allow",
            "metadata": {"annotations": {"from": "frontend", "to": "database"}},
            "protocol": "TCP",
            "source": source,
            "destination": {"ports": [80]},
        }]);
        calico_policy("x", "allow-tcp-80", json!({"selector": "pod == 'a'", "ingress": ingress}))
    };
    let blue = json!({"selector": "pod == 'b'"});
    grid.alone(policy(blue), |from, to, by| to != "x/a" || (from == "x/b" && by == tcp(80)))?;
    grid.put(namespace("y", &json!({"shape": "circle"})))?;
    let circle = json!({"selector": "pod == 'b'", "namespaceSelector": "shape == 'circle'"});
    grid.alone(policy(circle), |from, to, by| to != "x/a" || (from == "y/b" && by == tcp(80)))?;
    let by_name = json!({"namespaceSelector": "projectcalico.org/name in {'y', 'z'}"});
    grid.alone(policy(by_name), |from, to, by| to != "x/a" || (ns(from) != "x" && by == tcp(80)))?;
    grid.alone(policy(json!({})), |_, to, by| to != "x/a" || by == tcp(80))
}

#[test]
fn a_global_policy_is_for_pods_of_all_namespaces_or_of_those_that_it_names() -> Result<()> {
    let mut grid = Grid::new()?;
    let red = json!({
        "namespaceSelector": "projectcalico.org/name in {\"x\", \"y\"}",
        "selector": "pod == \"a\"",
        "types": ["Ingress"],
        "ingress": [{
            "action": "Allow",
            "source": {"namespaceSelector": "projectcalico.org/name == \"z\""},
            "destination": {"ports": [80]},
        }],
    });
    grid.alone(global_policy("foo-and-bar", red), |from, to, by| {
        name(to) != "a" || ns(to) == "z" || (ns(from) == "z" && by.port == 80)
    })?;
    let by_label = json!({"selector": "projectcalico.org/namespace == 'x'", "types": ["Egress"]});
    grid.alone(global_policy("egress-of-x", by_label), |from, _, _| ns(from) != "x")?;
    let everywhere = json!({"ingress": [{"action": "Allow", "source": {"selector": "pod == 'b'"}}]});
    grid.alone(global_policy("from-b", everywhere), |from, _, _| name(from) == "b")
}

#[test]
fn a_default_deny_leaves_the_system_and_the_dns_alone() -> Result<()> {
    let mut grid = Grid::new()?;
    grid.put(pod_document("z/a", &json!({"pod": "a", "k8s-app": "kube-dns"})))?;
    let deny = json!({
        "namespaceSelector": "has(projectcalico.org/name) && projectcalico.org/name not in {\"z\"}",
        "types": ["Ingress", "Egress"],
        "egress": [{
            "action": "Allow",
            "protocol": "UDP",
            "destination": {"selector": "k8s-app == \"kube-dns\"", "ports": [80]},
        }],
    });
    grid.put(global_policy("deny-app-policy", deny))?;
    grid.holds(|from, to, by| match (ns(from), ns(to)) {
        (_, "x" | "y") => false,
        ("x" | "y", _) => to == "z/a" && by == udp(80),
        _ => true,
    })
}

#[test]
fn rules_are_asked_in_order_and_policies_too() -> Result<()> {
    let mut grid = Grid::new()?;
    let rules = json!({
        "order": 10,
        "selector": "pod == 'a'",
        "ingress": [
            {"action": "Log", "protocol": "TCP"},
            {"action": "Deny", "protocol": "TCP", "source": {"selector": "pod == 'b'"}},
            {"action": "Allow", "protocol": "TCP"},
            {"action": "Deny", "protocol": "TCP", "source": {"selector": "pod == 'c'"}},
        ],
    });
    grid.put(global_policy("later", rules.clone()))?;
    let truth = |from: &str, by: crate::grid::Service| name(from) != "b" && by.protocol == protocol::TCP;
    grid.holds(|from, to, by| name(to) != "a" || truth(from, by))?;
    // Before it in the order, though not by its name.
    let first = json!({
        "order": 5.5,
        "ingress": [
            {"action": "Allow", "source": {"selector": "pod == 'b'"}, "destination": {"ports": [81]}},
            {"action": "Deny", "destination": {"ports": [80]}},
        ],
    });
    grid.put(calico_policy("x", "zebra", first))?;
    grid.holds(|from, to, by| match (ns(to), by.port) {
        ("x", 80) => false,
        ("x", _) if from == "x/b" => true,
        ("x", _) if name(to) != "a" => false,
        _ => name(to) != "a" || truth(from, by),
    })?;
    // What has no order comes last.
    let last = json!({"ingress": [{"action": "Allow"}]});
    grid.put(calico_policy("x", "aardvark", last))?;
    grid.holds(|from, to, by| match (ns(to), by.port) {
        ("x", 80) => false,
        ("x", _) if from == "x/b" => true,
        ("x", _) => name(to) != "a" || name(from) != "b" || by != tcp(81),
        _ => name(to) != "a" || truth(from, by),
    })
}

#[test]
fn policies_of_kubernetes_and_of_calico_share_the_default_tier() -> Result<()> {
    let mut grid = Grid::new()?;
    let kubernetes = json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]});
    grid.put(crate::policies::network_policy("x", "on-80", kubernetes))?;
    let before = json!({
        "order": 999,
        "ingress": [{"action": "Deny", "source": {"selector": "pod == 'b'"}}],
    });
    let behind = json!({"order": 1001, "ingress": [{"action": "Deny", "destination": {"ports": [80]}},
        {"action": "Allow", "protocol": "UDP"}]});
    grid.put(global_policy("before", before))?;
    grid.put(calico_policy("x", "behind", behind))?;
    grid.holds(|from, to, by| match ns(to) {
        "x" => name(from) != "b" && (by == tcp(80) || by == udp(81)),
        _ => false,
    })
}

#[test]
fn a_negated_selector_takes_away_from_everywhere() -> Result<()> {
    let mut grid = Grid::new()?;
    let policy = |source| {
        let ingress = json!([{"action": "Allow", "source": source}]);
        global_policy("of-x-a", json!({"selector": "pod == 'a'", "ingress": ingress}))
    };
    // Whoever is known and has no such label.
    grid.put(policy(json!({"selector": "!has(pod) || pod == 'b'"})))?;
    grid.holds(|from, to, _| name(to) != "a" || name(from) == "b")?;
    grid.says("x/a", Direction::Ingress, OUTSIDE, tcp(80), false)?;
    // Whoever there is, known or not, but not such.
    grid.put(policy(json!({"notSelector": "pod in {'a', 'c'}"})))?;
    grid.holds(|from, to, _| name(to) != "a" || name(from) == "b")?;
    grid.says("x/a", Direction::Ingress, OUTSIDE, tcp(80), true)?;
    // The pods of a namespace that are not such, and nobody else.
    grid.put(policy(json!({"namespaceSelector": "ns == 'y'", "notSelector": "pod == 'a'"})))?;
    grid.holds(|from, to, _| name(to) != "a" || (ns(from) == "y" && name(from) != "a"))?;
    grid.says("x/a", Direction::Ingress, OUTSIDE, tcp(80), false)?;
    // A policy of a namespace means that namespace as soon as it says anything of pods.
    let own = json!({"selector": "pod == 'a'", "ingress": [{"action": "Allow", "source": {"notSelector": "pod == 'c'"}}]});
    grid.remove(&policy(json!({})))?;
    grid.alone(calico_policy("x", "own", own.clone()), |from, to, _| to != "x/a" || from == "x/b")?;
    grid.put(calico_policy("x", "own", own))?;
    grid.says("x/a", Direction::Ingress, OUTSIDE, tcp(80), false)
}

#[test]
fn network_sets_are_found_by_their_labels() -> Result<()> {
    let mut grid = Grid::new()?;
    let feed = json!({"nets": ["192.0.2.0/24", "2001:db8::/32", "10.0.3.1/32"]});
    grid.put(calico("GlobalNetworkSet", "threatfeed", feed))?;
    let deny = json!({
        "types": ["Ingress", "Egress"],
        "ingress": [{"action": "Deny", "source": {"selector": "name == 'threatfeed'"}}, {"action": "Allow"}],
        "egress": [{"action": "Deny", "destination": {"selector": "name == 'threatfeed'"}}, {"action": "Allow"}],
    });
    let policy = global_policy("block-threats", deny);
    grid.put(policy.clone())?;
    for (peer, passes) in [
        ("192.0.2.9", false),
        ("192.0.3.0", true),
        ("2001:db8::9", false),
        ("2001:db9::", true),
        (OUTSIDE, true),
    ] {
        for direction in Direction::BOTH {
            grid.says("x/a", direction, peer, tcp(80), passes)?;
        }
    }
    // A pod whose address is in the set is as much in it, at either end.
    grid.remove(&policy)?;
    let from_feed = json!({"ingress": [{"action": "Deny", "source": {"selector": "name == 'threatfeed'"}}, {"action": "Allow"}]});
    grid.put(global_policy("from-feed", from_feed))?;
    grid.says("x/a", Direction::Ingress, "10.0.3.1", tcp(80), false)?;
    grid.says("x/a", Direction::Ingress, "fd00::3:1", tcp(80), true)?;
    // Out of a namespace, one reaches for it by global().
    let by_global = |namespaces| {
        json!({"types": ["Egress"], "egress": [{
            "action": "Allow",
            "destination": {"selector": "name == 'threatfeed'", "namespaceSelector": namespaces},
        }]})
    };
    for (namespaces, passes) in [("global()", true), ("all()", false)] {
        grid.put(calico_policy("x", "to-feed", by_global(namespaces)))?;
        grid.says("x/a", Direction::Egress, "192.0.2.9", tcp(80), passes)?;
        grid.says("x/a", Direction::Egress, OUTSIDE, tcp(80), false)?;
    }
    let unnamed = json!({"types": ["Egress"], "egress": [{"action": "Allow", "destination": {"selector": "has(name)"}}]});
    grid.put(calico_policy("x", "to-feed", unnamed))?;
    grid.says("x/a", Direction::Egress, "192.0.2.9", tcp(80), false)
}

#[test]
fn service_accounts_are_named_or_selected() -> Result<()> {
    let mut grid = Grid::new()?;
    grid.put(json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"namespace": "x", "name": "b", "labels": {"role": "intern"}},
    }))?;
    let policy = |subject: &str, source| {
        json!({
            "serviceAccountSelector": subject,
            "ingress": [{"action": "Allow", "source": {"serviceAccounts": source}}],
        })
    };
    let own = "projectcalico.org/name == 'a'";
    let named = policy(own, json!({"names": ["b", "c"]}));
    grid.alone(calico_policy("x", "named", named.clone()), |from, to, _| to != "x/a" || ns(from) == "x")?;
    grid.alone(global_policy("named", named), |from, to, _| name(to) != "a" || name(from) != "a")?;
    let selected = policy(own, json!({"selector": "role == 'intern'"}));
    grid.alone(global_policy("selected", selected), |from, to, _| name(to) != "a" || from == "x/b")?;
    let both = policy(own, json!({"names": ["a", "b"], "selector": "role != 'intern'"}));
    grid.alone(global_policy("both", both), |from, to, _| {
        name(to) != "a" || (name(from) != "c" && from != "x/b")
    })?;
    let of_interns = policy("role == 'intern'", json!({"names": ["a"]}));
    grid.alone(calico_policy("x", "of-interns", of_interns), |from, to, _| to != "x/b" || from == "x/a")
}

#[test]
fn icmp_is_told_apart_by_type_and_code() -> Result<()> {
    let mut grid = Grid::new()?;
    let (echo, echo6) = (icmp(protocol::ICMP, 8, 0), icmp(protocol::ICMPV6, 128, 0));
    let ping = json!({
        "order": 200,
        "types": ["Ingress", "Egress"],
        "ingress": [
            {"action": "Allow", "protocol": "ICMP", "icmp": {"type": 8}, "source": {"selector": "all()"}},
            {"action": "Allow", "protocol": "ICMPv6", "icmp": {"type": 128, "code": 0}, "source": {"selector": "all()"}},
        ],
        "egress": [{"action": "Allow"}],
    });
    grid.put(global_policy("allow-ping-in-cluster", ping))?;
    for (peer, service, passes) in [
        ("10.0.2.1", echo, true),
        ("10.0.2.1", icmp(protocol::ICMP, 8, 3), true),
        ("10.0.2.1", icmp(protocol::ICMP, 13, 0), false),
        (OUTSIDE, echo, false),
        ("fd00::2:1", echo6, true),
        ("fd00::2:1", icmp(protocol::ICMPV6, 128, 1), false),
        ("10.0.2.1", tcp(80), false),
    ] {
        grid.says("x/a", Direction::Ingress, peer, service, passes)?;
        grid.says("x/a", Direction::Egress, peer, service, true)?;
    }
    let block = json!({
        "order": 100,
        "selector": "all()",
        "types": ["Ingress"],
        "ingress": [
            {"action": "Deny", "protocol": "ICMP", "notICMP": {"type": 8, "code": 0}},
            {"action": "Allow", "protocol": "ICMP"},
            {"action": "Deny", "protocol": "ICMPv6"},
        ],
    });
    grid.put(global_policy("block-icmp", block))?;
    for (peer, service, passes) in [
        (OUTSIDE, echo, true),
        (OUTSIDE, icmp(protocol::ICMP, 8, 3), false),
        (OUTSIDE, icmp(protocol::ICMP, 13, 0), false),
        ("fd00::2:1", echo6, false),
    ] {
        grid.says("x/a", Direction::Ingress, peer, service, passes)?;
    }
    Ok(())
}

#[test]
fn traffic_is_told_apart_by_networks_ports_and_protocols() -> Result<()> {
    let mut grid = Grid::new()?;
    let mining = json!({
        "selector": "all()",
        "ingress": [{"action": "Deny", "source": {"nets": ["185.130.104.0/24"]}}, {"action": "Allow"}],
        "egress": [{"action": "Deny", "destination": {"ports": [9999, 14444]}}, {"action": "Allow"}],
    });
    grid.put(global_policy("block-crypto-mining", mining))?;
    grid.holds(|_, _, _| true)?;
    grid.says("x/a", Direction::Ingress, "185.130.104.200", tcp(80), false)?;
    grid.says("x/a", Direction::Ingress, "185.130.105.0", tcp(80), true)?;
    for (service, passes) in [
        (tcp(9999), false),
        (udp(14444), false),
        (sctp(9999), false),
        (tcp(9998), true),
        (icmp(1, 39, 15), true),
    ] {
        grid.says("x/a", Direction::Egress, OUTSIDE, service, passes)?;
    }
    let not = json!({
        "order": 1,
        "types": ["Egress"],
        "egress": [
            {"action": "Deny", "protocol": "TCP", "destination": {"notPorts": ["80:443", "serve-81-tcp"], "notNets": ["10.0.0.0/8"]}},
            {"action": "Deny", "notProtocol": "TCP", "ipVersion": 6},
            {"action": "Deny", "protocol": 47},
        ],
    });
    grid.put(global_policy("not", not))?;
    for (peer, service, passes) in [
        (OUTSIDE, tcp(443), true),
        (OUTSIDE, tcp(444), false),
        (OUTSIDE, udp(444), true),
        ("10.0.2.1", tcp(444), true),
        ("fd00::2:1", udp(80), false),
        ("fd00::2:1", tcp(80), true),
        // `notNets` of one family say nothing of the other.
        ("fd00::2:1", tcp(444), true),
        (OUTSIDE, crate::grid::Service { protocol: protocol::GRE, port: 0 }, false),
    ] {
        grid.says("x/a", Direction::Egress, peer, service, passes)?;
    }
    Ok(())
}

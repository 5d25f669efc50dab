//! What Calico's documentation shows how to say, and the policies that Cambric promises to take.

use super::*;
use ipamd_model::{
    host::HostLayer,
    policy::{Action, Direction, Icmp, Order, Policy, Traffic, protocol},
};

/// The rules of a direction, as their actions, what they are for, and the two sides.
fn rules(policy: &Policy, direction: Direction) -> Vec<(Action, Traffic, Entity, Entity)> {
    let rules = policy.rules(direction).unwrap().iter();
    rules
        .map(|it| (it.action, it.traffic[0].clone(), it.sources[0].clone(), it.destinations[0].clone()))
        .collect()
}

fn to_ports(protocol: Option<u8>, ports: &[u16]) -> Traffic {
    let ranges = ports.iter().map(|it| *it..=*it).collect();
    let ports = ipamd_model::policy::Ports { ranges, names: Vec::new() };
    Traffic { protocol, destination_ports: Some(ports), ..Traffic::ANY }
}

fn of(protocol: u8) -> Traffic {
    Traffic { protocol: Some(protocol), ..Traffic::ANY }
}

fn ping(protocol: u8, kind: u8, code: Option<u8>) -> Traffic {
    Traffic { icmp: Some(Icmp { kind, code }), ..of(protocol) }
}

fn nets(net: &str) -> Entity {
    Entity { nets: Some(vec![net.parse().unwrap()]), ..Entity::ANY }
}

#[test]
fn mining_pools_are_blocked_with_ports_of_any_protocol() {
    let policy = global(&json!({
        "selector": "all()",
        "ingress": [{"action": "Deny", "source": {"nets": ["185.130.104.0/24"]}}],
        "egress": [{"action": "Deny", "destination": {"ports": [9999, 14444]}}],
    }))
    .unwrap();
    assert_eq!(
        rules(&policy, Direction::Ingress),
        [(Action::Deny, Traffic::ANY, nets("185.130.104.0/24"), Entity::ANY)]
    );
    assert_eq!(
        rules(&policy, Direction::Egress),
        [(Action::Deny, to_ports(None, &[9999, 14444]), Entity::ANY, Entity::ANY)]
    );
}

#[test]
fn what_has_a_name_of_the_dns_is_allowed() {
    let spec = |denied: Value| {
        json!({
            "selector": "app == 'restricted'",
            "egress": [
                {"action": "Allow", "protocol": "UDP", "destination": {"domains": ["*.internal.cluster"]}},
                {"action": "Deny", "destination": denied},
            ],
        })
    };
    let policy = global(&spec(json!({}))).unwrap();
    let udp = Traffic { protocol: Some(protocol::UDP), ..Traffic::ANY };
    assert_eq!(
        rules(&policy, Direction::Egress),
        [
            (Action::Allow, udp, Entity::ANY, names(&["*.internal.cluster"])),
            (Action::Deny, Traffic::ANY, Entity::ANY, Entity::ANY),
        ]
    );
    // What cannot be denied is refused as a whole.
    assert_eq!(
        said(Kind::GlobalNetworkPolicy, &spec(json!({"domains": ["example.com"]}))),
        "spec.egress[1].destination.domains: DNS names are for the destinations of egress rules with the action Allow only"
    );
}

#[test]
fn a_database_is_reached_by_its_frontend() {
    let spec = |source: Value| {
        json!({
            "selector": "role == 'database'",
            "types": ["Ingress", "Egress"],
            "ingress": [{
                "action": "Allow", "metadata": {"annotations": {"from": "frontend", "to": "database"}},
                "protocol": "TCP", "source": source, "destination": {"ports": [6379]},
            }],
            "egress": [{"action": "Allow"}],
        })
    };
    let allowed = |from| [(Action::Allow, to_ports(Some(protocol::TCP), &[6379]), from, Entity::ANY)];
    let frontend = json!({"selector": "role == 'frontend'"});
    let of_circles = json!({"selector": "color == 'blue'", "namespaceSelector": "shape == 'circle'"});

    let policy = namespaced(&spec(frontend.clone())).unwrap();
    assert_eq!(policy.subject, pods(within("ns"), "role == 'database'"));
    assert_eq!(rules(&policy, Direction::Ingress), allowed(selected(within("ns"), "role == 'frontend'")));
    assert_eq!(rules(&policy, Direction::Egress), [(Action::Allow, Traffic::ANY, Entity::ANY, Entity::ANY)]);
    let policy = namespaced(&spec(of_circles)).unwrap();
    assert_eq!(
        rules(&policy, Direction::Ingress),
        allowed(selected(matching("shape == 'circle'"), "color == 'blue'"))
    );
    let policy = global(&spec(frontend)).unwrap();
    assert_eq!(policy.subject, pods(Scope::Any, "role == 'database'"));
    assert_eq!(rules(&policy, Direction::Ingress), allowed(selected(Scope::Any, "role == 'frontend'")));
}

#[test]
fn all_namespaces_but_those_of_the_system_deny_and_reach_the_dns() {
    let dns = |protocol: &str| json!({"action": "Allow", "protocol": protocol, "destination": {"selector": "k8s-app == \"kube-dns\"", "ports": [53]}});
    let others =
        r#"has(projectcalico.org/name) && projectcalico.org/name not in {"kube-system", "calico-system"}"#;
    let policy = global(&json!({
        "namespaceSelector": others, "types": ["Ingress", "Egress"], "egress": [dns("UDP"), dns("TCP")],
    }))
    .unwrap();
    assert_eq!(policy.subject, pods(matching(others), "all()"));
    assert_eq!(policy.ingress, Some(Vec::new()));
    let resolvers = || selected(Scope::Any, "k8s-app == 'kube-dns'");
    assert_eq!(
        rules(&policy, Direction::Egress),
        [
            (Action::Allow, to_ports(Some(protocol::UDP), &[53]), Entity::ANY, resolvers()),
            (Action::Allow, to_ports(Some(protocol::TCP), &[53]), Entity::ANY, resolvers()),
        ]
    );
}

#[test]
fn developers_talk_among_themselves() {
    let policy = global(&json!({
        "namespaceSelector": "environment == \"development\"",
        "ingress": [{"action": "Allow", "source": {"namespaceSelector": "environment == \"development\""}}],
        "egress": [{"action": "Allow", "destination": {"namespaceSelector": "environment == \"development\""}}],
    }))
    .unwrap();
    let development = || matching("environment == 'development'");
    assert_eq!(policy.subject, pods(development(), "all()"));
    let all = || selected(development(), "all()");
    assert_eq!(rules(&policy, Direction::Ingress), [(Action::Allow, Traffic::ANY, all(), Entity::ANY)]);
    assert_eq!(rules(&policy, Direction::Egress), [(Action::Allow, Traffic::ANY, Entity::ANY, all())]);
}

#[test]
fn service_accounts_are_named_or_found_by_their_labels() {
    let policy = namespaced(&json!({
        "selector": "app == \"db\"",
        "ingress": [{"action": "Allow", "source": {"serviceAccounts": {"names": ["api-service", "user-auth-service"]}}}],
    }))
    .unwrap();
    let services = ItemSelector {
        service_account_names: Some(vec!["api-service".into(), "user-auth-service".into()]),
        ..found(within("ns"), "all()")
    };
    assert_eq!(rules(&policy, Direction::Ingress)[0].2, Entity { items: Some(services), ..Entity::ANY });

    let interns = json!({"serviceAccounts": {"selector": "role == \"intern\""}});
    let policy = namespaced(&json!({
        "serviceAccountSelector": "role == \"intern\"",
        "ingress": [{"action": "Allow", "source": interns}],
        "egress": [{"action": "Allow", "destination": interns}],
    }))
    .unwrap();
    let interns = |items| ItemSelector { service_accounts: Some(selector("role == 'intern'")), ..items };
    assert_eq!(policy.subject, interns(pods(within("ns"), "all()")));
    let found = Entity { items: Some(interns(found(within("ns"), "all()"))), ..Entity::ANY };
    assert_eq!(rules(&policy, Direction::Ingress)[0].2, found);
    assert_eq!(rules(&policy, Direction::Egress)[0].3, found);
}

#[test]
fn icmp_is_blocked_and_pings_are_allowed() {
    let both = json!([{"action": "Deny", "protocol": "ICMP"}, {"action": "Deny", "protocol": "ICMPv6"}]);
    let policy = global(&json!({
        "order": 200, "selector": "all()", "types": ["Ingress", "Egress"], "ingress": both, "egress": both,
    }))
    .unwrap();
    assert_eq!(policy.order, Order(Some(200.0)));
    for direction in Direction::BOTH {
        let denied = |number| (Action::Deny, of(number), Entity::ANY, Entity::ANY);
        assert_eq!(rules(&policy, direction), [denied(protocol::ICMP), denied(protocol::ICMPV6)]);
    }
    let policy = global(&json!({"selector": "all()", "types": ["Ingress"], "ingress": [
        {"action": "Allow", "protocol": "ICMP", "source": {"selector": "all()"}, "icmp": {"type": 8}},
        {"action": "Allow", "protocol": "ICMPv6", "source": {"selector": "all()"}, "icmp": {"type": 128}},
        {"action": "Allow", "protocol": "ICMP", "icmp": {"type": 3, "code": 1}},
    ]}))
    .unwrap();
    let all = || selected(Scope::Any, "all()");
    assert_eq!(
        rules(&policy, Direction::Ingress),
        [
            (Action::Allow, ping(protocol::ICMP, 8, None), all(), Entity::ANY),
            (Action::Allow, ping(protocol::ICMPV6, 128, None), all(), Entity::ANY),
            (Action::Allow, ping(protocol::ICMP, 3, Some(1)), Entity::ANY, Entity::ANY),
        ]
    );
}

#[test]
fn network_sets_are_found_by_their_labels_alone() {
    let bad = "ip-deny-list == 'true' && !has(projectcalico.org/namespace)";
    let spec = |do_not_track| {
        json!({
            "selector": "apply-ip-protect == 'true'", "order": 0, "doNotTrack": do_not_track, "applyOnForward": true,
            "types": ["Ingress"], "ingress": [{"action": "Deny", "source": {"selector": bad}}],
        })
    };
    let policy = global(&spec(false)).unwrap();
    assert_eq!(
        rules(&policy, Direction::Ingress),
        [(Action::Deny, Traffic::ANY, selected(Scope::Any, bad), Entity::ANY)]
    );
    // As it is documented, for endpoints of a host, before connections are tracked.
    assert_eq!(global(&spec(true)).unwrap().layer, HostLayer::Untracked);
}

#[test]
fn what_is_denied_may_be_logged_first() {
    let rule = |action: &str| json!({"action": action, "protocol": "TCP", "source": {"selector": "role == 'frontend'"}});
    let policy = namespaced(&json!({
        "order": 100_001, "tier": "default", "selector": "role == 'database'", "types": ["Ingress", "Egress"],
        "ingress": [rule("Log"), rule("Deny")],
    }))
    .unwrap();
    let frontend = || selected(within("ns"), "role == 'frontend'");
    assert_eq!(
        rules(&policy, Direction::Ingress),
        [
            (Action::Log, of(protocol::TCP), frontend(), Entity::ANY),
            (Action::Deny, of(protocol::TCP), frontend(), Entity::ANY),
        ]
    );
    assert_eq!(policy.egress, Some(Vec::new()));
}

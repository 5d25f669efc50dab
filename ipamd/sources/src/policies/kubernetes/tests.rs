use serde_json::json;

use super::{peers::pods, *};
use ipamd_model::policy::{Ports, protocol};

/// The policy with a spec, in the namespace `ns`.
fn policy(spec: &Value) -> Result<Policy, FieldError> {
    let document = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "ns", "annotations": {"a": "b"}}, "spec": spec,
    });
    match read(&document, None)? {
        Object::Policy(policy) => Ok(Arc::unwrap_or_clone(policy)),
        other => panic!("{other:?}"),
    }
}

fn ingress(rules: &Value) -> Vec<Rule> {
    policy(&json!({"podSelector": {}, "ingress": rules})).unwrap().ingress.unwrap()
}

fn selected(labels: Selector, scope: Scope) -> Entity {
    Entity { items: Some(pods(scope, labels)), ..Entity::ANY }
}

fn is(key: &str, value: &str) -> Selector {
    Selector::Equals(key.into(), value.into())
}

fn own() -> Scope {
    Scope::Namespace("ns".into())
}

fn destination(protocol: u8, ports: Option<Ports>) -> Traffic {
    Traffic { protocol: Some(protocol), destination_ports: ports, ..Traffic::ANY }
}

fn range(first: u16, last: u16) -> Ports {
    Ports { ranges: vec![first..=last], names: vec![] }
}

#[test]
fn a_policy_stands_in_the_default_tier_and_is_about_pods_of_its_namespace() {
    let policy = policy(&json!({"podSelector": {"matchLabels": {"app": "web"}}})).unwrap();
    assert_eq!(policy.id.to_string(), "NetworkPolicy ns/p");
    assert_eq!((&*policy.tier, policy.order), (DEFAULT_TIER, Order(Some(1000.0))));
    assert_eq!(policy.subject, pods(own(), is("app", "web")));
}

#[test]
fn the_directions_follow_from_policy_types_or_from_the_rules() {
    let rule = || json!([{}]);
    for (spec, ingress, egress) in [
        (json!({}), Some(0), None),
        (json!(null), Some(0), None),
        (json!({"ingress": null, "egress": null, "policyTypes": null}), Some(0), None),
        (json!({"ingress": [], "egress": [], "policyTypes": []}), Some(0), None),
        (json!({"ingress": rule()}), Some(1), None),
        (json!({"egress": rule()}), Some(0), Some(1)),
        (json!({"ingress": rule(), "egress": rule()}), Some(1), Some(1)),
        (json!({"policyTypes": ["Ingress"], "egress": rule()}), Some(0), None),
        (json!({"policyTypes": ["Egress"], "ingress": rule()}), None, Some(0)),
        (json!({"policyTypes": ["Egress"], "egress": rule()}), None, Some(1)),
        (json!({"policyTypes": ["Egress", "Ingress"]}), Some(0), Some(0)),
        (json!({"policyTypes": ["Ingress", "Ingress"]}), Some(0), None),
    ] {
        let policy = policy(&spec).unwrap();
        assert_eq!(policy.ingress.map(|it| it.len()), ingress, "{spec}");
        assert_eq!(policy.egress.map(|it| it.len()), egress, "{spec}");
    }
}

#[test]
fn a_rule_without_peers_is_for_everybody_and_one_without_ports_for_all_traffic() {
    let everything = |index| Rule {
        index,
        name: None,
        action: Action::Allow,
        family: None,
        sources: vec![Entity::ANY],
        destinations: vec![Entity::ANY],
        traffic: vec![Traffic::ANY],
    };
    let rules = ingress(&json!([{}, {"from": []}, {"from": null, "ports": []}]));
    assert_eq!(rules, [everything(0), everything(1), everything(2)]);
}

#[test]
fn peers_are_sources_of_ingress_and_destinations_of_egress() {
    let peer = json!({"podSelector": {"matchLabels": {"a": "b"}}});
    let policy = policy(&json!({"ingress": [{"from": [peer]}], "egress": [{"to": [peer]}]})).unwrap();
    let (ingress, egress) = (policy.ingress.unwrap().remove(0), policy.egress.unwrap().remove(0));
    assert_eq!((&ingress.sources, &egress.destinations), (&egress.destinations, &ingress.sources));
    assert_eq!(ingress.sources, [selected(is("a", "b"), own())]);
    assert_eq!((ingress.destinations, egress.sources), (vec![Entity::ANY], vec![Entity::ANY]));
}

#[test]
fn peers_select_pods_of_namespaces_or_addresses() {
    let net = |text: &str| text.parse().unwrap();
    let a = json!({"matchLabels": {"a": "b"}});
    for (peer, entity) in [
        (json!({"podSelector": {}}), selected(Selector::All, own())),
        (json!({"podSelector": a}), selected(is("a", "b"), own())),
        (json!({"podSelector": a, "namespaceSelector": null}), selected(is("a", "b"), own())),
        (json!({"namespaceSelector": {}}), selected(Selector::All, Scope::Matching(Selector::All))),
        (json!({"namespaceSelector": a}), selected(Selector::All, Scope::Matching(is("a", "b")))),
        (
            json!({"namespaceSelector": {"matchLabels": {"n": "m"}}, "podSelector": a}),
            selected(is("a", "b"), Scope::Matching(is("n", "m"))),
        ),
        (
            json!({"ipBlock": {"cidr": "10.1.2.3/8"}}),
            Entity { nets: Some(vec![net("10.0.0.0/8")]), ..Entity::ANY },
        ),
        (
            json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "192.0.2.77/24"]}}),
            Entity {
                nets: Some(vec![net("0.0.0.0/0")]),
                not_nets: vec![net("10.0.0.0/8"), net("192.0.2.0/24")],
                ..Entity::ANY
            },
        ),
        (
            json!({"ipBlock": {"cidr": "fd00::/8", "except": ["fd00:1::/32"]}}),
            Entity { nets: Some(vec![net("fd00::/8")]), not_nets: vec![net("fd00:1::/32")], ..Entity::ANY },
        ),
    ] {
        assert_eq!(ingress(&json!([{"from": [peer]}]))[0].sources, [entity], "{peer}");
    }
}

#[test]
fn label_selectors_have_labels_and_expressions_all_of_which_hold() {
    let values = |values: &[&str]| values.iter().map(|it| Arc::from(*it)).collect::<Arc<[Arc<str>]>>();
    let expression = |operator: &str, values: Value| json!({"matchExpressions": [{"key": "k", "operator": operator, "values": values}]});
    for (selector, read) in [
        (json!({}), Selector::All),
        (json!({"matchLabels": {}, "matchExpressions": []}), Selector::All),
        (json!({"matchLabels": {"a": ""}}), is("a", "")),
        (json!({"matchLabels": {"example.com/a_b.c": "D-e"}}), is("example.com/a_b.c", "D-e")),
        (expression("In", json!(["b", "a", "b"])), Selector::In("k".into(), values(&["a", "b"]))),
        (expression("NotIn", json!(["a"])), Selector::NotIn("k".into(), values(&["a"]))),
        (expression("Exists", json!(null)), Selector::Has("k".into())),
        (expression("DoesNotExist", json!([])), Selector::Not(Box::new(Selector::Has("k".into())))),
        (
            json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "Exists"}]}),
            Selector::And(vec![is("a", "b"), Selector::Has("k".into())]),
        ),
    ] {
        let policy = policy(&json!({"podSelector": selector})).unwrap();
        assert_eq!(policy.subject.labels, read, "{selector}");
    }
}

#[test]
fn ports_are_numbers_ranges_or_names_of_a_protocol() {
    let named = Some(Ports { ranges: vec![], names: vec!["web".into()] });
    for (port, traffic) in [
        (json!({}), destination(protocol::TCP, None)),
        (json!({"protocol": "UDP"}), destination(protocol::UDP, None)),
        (json!({"port": 80}), destination(protocol::TCP, Some(range(80, 80)))),
        (json!({"protocol": "SCTP", "port": 1}), destination(protocol::SCTP, Some(range(1, 1)))),
        (json!({"port": 1, "endPort": 65535}), destination(protocol::TCP, Some(range(1, 65535)))),
        (json!({"port": 80, "endPort": 80}), destination(protocol::TCP, Some(range(80, 80)))),
        (json!({"protocol": "TCP", "port": "web"}), destination(protocol::TCP, named)),
    ] {
        assert_eq!(ingress(&json!([{"ports": [port]}]))[0].traffic, [traffic], "{port}");
    }
    assert_eq!(ingress(&json!([{"ports": [{"port": 80}, {"port": 81}]}]))[0].traffic.len(), 2);
}

#[test]
fn what_the_api_would_refuse_is_refused_by_its_field() {
    let from = |peer: Value| json!({"ingress": [{}, {"from": [peer]}]});
    let block = |cidr: &str, except: Value| from(json!({"ipBlock": {"cidr": cidr, "except": except}}));
    let port = |port: Value| json!({"egress": [{"ports": [port]}]});
    let expression = |expression: Value| json!({"podSelector": {"matchExpressions": [expression]}});
    for (spec, field) in [
        (json!([]), "spec"),
        (json!({"podselector": {}}), "spec.podselector"),
        (json!({"podSelector": []}), "spec.podSelector"),
        (json!({"podSelector": {"app": "web"}}), "spec.podSelector.app"),
        (json!({"podSelector": {"matchLabels": {"a": true}}}), "spec.podSelector.matchLabels.a"),
        (json!({"podSelector": {"matchLabels": {"a": "b c"}}}), "spec.podSelector.matchLabels.a"),
        (json!({"podSelector": {"matchLabels": {"a": "x".repeat(64)}}}), "spec.podSelector.matchLabels.a"),
        (json!({"podSelector": {"matchLabels": {"a b": "c"}}}), "spec.podSelector.matchLabels.a b"),
        (json!({"podSelector": {"matchLabels": {"A.b/c": "c"}}}), "spec.podSelector.matchLabels.A.b/c"),
        (expression(json!({"operator": "In", "values": ["a"]})), "spec.podSelector.matchExpressions[0].key"),
        (expression(json!({"key": "k"})), "spec.podSelector.matchExpressions[0].operator"),
        (expression(json!({"key": "k", "operator": "in"})), "spec.podSelector.matchExpressions[0].operator"),
        (expression(json!({"key": "k", "operator": "In"})), "spec.podSelector.matchExpressions[0].values"),
        (
            expression(json!({"key": "k", "operator": "NotIn", "values": []})),
            "spec.podSelector.matchExpressions[0].values",
        ),
        (
            expression(json!({"key": "k", "operator": "Exists", "values": ["a"]})),
            "spec.podSelector.matchExpressions[0].values",
        ),
        (
            expression(json!({"key": "k", "operator": "In", "values": [1]})),
            "spec.podSelector.matchExpressions[0].values[0]",
        ),
        (
            expression(json!({"key": "k", "operator": "Exists", "value": "a"})),
            "spec.podSelector.matchExpressions[0].value",
        ),
        (json!({"policyTypes": ["ingress"]}), "spec.policyTypes[0]"),
        (json!({"policyTypes": ["Ingress", "Egress", "Egress"]}), "spec.policyTypes"),
        (json!({"policyTypes": "Ingress"}), "spec.policyTypes"),
        (json!({"ingress": {}}), "spec.ingress"),
        (json!({"ingress": [null]}), "spec.ingress[0]"),
        (json!({"ingress": [{"to": []}]}), "spec.ingress[0].to"),
        (json!({"egress": [{"from": []}]}), "spec.egress[0].from"),
        // A direction that the policy does not speak of is checked too.
        (json!({"policyTypes": ["Ingress"], "egress": [{"from": []}]}), "spec.egress[0].from"),
        (json!({"ingress": [{"from": {}}]}), "spec.ingress[0].from"),
        (from(json!({})), "spec.ingress[1].from[0]"),
        (from(json!(null)), "spec.ingress[1].from[0]"),
        (from(json!({"podSelector": null})), "spec.ingress[1].from[0]"),
        (from(json!({"nodeSelector": {}})), "spec.ingress[1].from[0].nodeSelector"),
        (
            from(json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}})),
            "spec.ingress[1].from[0].ipBlock",
        ),
        (
            from(json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "namespaceSelector": {}})),
            "spec.ingress[1].from[0].ipBlock",
        ),
        (from(json!({"ipBlock": {}})), "spec.ingress[1].from[0].ipBlock.cidr"),
        (
            from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "excepts": []}})),
            "spec.ingress[1].from[0].ipBlock.excepts",
        ),
        (block("10.0.0.0", json!([])), "spec.ingress[1].from[0].ipBlock.cidr"),
        (block("10.0.0.0/33", json!([])), "spec.ingress[1].from[0].ipBlock.cidr"),
        (block("10.0.0.0/+8", json!([])), "spec.ingress[1].from[0].ipBlock.cidr"),
        (block("10.0.0.0/255.0.0.0", json!([])), "spec.ingress[1].from[0].ipBlock.cidr"),
        (block("10.0.0/8", json!([])), "spec.ingress[1].from[0].ipBlock.cidr"),
        (block("::ffff:10.0.0.0/104", json!([])), "spec.ingress[1].from[0].ipBlock.cidr"),
        (block("10.0.0.0/8", json!(["10.0.0.0/8"])), "spec.ingress[1].from[0].ipBlock.except[0]"),
        (
            block("10.0.0.0/8", json!(["10.1.0.0/16", "10.0.0.0/7"])),
            "spec.ingress[1].from[0].ipBlock.except[1]",
        ),
        (block("10.0.0.0/8", json!(["11.0.0.0/16"])), "spec.ingress[1].from[0].ipBlock.except[0]"),
        (block("10.0.0.0/8", json!(["fd00::/64"])), "spec.ingress[1].from[0].ipBlock.except[0]"),
        (port(json!(null)), "spec.egress[0].ports[0]"),
        (port(json!({"ports": 80})), "spec.egress[0].ports[0].ports"),
        (port(json!({"protocol": "tcp"})), "spec.egress[0].ports[0].protocol"),
        (port(json!({"protocol": "ICMP"})), "spec.egress[0].ports[0].protocol"),
        (port(json!({"port": 0})), "spec.egress[0].ports[0].port"),
        (port(json!({"port": 65536})), "spec.egress[0].ports[0].port"),
        (port(json!({"port": -1})), "spec.egress[0].ports[0].port"),
        (port(json!({"port": 80.5})), "spec.egress[0].ports[0].port"),
        (port(json!({"port": "80"})), "spec.egress[0].ports[0].port"),
        (port(json!({"port": "Web"})), "spec.egress[0].ports[0].port"),
        (port(json!({"port": "a--b"})), "spec.egress[0].ports[0].port"),
        (port(json!({"port": "-a"})), "spec.egress[0].ports[0].port"),
        (port(json!({"port": "sixteen-letters-"})), "spec.egress[0].ports[0].port"),
        (port(json!({"port": ""})), "spec.egress[0].ports[0].port"),
        (port(json!({"endPort": 80})), "spec.egress[0].ports[0].endPort"),
        (port(json!({"port": "web", "endPort": 80})), "spec.egress[0].ports[0].endPort"),
        (port(json!({"port": 81, "endPort": 80})), "spec.egress[0].ports[0].endPort"),
        (port(json!({"port": 81, "endPort": 65536})), "spec.egress[0].ports[0].endPort"),
        (port(json!({"port": 81, "endPort": "82"})), "spec.egress[0].ports[0].endPort"),
    ] {
        let error = policy(&spec).unwrap_err();
        assert_eq!(error.field, field, "{error}");
    }
}

#[test]
fn a_policy_has_no_field_but_its_own() {
    let error = read(&json!({"metadata": {"name": "p"}, "specs": {}}), None).unwrap_err();
    assert_eq!(error.to_string(), "specs: is not known");
    let error = read(&json!({"metadata": {}}), None).unwrap_err();
    assert_eq!(error.to_string(), "metadata.name: is missing");
}

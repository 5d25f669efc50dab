use ipnetwork::IpNetwork;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::policies::kubernetes::peers::pods;
use ipamd_model::{
    policy::{ItemKinds, ItemSelector, Ports, Scope, protocol},
    selector::Selector,
};

fn document(spec: &Value) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "p", "labels": {"a": "b"}}, "spec": spec, "status": {"conditions": []},
    })
}

/// A policy for all pods, with these fields of its spec.
fn policy(fields: &Value) -> Result<Policy, FieldError> {
    let mut spec = json!({"tier": "Admin", "priority": 10, "subject": {"namespaces": {}}});
    for (key, value) in fields.as_object().unwrap() {
        spec[key] = value.clone();
    }
    match read(&document(&spec), None)? {
        Object::Policy(policy) => Ok(Arc::unwrap_or_clone(policy)),
        other => panic!("{other:?}"),
    }
}

fn egress(rule: &Value) -> Result<Rule, FieldError> {
    Ok(policy(&json!({"egress": [rule]}))?.egress.unwrap().remove(0))
}

fn said(fields: &Value) -> String {
    policy(fields).unwrap_err().to_string()
}

fn is(key: &str, value: &str) -> Selector {
    Selector::Equals(key.into(), value.into())
}

fn of(items: ItemSelector) -> Entity {
    Entity { items: Some(items), ..Entity::ANY }
}

fn nets(nets: &[&str]) -> Entity {
    let nets: Vec<IpNetwork> = nets.iter().map(|it| it.parse().unwrap()).collect();
    Entity { nets: Some(nets), ..Entity::ANY }
}

#[test]
fn a_policy_stands_in_one_of_two_tiers_by_its_priority() {
    for (tier, name) in [("Admin", ADMIN_TIER), ("Baseline", BASELINE_TIER)] {
        for (priority, order) in [(0, 0.0), (1000, 1000.0)] {
            let policy = policy(&json!({"tier": tier, "priority": priority})).unwrap();
            assert_eq!((&*policy.tier, policy.order), (name, Order(Some(order))));
            assert_eq!(policy.id.to_string(), "ClusterNetworkPolicy p");
            assert_eq!((policy.ingress, policy.egress), (None, None));
        }
    }
}

#[test]
fn a_subject_is_pods_by_namespaces_or_by_both() {
    for (subject, pods) in [
        (json!({"namespaces": {}}), pods(Scope::Matching(Selector::All), Selector::All)),
        (
            json!({"namespaces": {"matchLabels": {"a": "b"}}}),
            pods(Scope::Matching(is("a", "b")), Selector::All),
        ),
        (
            json!({"pods": {"namespaceSelector": {"matchLabels": {"a": "b"}}, "podSelector": {"matchLabels": {"c": "d"}}}}),
            pods(Scope::Matching(is("a", "b")), is("c", "d")),
        ),
        (
            json!({"pods": {"podSelector": {"matchLabels": {"c": "d"}}}}),
            pods(Scope::Matching(Selector::All), is("c", "d")),
        ),
    ] {
        assert_eq!(policy(&json!({"subject": subject})).unwrap().subject, pods, "{subject}");
    }
}

#[test]
fn a_direction_without_rules_is_not_spoken_of() {
    let ingress = json!([{"name": "r", "action": "Deny", "from": [{"namespaces": {}}]}]);
    let policy = policy(&json!({"ingress": ingress, "egress": []})).unwrap();
    assert_eq!(policy.egress, None);
    assert_eq!(
        policy.ingress,
        Some(vec![Rule {
            index: 0,
            name: Some("r".into()),
            action: Action::Deny,
            family: None,
            sources: vec![of(pods(Scope::Matching(Selector::All), Selector::All))],
            destinations: vec![Entity::ANY],
            traffic: vec![Traffic::ANY],
        }])
    );
}

#[test]
fn actions_and_peers_are_read_in_their_order() {
    let nodes = ItemSelector { kinds: ItemKinds::Nodes, ..pods(Scope::Any, is("os", "linux")) };
    let peers = json!([
        {"namespaces": {"matchLabels": {"a": "b"}}},
        {"pods": {"podSelector": {}}},
        {"nodes": {"matchLabels": {"os": "linux"}}},
        {"networks": ["169.254.169.254/32", "fd00::/8", "10.1.2.3/8"]},
    ]);
    let rule = egress(&json!({"action": "Pass", "to": peers})).unwrap();
    assert_eq!((rule.name, rule.action, rule.sources), (None, Action::Pass, vec![Entity::ANY]));
    assert_eq!(
        rule.destinations,
        [
            of(pods(Scope::Matching(is("a", "b")), Selector::All)),
            of(pods(Scope::Matching(Selector::All), Selector::All)),
            of(nodes),
            nets(&["169.254.169.254/32", "fd00::/8", "10.0.0.0/8"]),
        ]
    );
    let rules = ["Accept", "Deny", "Pass"].map(|it| json!({"name": "", "action": it, "to": [{"nodes": {}}]}));
    let rules = policy(&json!({"egress": rules})).unwrap().egress.unwrap();
    assert_eq!(
        rules.iter().map(|it| (it.index, it.action, it.name.clone())).collect::<Vec<_>>(),
        [(0, Action::Allow, None), (1, Action::Deny, None), (2, Action::Pass, None)]
    );
}

#[test]
fn protocols_have_ports_by_number_range_or_name() {
    let protocols = json!([
        {"tcp": {"destinationPort": {"number": 80}}},
        {"udp": {"destinationPort": {"range": {"start": 53, "end": 5353}}}},
        {"sctp": {"destinationPort": {"number": 65535}}},
        {"destinationNamedPort": "web"},
    ]);
    let traffic = |protocol, ranges: &[_], names: &[&str]| Traffic {
        protocol,
        destination_ports: Some(Ports {
            ranges: ranges.to_vec(),
            names: names.iter().map(|it| Arc::from(*it)).collect(),
        }),
        ..Traffic::ANY
    };
    let expected = [
        traffic(Some(protocol::TCP), &[80..=80], &[]),
        traffic(Some(protocol::UDP), &[53..=5353], &[]),
        traffic(Some(protocol::SCTP), &[65535..=65535], &[]),
        traffic(None, &[], &["web"]),
    ];
    let rule = egress(&json!({"action": "Accept", "to": [{"namespaces": {}}], "protocols": protocols}));
    assert_eq!(rule.unwrap().traffic, expected);
    let ingress = json!([{"action": "Accept", "from": [{"namespaces": {}}], "protocols": protocols}]);
    assert_eq!(policy(&json!({"ingress": ingress})).unwrap().ingress.unwrap()[0].traffic, expected);
}

#[test]
fn a_spec_that_cannot_be_understood_is_refused_by_field() {
    let rule = json!({"action": "Deny", "from": [{"namespaces": {}}]});
    for (fields, wrong) in [
        (json!({"tier": "NetworkPolicy"}), "spec.tier: \"NetworkPolicy\" is neither Admin nor Baseline"),
        (json!({"tier": null}), "spec.tier: is missing"),
        (json!({"priority": 1001}), "spec.priority: 1001 is not a priority, from 0 to 1000"),
        (json!({"priority": -1}), "spec.priority: -1 is not a priority, from 0 to 1000"),
        (json!({"priority": 1.5}), "spec.priority: 1.5 is not a whole number"),
        (json!({"priority": null}), "spec.priority: is missing"),
        (json!({"subject": null}), "spec.subject: is missing"),
        (json!({"subject": {}}), "spec.subject: says of nobody: it has neither namespaces nor pods"),
        (
            json!({"subject": {"namespaces": {}, "pods": {"podSelector": {}}}}),
            "spec.subject.pods: is not possible together with namespaces",
        ),
        (
            json!({"subject": {"pods": {"namespaceSelector": {}}}}),
            "spec.subject.pods.podSelector: is missing",
        ),
        (json!({"subject": {"namespaceSelector": {}}}), "spec.subject.namespaceSelector: is not known"),
        (json!({"subject": {"namespaces": {"a": "b"}}}), "spec.subject.namespaces.a: is not known"),
        (json!({"rules": []}), "spec.rules: is not known"),
        (json!({"ingress": vec![rule.clone(); 26]}), "spec.ingress: there are more than 25"),
        (
            json!({"ingress": [{"action": "Deny", "from": [{"namespaces": {}, "networks": []}]}]}),
            "spec.ingress[0].from[0].networks: is not known",
        ),
        (
            json!({"ingress": [{"action": "Deny", "from": [7]}]}),
            "spec.ingress[0].from[0]: 7 is not a mapping",
        ),
        (json!({"ingress": [{"action": "Deny", "to": []}]}), "spec.ingress[0].to: is not known"),
    ] {
        assert_eq!(said(&fields), wrong);
    }
    assert!(policy(&json!({"ingress": vec![rule; 25]})).is_ok());
    assert_eq!(read(&document(&json!(null)), None).unwrap_err().to_string(), "spec: is missing");
}

#[test]
fn a_part_of_a_kind_that_is_not_known_closes_its_rule() {
    let closed_by = |action: &str, field: &str, part: &Value| {
        let mut rule = json!({"action": action, "name": "r", "to": [{"namespaces": {}}]});
        let known = rule[field].as_array().cloned().unwrap_or_default();
        rule[field] = known.into_iter().chain([part.clone()]).collect();
        let policy = policy(&json!({"egress": [rule, {"action": "Accept", "to": [{"nodes": {}}]}]})).unwrap();
        let [closed] = &policy.closed[..] else { panic!("{:?}", policy.closed) };
        let mut rules = policy.egress.unwrap();
        assert_eq!((rules.len(), rules[1].destinations.len()), (2, 1));
        (rules.remove(0), closed.to_string())
    };
    for (field, part, what) in [
        ("to", json!({}), "spec.egress[0].to[1]: is a peer of a kind that this version does not know"),
        (
            "to",
            json!({"planets": {"a": 1}}),
            "spec.egress[0].to[1].planets: is a peer of a kind that this version",
        ),
        ("protocols", json!({}), "spec.egress[0].protocols[0]: is a protocol of a kind that this version"),
        (
            "protocols",
            json!({"icmp": {}}),
            "spec.egress[0].protocols[0].icmp: is a protocol of a kind that this",
        ),
    ] {
        for (action, is, to, becomes) in [
            ("Accept", Action::Allow, vec![], "so the rule accepts nothing"),
            ("Deny", Action::Deny, vec![Entity::ANY], "so the rule denies everything"),
            ("Pass", Action::Deny, vec![Entity::ANY], "so the rule denies everything"),
        ] {
            let (rule, said) = closed_by(action, field, &part);
            assert_eq!(
                (rule.action, &rule.destinations, &rule.traffic),
                (is, &to, &vec![Traffic::ANY]),
                "{part}"
            );
            assert_eq!((rule.index, rule.name.as_deref()), (0, Some("r")));
            assert!(said.starts_with(what) && said.ends_with(becomes), "{said}");
        }
    }
    let ingress =
        policy(&json!({"ingress": [{"action": "Deny", "from": [{"networks": ["10.0.0.0/8"]}]}]})).unwrap();
    assert_eq!(ingress.ingress.unwrap()[0].sources, [Entity::ANY]);
    assert_eq!(ingress.closed.len(), 1);
    assert!(
        policy(&json!({"ingress": [{"action": "Deny", "from": [{"pods": {"podSelector": {}}}]}]}))
            .unwrap()
            .closed
            .is_empty()
    );
}

#[test]
fn domain_names_are_for_rules_that_accept_before_all_network_policies() {
    let names = json!({"domainNames": ["API.Example.com", "*.example.org."]});
    let of = |tier: &str, action: &str, names: &Value| {
        policy(&json!({"tier": tier, "egress": [{"action": action, "to": [{"nodes": {}}, names]}]}))
    };
    let accepting = of("Admin", "Accept", &names).unwrap();
    assert!(accepting.closed.is_empty(), "{:?}", accepting.closed);
    let domains = ["api.example.com", "*.example.org"].map(|it| it.parse().unwrap()).into();
    assert_eq!(accepting.egress.unwrap()[0].destinations[1], Entity { domains, ..Entity::ANY });
    let field = "spec.egress[0].to[1].domainNames";
    for (tier, action, becomes, to, why) in [
        (
            "Admin",
            "Deny",
            Action::Deny,
            vec![Entity::ANY],
            "rules that accept only, so the rule denies everything",
        ),
        (
            "Admin",
            "Pass",
            Action::Deny,
            vec![Entity::ANY],
            "rules that accept only, so the rule denies everything",
        ),
        (
            "Baseline",
            "Accept",
            Action::Allow,
            vec![],
            "policies of the tier Admin only, so the rule accepts nothing",
        ),
    ] {
        let closed = of(tier, action, &names).unwrap();
        assert_eq!(closed.closed[0].to_string(), format!("{field}: DNS names are for {why}"));
        let rule = closed.egress.unwrap().remove(0);
        assert_eq!((rule.action, rule.destinations), (becomes, to), "{tier} {action}");
    }
    for (names, wrong) in [
        (json!([]), ": there is none"),
        (json!(vec!["a.b"; 26]), ": there are more than 25"),
        (
            json!(["localhost"]),
            "[0]: \"localhost\" is not a domain name such as example.com or *.example.com",
        ),
        (json!(["a.b", "*.com"]), "[1]: \"*.com\" is not a domain name such as example.com or *.example.com"),
        (json!(["a.-b.c"]), "[0]: \"a.-b.c\" is not a domain name such as example.com or *.example.com"),
        (json!([1]), "[0]: 1 is not a string; quotes make it one"),
    ] {
        let refused = of("Admin", "Accept", &json!({"domainNames": names})).unwrap_err();
        assert_eq!(refused.to_string(), format!("{field}{wrong}"));
    }
    // They are none of those who may come in.
    let ingress = json!({"ingress": [{"action": "Accept", "from": [names]}]});
    assert_eq!(policy(&ingress).unwrap().closed[0].field, "spec.ingress[0].from[0].domainNames");
}

#[test]
fn a_rule_that_cannot_be_understood_is_refused_by_field() {
    let to = |peer: Value| json!({"action": "Deny", "to": [peer]});
    let with =
        |protocols: Value| json!({"action": "Deny", "to": [{"namespaces": {}}], "protocols": protocols});
    let tcp = |port: Value| with(json!([{"tcp": {"destinationPort": port}}]));
    for (rule, wrong) in [
        (json!({"to": [{"nodes": {}}]}), "action: is missing"),
        (json!({"action": "Allow", "to": []}), "action: \"Allow\" is not one of Accept, Deny and Pass"),
        (json!({"action": "Deny"}), "to: is missing"),
        (json!({"action": "Deny", "to": []}), "to: there is none"),
        (json!({"action": "Deny", "to": vec![json!({"nodes": {}}); 26]}), "to: there are more than 25"),
        (
            json!({"name": "é".repeat(101), "action": "Deny", "to": []}),
            "name: a name has at most 100 characters",
        ),
        (json!({"action": "Deny", "to": [{"nodes": {}}], "ports": []}), "ports: is not known"),
        (
            to(json!({"nodes": {}, "networks": ["10.0.0.0/8"]})),
            "to[0].networks: is not possible together with nodes",
        ),
        (to(json!({"networks": []})), "to[0].networks: there is none"),
        (to(json!({"networks": vec!["10.0.0.0/8"; 26]})), "to[0].networks: there are more than 25"),
        (
            to(json!({"networks": ["10.0.0.1"]})),
            "to[0].networks[0]: \"10.0.0.1\" is not a CIDR such as 10.0.0.0/8",
        ),
        (to(json!({"pods": {}})), "to[0].pods.podSelector: is missing"),
        (with(json!([])), "protocols: there is none"),
        (
            with(json!([{"tcp": null}])),
            "protocols[0]: says nothing: it has none of tcp, udp, sctp and destinationNamedPort",
        ),
        (with(json!([{"udp": {}, "icmp": {}}])), "protocols[0].icmp: is not known"),
        (with(json!([{"tcp": {}}])), "protocols[0].tcp.destinationPort: is missing"),
        (with(json!([{"udp": {"sourcePort": {}}}])), "protocols[0].udp.sourcePort: is not known"),
        (
            with(json!([{"tcp": {"destinationPort": {"number": 1}}, "destinationNamedPort": "a"}])),
            "protocols[0].destinationNamedPort: is not possible together with tcp",
        ),
        (
            with(json!([{"destinationNamedPort": ""}])),
            "protocols[0].destinationNamedPort: \"\" cannot be the name of a port",
        ),
        (
            tcp(json!({})),
            "protocols[0].tcp.destinationPort: says of no port: it has neither number nor range",
        ),
        (
            tcp(json!({"number": 0})),
            "protocols[0].tcp.destinationPort.number: 0 is not a port, from 1 to 65535",
        ),
        (
            tcp(json!({"number": 1, "range": {"start": 1, "end": 2}})),
            "protocols[0].tcp.destinationPort.range: is not possible together with number",
        ),
        (
            tcp(json!({"range": {"start": 80, "end": 80}})),
            "protocols[0].tcp.destinationPort.range.end: 80 is not above start, which is 80",
        ),
        (tcp(json!({"range": {"start": 80}})), "protocols[0].tcp.destinationPort.range.end: is missing"),
    ] {
        assert_eq!(egress(&rule).unwrap_err().to_string(), format!("spec.egress[0].{wrong}"));
    }
}

#[test]
fn ports_of_nodes_networks_and_dns_names_have_no_names() {
    for peer in [json!({"nodes": {}}), json!({"networks": ["10.0.0.0/8"]}), json!({"domainNames": ["a.b"]})] {
        let protocols = json!([{"tcp": {"destinationPort": {"number": 1}}}, {"destinationNamedPort": "web"}]);
        let rule = json!({"action": "Accept", "to": [{"namespaces": {}}, peer], "protocols": protocols});
        assert_eq!(
            egress(&rule).unwrap_err().to_string(),
            "spec.egress[0].protocols[1].destinationNamedPort: is not possible for nodes, networks and DNS \
             names, whose ports have no names"
        );
    }
}

const KEYS: &[&str] = &[
    "tier",
    "priority",
    "subject",
    "namespaces",
    "pods",
    "podSelector",
    "namespaceSelector",
    "matchLabels",
    "ingress",
    "egress",
    "from",
    "to",
    "action",
    "protocols",
    "tcp",
    "udp",
    "destinationPort",
    "destinationNamedPort",
    "number",
    "range",
    "start",
    "end",
    "nodes",
    "networks",
    "name",
];

fn value() -> impl Strategy<Value = Value> {
    let texts = &["Admin", "Accept", "Deny", "10.0.0.0/8", "::/0", "/", "web", ""][..];
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        (-1i64..100).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(texts).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    scalar.prop_recursive(7, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(KEYS), inner), 0..6)
                .prop_map(|fields| fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_document_is_read_or_refused(any in value(), spec in value(), rules in value(), peer in value()) {
        let _ = read(&any, None);
        let _ = read(&document(&spec), None);
        let _ = policy(&json!({"ingress": rules, "egress": rules}));
        let _ = egress(&json!({"action": "Deny", "to": [peer], "protocols": [peer]}));
    }
}

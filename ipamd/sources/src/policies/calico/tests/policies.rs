//! Whom a policy is for, where it stands and which directions it speaks of.

use super::*;
use ipamd_model::{
    host::HostLayer,
    policy::{Action, DEFAULT_TIER, ItemKinds, Order, Traffic},
};

#[test]
fn a_policy_without_anything_denies_ingress_to_all_pods_that_it_can_be_for() {
    let (namespaced, global) = (namespaced(&json!({})).unwrap(), global(&json!({})).unwrap());
    assert_eq!(namespaced.id.to_string(), "NetworkPolicy.projectcalico.org ns/p");
    assert_eq!(global.id.to_string(), "GlobalNetworkPolicy p");
    assert_eq!(namespaced.subject, pods(within("ns"), "all()"));
    assert_eq!(global.subject, pods(Scope::Any, "all()"));
    for policy in [namespaced, global] {
        assert_eq!((&*policy.tier, policy.order), (DEFAULT_TIER, Order(None)));
        assert_eq!((policy.ingress, policy.egress), (Some(Vec::new()), None));
    }
}

#[test]
fn tier_and_order_are_taken_from_the_spec_alone() {
    for (spec, tier, order) in [
        (json!({"tier": "security", "order": 5}), "security", Some(5.0)),
        (json!({"tier": "", "order": null}), DEFAULT_TIER, None),
        (json!({"order": -1.5}), DEFAULT_TIER, Some(-1.5)),
        (json!({"order": -0.0}), DEFAULT_TIER, Some(0.0)),
        (json!({"order": 1e300}), DEFAULT_TIER, Some(1e300)),
    ] {
        let mut document = document(Kind::GlobalNetworkPolicy, &spec);
        // A name with a tier before it is a name like another.
        document["metadata"]["name"] = json!("internal.p");
        let Object::Policy(policy) = read(Kind::GlobalNetworkPolicy, &document, None).unwrap() else {
            panic!()
        };
        assert_eq!(
            (&*policy.id.name, &*policy.tier, policy.order),
            ("internal.p", tier, Order(order)),
            "{spec}"
        );
    }
}

#[test]
fn a_subject_is_chosen_by_labels_namespaces_and_service_accounts() {
    let accounts = |scope, labels, accounts| ItemSelector {
        service_accounts: Some(selector(accounts)),
        ..pods(scope, labels)
    };
    for (spec, subject) in [
        (json!({"selector": "a == 'b'"}), pods(Scope::Any, "a == 'b'")),
        (json!({"selector": ""}), pods(Scope::Any, "all()")),
        (json!({"selector": null}), pods(Scope::Any, "all()")),
        (json!({"namespaceSelector": "all()"}), pods(matching("all()"), "all()")),
        (json!({"namespaceSelector": ""}), pods(Scope::Any, "all()")),
        (
            json!({"namespaceSelector": "has(x)", "selector": "a == 'b'", "serviceAccountSelector": "c == 'd'"}),
            accounts(matching("has(x)"), "a == 'b'", "c == 'd'"),
        ),
        (json!({"serviceAccountSelector": "all()"}), accounts(Scope::Any, "all()", "all()")),
        (json!({"serviceAccountSelector": ""}), pods(Scope::Any, "all()")),
    ] {
        assert_eq!(global(&spec).unwrap().subject, subject, "{spec}");
    }
    let spec = json!({"selector": "a == 'b'", "serviceAccountSelector": "c == 'd'"});
    assert_eq!(namespaced(&spec).unwrap().subject, accounts(within("ns"), "a == 'b'", "c == 'd'"));
}

#[test]
fn the_directions_follow_from_types_or_from_the_rules() {
    let rule = || json!([{"action": "Allow"}]);
    for (spec, ingress, egress) in [
        (json!({}), Some(0), None),
        (json!({"types": [], "ingress": [], "egress": []}), Some(0), None),
        (json!({"types": null, "ingress": null, "egress": null}), Some(0), None),
        (json!({"ingress": rule()}), Some(1), None),
        (json!({"egress": rule()}), None, Some(1)),
        (json!({"ingress": [], "egress": rule()}), None, Some(1)),
        (json!({"ingress": rule(), "egress": rule()}), Some(1), Some(1)),
        (json!({"types": ["Ingress"], "egress": rule()}), Some(0), None),
        (json!({"types": ["Egress"], "ingress": rule()}), None, Some(0)),
        (json!({"types": ["Egress"]}), None, Some(0)),
        (json!({"types": ["Egress", "Ingress"]}), Some(0), Some(0)),
    ] {
        for policy in [namespaced(&spec).unwrap(), global(&spec).unwrap()] {
            assert_eq!(policy.ingress.map(|it| it.len()), ingress, "{spec}");
            assert_eq!(policy.egress.map(|it| it.len()), egress, "{spec}");
        }
    }
}

#[test]
fn a_rule_has_an_action_and_without_more_is_for_everything() {
    let rules = json!([
        {"action": "Allow"},
        {"action": "Deny", "source": {}, "destination": null},
        {"action": "Log", "metadata": {"annotations": {"why": "because"}, "more": [1]}},
        {"action": "Pass", "source": {"nets": [], "notNets": [], "ports": [], "notPorts": [], "selector": ""}},
    ]);
    let read = namespaced(&json!({"egress": rules})).unwrap().egress.unwrap();
    let actions = [Action::Allow, Action::Deny, Action::Log, Action::Pass];
    for (index, (rule, action)) in read.into_iter().zip(actions).enumerate() {
        let any = || vec![Entity::ANY];
        let traffic = vec![Traffic::ANY];
        let (sources, destinations) = (any(), any());
        assert_eq!(rule, Rule { index, name: None, action, family: None, sources, destinations, traffic });
    }
}

#[test]
fn what_a_policy_is_asked_about_at_host_endpoints_follows_from_three_fields() {
    let layer = |spec: &Value| global(spec).unwrap().layer;
    let forwarded =
        |field: &str| json!({"applyOnForward": true, field: true, "ingress": [{"action": "Deny"}]});
    for (spec, expected) in [
        (json!({}), HostLayer::Local),
        (json!({"applyOnForward": false, "doNotTrack": false, "preDNAT": false}), HostLayer::Local),
        (json!({"applyOnForward": true}), HostLayer::Forwarded),
        (forwarded("preDNAT"), HostLayer::PreDnat),
        (forwarded("doNotTrack"), HostLayer::Untracked),
    ] {
        assert_eq!(layer(&spec), expected, "{spec}");
    }
    assert_eq!(global(&json!({})).unwrap().subject.kinds, ItemKinds::PodsAndHosts);
    assert_eq!(namespaced(&json!({})).unwrap().subject.kinds, ItemKinds::Pods);
}

#[test]
fn what_concerns_speed_alone_is_taken() {
    let spec = json!({"performanceHints": ["AssumeNeededOnEveryNode"]});
    assert_eq!(global(&spec), global(&json!({})));
    assert_eq!(namespaced(&json!({"performanceHints": []})), namespaced(&json!({})));
}

#[test]
fn a_spec_that_cannot_be_understood_is_refused_by_field() {
    for (spec, wrong) in [
        (json!(null), "spec: is missing"),
        (json!([]), "spec: is a list, not a mapping"),
        (json!({"selektor": "all()"}), "spec.selektor: is not known"),
        (json!({"tier": 5}), "spec.tier: 5 is not a string; quotes make it one"),
        (
            json!({"tier": "a.b"}),
            "spec.tier: \"a.b\" cannot be the name of a tier: small letters, digits and '-' between them, 63 at most",
        ),
        (json!({"order": "5"}), "spec.order: \"5\" is not a number"),
        (json!({"order": true}), "spec.order: true is not a number"),
        (json!({"types": ["ingress"]}), "spec.types[0]: \"ingress\" is neither Ingress nor Egress"),
        (json!({"types": ["Ingress", "Ingress"]}), "spec.types[1]: is there twice"),
        (json!({"types": "Ingress"}), "spec.types: \"Ingress\" is not a list"),
        (
            json!({"selector": "global()"}),
            "spec.selector: global() is for the namespaceSelector of a source or a destination only",
        ),
        (
            json!({"serviceAccountSelector": "a == 'b' && !global()"}),
            "spec.serviceAccountSelector: global() is for the namespaceSelector of a source or a destination only",
        ),
        (json!({"performanceHints": [1]}), "spec.performanceHints[0]: 1 is not a string; quotes make it one"),
        (json!({"ingress": {}}), "spec.ingress: is a mapping, not a list"),
        (json!({"ingress": [{}]}), "spec.ingress[0].action: is missing"),
        (
            json!({"egress": [{"action": "Allow"}, {"action": "allow"}]}),
            "spec.egress[1].action: \"allow\" is not one of Allow, Deny, Log and Pass",
        ),
        (json!({"egress": [{"action": "Allow", "ports": [80]}]}), "spec.egress[0].ports: is not known"),
        (json!({"egress": [{"action": "Allow", "to": []}]}), "spec.egress[0].to: is not known"),
        (
            json!({"egress": [{"action": "Allow", "http": {"methods": ["GET"]}}]}),
            "spec.egress[0].http: Cambric does not look into HTTP",
        ),
        (
            // Also where the policy turns out not to speak of the direction.
            json!({"types": ["Ingress"], "egress": [{"action": "No"}]}),
            "spec.egress[0].action: \"No\" is not one of Allow, Deny, Log and Pass",
        ),
    ] {
        assert_eq!(said(Kind::CalicoNetworkPolicy, &spec), wrong);
        assert_eq!(said(Kind::GlobalNetworkPolicy, &spec), wrong);
    }
}

#[test]
fn the_fields_of_a_global_policy_are_its_own() {
    for (spec, wrong) in [
        (
            json!({"doNotTrack": true}),
            "spec.applyOnForward: must be true where preDNAT or doNotTrack is, because these are about all packets",
        ),
        (
            json!({"preDNAT": true, "applyOnForward": false}),
            "spec.applyOnForward: must be true where preDNAT or doNotTrack is, because these are about all packets",
        ),
        (
            json!({"preDNAT": true, "doNotTrack": true, "applyOnForward": true}),
            "spec.preDNAT: a policy cannot have both preDNAT and doNotTrack",
        ),
        (
            json!({"preDNAT": true, "applyOnForward": true, "egress": [{"action": "Allow"}]}),
            "spec.egress: a preDNAT policy is about what arrives only: remove it, and Egress from types",
        ),
        (json!({"preDNAT": "true"}), "spec.preDNAT: \"true\" is not true or false"),
        (json!({"applyOnForward": 1}), "spec.applyOnForward: 1 is not true or false"),
        (
            json!({"namespaceSelector": "global()"}),
            "spec.namespaceSelector: global() is for the namespaceSelector of a source or a destination only",
        ),
    ] {
        assert_eq!(said(Kind::GlobalNetworkPolicy, &spec), wrong);
    }
    for field in ["doNotTrack", "preDNAT", "applyOnForward", "namespaceSelector"] {
        assert_eq!(
            said(Kind::CalicoNetworkPolicy, &json!({field: false})),
            format!("spec.{field}: is not known")
        );
    }
}

#[test]
fn a_selector_that_cannot_be_read_is_refused_where_it_is_wrong() {
    for (spec, field) in [
        (json!({"selector": "a ="}), "spec.selector"),
        (json!({"namespaceSelector": "a in"}), "spec.namespaceSelector"),
        (json!({"serviceAccountSelector": "&&"}), "spec.serviceAccountSelector"),
        (
            json!({"ingress": [{"action": "Deny", "source": {"selector": "("}}]}),
            "spec.ingress[0].source.selector",
        ),
    ] {
        let error = global(&spec).unwrap_err();
        assert_eq!(error.field, field);
        assert!(error.reason.starts_with("column "), "{error}");
    }
}

#[test]
fn another_kind_is_not_taken_for_one_of_calicos() {
    let wrong = read(Kind::Pod, &document(Kind::Pod, &json!({})), None).unwrap_err();
    assert_eq!(wrong.reason, "Pod is not one of Calico's kinds");
}

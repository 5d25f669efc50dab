//! Network sets and tiers.

use super::*;
use ipamd_model::{
    objects::NetworkSet,
    policy::{Order, Tier, TierDefault},
};

fn tier(name: &str, spec: &Value) -> Result<Object, FieldError> {
    let mut document = document(Kind::Tier, spec);
    document["metadata"]["name"] = json!(name);
    read(Kind::Tier, &document, None)
}

#[test]
fn a_network_set_has_labels_and_networks_of_any_family_and_dns_names() {
    let set = |namespace: Option<&str>, nets: &[&str], names: &[&str]| {
        Ok(Object::NetworkSet(NetworkSet {
            namespace: namespace.map(Into::into),
            name: "p".into(),
            labels: [("l", "m")].into_iter().collect(),
            nets: nets.iter().map(|it| it.parse().unwrap()).collect(),
            domains: names.iter().map(|it| it.parse().unwrap()).collect(),
        }))
    };
    let of = |kind, spec| read(kind, &document(kind, &spec), None);
    let nets = json!({"nets": ["198.51.100.0/28", "2001:db8::/32", "203.0.113.9", "10.9.9.9/8"]});
    let read = ["198.51.100.0/28", "2001:db8::/32", "203.0.113.9/32", "10.0.0.0/8"];
    assert_eq!(of(Kind::NetworkSet, nets.clone()), set(Some("ns"), &read, &[]));
    assert_eq!(of(Kind::GlobalNetworkSet, nets), set(None, &read, &[]));
    let names = json!({"nets": ["10.0.0.1"], "allowedEgressDomains": ["DB.com", "*.db.com."]});
    assert_eq!(of(Kind::GlobalNetworkSet, names), set(None, &["10.0.0.1/32"], &["db.com", "*.db.com"]));
    for empty in
        [json!(null), json!({}), json!({"nets": []}), json!({"nets": null, "allowedEgressDomains": []})]
    {
        assert_eq!(of(Kind::GlobalNetworkSet, empty), set(None, &[], &[]));
    }
}

#[test]
fn a_network_set_that_cannot_be_understood_is_refused_by_field() {
    for (spec, wrong) in [
        (json!({"net": []}), "spec.net: is not known"),
        (json!({"nets": ["x"]}), "spec.nets[0]: \"x\" is neither a CIDR such as 10.0.0.0/8 nor an address"),
        (
            json!({"allowedEgressDomains": ["a.b", "update.*.b"]}),
            "spec.allowedEgressDomains[1]: \"update.*.b\" is not a DNS name that policies can have: a star stands only for the labels in \
             front, as in \"*.example.com\"",
        ),
    ] {
        assert_eq!(said(Kind::NetworkSet, &spec), wrong);
        assert_eq!(said(Kind::GlobalNetworkSet, &spec), wrong);
    }
    let mut document = document(Kind::NetworkSet, &json!({}));
    document["metadata"]["labels"] = json!({"projectcalico.org/namespace": "other"});
    assert_eq!(
        read(Kind::NetworkSet, &document, None).unwrap_err().to_string(),
        "metadata.labels.projectcalico.org/namespace: is set by the namespace, not by hand"
    );
    document["speck"] = json!({});
    assert_eq!(read(Kind::NetworkSet, &document, None).unwrap_err().field, "speck");
}

#[test]
fn a_tier_has_an_order_and_a_default() {
    for (spec, order, default) in [
        (json!(null), None, TierDefault::Deny),
        (json!({}), None, TierDefault::Deny),
        (json!({"order": 100}), Some(100.0), TierDefault::Deny),
        (json!({"order": 0.5, "defaultAction": "Pass"}), Some(0.5), TierDefault::Pass),
        (json!({"defaultAction": "Deny"}), None, TierDefault::Deny),
    ] {
        let expected = Tier { name: "security".into(), order: Order(order), default };
        assert_eq!(tier("security", &spec), Ok(Object::Tier(expected)), "{spec}");
    }
    for (spec, wrong) in [
        (json!({"order": "1"}), "spec.order: \"1\" is not a number"),
        (json!({"defaultAction": "Allow"}), "spec.defaultAction: \"Allow\" is neither Deny nor Pass"),
        (json!({"default": "Pass"}), "spec.default: is not known"),
    ] {
        assert_eq!(tier("security", &spec).unwrap_err().to_string(), wrong);
    }
    assert!(tier(&"t".repeat(63), &json!({})).is_ok());
    for name in ["a.b", "A", "-a", "a-", &"t".repeat(64)] {
        assert_eq!(tier(name, &json!({})).unwrap_err().field, "metadata.name", "{name}");
    }
}

#[test]
fn the_tiers_that_are_always_there_stay_as_they_are() {
    for built_in in Tier::built_in() {
        let spec = json!({"order": built_in.order.0, "defaultAction": format!("{:?}", built_in.default)});
        assert_eq!(tier(&built_in.name, &spec), Ok(Object::Tier(built_in)));
    }
    for (name, spec, wrong) in [
        ("default", json!({}), "spec.order: the tier default has the order 1000000, always"),
        (
            "default",
            json!({"order": 1_000_000, "defaultAction": "Pass"}),
            "spec.defaultAction: the tier default has Deny, always",
        ),
        ("kube-admin", json!({"order": 5}), "spec.order: the tier kube-admin has the order 1000, always"),
        (
            "kube-baseline",
            json!({"order": 1e7}),
            "spec.defaultAction: the tier kube-baseline has Pass, always",
        ),
    ] {
        assert_eq!(tier(name, &spec).unwrap_err().to_string(), wrong);
    }
}

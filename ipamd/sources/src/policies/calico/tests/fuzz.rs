//! Whatever a document holds, reading it does not panic.

use proptest::prelude::*;

use super::*;

const KINDS: [Kind; 5] = [
    Kind::CalicoNetworkPolicy,
    Kind::GlobalNetworkPolicy,
    Kind::NetworkSet,
    Kind::GlobalNetworkSet,
    Kind::Tier,
];

const KEYS: &[&str] = &[
    "action",
    "applyOnForward",
    "code",
    "defaultAction",
    "destination",
    "doNotTrack",
    "domains",
    "egress",
    "http",
    "icmp",
    "ingress",
    "ipVersion",
    "names",
    "namespaceSelector",
    "nets",
    "notICMP",
    "notNets",
    "notPorts",
    "notProtocol",
    "notSelector",
    "order",
    "performanceHints",
    "ports",
    "preDNAT",
    "protocol",
    "selector",
    "serviceAccountSelector",
    "serviceAccounts",
    "services",
    "source",
    "tier",
    "type",
    "types",
    "x",
];

const TEXTS: &[&str] = &[
    "",
    "Allow",
    "Deny",
    "Log",
    "Pass",
    "Ingress",
    "Egress",
    "TCP",
    "UDP",
    "ICMP",
    "ICMPv6",
    "UDPLite",
    "6",
    "300",
    "80:90",
    ":",
    "1:",
    "http",
    "10.0.0.0/8",
    "fd00::/8",
    "10.0.0.1",
    "::ffff:1.2.3.4",
    "/",
    "1/1",
    "all()",
    "global()",
    "!global()",
    "a == 'b' && has(c)",
    "a in {",
    "\u{0}",
    "é",
    "((((((((((",
];

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-2i64..300).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(TEXTS).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(KEYS), inner), 0..6)
                .prop_map(|fields| fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

/// A policy most of whose fields are as they should be.
fn likely() -> impl Strategy<Value = Value> {
    let side = prop_oneof![
        Just(json!({"selector": "a == 'b'", "ports": [80, "http", "1:2"]})),
        Just(json!({"notSelector": "has(c)", "nets": ["10.0.0.0/8"]})),
        Just(json!({"namespaceSelector": "global()", "serviceAccounts": {"names": ["x"]}})),
        value(),
    ];
    let protocol = prop::sample::select(&["TCP", "ICMP", "UDPLite", "47"][..]);
    let rule = (prop::sample::select(&["Allow", "Deny", "Log", "Pass"][..]), protocol, side.clone(), side, value())
        .prop_map(|(action, protocol, source, destination, icmp)| {
            json!({
                "action": action, "protocol": protocol, "source": source, "destination": destination, "icmp": icmp,
            })
        });
    prop::collection::vec(rule, 0..4).prop_map(|rules| json!({"ingress": rules, "egress": rules}))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_document_is_read_or_refused(document in value()) {
        for kind in KINDS {
            let _ = read(kind, &document, None);
        }
    }

    #[test]
    fn any_spec_is_read_or_refused_by_field(spec in prop_oneof![value(), likely()]) {
        for kind in KINDS {
            if let Err(error) = read(kind, &document(kind, &spec), None) {
                prop_assert!(error.field.starts_with("spec"), "{error}");
                prop_assert!(!error.reason.is_empty());
            }
        }
    }
}

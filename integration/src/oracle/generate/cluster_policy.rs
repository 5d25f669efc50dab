//! Random ClusterNetworkPolicies.

use proptest::{
    collection::vec,
    prelude::*,
    sample::{select, subsequence},
};
use serde_json::{Value, json};

use super::pools::{
    DOMAINS, KEYS, NAMESPACE_KEYS, NETS4, NETS6, POD_KEYS, PORT_NAMES, PORTS, RANGES, label_selector, list,
    object, policy_name,
};

/// A ClusterNetworkPolicy.
pub fn cluster_network_policy() -> BoxedStrategy<Value> {
    (
        policy_name(),
        select(&["Admin", "Baseline"][..]),
        select(&[0, 1, 1, 500, 1000][..]),
        pods(),
        list(25, 2, rule("from")),
        list(25, 2, rule("to")),
    )
        .prop_map(|(name, tier, priority, subject, ingress, egress)| {
            json!({
                "apiVersion": "policy.networking.k8s.io/v1alpha2",
                "kind": "ClusterNetworkPolicy",
                "metadata": {"name": name},
                "spec": object([
                    ("tier", Some(json!(tier))),
                    ("priority", Some(json!(priority))),
                    ("subject", Some(subject)),
                    ("ingress", ingress),
                    ("egress", egress),
                ]),
            })
        })
        .boxed()
}

/// Pods by their namespaces, or by both.
fn pods() -> BoxedStrategy<Value> {
    prop_oneof![
        label_selector(&NAMESPACE_KEYS).prop_map(|it| json!({"namespaces": it})),
        (label_selector(&NAMESPACE_KEYS), label_selector(&POD_KEYS)).prop_map(|(namespaces, pods)| {
            json!({"pods": {"namespaceSelector": namespaces, "podSelector": pods}})
        }),
    ]
    .boxed()
}

fn rule(peers: &'static str) -> BoxedStrategy<Value> {
    let networks = prop_oneof![subsequence(NETS4.to_vec(), 1..=2), subsequence(NETS6.to_vec(), 1..=2)];
    let beyond = prop_oneof![
        label_selector(&KEYS).prop_map(|it| json!({"nodes": it})),
        networks.prop_map(|it| json!({"networks": it})),
        subsequence(DOMAINS.to_vec(), 1..=3).prop_map(|it| json!({"domainNames": it})),
    ];
    // What the API server leaves of a kind that it does not know, and what a file may say.
    let kinds = [json!({}), json!({"planets": {"earth": "first"}}), json!({"domainNames": ["a.test"]})];
    // Who comes in has no name. Names of ports cannot stand with DNS names.
    let unknown = select(kinds[..if peers == "to" { 2 } else { 3 }].to_vec());
    let pods_or_unknown = prop_oneof![19 => pods(), 1 => unknown];
    // Ports have no names where peers may be something else than pods.
    let by_pods = (vec(pods_or_unknown, 1..=2), prop::option::of(vec(protocol(true), 1..=2)));
    let by_any = (vec(prop_oneof![pods(), beyond], 1..=2), prop::option::of(vec(protocol(false), 1..=2)));
    let traffic = if peers == "to" { prop_oneof![by_pods, by_any].boxed() } else { by_pods.boxed() };
    (select(&["Accept", "Accept", "Deny", "Pass"][..]), traffic)
        .prop_map(move |(action, (of, protocols))| {
            object([
                ("action", Some(json!(action))),
                (peers, Some(of.into())),
                ("protocols", protocols.map(Value::from)),
            ])
        })
        .boxed()
}

fn protocol(named: bool) -> BoxedStrategy<Value> {
    let port = prop_oneof![
        select(&PORTS[..]).prop_map(|port| json!({"number": port})),
        select(&RANGES[..]).prop_map(|(start, end)| json!({"range": {"start": start, "end": end}})),
    ];
    let by_number = (select(&["tcp", "udp", "sctp"][..]), port)
        .prop_map(|(protocol, port)| json!({protocol: {"destinationPort": port}}));
    if !named {
        return by_number.boxed();
    }
    let by_name = select(&PORT_NAMES[..]).prop_map(|name| json!({"destinationNamedPort": name}));
    prop_oneof![3 => by_number, 1 => by_name].boxed()
}

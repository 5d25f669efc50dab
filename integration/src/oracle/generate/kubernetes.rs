//! Random NetworkPolicies of Kubernetes.

use std::collections::BTreeSet;

use proptest::{
    collection::vec,
    prelude::*,
    sample::{select, subsequence},
};
use serde_json::{Value, json};

use super::pools::{
    BLOCKS, NAMESPACE_KEYS, NAMESPACES, POD_KEYS, PORT_NAMES, PORTS, RANGES, at_times, label_selector, list,
    object, policy_name,
};

/// A NetworkPolicy.
pub fn network_policy() -> BoxedStrategy<Value> {
    let types = prop_oneof![
        3 => Just(None),
        4 => subsequence(vec!["Ingress", "Egress"], 0..=2).prop_map(|types| Some(json!(types))),
    ];
    (
        select(&NAMESPACES[..2]),
        policy_name(),
        label_selector(&POD_KEYS),
        types,
        list(25, 2, rule("from")),
        list(40, 2, rule("to")),
    )
        .prop_map(|(namespace, name, pods, types, ingress, egress)| {
            json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"namespace": namespace, "name": name},
                "spec": object([
                    ("podSelector", Some(pods)),
                    ("policyTypes", types),
                    ("ingress", ingress),
                    ("egress", egress),
                ]),
            })
        })
        .boxed()
}

fn rule(peers: &'static str) -> BoxedStrategy<Value> {
    (list(25, 2, peer()), list(35, 2, port()))
        .prop_map(move |(from, ports)| object([(peers, from), ("ports", ports)]))
        .boxed()
}

fn peer() -> BoxedStrategy<Value> {
    let namespaces = || label_selector(&NAMESPACE_KEYS);
    let pods = || label_selector(&POD_KEYS);
    let block = select(&BLOCKS[..]).prop_flat_map(|(cidr, inner)| {
        let except = prop_oneof![
            2 => Just(None),
            1 => Just(Some(json!([]))),
            4 => subsequence(inner, 1..=inner.len()).prop_map(|it| Some(json!(it))),
        ];
        except.prop_map(
            move |except| json!({"ipBlock": object([("cidr", Some(json!(cidr))), ("except", except)])}),
        )
    });
    prop_oneof![
        3 => pods().prop_map(|pods| json!({"podSelector": pods})),
        3 => namespaces().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        3 => (namespaces(), pods()).prop_map(|(namespaces, pods)| {
            json!({"namespaceSelector": namespaces, "podSelector": pods})
        }),
        3 => block,
    ]
    .boxed()
}

fn port() -> BoxedStrategy<Value> {
    let ports = prop_oneof![
        2 => Just((None, None)),
        3 => select(&PORTS[..]).prop_map(|port| (Some(json!(port)), None)),
        2 => select(&RANGES[..]).prop_map(|(first, last)| (Some(json!(first)), Some(json!(last)))),
        3 => select(&PORT_NAMES[..]).prop_map(|name| (Some(json!(name)), None)),
    ];
    let protocol = at_times(60, select(&["TCP", "UDP", "SCTP"][..]).prop_map(Value::from));
    (protocol, ports)
        .prop_map(|(protocol, (port, end))| {
            object([("protocol", protocol), ("port", port), ("endPort", end)])
        })
        .boxed()
}

/// The named ports of a pod. A name stands for one number of a protocol.
pub fn container_ports() -> BoxedStrategy<Value> {
    let protocol = select(&[None, Some("TCP"), Some("UDP"), Some("SCTP")][..]);
    let port = (select(&PORT_NAMES[..]), protocol, select(&[80_u16, 81, 8080, 8085, 9100][..]));
    vec(port, 0..=4)
        .prop_map(|ports| {
            let mut seen = BTreeSet::new();
            let once = ports
                .into_iter()
                .filter(|(name, protocol, _)| seen.insert((*name, protocol.unwrap_or("TCP"))));
            once.map(|(name, protocol, number)| {
                object([
                    ("name", Some(json!(name))),
                    ("protocol", protocol.map(Value::from)),
                    ("containerPort", Some(json!(number))),
                ])
            })
            .collect()
        })
        .boxed()
}

//! Random documents, and clusters of them.

use proptest::{
    collection::vec,
    prelude::*,
    sample::{select, subsequence},
    strategy::Union,
};
use serde_json::{Value, json};

use super::{
    calico, cluster_policy, kubernetes, pods,
    pools::{self, ACCOUNTS, DOMAINS, NAMESPACES, NETS4, NETS6, PORTS, SERVICES, at_times, labels, object},
    scene::{Scene, Told},
};
use crate::oracle::inventory::Local;

/// A random cluster with up to so many policies.
pub fn scene(policies: usize) -> BoxedStrategy<Scene> {
    let documents = (
        vec(namespace(), 2..=4),
        vec(account(), 0..=4),
        vec(network_set(), 0..=2),
        vec(endpoint_slice(), 0..=4),
        vec(tier(), 0..=2),
        vec(policy(), 1..=policies),
    )
        .prop_map(|(namespaces, accounts, sets, slices, tiers, policies)| {
            [namespaces, accounts, sets, slices, tiers, policies].concat()
        });
    (documents, pods::pods(), pods::nodes(), any::<u64>())
        .prop_map(|(documents, (pods, locals), (nodes, own), told)| {
            Scene::new([documents, pods, nodes].concat(), locals, own, Told(told))
        })
        .boxed()
}

/// A policy of any kind.
pub fn policy() -> BoxedStrategy<Value> {
    prop_oneof![
        5 => kubernetes::network_policy(),
        6 => calico::calico_policy(),
        3 => cluster_policy::cluster_network_policy(),
    ]
    .boxed()
}

/// Anything of which a cluster has several and which may come and go, but for pods.
pub fn document() -> BoxedStrategy<Value> {
    prop_oneof![
        2 => namespace(),
        1 => account(),
        2 => network_set(),
        3 => endpoint_slice(),
        1 => tier(),
        6 => policy(),
    ]
    .boxed()
}

/// A pod of this node or of another, as the cluster tells it, and the endpoint that it has here.
pub fn pod() -> BoxedStrategy<(Option<Value>, Option<Local>)> {
    (0..NAMESPACES.len(), 0..pools::PODS.len())
        .prop_flat_map(|(namespace, pod)| pods::pod(namespace, pod))
        .boxed()
}

fn namespace() -> BoxedStrategy<Value> {
    (select(&NAMESPACES[..]), labels())
        .prop_map(|(name, labels)| {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        })
        .boxed()
}

fn account() -> BoxedStrategy<Value> {
    (select(&NAMESPACES[..]), select(&ACCOUNTS[..]), labels())
        .prop_map(|(namespace, name, labels)| {
            json!({
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"namespace": namespace, "name": name, "labels": labels},
            })
        })
        .boxed()
}

fn network_set() -> BoxedStrategy<Value> {
    let nets = select([&NETS4[..], &NETS6[..]].concat());
    let domains = at_times(50, subsequence(DOMAINS.to_vec(), 0..=3).prop_map(|it| json!(it)));
    let id = (prop::option::of(select(&NAMESPACES[..])), select(&["near", "far"][..]));
    (id, labels(), vec(nets, 0..=3), domains)
        .prop_map(|((namespace, name), labels, nets, domains)| {
            json!({
                "apiVersion": "projectcalico.org/v3",
                "kind": if namespace.is_some() { "NetworkSet" } else { "GlobalNetworkSet" },
                "metadata": object([
                    ("namespace", namespace.map(Value::from)),
                    ("name", Some(json!(name))),
                    ("labels", Some(labels)),
                ]),
                "spec": object([("nets", Some(json!(nets))), ("allowedEgressDomains", domains)]),
            })
        })
        .boxed()
}

/// A slice of a Service, some of whose endpoints are pods; it may go over to another Service.
fn endpoint_slice() -> BoxedStrategy<Value> {
    let address = |v4: bool| {
        let of_pod = (0..NAMESPACES.len(), 1..=pools::PODS.len()).prop_map(move |(subnet, host)| {
            if v4 { format!("10.0.{subnet}.{host}") } else { format!("fd00::{subnet}:{host}") }
        });
        let other = Just(if v4 { "192.0.2.7" } else { "2001:db8::7" }.to_owned());
        prop_oneof![4 => of_pod, 1 => other]
    };
    let port = (select(&["TCP", "UDP", "SCTP"][..]), select(&PORTS[..]))
        .prop_map(|(protocol, port)| json!({"name": format!("p{port}"), "protocol": protocol, "port": port}));
    let place = (select(&NAMESPACES[..2]), select(&["s1", "s2"][..]), select(&SERVICES[..]));
    (place, vec(port, 0..=2), any::<bool>(), any::<bool>())
        .prop_flat_map(move |((namespace, name, service), ports, v4, ready)| {
            vec(address(v4), 0..=3).prop_map(move |addresses| {
                let endpoints =
                    addresses.iter().map(|it| json!({"addresses": [it], "conditions": {"ready": ready}}));
                json!({
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {
                        "namespace": namespace,
                        "name": name,
                        "labels": {"kubernetes.io/service-name": service},
                    },
                    "addressType": if v4 { "IPv4" } else { "IPv6" },
                    "ports": ports,
                    "endpoints": endpoints.collect::<Vec<_>>(),
                })
            })
        })
        .boxed()
}

/// Their names are before that of the tier `default` and behind it, for ties.
fn tier() -> BoxedStrategy<Value> {
    let orders = [10.0, 1_000.0, 5_000.0, 1_000_000.0, 2_000_000.0, 10_000_000.0, 20_000_000.0];
    let action = Union::new([Just("Deny").boxed(), Just("Pass").boxed()]);
    (
        select(&["apple", "zebra"][..]),
        at_times(85, select(orders.to_vec()).prop_map(Value::from)),
        at_times(70, action.prop_map(Value::from)),
    )
        .prop_map(|(name, order, action)| {
            json!({
                "apiVersion": "projectcalico.org/v3",
                "kind": "Tier",
                "metadata": {"name": name},
                "spec": object([("order", order), ("defaultAction", action)]),
            })
        })
        .boxed()
}

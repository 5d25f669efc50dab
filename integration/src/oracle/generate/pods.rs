//! Random pods, here and elsewhere, and nodes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

use super::{
    kubernetes::container_ports,
    pools::{ACCOUNTS, NAMESPACES, PODS, at_times, labels, object},
};
use crate::oracle::{document, inventory::Local, selector::Labels};

/// Documents of pods, and the endpoints of this node.
pub fn pods() -> BoxedStrategy<(Vec<Value>, Vec<Local>)> {
    let all = (0..NAMESPACES.len()).flat_map(|namespace| (0..PODS.len()).map(move |pod| (namespace, pod)));
    let mut pods = all.map(|(namespace, index)| pod(namespace, index)).collect::<Vec<_>>();
    // One at least is here.
    pods[0] = local(0, 0);
    (pods, prop::option::weighted(0.3, bare()))
        .prop_map(|(pods, bare)| {
            let (documents, locals): (Vec<_>, Vec<_>) = pods.into_iter().unzip();
            (documents.into_iter().flatten().collect(), locals.into_iter().flatten().chain(bare).collect())
        })
        .boxed()
}

/// A pod: what the cluster says of it, and the endpoint that it has here.
pub fn pod(namespace: usize, index: usize) -> BoxedStrategy<(Option<Value>, Option<Local>)> {
    prop_oneof![
        2 => Just((None, None)),
        4 => elsewhere(namespace, index).prop_map(|document| (Some(document), None)),
        5 => local(namespace, index),
    ]
    .boxed()
}

fn addresses(namespace: usize, index: usize) -> BoxedStrategy<Vec<IpAddr>> {
    let (subnet, host) = (u8::try_from(namespace).unwrap_or(0), u8::try_from(index + 1).unwrap_or(0));
    let v4 = IpAddr::from(Ipv4Addr::new(10, 0, subnet, host));
    let v6 = IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, u16::from(subnet), u16::from(host)));
    prop_oneof![6 => Just(vec![v4, v6]), 1 => Just(vec![v4]), 1 => Just(vec![v6])].boxed()
}

/// A pod's document, but for its addresses.
fn told(namespace: usize, index: usize) -> BoxedStrategy<Value> {
    let account = at_times(60, select(&ACCOUNTS[..]).prop_map(Value::from));
    (at_times(85, labels()), account, container_ports())
        .prop_map(move |(labels, account, ports)| {
            json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": object([
                    ("namespace", Some(json!(NAMESPACES[namespace]))),
                    ("name", Some(json!(PODS[index]))),
                    ("labels", labels),
                ]),
                "spec": object([
                    ("serviceAccountName", account),
                    ("containers", Some(json!([{"name": "main", "ports": ports}]))),
                ]),
            })
        })
        .boxed()
}

fn status(addresses: &[IpAddr], phase: &str) -> Value {
    let ips = addresses.iter().map(|it| json!({"ip": it.to_string()})).collect::<Vec<_>>();
    json!({"phase": phase, "podIPs": ips})
}

/// A pod of another node. Of those that share their node's address or have ended, the address is another's.
fn elsewhere(namespace: usize, index: usize) -> BoxedStrategy<Value> {
    let neighbour = (index + 1) % PODS.len();
    let with = |document: &Value, status: Value, host_network: bool| {
        let mut document = document.clone();
        document["status"] = status;
        if host_network {
            document["spec"]["hostNetwork"] = json!(true);
        }
        document
    };
    (told(namespace, index), addresses(namespace, index), addresses(namespace, neighbour))
        .prop_flat_map(move |(told, own, other)| {
            prop_oneof![
                8 => Just(with(&told, status(&own, "Running"), false)),
                1 => Just(with(&told, json!({"phase": "Pending"}), false)),
                1 => Just(with(&told, status(&other, "Succeeded"), false)),
                1 => Just(with(&told, status(&other, "Failed"), false)),
                1 => Just(with(&told, status(&["172.16.0.1".parse().expect("an address")], "Running"), true)),
            ]
        })
        .boxed()
}

/// A pod of this node: the cluster may not know of it yet, or not of its addresses.
fn local(namespace: usize, index: usize) -> BoxedStrategy<(Option<Value>, Option<Local>)> {
    (prop::option::weighted(0.8, told(namespace, index)), endpoint_labels(), addresses(namespace, index))
        .prop_flat_map(move |(told, labels, addresses)| {
            let local = Local {
                container: format!("c-{}-{}", NAMESPACES[namespace], PODS[index]),
                pod: Some((NAMESPACES[namespace].to_owned(), PODS[index].to_owned())),
                labels,
                addresses: addresses.clone(),
            };
            let known = prop_oneof![
                4 => Just(status(&addresses, "Running")),
                2 => Just(json!({"phase": "Pending"})),
            ];
            known.prop_map(move |status| {
                let document = told.clone().map(|mut document| {
                    document["status"] = status;
                    document
                });
                (document, Some(local.clone()))
            })
        })
        .boxed()
}

/// The labels that the runtime tells.
fn endpoint_labels() -> BoxedStrategy<Labels> {
    labels().prop_map(|labels| document::labels(&json!({"labels": labels}), "labels")).boxed()
}

/// A container without a pod.
fn bare() -> BoxedStrategy<Local> {
    endpoint_labels()
        .prop_map(|labels| Local {
            container: "bare".to_owned(),
            pod: None,
            labels,
            addresses: vec!["10.0.0.9".parse().expect("an address"), "fd00::9".parse().expect("an address")],
        })
        .boxed()
}

/// Documents of nodes, and the addresses of this one.
pub fn nodes() -> BoxedStrategy<(Vec<Value>, Vec<IpAddr>)> {
    let node = |name: &'static str, addresses: [(&'static str, &'static str); 3]| {
        let addresses = addresses.map(|(kind, address)| json!({"type": kind, "address": address}));
        labels().prop_map(move |labels| {
            json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": labels},
                "status": {"addresses": addresses},
            })
        })
    };
    let here = node("n1", [("InternalIP", "172.16.0.1"), ("InternalIP", "fd01::1"), ("Hostname", "n1")]);
    let there =
        node("n2", [("InternalIP", "172.16.0.2"), ("ExternalIP", "192.0.2.7"), ("InternalIP", "fd01::2")]);
    let own = ["172.16.0.1", "fd01::1"].map(|it| it.parse().expect("an address"));
    (prop::option::of(here), prop::option::of(there), any::<bool>())
        .prop_map(move |(here, there, known)| {
            (here.into_iter().chain(there).collect(), if known { own.to_vec() } else { Vec::new() })
        })
        .boxed()
}

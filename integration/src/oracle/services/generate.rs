//! Random services, of few names and addresses so that they meet.

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};

/// The services of one moment, as documents.
pub type Scene = Vec<Value>;

/// Names of this node and of another.
pub const NODES: [&str; 2] = ["here", "there"];

fn names(key: &'static str, from: &'static [&'static str]) -> impl Strategy<Value = Value> {
    vec(select(from), 0..3).prop_map(move |names| {
        let names: Vec<_> = names.into_iter().map(|name| json!({"name": name})).collect();
        json!({key: names})
    })
}

fn endpoint(v4: bool) -> impl Strategy<Value = Value> {
    let conditions = (option::of(any::<bool>()), option::of(any::<bool>()), option::of(any::<bool>()));
    let hints = prop_oneof![
        3 => Just(Value::Null),
        2 => names("forZones", &["a", "b"]),
        1 => names("forNodes", &NODES),
    ];
    (1_u8..7, select(&NODES), conditions, hints).prop_map(
        move |(last, node, (ready, serving, terminating), hints)| {
            let address = if v4 { format!("10.88.0.{last}") } else { format!("fd00:88::{last}") };
            json!({
                "addresses": [address], "nodeName": node, "hints": hints,
                "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
            })
        },
    )
}

fn slice(service: usize, number: usize) -> impl Strategy<Value = Value> {
    (any::<bool>(), vec((select(&["", "a", "b"][..]), select(&["TCP", "UDP"][..]), 8080_u16..8083), 0..7))
        .prop_flat_map(move |(v4, ports)| {
            vec(endpoint(v4), 0..6).prop_map(move |endpoints| {
                let ports: Vec<_> = ports
                    .iter()
                    .map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port}))
                    .collect();
                json!({
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                    "metadata": {
                        "namespace": "ns", "name": format!("s{service}-{number}"),
                        "labels": {"kubernetes.io/service-name": format!("s{service}")},
                    },
                    "addressType": if v4 { "IPv4" } else { "IPv6" },
                    "ports": ports, "endpoints": endpoints,
                })
            })
        })
}

/// A service whose addresses and node ports nobody else has.
fn service(number: usize) -> impl Strategy<Value = Value> {
    let ports = vec((select(&["", "a", "b"][..]), select(&["TCP", "TCP", "UDP"][..]), any::<bool>()), 1..4);
    let sort = prop_oneof![
        2 => Just("ClusterIP"), 3 => Just("NodePort"), 4 => Just("LoadBalancer"), 1 => Just("ExternalName")
    ];
    let policies = (any::<bool>(), any::<bool>());
    let ranges = prop_oneof![
        Just(vec![]),
        Just(vec!["198.51.100.0/24"]),
        Just(vec!["10.88.0.0/24", "192.0.2.0/24"]),
        Just(vec!["2001:db8:9::/48", "192.0.2.0/24"]),
    ];
    let label =
        prop_oneof![6 => Just(None), 1 => Just(Some("headless")), 1 => Just(Some("service-proxy-name"))];
    (ports, sort, policies, ranges, 0_u8..4, any::<bool>(), label).prop_map(
        move |(ports, sort, (internal, external), ranges, families, balanced, label)| {
            let ports: Vec<_> = ports
                .into_iter()
                .enumerate()
                .map(|(at, (name, protocol, node))| {
                    let mut port = json!({"name": name, "protocol": protocol, "port": 80 + at});
                    if node {
                        port["nodePort"] = json!(30_000 + number * 10 + at);
                    }
                    port
                })
                .collect();
            let both = [format!("10.96.0.{number}"), format!("fd00:96::{number}")];
            let addresses: Vec<&str> = match families {
                0 => vec![&both[0]],
                1 => vec![&both[1]],
                2 => vec![&both[0], &both[1]],
                _ => vec!["None"],
            };
            let policy = |local: bool| if local { "Local" } else { "Cluster" };
            let mut labels = json!({});
            if let Some(label) = label {
                labels[format!("service.kubernetes.io/{label}")] = json!("x");
            }
            let ingress = if balanced { vec![json!({"ip": format!("203.0.113.{number}")})] } else { vec![] };
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"namespace": "ns", "name": format!("s{number}"), "labels": labels},
                "spec": {
                    "type": sort, "clusterIP": addresses[0], "clusterIPs": addresses, "ports": ports,
                    "externalIPs": [format!("198.18.0.{number}")],
                    "internalTrafficPolicy": policy(internal), "externalTrafficPolicy": policy(external),
                    "loadBalancerSourceRanges": ranges,
                },
                "status": {"loadBalancer": {"ingress": ingress}},
            })
        },
    )
}

/// Services, their slices, and perhaps the node with its zone. What a Service may not say is left out: two ports of one
/// name and protocol.
pub fn scene() -> impl Strategy<Value = Scene> {
    let services = (1_usize..4).prop_flat_map(|count| {
        let one = |number: usize| {
            (
                option::weighted(0.9, service(number)),
                vec(prop::bool::weighted(0.8), 2),
                slice(number, 0),
                slice(number, 1),
            )
        };
        (1..=count).map(one).collect::<Vec<_>>()
    });
    let node = option::of(select(&["a", "b", "c"][..]));
    (services, node).prop_map(|(services, zone)| {
        let mut scene = Vec::new();
        for (service, has, first, second) in services {
            if let Some(mut service) = service {
                let mut seen = std::collections::HashSet::new();
                if let Some(ports) = service["spec"]["ports"].as_array_mut() {
                    ports
                        .retain(|port| seen.insert((port["name"].to_string(), port["protocol"].to_string())));
                }
                scene.push(service);
            }
            scene
                .extend([first, second].into_iter().zip(has).filter(|(_, has)| *has).map(|(slice, _)| slice));
        }
        if let Some(zone) = zone {
            scene.push(json!({"apiVersion": "v1", "kind": "Node", "metadata": {
                "name": NODES[0], "labels": {"topology.kubernetes.io/zone": zone},
            }}));
        }
        scene
    })
}

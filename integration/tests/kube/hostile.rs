//! Whoever may make large objects cannot make the daemon large: sets, endpoints and policies of a megabyte and more each, which come
//! again and again with other content.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, Node, eventually},
};
use serde_json::{Value, json};

use super::scene::{Pods, Scene, guard};

/// How long it may take until what came is worked through, on a machine that runs other tests.
const PATIENCE: Duration = Duration::from_mins(3);
const ROUNDS: usize = 6;
/// Prefixes of a set that is some two megabytes, and of a policy of half of one; endpoints of a slice of one and a half.
const PREFIXES: usize = 100_000;
const BLOCKS: usize = 20_000;
const ENDPOINTS: usize = 15_000;
/// So much is resident of the daemon's own at most, in KiB: some ten times what the objects are as text. Before they were held to what
/// fits, it was gigabytes.
const MOST_KIB: u64 = 400 << 10;

/// A prefix of its own for each number, other ones in each round.
fn prefix(round: usize, number: usize) -> String {
    let number = round * 7_000_003 + number;
    format!(
        "{}.{}.{}.{}/32",
        20 + number / (1 << 24) % 100,
        number >> 16 & 255,
        number >> 8 & 255,
        number & 255
    )
}

fn set(name: &str, round: usize) -> Value {
    let nets: Vec<_> = (0..PREFIXES).map(|number| prefix(round, number)).collect();
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet",
        "metadata": {"name": name, "labels": {"set": name}}, "spec": {"nets": nets},
    })
}

/// A policy that tells the members of all sets apart.
fn selecting() -> Value {
    let rules: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|set| json!({"action": "Allow", "source": {"selector": format!("set == '{set}'"), "namespaceSelector": "global()"}}))
        .collect();
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "sets"},
        "spec": {"selector": "app == 'guarded'", "ingress": rules},
    })
}

fn blocks(round: usize) -> Value {
    let from: Vec<_> =
        (0..BLOCKS).map(|number| json!({"ipBlock": {"cidr": prefix(round + 100, number)}})).collect();
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "blocks", "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"app": "guarded"}}, "ingress": [{"from": from}]},
    })
}

fn slice(round: usize) -> Value {
    let address = |number| prefix(round + 200, number).trim_end_matches("/32").to_owned();
    let endpoints: Vec<_> = (0..ENDPOINTS)
        .map(|number| json!({"addresses": [address(number)], "nodeName": "other", "conditions": {"ready": true}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "large", "namespace": "shop", "labels": {"kubernetes.io/service-name": "large"}},
        "ports": [{"port": 80}], "endpoints": endpoints,
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "large", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{"port": 80}]},
    })
}

fn own_memory(node: &Node) -> Result<u64> {
    node.daemon().as_ref().context("a daemon")?.own_memory_kib()
}

#[test]
fn large_objects_that_come_again_and_again_take_no_more_memory_than_once() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    for resource in ["globalnetworksets.projectcalico.org", "globalnetworkpolicies.projectcalico.org"] {
        scene.server.serve(resource, true);
    }
    scene.node.start_daemon()?;
    let pods = Pods::start(&scene)?;
    scene.server.put(guard("guard"));
    scene.server.put(selecting());
    scene.server.put(service());
    let (begun, mut most) = (own_memory(&scene.node)?, Vec::new());
    for round in 0..ROUNDS {
        let mut highest = 0;
        for object in [set("a", round), set("b", round), set("c", round), blocks(round), slice(round)] {
            scene.server.put(object);
            // They come one after the other, as fast as they are taken in.
            let marker = format!("marker-{round}");
            scene.server.put(guard(&marker));
            let worked_through = eventually(PATIENCE, || {
                highest = highest.max(own_memory(&scene.node).unwrap_or_default());
                scene.node.policy("shop", &marker).is_ok_and(|found| found.is_some())
            });
            ensure!(worked_through, "{}", scene.node.log());
            scene.server.delete("networkpolicies.networking.k8s.io", &format!("shop/{marker}"));
            let gone = || scene.node.policy("shop", &marker).is_ok_and(|found| found.is_none());
            ensure!(eventually(PATIENCE, gone), "{}", scene.node.log());
        }
        most.push(highest);
    }
    thread::sleep(Duration::from_secs(2));
    eprintln!("KiB: {begun} before, at most {most:?} in each round, {} in the end", own_memory(&scene.node)?);
    for highest in &most {
        ensure!(*highest < MOST_KIB, "{most:?}");
    }
    pods.are_guarded()?;
    // Without them the node is as it was.
    for name in ["a", "b", "c"] {
        scene.server.delete("globalnetworksets.projectcalico.org", name);
    }
    scene.server.delete("globalnetworkpolicies.projectcalico.org", "sets");
    scene.server.delete("networkpolicies.networking.k8s.io", "shop/blocks");
    scene.server.delete("endpointslices.discovery.k8s.io", "shop/large");
    let small = || own_memory(&scene.node).is_ok_and(|now| now < begun + (40 << 10));
    ensure!(eventually(PATIENCE, small), "{} KiB, {begun} before", own_memory(&scene.node)?);
    ensure!(scene.node.reaches(pods.guarded.ipv4())?, "the node reaches its pods");
    pods.are_guarded()
}

//! Which of a service's endpoints take connections.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{Answering, Asking, Machine, NODE4, Node, Settings, ask_from},
};
use serde_json::{Value, json};

use crate::{
    manifests::{endpoint, file, service, slice},
    shop::{BALANCER4, CLUSTER4, CLUSTER6, NODE_PORT, at, shop},
};

/// Who answers `count` connections.
fn met(from: &impl Asking, to: SocketAddr, count: usize) -> Result<BTreeSet<String>> {
    (0..count).map(|_| Ok(from.ask_tcp(to)?.name)).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Both ways: at connect time, and per packet.
fn both_ways(check: impl Fn(&Node) -> Result<()>) -> Result<()> {
    for mode in ["on", "off"] {
        let node = Node::start_with(Settings::default().cluster().flag(format!("--socket-lb={mode}")))?;
        check(&node).map_err(|error| error.context(format!("--socket-lb={mode}")))?;
    }
    Ok(())
}

#[test]
fn a_service_without_backends_refuses_at_once() -> Result<()> {
    needs_root!();
    both_ways(|node| {
        let shop = shop(node)?;
        shop.serve_each(node, &json!({}), &[])?;
        let others =
            [at(CLUSTER4, 80), at(CLUSTER6, 80), at(NODE4, NODE_PORT), at(CLUSTER4, 81), at(CLUSTER6, 81)];
        for to in others {
            let began = Instant::now();
            let tcp = shop.client.ask_tcp(to).map_err(|error| error.kind());
            ensure!(tcp == Err(io::ErrorKind::ConnectionRefused), "tcp to {to}: {tcp:?}");
            let udp = shop.client.ask_udp(to).map_err(|error| error.kind());
            ensure!(udp == Err(io::ErrorKind::ConnectionRefused), "udp to {to}: {udp:?}");
            ensure!(began.elapsed() < Duration::from_millis(500), "it took {:?}", began.elapsed());
        }
        // Outside, too.
        let to = at(NODE4, NODE_PORT);
        let tcp = node.neighbour.ask_tcp(to).map_err(|error| error.kind());
        ensure!(tcp == Err(io::ErrorKind::ConnectionRefused), "from outside: {tcp:?}");
        Ok(())
    })
}

#[test]
fn endpoints_that_are_not_ready_take_nothing() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    let to = at(CLUSTER4, 80);
    let state = |ready: bool, serving: bool, terminating: bool| json!({"conditions": {"ready": ready, "serving": serving, "terminating": terminating}});
    let (b1, b2) = (shop.backends[0].name(), shop.backends[1].name());
    for (first, second, wanted) in [
        (state(true, true, false), state(false, false, false), vec![b1]),
        (state(true, true, false), state(false, true, true), vec![b1]),
        // Those that still serve are better than none.
        (state(false, false, false), state(false, true, true), vec![b2]),
        (state(false, true, true), state(false, true, true), vec![b1, b2]),
    ] {
        shop.serve_each(&node, &json!({}), &[first, second])?;
        ensure!(met(&shop.client, to, 12)? == names(&wanted), "{wanted:?}");
    }
    shop.serve(&node, &json!({}), &state(false, false, true))?;
    ensure!(shop.client.ask_tcp(to).is_err(), "nobody serves");
    Ok(())
}

#[test]
fn connections_are_shared_evenly() -> Result<()> {
    needs_root!();
    both_ways(|node| {
        let shop = shop(node)?;
        let before: Vec<_> = shop.servers.iter().map(Answering::accepted).collect();
        for _ in 0..200 {
            shop.client.ask_tcp(at(CLUSTER4, 80))?;
        }
        let taken: Vec<_> =
            shop.servers.iter().zip(before).map(|(it, before)| it.accepted() - before).collect();
        ensure!(taken.iter().all(|count| (95..=105).contains(count)), "{taken:?}");
        Ok(())
    })
}

#[test]
fn affinity_keeps_a_client_at_its_backend() -> Result<()> {
    needs_root!();
    both_ways(|node| {
        let shop = shop(node)?;
        let affinity = |seconds: u32| json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}});
        shop.serve(node, &affinity(2), &json!({}))?;
        let to = at(CLUSTER4, 80);
        let first = met(&shop.client, to, 10)?;
        ensure!(first.len() == 1, "{first:?}");
        // By whichever address of the service, which are one.
        ensure!(met(&shop.client, at(NODE4, NODE_PORT), 5)? == first);
        let outside = met(&node.neighbour, at(NODE4, NODE_PORT), 10)?;
        ensure!(outside.len() == 1, "{outside:?}");
        // Its backend goes: another takes over, and keeps it.
        let left = usize::from(first.contains(shop.backends[0].name()));
        let gone = json!({"conditions": {"ready": false}});
        let mut rests = [json!({}), json!({})];
        rests[1 - left] = gone;
        shop.serve_each(node, &affinity(2), &rests)?;
        ensure!(met(&shop.client, to, 5)? == names(&[shop.backends[left].name()]));
        // After its time the next is met.
        shop.serve(node, &affinity(1), &json!({}))?;
        let mut later = BTreeSet::new();
        // Each look is a connection, with which the affinity begins anew.
        let pause = Duration::from_millis(2300);
        let found = integration::testbed::eventually_every(pause, Duration::from_secs(30), || {
            later.extend(met(&shop.client, to, 1).unwrap_or_default());
            later.len() == 2
        });
        ensure!(found, "a client whose time is over only met {later:?}");
        shop.serve(node, &json!({"sessionAffinity": "None"}), &json!({}))?;
        ensure!(met(&shop.client, to, 10)?.len() == 2);
        Ok(())
    })
}

#[test]
fn internal_traffic_stays_on_the_node_if_its_policy_is_local() -> Result<()> {
    needs_root!();
    both_ways(|node| {
        let shop = shop(node)?;
        let local = json!({"internalTrafficPolicy": "Local"});
        let elsewhere = json!({"nodeName": "other"});
        shop.serve_each(node, &local, &[json!({}), elsewhere.clone()])?;
        let to = at(CLUSTER4, 80);
        ensure!(met(&shop.client, to, 10)? == names(&[shop.backends[0].name()]));
        // By its external addresses it is balanced over all.
        ensure!(met(&shop.client, at(BALANCER4, 80), 16)?.len() == 2);
        shop.serve(node, &local, &elsewhere)?;
        ensure!(shop.client.ask_tcp(to).is_err(), "there is no local backend");
        ensure!(met(&shop.client, at(BALANCER4, 80), 16)?.len() == 2);
        Ok(())
    })
}

#[test]
fn hints_keep_connections_in_the_zone() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    let hint = |zone: &str| json!({"hints": {"forZones": [{"name": zone}]}});
    shop.serve_each(&node, &json!({}), &[hint("a"), hint("b")])?;
    let to = at(CLUSTER4, 80);
    ensure!(met(&shop.client, to, 12)?.len() == 2, "the node's zone is not known");
    let in_zone = |zone: &str| {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node", "labels": {"topology.kubernetes.io/zone": zone}}})
            .to_string()
    };
    for (zone, wanted) in [("a", 0), ("b", 1)] {
        node.apply("node.yaml", &in_zone(zone))?;
        ensure!(met(&shop.client, to, 12)? == names(&[shop.backends[wanted].name()]), "zone {zone}");
    }
    node.apply("node.yaml", &in_zone("c"))?;
    ensure!(met(&shop.client, to, 12)?.len() == 2, "nobody is in the zone");
    Ok(())
}

#[test]
fn each_port_has_backends_of_its_own() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    let _others: Vec<_> =
        shop.backends.iter().map(|pod| Answering::start(pod, "metrics", 9090)).collect::<Result<_>>()?;
    let spec = json!({"clusterIP": "10.96.0.20", "ports": [
        {"name": "http", "port": 80, "targetPort": "web"},
        {"name": "metrics", "port": 81, "targetPort": "metrics"},
    ]});
    // One named port may be another number at each endpoint: then there is a slice for each.
    let mut first = slice("named", "IPv4", &[endpoint(shop.backends[0].ipv4(), &json!({}))]);
    first["ports"] = json!([{"name": "http", "port": 8080}, {"name": "metrics", "port": 9090}]);
    let mut second = slice("named", "IPv4", &[endpoint(shop.backends[1].ipv4(), &json!({}))]);
    second["metadata"]["name"] = json!("named-2");
    second["ports"] = json!([{"name": "http", "port": 9090}, {"name": "metrics", "port": 9090}]);
    node.apply("named.yaml", &file(&[service("named", &spec), first, second]))?;
    ensure!(met(&shop.client, at("10.96.0.20", 80), 12)? == names(&[shop.backends[0].name(), "metrics"]));
    ensure!(met(&shop.client, at("10.96.0.20", 81), 12)? == names(&["metrics"]));
    Ok(())
}

#[test]
fn headless_services_and_others_are_left_alone() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    let mut other = service("other", &json!({"clusterIP": "10.96.0.30"}));
    other["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "somebody"});
    let headless = service("headless", &json!({"clusterIP": "None"}));
    let endpoints = |name: &str| slice(name, "IPv4", &[endpoint(shop.backends[0].ipv4(), &Value::Null)]);
    node.apply("others.yaml", &file(&[other, endpoints("other"), headless, endpoints("headless")]))?;
    // It leaves by the uplink, as any address that is not the cluster's.
    node.neighbour.netns().ip("addr add 10.96.0.30/32 dev lo")?;
    let _outside = Answering::start(&node.neighbour, "outside", 80)?;
    ensure!(met(&shop.client, at("10.96.0.30", 80), 4)? == names(&["outside"]));
    Ok(())
}

#[test]
fn datagrams_of_one_socket_stay_at_one_backend() -> Result<()> {
    needs_root!();
    both_ways(|node| {
        let shop = shop(node)?;
        let to = at(CLUSTER4, 80);
        let socket = shop.client.udp_socket(to)?;
        let first = ask_from(&socket, to)?.name;
        for _ in 0..10 {
            ensure!(ask_from(&socket, to)?.name == first);
        }
        // By two addresses of the service, of one backend or of two: each answer comes from where it was asked.
        for _ in 0..4 {
            ensure!(ask_from(&socket, at(NODE4, NODE_PORT)).is_ok());
            ensure!(ask_from(&socket, to)?.name == first);
        }
        Ok(())
    })
}

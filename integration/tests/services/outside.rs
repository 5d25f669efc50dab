//! What comes from outside: to backends here and elsewhere.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Answering, Asking, Machine, NEIGHBOUR4, NEIGHBOUR6, NODE4, NODE6, Node},
};
use serde_json::json;

use crate::{
    manifests::{endpoint, file, service, slice},
    shop::{BALANCER4, NODE_PORT, at, shop},
};

#[test]
fn a_backend_elsewhere_sees_the_node() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let _far = Answering::start(&node.neighbour, "far", 8080)?;
    let spec = json!({
        "type": "NodePort", "clusterIP": "10.96.0.40", "clusterIPs": ["10.96.0.40", "fd00:96::40"],
        "ports": [
            {"name": "tcp", "port": 80, "nodePort": 30040},
            {"name": "udp", "port": 80, "protocol": "UDP", "nodePort": 30040},
        ],
    });
    let elsewhere = json!({"nodeName": "other"});
    let slices = [
        slice("far", "IPv4", &[endpoint(NEIGHBOUR4, &elsewhere)]),
        slice("far", "IPv6", &[endpoint(NEIGHBOUR6, &elsewhere)]),
    ];
    node.apply("far.yaml", &file(&[service("far", &spec), slices[0].clone(), slices[1].clone()]))?;
    for (to, own) in [(at(NODE4, 30040), IpAddr::from(NODE4)), (at(NODE6, 30040), NODE6.into())] {
        for _ in 0..4 {
            for (how, answer) in [
                ("tcp", node.neighbour.ask_tcp(to)),
                ("udp", node.neighbour.ask_udp(to)),
                ("unconnected udp", node.neighbour.ask_udp_unconnected(to)),
            ] {
                let answer = answer.with_context(|| format!("{how} to {to}"))?;
                ensure!(answer.name == "far" && answer.client.ip() == own, "{answer:?}");
                ensure!((10_000..30_000).contains(&answer.client.port()), "{answer:?}");
            }
        }
        // A long exchange, both ways larger than a packet.
        let mut conversation = node.neighbour.converse(to)?;
        for _ in 0..20 {
            conversation.goes_on()?;
        }
    }
    // Pods reach it as well, masqueraded as whatever leaves the cluster.
    let pod = node.add_pod("client")?;
    ensure!(pod.ask_tcp(at("10.96.0.40", 80))?.client.ip() == IpAddr::from(NODE4));
    Ok(())
}

#[test]
fn external_traffic_stays_on_the_node_if_its_policy_is_local() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    let to = at(NODE4, NODE_PORT);
    let local = json!({"externalTrafficPolicy": "Local"});
    let elsewhere = json!({"nodeName": "other"});
    shop.serve_each(&node, &local, &[elsewhere.clone(), json!({})])?;
    for _ in 0..8 {
        let answer = node.neighbour.ask_tcp(to)?;
        ensure!(
            answer.name == shop.backends[1].name() && answer.client.ip() == IpAddr::from(NEIGHBOUR4),
            "{answer:?}"
        );
    }
    // From inside all are met.
    let met: BTreeSet<_> = (0..16).map(|_| Ok(shop.client.ask_tcp(to)?.name)).collect::<Result<_>>()?;
    ensure!(met.len() == 2, "{met:?}");
    shop.serve(&node, &local, &elsewhere)?;
    let before = node.drops("no_local_backend")?;
    ensure!(node.neighbour.ask_tcp(to).is_err());
    ensure!(node.drops("no_local_backend")? > before);
    Ok(())
}

#[test]
fn a_load_balancer_takes_the_sources_in_its_ranges_only() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    node.neighbour.netns().ip(&format!("route add {BALANCER4}/32 via {NODE4}"))?;
    let to = at(BALANCER4, 80);
    let ranges = |range: &str| json!({"loadBalancerSourceRanges": [range]});
    shop.serve(&node, &ranges("203.0.113.0/24"), &json!({}))?;
    ensure!(
        node.neighbour.ask_tcp(to).is_err() && shop.client.ask_tcp(to).is_err() && node.ask_tcp(to).is_err()
    );
    ensure!(node.drops("source_range")? > 0);
    ensure!(node.neighbour.ask_tcp(at(NODE4, NODE_PORT)).is_ok(), "node ports are open to all");
    shop.serve(&node, &ranges("192.0.2.0/24"), &json!({}))?;
    ensure!(
        node.neighbour.ask_tcp(to).is_ok() && node.ask_tcp(to).is_ok() && shop.client.ask_tcp(to).is_err()
    );
    shop.serve(&node, &ranges("10.88.0.0/16"), &json!({}))?;
    ensure!(node.neighbour.ask_tcp(to).is_err() && shop.client.ask_tcp(to).is_ok());
    // A connection that stands goes on, as with kube-proxy: whom it is taken from is asked when it begins.
    shop.serve(&node, &json!({}), &json!({}))?;
    let mut stand = [shop.client.converse(to)?, node.neighbour.converse(to)?];
    shop.serve(&node, &ranges("203.0.113.0/24"), &json!({}))?;
    for stands in &mut stand {
        stands.goes_on()?;
    }
    ensure!(node.neighbour.ask_tcp(to).is_err() && shop.client.ask_tcp(to).is_err(), "no other begins");
    Ok(())
}

#[test]
fn policy_sees_the_backend_and_the_client() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    let to = at(NODE4, NODE_PORT);
    let policy = |cidr: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ namespace: shop, name: only }}\n\
             spec: {{ podSelector: {{}}, ingress: [ {{ from: [ {{ ipBlock: {{ cidr: {cidr} }} }} ], ports: [ {{ port: 8080 }} ] }} ] }}\n"
        )
    };
    node.apply("only.yaml", &policy("192.0.2.1/32"))?;
    ensure!(node.neighbour.ask_tcp(to).is_ok());
    ensure!(shop.client.ask_tcp(to).is_err(), "the client has another address");
    node.apply("only.yaml", &policy("10.88.0.0/16"))?;
    ensure!(node.neighbour.ask_tcp(to).is_err() && shop.client.ask_tcp(to).is_ok());
    Ok(())
}

#[test]
fn errors_about_a_backend_come_back_as_the_services() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let mut shop = shop(&node)?;
    // Nobody listens any more: the backend says so, and it is the service that seems to.
    shop.servers.clear();
    let udp = node.neighbour.ask_udp(at(NODE4, NODE_PORT)).map_err(|error| error.kind());
    ensure!(udp == Err(std::io::ErrorKind::ConnectionRefused), "{udp:?}");
    let udp = node.neighbour.ask_udp(at(NODE6, NODE_PORT)).map_err(|error| error.kind());
    ensure!(udp == Err(std::io::ErrorKind::ConnectionRefused), "{udp:?}");
    Ok(())
}

#[test]
fn datagrams_in_pieces_reach_the_backend() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let _shop = shop(&node)?;
    for to in [at(NODE4, NODE_PORT), at(NODE6, NODE_PORT)] {
        let socket = node.neighbour.udp_socket(to)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.send_to(&vec![7; 20_000], to)?;
        let mut bytes = [0; 256];
        let (_, from) = socket.recv_from(&mut bytes)?;
        ensure!(from == to, "{from} answered");
    }
    Ok(())
}

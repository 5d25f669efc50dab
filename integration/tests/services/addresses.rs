//! By which addresses a service is reached, from where.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result};
use integration::{
    needs_root,
    testbed::{Answer, Asking, Machine, NODE4, NODE6, Node, Settings},
};

use crate::shop::{BALANCER4, CLUSTER4, CLUSTER6, EXTERNAL4, NODE_PORT, at, shop};

/// Asks often enough that every backend is met, by TCP and by UDP; each answer must pass `check`.
fn meets_all(from: &impl Asking, to: SocketAddr, check: impl Fn(&Answer) -> bool) -> Result<()> {
    let mut met = BTreeSet::new();
    let mut take = |how: &str, answer: std::io::Result<Answer>| -> Result<()> {
        let answer = answer.with_context(|| format!("{how} to {to}"))?;
        anyhow::ensure!(answer.peer == to, "{how}: the socket's peer is {} and not {to}", answer.peer);
        anyhow::ensure!(check(&answer), "{how} to {to}: {answer:?}");
        met.insert(format!("{how} {}", answer.name));
        Ok(())
    };
    for _ in 0..16 {
        take("tcp", from.ask_tcp(to))?;
        take("udp", from.ask_udp(to))?;
        take("unconnected udp", from.ask_udp_unconnected(to))?;
    }
    anyhow::ensure!(met.len() == 6, "to {to} only {met:?} were met");
    Ok(())
}

fn addresses_inside() -> Vec<SocketAddr> {
    vec![
        at(CLUSTER4, 80),
        at(CLUSTER6, 80),
        at(NODE4, NODE_PORT),
        at(NODE6, NODE_PORT),
        at(EXTERNAL4, 80),
        at(BALANCER4, 80),
    ]
}

#[test]
fn a_pod_reaches_a_service_by_every_address() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    for to in addresses_inside() {
        let own: Vec<IpAddr> = shop.client.addresses().to_vec();
        meets_all(&shop.client, to, |answer| own.contains(&answer.client.ip()))?;
    }
    Ok(())
}

#[test]
fn a_pod_reaches_it_packet_by_packet_where_sockets_are_not_led() -> Result<()> {
    needs_root!();
    let node = Node::start_with(Settings::default().cluster().flag("--socket-lb=off"))?;
    let shop = shop(&node)?;
    for to in addresses_inside() {
        let own: Vec<IpAddr> = shop.client.addresses().to_vec();
        meets_all(&shop.client, to, |answer| own.contains(&answer.client.ip()))?;
    }
    // The node's own sockets are led as ever: nothing else is on their way.
    for to in addresses_inside() {
        meets_all(&node, to, |_| true)?;
    }
    // To itself as well.
    let backend = &shop.backends[0];
    for to in [at(CLUSTER4, 80), at(CLUSTER6, 80)] {
        meets_all(backend, to, |_| true)?;
    }
    Ok(())
}

#[test]
fn the_node_reaches_it_too() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let _shop = shop(&node)?;
    for to in addresses_inside() {
        meets_all(&node, to, |_| true)?;
    }
    meets_all(&node, at("127.0.0.1", NODE_PORT), |_| true)?;
    Ok(())
}

#[test]
fn a_client_outside_reaches_it_by_what_is_external() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let _shop = shop(&node)?;
    for to in [EXTERNAL4, BALANCER4] {
        node.neighbour.netns().ip(&format!("route add {to}/32 via {NODE4}"))?;
    }
    for to in [at(NODE4, NODE_PORT), at(NODE6, NODE_PORT), at(EXTERNAL4, 80), at(BALANCER4, 80)] {
        // A backend on this node sees the client itself.
        let near: IpAddr = if to.is_ipv4() {
            integration::testbed::NEIGHBOUR4.into()
        } else {
            integration::testbed::NEIGHBOUR6.into()
        };
        meets_all(&node.neighbour, to, |answer| answer.client.ip() == near)?;
    }
    Ok(())
}

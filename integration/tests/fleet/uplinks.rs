//! Nodes with two networks: both lead out, and masquerade, node ports and health checks work on each.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    fleet::{Families, Fleet, Subnet},
    needs_root,
    testbed::{Answering, Asking, Machine},
};
use serde_json::json;

use crate::{
    scene::{ONE, PORT, Serving, TWO, all_reach_all, in_time, is_seen_as, leads_to},
    second::{SECOND, Second, are, node},
};

const NODE_PORT: u16 = 30_080;
const HEALTH_PORT: u16 = 30_900;

/// A service of node ports with one backend, and a port for health checks if it is `Local`.
fn put_service(fleet: &Fleet, backend: &Serving<'_>, at: &str, local: bool) -> Result<()> {
    let ports = json!([
        {"name": "tcp", "port": 80, "nodePort": NODE_PORT},
        {"name": "udp", "port": 80, "protocol": "UDP", "nodePort": NODE_PORT},
    ]);
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "web"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00:96::10"],
            "ports": ports,
        },
    });
    if local {
        service["spec"]["externalTrafficPolicy"] = "Local".into();
        service["spec"]["healthCheckNodePort"] = HEALTH_PORT.into();
    }
    fleet.put(&service)?;
    for (family, address) in ["IPv4", "IPv6"].iter().zip(backend.pod.addresses()) {
        fleet.put(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {
                "namespace": "shop", "name": format!("web-{}", family.to_lowercase()),
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "ports": [{"name": "tcp", "port": PORT}, {"name": "udp", "port": PORT, "protocol": "UDP"}],
            "endpoints": [{"addresses": [address], "nodeName": at, "conditions": {"ready": true}}],
        }))?;
    }
    Ok(())
}

/// What a load balancer hears at a health check's port.
fn health(from: &impl Machine, address: IpAddr) -> Result<String> {
    from.netns().inside(|| {
        let patience = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, HEALTH_PORT), patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    })
}

/// Pods reach each other, what they send out has the address of where it leaves, and services are met on both networks.
/// The Nodes' addresses of these families are on the second network, which has no default route.
fn a_second_network_serves(families: Families) -> Result<()> {
    let (fleet, second) = (Fleet::new()?, Second::new()?);
    let told =
        |place| Second::addresses(place).into_iter().filter(|it| families.have(*it)).collect::<Vec<_>>();
    let one = node(&fleet, &second, ("one", ONE), &told(ONE), &[])?;
    let two = node(&fleet, &second, ("two", TWO), &told(TWO), &[])?;
    let mut why: Vec<_> = told(ONE).iter().map(|ip| format!("carries the Node's InternalIP {ip}")).collect();
    why.push(format!("way to the node two ({})", told(TWO)[0]));
    let why = why.join(", ");
    are(&one, &[("uplink", "default route IPv4, default route IPv6"), (SECOND, &why)])?;
    in_time("there is nothing to complain of", || {
        ensure!(one.status()?["problems"] == json!([]), "{}", one.status()?["problems"]);
        Ok(())
    })?;

    // What leads directly leads by the second network.
    if families == Families::Both {
        leads_to(&one, &[TWO], &[])?;
    }
    let routes = one.netns().ip("-6 route show proto 202")?;
    ensure!(routes.contains(&format!("dev {SECOND}")), "{routes}");
    let (a, b) = (Serving::on(&fleet, &one, "a")?, Serving::on(&fleet, &two, "b")?);
    in_time("all reach all", || all_reach_all(&[&a, &b]))?;

    let _servers =
        [Answering::start(&fleet.router, "router", PORT)?, Answering::start(&second, "second", PORT)?];
    let of_first: [IpAddr; 2] = [Subnet::First.router().0.into(), Subnet::First.router().1.into()];
    for family in 0..2 {
        let at = |addresses: [IpAddr; 2]| SocketAddr::new(addresses[family], PORT);
        is_seen_as(&a.pod, at(of_first), &ONE.addresses()[family..=family])?;
        is_seen_as(&a.pod, at(Second::OWN), &Second::addresses(ONE)[family..=family])?;
    }

    // A backend of the node, which sees the client, and one of the other, which sees this node by the way between them.
    let of_node: Vec<_> = Second::addresses(ONE).into_iter().chain(ONE.gateways()).collect();
    for (name, backend, at, by_node) in [("a", &a, "one", false), ("b", &b, "two", true)] {
        put_service(&fleet, backend, at, false)?;
        for (own, by_second) in ONE.addresses().into_iter().zip(Second::addresses(ONE)) {
            let to = |address| SocketAddr::new(address, NODE_PORT);
            let seen = |client: [IpAddr; 2]| if by_node { of_node.clone() } else { client.to_vec() };
            in_time("node ports on the first network", || {
                is_served(&fleet.router, to(own), name, &seen(of_first))
            })?;
            in_time("node ports on the second", || {
                is_served(&second, to(by_second), name, &seen(Second::OWN))
            })?;
        }
    }
    put_service(&fleet, &a, "one", true)?;
    for (own, by_second) in ONE.addresses().into_iter().zip(Second::addresses(ONE)) {
        in_time("health checks", || {
            for heard in [health(&fleet.router, own)?, health(&second, by_second)?] {
                ensure!(heard.contains("200"), "{heard}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Whether a pod answers by TCP and UDP, and sees one of these clients.
fn is_served(from: &impl Asking, to: SocketAddr, by: &str, seen: &[IpAddr]) -> Result<()> {
    for (how, answer) in [("tcp", from.ask_tcp(to)), ("udp", from.ask_udp(to))] {
        let answer = answer.with_context(|| format!("{how} to {to}"))?;
        ensure!(answer.name == by && seen.contains(&answer.client.ip()), "{how} to {to}: {answer:?}");
    }
    Ok(())
}

#[test]
fn a_second_network_without_a_default_route_serves_the_cluster() -> Result<()> {
    needs_root!();
    a_second_network_serves(Families::Both)
}

#[test]
fn a_way_to_nodes_by_ipv6_alone_does() -> Result<()> {
    needs_root!();
    a_second_network_serves(Families::V6)
}

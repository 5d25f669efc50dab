//! Where services end: what is nobody's address, what is no service's protocol, and who is not served.

use std::{io, net::UdpSocket, time::Duration};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Answering, Asking, Machine, NODE4, NODE6, Node, Settings},
};
use serde_json::json;

use crate::shop::{BALANCER4, CLUSTER4, CLUSTER6, NODE_PORT, at, shop};

#[test]
fn no_address_means_loopback_in_a_pod_and_on_the_node() -> Result<()> {
    needs_root!();
    for socket_lb in ["on", "off"] {
        let node = Node::start_with(Settings::default().cluster().flag(format!("--socket-lb={socket_lb}")))?;
        let shop = shop(&node)?;
        // The client's own server, at the number of a node port that leads elsewhere.
        let own = Answering::start(&shop.client, "own", NODE_PORT)?;
        for to in ["0.0.0.0", "::", "::ffff:0.0.0.0", "127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            for answer in [shop.client.ask_tcp(at(to, NODE_PORT)), shop.client.ask_udp(at(to, NODE_PORT))] {
                let answer = answer.with_context(|| format!("{to} with socket-lb {socket_lb}"))?;
                ensure!(answer.name == "own", "{to} with socket-lb {socket_lb}: {answer:?}");
            }
        }
        drop(own);
        for to in ["0.0.0.0", "::", "127.0.0.1", "::1"] {
            ensure!(shop.client.ask_tcp(at(to, NODE_PORT)).is_err(), "{to}: nobody listens in the pod");
            // The node's own loopback serves node ports, to its own processes.
            let answer = node.ask_tcp(at(to, NODE_PORT)).with_context(|| to.to_owned())?;
            ensure!(answer.name.starts_with("shop-b"), "{answer:?}");
        }
    }
    Ok(())
}

#[test]
fn only_what_services_speak_is_sent_to_a_cluster_address() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    let before = node.drops("not_served")?;
    for to in [CLUSTER4, CLUSTER6] {
        let ping = shop.client.netns().command("ping")?.args(["-c1", "-W1", to]).output()?;
        ensure!(!ping.status.success(), "{to} answers an echo");
    }
    ensure!(node.drops("not_served")? == before + 2, "neither left the node");
    Ok(())
}

#[test]
fn cluster_addresses_are_served_outside_only_if_it_is_asked_for() -> Result<()> {
    needs_root!();
    for (flag, served) in [(None, false), (Some("--cluster-ip-external=true"), true)] {
        let settings = flag.into_iter().fold(Settings::default().cluster(), Settings::flag);
        let node = Node::start_with(settings)?;
        let shop = shop(&node)?;
        node.neighbour.netns().ip(&format!("route add {CLUSTER4}/32 via {NODE4}"))?;
        node.neighbour.netns().ip(&format!("route add {CLUSTER6}/128 via {NODE6}"))?;
        for to in [at(CLUSTER4, 80), at(CLUSTER6, 80)] {
            ensure!(node.neighbour.ask_tcp(to).is_ok() == served, "{to} with {flag:?}");
            ensure!(shop.client.ask_tcp(to).is_ok() && node.ask_tcp(to).is_ok(), "{to} from inside");
        }
        ensure!(node.neighbour.ask_tcp(at(NODE4, NODE_PORT)).is_ok());
        ensure!((node.drops("not_served")? > 0) != served);
    }
    Ok(())
}

#[test]
fn a_family_without_source_ranges_is_open() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    node.neighbour.netns().ip(&format!("route add {BALANCER4}/32 via {NODE4}"))?;
    let to = at(BALANCER4, 80);
    shop.serve(&node, &json!({"loadBalancerSourceRanges": ["2001:db8:ffff::/48"]}), &json!({}))?;
    ensure!(node.neighbour.ask_tcp(to).is_ok(), "only IPv6 has ranges");
    shop.serve(&node, &json!({"loadBalancerSourceRanges": ["203.0.113.0/24"]}), &json!({}))?;
    ensure!(node.neighbour.ask_tcp(to).is_err());
    Ok(())
}

#[test]
fn a_datagram_socket_connects_to_a_service_that_nobody_stands_behind_and_is_refused_then() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    shop.serve_each(&node, &json!({}), &[])?;
    for to in [at(CLUSTER4, 80), at(CLUSTER6, 80)] {
        let socket = shop.client.netns().inside(|| {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.connect(to)?;
            Ok::<_, io::Error>(socket)
        });
        let socket = socket.with_context(|| format!("connect to {to}"))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.send(b"?")?;
        let answer = socket.recv(&mut [0; 64]).map_err(|error| error.kind());
        ensure!(answer == Err(io::ErrorKind::ConnectionRefused), "{to}: {answer:?}");
        // The same socket is served once there is somebody.
        shop.serve(&node, &json!({}), &json!({}))?;
        let mut heard = [0; 256];
        socket.send(b"?")?;
        let length = socket.recv(&mut heard)?;
        ensure!(String::from_utf8_lossy(&heard[..length]).contains("shop-b"), "{to}");
        shop.serve_each(&node, &json!({}), &[])?;
        let tcp = shop.client.ask_tcp(to).map_err(|error| error.kind());
        ensure!(tcp == Err(io::ErrorKind::ConnectionRefused), "{to}: {tcp:?}");
    }
    Ok(())
}

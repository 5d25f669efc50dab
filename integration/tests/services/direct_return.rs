//! Direct server return: one client port by two nodes, and a backend's node that has forgotten.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Answering, Asking, Machine, NODE4, NODE6, OTHER4, OTHER6},
};
use libbpf_rs::{MapCore, MapHandle};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use serde_json::json;

use crate::{
    shop::{NODE_PORT, at},
    two_nodes::{NODE_PORTS, Nodes},
};

const PATIENCE: Duration = Duration::from_secs(5);

/// Connects from a port of the client that another connection may have as well.
fn connect_from(nodes: &Nodes, port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    nodes.client.netns().inside(|| {
        let (family, any): (_, IpAddr) = if to.is_ipv4() {
            (AddressFamily::Inet, [0, 0, 0, 0].into())
        } else {
            (AddressFamily::Inet6, std::net::Ipv6Addr::UNSPECIFIED.into())
        };
        let made = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&made, sockopt::ReuseAddr, &true)?;
        bind(made.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(any, port)))?;
        connect(made.as_raw_fd(), &SockaddrStorage::from(to))?;
        let stream = TcpStream::from(made);
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    })
}

fn goes_on(stream: &mut TcpStream) -> io::Result<()> {
    let mut bytes = [0; 256];
    stream.write_all(b"goes on\n")?;
    stream.read(&mut bytes).map(drop)
}

#[test]
fn one_client_port_by_two_nodes_works_or_is_refused_at_once() -> Result<()> {
    needs_root!();
    let nodes = Nodes::start(&["--external-service-mode=dsr"])?;
    let pod = nodes.back.add_pod_of("shop/far", &[])?;
    let _server = Answering::start(&pod, "far", 8080)?;
    nodes.serve(&pod, &json!({}))?;
    let mut port = 41_000;
    for (front, back) in [(IpAddr::from(NODE4), IpAddr::from(OTHER4)), (NODE6.into(), OTHER6.into())] {
        for (one, other) in [(front, back), (back, front)] {
            port += 1;
            let mut first = connect_from(&nodes, port, at(one, NODE_PORT))?;
            goes_on(&mut first)?;
            let began = Instant::now();
            match connect_from(&nodes, port, at(other, NODE_PORT)) {
                Ok(mut second) => goes_on(&mut second).context("the second")?,
                Err(error) => {
                    ensure!(error.kind() == ErrorKind::ConnectionRefused, "by {other}: {error}");
                }
            }
            ensure!(began.elapsed() < Duration::from_secs(3), "by {other} after {:?}", began.elapsed());
            for _ in 0..5 {
                goes_on(&mut first).with_context(|| format!("the first, by {one}"))?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_backends_node_that_has_forgotten_finds_the_connection_again() -> Result<()> {
    needs_root!();
    let nodes = Nodes::start(&["--external-service-mode=dsr"])?;
    let pod = nodes.back.add_pod_of("shop/far", &[])?;
    let _server = Answering::start(&pod, "far", 8080)?;
    nodes.serve(&pod, &json!({}))?;
    for (family, node, _) in NODE_PORTS {
        let mut talk = nodes.client.converse(at(node, NODE_PORT))?;
        talk.socket().set_read_timeout(Some(PATIENCE))?;
        for round in 0..3 {
            talk.goes_on()?;
            for name in ["conntrack4", "conntrack6"] {
                let map = MapHandle::from_pinned_path(nodes.back.bpffs().join("maps").join(name))?;
                for key in map.keys().collect::<Vec<_>>() {
                    map.delete(&key)?;
                }
            }
            let began = Instant::now();
            // Found again, or reset: no silence.
            match talk.goes_on() {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    talk = nodes.client.converse(at(node, NODE_PORT))?;
                }
                Err(error) => return Err(error).context(format!("{family}, round {round}")),
            }
            ensure!(began.elapsed() < Duration::from_secs(4), "{family}: {:?}", began.elapsed());
        }
    }
    Ok(())
}

#[test]
fn an_aggregate_of_datagrams_arrives_whole() -> Result<()> {
    needs_root!();
    let nodes = Nodes::start(&["--external-service-mode=dsr"])?;
    let pod = nodes.back.add_pod_of("shop/far", &[])?;
    let _server = Answering::start(&pod, "far", 8080)?;
    nodes.serve(&pod, &json!({}))?;
    for (family, node, _) in NODE_PORTS {
        let to = at(node, NODE_PORT);
        let client = nodes.client.udp_socket(to)?;
        Asking::connect(&nodes.client, &client, to)?;
        client.set_read_timeout(Some(Duration::from_secs(10)))?;
        setsockopt(&client, sockopt::UdpGsoSegment, &1000)?;
        // The kernel cuts it where it leaves the last device that takes it whole.
        ensure!(client.send(&[7; 5000])? == 5000);
        let answers = std::iter::from_fn(|| client.recv(&mut [0; 256]).ok()).take(5).count();
        ensure!(answers == 5, "{family}: {answers} of 5; {}", nodes.front.status()?["drops"]);
    }
    Ok(())
}

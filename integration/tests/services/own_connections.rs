//! The node's own connections from ports that services and containers have on it.

use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Answering, Asking, Machine, NEIGHBOUR4, NEIGHBOUR6, NODE4, NODE6, Node, Pod, ask_on},
};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
    sockopt::{ReceiveTimeout, ReuseAddr, SendTimeout},
};
use nix::sys::time::{TimeVal, TimeValLike};
use serde_json::json;

use crate::shop::{NODE_PORT, at, shop};

/// Connects by TCP from an address and port.
fn connect_from(node: &Node, from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    node.netns().inside(|| {
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&fd, ReuseAddr, &true)?;
        setsockopt(&fd, SendTimeout, &TimeVal::seconds(2))?;
        setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(2))?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
        connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
        Ok(TcpStream::from(fd))
    })
}

fn goes_on(stream: TcpStream) -> Result<()> {
    let (mut stream, mut heard) = (BufReader::new(stream), String::new());
    stream.read_line(&mut heard)?;
    ensure!(heard.starts_with("far "), "{heard:?}");
    heard.clear();
    stream.get_mut().write_all(b"word\n")?;
    stream.read_line(&mut heard)?;
    ensure!(heard == "word\n", "{heard:?}");
    Ok(())
}

#[test]
fn what_answers_the_nodes_own_connection_is_the_nodes() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let _shop = shop(&node)?;
    let sandbox = node.sandbox("web")?;
    let mappings: Vec<_> = ["tcp", "udp"]
        .iter()
        .map(|protocol| json!({"hostPort": 40_000, "containerPort": 8080, "protocol": protocol}))
        .collect();
    let result = sandbox.cni("ADD").set("runtimeConfig", json!({"portMappings": mappings})).run()?;
    let web: Pod<'_> = sandbox.added(result)?;
    let _web = Answering::start(&web, "web", 8080)?;
    let _far = Answering::start(&node.neighbour, "far", 9000)?;
    for port in [40_000, NODE_PORT] {
        for (own, far) in [(IpAddr::from(NODE4), IpAddr::from(NEIGHBOUR4)), (NODE6.into(), NEIGHBOUR6.into())]
        {
            let (from, to) = (SocketAddr::new(own, port), SocketAddr::new(far, 9000));
            let stream = connect_from(&node, from, to).with_context(|| format!("tcp from {from}"))?;
            goes_on(stream).with_context(|| format!("tcp from {from}"))?;
            let socket = node.netns().inside(|| {
                let socket = UdpSocket::bind(from)?;
                socket.connect(to)?;
                Ok::<_, std::io::Error>(socket)
            })?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            let answer = ask_on(&socket, to).with_context(|| format!("udp from {from}"))?;
            ensure!(answer.name == "far", "{answer:?}");
        }
    }
    // Whoever opens a connection there is served as before.
    ensure!(node.neighbour.ask_tcp(at(NODE4, 40_000))?.name == "web");
    ensure!(node.neighbour.ask_udp(at(NODE6, 40_000))?.name == "web");
    ensure!(node.neighbour.ask_tcp(at(NODE4, NODE_PORT))?.name.starts_with("shop-b"));
    Ok(())
}

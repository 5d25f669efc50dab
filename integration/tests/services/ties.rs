//! What is remembered of a connected socket: as long as it is open, and no longer.

use std::{net::TcpStream, time::Duration};

use anyhow::{Context, Result, ensure};
use bpf::layout::{Connection4, Connection6};
use integration::{
    needs_root,
    testbed::{Asking, Machine, Node, Settings, eventually},
};
use libbpf_rs::{MapCore, MapHandle};
use serde_json::json;

use crate::shop::{CLUSTER4, CLUSTER6, at, shop};

/// How many connected sockets each family's map holds.
fn ties(node: &Node) -> Result<[usize; 2]> {
    let count = |name: &str, size: usize| -> Result<usize> {
        let map = MapHandle::from_pinned_path(node.bpffs().join("maps").join(name))?;
        ensure!(map.value_size() as usize == size, "{name}");
        Ok(map.keys().count())
    };
    Ok([count("connections4", size_of::<Connection4>())?, count("connections6", size_of::<Connection6>())?])
}

#[test]
fn an_idle_connection_keeps_its_tie_however_many_others_come_and_go() -> Result<()> {
    needs_root!();
    let mut settings = Settings::default().cluster();
    settings.flags.retain(|flag| !flag.starts_with("--conntrack-size"));
    let node = Node::start_with(settings.flag("--conntrack-size=1024"))?;
    let shop = shop(&node)?;
    for address in [CLUSTER4, CLUSTER6] {
        let to = at(address, 80);
        let mut idle = shop.client.converse(to)?;
        ensure!(idle.answer.peer == to, "{:?}", idle.answer);
        // Twice as many as there are places.
        let others =
            shop.client.netns().inside(|| (0..2_100).filter(|_| TcpStream::connect(to).is_ok()).count());
        ensure!(others == 2_100, "{others} of 2100 connected");
        ensure!(idle.socket().peer_addr()? == to, "its tie is gone: {}", idle.socket().peer_addr()?);
        idle.goes_on().context("the idle connection")?;
    }
    // And it is ended with its backend.
    let mut idle = shop.client.converse(at(CLUSTER4, 80))?;
    shop.serve_each(&node, &json!({}), &[])?;
    ensure!(eventually(Duration::from_secs(10), || idle.goes_on().is_err()), "it outlives its backend");
    Ok(())
}

#[test]
fn a_tie_ends_with_its_socket() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    ensure!(ties(&node)? == [0, 0], "{:?}", ties(&node)?);
    let held: Vec<_> =
        [CLUSTER4, CLUSTER6].iter().map(|to| shop.client.converse(at(to, 80))).collect::<Result<_, _>>()?;
    // From a socket of IPv6 that means IPv4, of UDP, and of the node itself.
    let mapped = shop.client.converse(at(format!("::ffff:{CLUSTER4}"), 80))?;
    let udp = shop.client.udp_socket(at(CLUSTER4, 80))?;
    Asking::connect(&shop.client, &udp, at(CLUSTER4, 80))?;
    let own = node.converse(at(CLUSTER4, 80))?;
    ensure!(ties(&node)? == [4, 1], "{:?}", ties(&node)?);
    shop.client.ask_tcp(at(CLUSTER4, 80))?;
    shop.client.ask_udp(at(CLUSTER6, 80))?;
    ensure!(ties(&node)? == [4, 1], "those that were closed are left: {:?}", ties(&node)?);
    drop((mapped, udp, own));
    ensure!(ties(&node)? == [1, 1], "{:?}", ties(&node)?);
    drop(held);
    ensure!(ties(&node)? == [0, 0], "{:?}", ties(&node)?);
    Ok(())
}

//! The daemon goes and comes back while pods speak.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{FAR4, FAR6, Flow, Flowing, Machine, Node, Settings},
};

/// Between two datagrams of a flow.
const PACE: Duration = Duration::from_millis(2);

/// Flows go on in between.
fn restarts(node: &Node, flows: &[(&str, Flow)]) -> Result<()> {
    let go_on = || {
        flows.iter().try_for_each(|(way, flow)| {
            ensure!(flow.goes_on(), "{way}");
            Ok(())
        })
    };
    go_on()?;
    node.stop_daemon()?;
    go_on()?;
    node.start_daemon()?;
    go_on()?;
    node.kill_daemon();
    go_on()?;
    node.start_daemon()
}

fn flood_through_restarts(settings: Settings) -> Result<()> {
    let node = Node::start_with(settings)?;
    let (a, b) = (node.add_pod("a")?, node.add_pod("b")?);
    let neighbour = &node.neighbour;
    let flows = [
        ("pod to pod", a.udp_flow(&b, (b.ipv4(), 0), PACE)?),
        ("pod to pod, IPv6", b.udp_flow(&a, (a.ipv6(), 0), PACE)?),
        ("node to pod", node.udp_flow(&a, (a.ipv4(), 0), PACE)?),
        ("pod to neighbour", b.udp_flow(neighbour, (FAR4, 0), PACE)?),
        ("pod to neighbour, IPv6", a.udp_flow(neighbour, (FAR6, 0), PACE)?),
    ];
    restarts(&node, &flows)?;
    for (way, flow) in flows {
        flow.end()
            .whole(way)
            .with_context(|| format!("dropped: {}", node.status().unwrap_or_default()["drops"]))?;
    }
    Ok(())
}

#[test]
fn no_packet_is_lost() -> Result<()> {
    needs_root!();
    flood_through_restarts(Settings::default())
}

#[test]
fn no_packet_is_lost_with_clsact() -> Result<()> {
    needs_root!();
    flood_through_restarts(Settings::default().flag("--attach=clsact"))
}

#[test]
fn connections_go_on_and_new_ones_are_made_without_a_daemon() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let (a, b) = (node.add_pod("a")?, node.add_pod("b")?);
    let inside = b.serve_tcp((IpAddr::from([0, 0, 0, 0]), 0))?;
    let outside = node.neighbour.serve_tcp((IpAddr::from([0, 0, 0, 0]), 0))?;
    let there = [(IpAddr::from(b.ipv4()), inside.address().port()), (FAR4.into(), outside.address().port())];
    let connections = [a.connect(there[0])?, a.connect(there[1])?];
    let exchange = |when: &str| -> Result<()> {
        for (connection, to) in connections.iter().zip(there) {
            connection.exchange(1 << 20)?;
            a.connect(to)?.exchange(1 << 16)?;
        }
        ensure!(node.reaches(a.ipv6())?, "{when}");
        Ok(())
    };
    exchange("at first")?;
    node.stop_daemon()?;
    exchange("stopped")?;
    node.start_daemon()?;
    exchange("restarted")?;
    node.kill_daemon();
    exchange("killed")?;
    node.start_daemon()?;
    exchange("after the kill")?;
    a.check()?;
    b.check()?;
    ensure!(node.ctl(&["endpoint", "list"])?.as_array().map(Vec::len) == Some(2));
    Ok(())
}

#[test]
fn a_restarted_daemon_counts_on() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let a = node.add_pod("a")?;
    a.netns().ip("address add 10.88.9.9/32 dev eth0")?;
    a.ping(FAR4, &["-c2", "-i0.05", "-W1", "-I", "10.88.9.9"])?;
    let before = node.drops("foreign_source")?;
    node.kill_daemon();
    node.start_daemon()?;
    assert_eq!(node.drops("foreign_source")?, before);
    assert_eq!(before, 2);
    Ok(())
}

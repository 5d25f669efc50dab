//! Established flows follow the node's routes.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use bpf::layout::{PLAIN_ROUTES4, Plain, PlainRoutes};
use integration::{
    needs_root,
    testbed::{FAR4, Machine, Node, eventually, time_passes},
};
use libbpf_rs::{MapCore, MapFlags, MapHandle};

#[test]
fn an_established_flow_notices_that_its_route_is_withdrawn_and_that_it_is_back() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    let pings = thread::scope(|scope| {
        // One identifier, so one flow, for three seconds.
        let pings = scope.spawn(|| pod.ping(FAR4, &["-c60", "-i0.05", "-W1"]));
        time_passes(Duration::from_secs(1), "ping tells of its answers when it ends");
        node.netns().ip(&format!("route add unreachable {FAR4}/32"))?;
        time_passes(Duration::from_secs(1), "ping tells of its answers when it ends");
        node.netns().ip(&format!("route delete unreachable {FAR4}/32"))?;
        pings.join().expect("ping does not panic")
    })?;
    ensure!((10..=50).contains(&pings.received), "{} of 60 were answered", pings.received);
    ensure!(pod.ping(FAR4, &["-c1", "-W1"])?.received == 1, "nothing is answered afterwards");
    Ok(())
}

/// Whether the daemon says that of IPv4 only the destination decides.
fn is_plain(node: &Node) -> Result<bool> {
    let map = MapHandle::from_pinned_path(node.bpffs().join("maps/plain_routes"))?;
    let value = map.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY)?.context("no element")?;
    let plain = PlainRoutes::from_bytes(&value).context("layout")?;
    Ok(plain.families & PLAIN_ROUTES4 != 0)
}

#[test]
fn a_new_flow_takes_the_route_of_now_though_the_last_one_s_way_is_kept() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    // Each has an identifier of its own, so each is a flow.
    let answered = || Ok::<_, anyhow::Error>(pod.ping(FAR4, &["-c1", "-W1"])?.received == 1);
    ensure!(answered()?);
    ensure!(eventually(Duration::from_secs(10), || is_plain(&node).unwrap_or(false)), "nothing is kept");
    // With a daemon that sees the change later, and with none.
    for round in 0..6 {
        if round == 3 {
            node.kill_daemon();
        }
        ensure!(answered()? && answered()?, "round {round}: before the change");
        node.netns().ip(&format!("route add unreachable {FAR4}/32"))?;
        ensure!(!answered()?, "round {round}: a flow went by a route that is gone");
        node.netns().ip(&format!("route delete unreachable {FAR4}/32"))?;
        ensure!(answered()?, "round {round}: a flow did not take the route that is back");
    }
    Ok(())
}

#[test]
fn routes_of_several_next_hops_or_of_a_class_are_not_kept() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let patience = Duration::from_secs(10);
    let plain = |wanted: bool| eventually(patience, || is_plain(&node).is_ok_and(|it| it == wanted));
    ensure!(plain(true), "nothing is kept");
    for route in ["198.51.100.64/26 tos 0x10", "198.51.100.64/26 nexthop via 192.0.2.1 nexthop via 192.0.2.9"]
    {
        let change = |verb: &str, route: &str| node.netns().ip(&format!("route {verb} {route}"));
        let whole = if route.contains("via") { route.to_owned() } else { format!("{route} via 192.0.2.1") };
        change("add", &whole)?;
        ensure!(plain(false), "{route} is taken for plain");
        change("delete", route)?;
        ensure!(plain(true), "{route} is gone");
    }
    Ok(())
}

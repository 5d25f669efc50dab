//! Nodes come, go, move, and are rebuilt; daemons die meanwhile.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use integration::{
    fleet::{Fleet, Place, Subnet},
    needs_root,
    testbed::{Flowing, Machine, Node, eventually},
};

use crate::scene::{
    ONE, PATIENCE, PORT, Serving, THREE, TWO, all_reach_all, in_time, is_seen_as, leads_to, overlay_entries,
    ways,
};

const PACE: Duration = Duration::from_millis(5);
/// Where flows are served, beside the pods' servers.
const FLOW: u16 = 9000;

/// Three nodes with a pod each.
struct Three {
    fleet: Fleet,
    nodes: [Node; 3],
}

impl Three {
    fn new() -> Result<Self> {
        let fleet = Fleet::new()?;
        let nodes =
            [fleet.node("one", ONE, &[])?, fleet.node("two", TWO, &[])?, fleet.node("three", THREE, &[])?];
        Ok(Self { fleet, nodes })
    }

    fn pods(&self) -> Result<Vec<Serving<'_>>> {
        let pods = ["a", "b", "c"].iter().zip(&self.nodes);
        let pods =
            pods.map(|(name, node)| Serving::on(&self.fleet, node, name)).collect::<Result<Vec<_>>>()?;
        in_time("all reach all", || all_reach_all(&pods.iter().collect::<Vec<_>>()))?;
        Ok(pods)
    }
}

#[test]
fn nodes_that_come_and_go_are_followed_and_a_killed_daemon_catches_up() -> Result<()> {
    needs_root!();
    let it = Three::new()?;
    let [one, two, _] = &it.nodes;
    let pods = it.pods()?;
    let flow = |from: usize, to: usize, port: u16| {
        let at: SocketAddr = (pods[to].pod.addresses()[usize::from(port.is_multiple_of(2))], port).into();
        pods[from].pod.udp_flow(&pods[to].pod, at, PACE)
    };
    let flows = [flow(0, 1, FLOW)?, flow(0, 1, FLOW + 1)?, flow(0, 2, FLOW)?, flow(0, 2, FLOW + 1)?];
    ensure!(flows.iter().all(integration::testbed::Flow::goes_on));

    let four = Place::new(Subnet::Second, 14);
    let node = it.fleet.node("four", four, &[])?;
    leads_to(one, &[TWO], &[THREE, four])?;
    let newcomer = Serving::on(&it.fleet, &node, "d")?;
    in_time("the newcomer is reached", || all_reach_all(&[&pods[0], &newcomer]))?;

    // While nobody looks after node one, four goes and five comes where it was.
    one.kill_daemon();
    ensure!(flows.iter().all(integration::testbed::Flow::goes_on), "traffic needs no daemon");
    it.fleet.unregister("four")?;
    leads_to(two, &[ONE], &[THREE])?;
    let five = Place { pods: 15, ..four };
    it.fleet.register("five", five)?;
    leads_to(two, &[ONE], &[THREE, five])?;
    leads_to(one, &[TWO], &[THREE, four])?;
    one.start_daemon()?;
    ensure!(
        ways(one)? == ways_of(&[(TWO, false), (THREE, true), (five, true)]),
        "a ready daemon has caught up"
    );
    it.fleet.unregister("five")?;
    leads_to(one, &[TWO], &[THREE])?;
    ensure!(overlay_entries(one)? == (2, 1), "{:?}", overlay_entries(one)?);
    for flow in flows {
        flow.end().whole("a flow between nodes that stay")?;
    }
    Ok(())
}

fn ways_of(places: &[(Place, bool)]) -> Vec<(String, bool)> {
    let mut ways: Vec<_> =
        places.iter().flat_map(|(place, over)| place.pod_cidrs().map(|cidr| (cidr, *over))).collect();
    ways.sort();
    ways
}

#[test]
fn connections_outlive_a_node_s_move_to_another_subnet() -> Result<()> {
    needs_root!();
    let it = Three::new()?;
    let [one, two, three] = &it.nodes;
    let pods = it.pods()?;
    let flows = [(0, 1, 0), (2, 1, 1), (1, 0, 1)].map(|(from, to, family)| {
        pods[from].pod.tcp_flow(&pods[to].pod, (pods[to].pod.addresses()[family], FLOW), PACE)
    });
    let flows = flows.into_iter().collect::<Result<Vec<_>>>()?;
    ensure!(flows.iter().all(integration::testbed::Flow::goes_on));

    let moved = Place { subnet: Subnet::Second, ..TWO };
    it.fleet.relocate(two, TWO, moved)?;
    it.fleet.register("two", moved)?;
    leads_to(one, &[], &[THREE, moved])?;
    leads_to(three, &[moved], &[ONE])?;
    leads_to(two, &[THREE], &[ONE])?;
    in_time("all reach all", || all_reach_all(&pods.iter().collect::<Vec<_>>()))?;
    // TCP's retransmissions are what is waited for.
    ensure!(
        eventually(PATIENCE, || flows.iter().all(integration::testbed::Flow::goes_on)),
        "{:?}",
        flows.iter().map(integration::testbed::Flow::faults).collect::<Vec<_>>()
    );

    // Back in its subnet, and another address in it: the overlay of those that stay is not touched.
    let back = Place { host: 22, ..TWO };
    it.fleet.relocate(two, TWO, back)?;
    it.fleet.register("two", back)?;
    leads_to(one, &[back], &[THREE])?;
    leads_to(three, &[], &[ONE, back])?;
    in_time("all reach all", || all_reach_all(&pods.iter().collect::<Vec<_>>()))?;
    ensure!(overlay_entries(three)? == (4, 2), "{:?}", overlay_entries(three)?);
    for flow in flows {
        ensure!(eventually(PATIENCE, || flow.goes_on()), "{:?}", flow.faults());
        flow.end().whole("a connection")?;
    }
    // It was moved, not made anew.
    let index = |log: &str| log.matches("make the overlay's interface").count();
    ensure!(index(&two.log()) == 1, "{}", two.log());
    Ok(())
}

#[test]
fn a_node_whose_prefixes_change_takes_them_and_the_others_follow() -> Result<()> {
    needs_root!();
    let it = Three::new()?;
    let [one, two, three] = &it.nodes;
    let pods = it.pods()?;
    let pid = two.daemon().as_ref().context("a daemon")?.pid();

    // Deleted and made anew at the same address, with the prefixes of others.
    it.fleet.unregister("two")?;
    leads_to(one, &[], &[THREE])?;
    let rebuilt = Place { pods: 99, ..TWO };
    it.fleet.register("two", rebuilt)?;
    leads_to(one, &[rebuilt], &[THREE])?;
    leads_to(three, &[], &[ONE, rebuilt])?;
    in_time("the daemon has the new prefixes", || {
        let pools = two.ctl(&["ipam", "list"])?;
        ensure!(pools.to_string().contains("10.244.99.0/24"), "{pools}");
        Ok(())
    })?;
    ensure!(
        two.daemon().as_ref().map(integration::testbed::Daemon::pid) == Some(pid),
        "it is the same process"
    );
    let new = Serving::on(&it.fleet, two, "new")?;
    ensure!(new.pod.addresses()[0].to_string().starts_with("10.244.99."), "{:?}", new.pod.addresses());
    in_time("the new pod is reached", || all_reach_all(&[&pods[0], &new, &pods[2]]))?;
    // What was there before goes on where it needs no other node.
    in_time("the old pod is there", || {
        is_seen_as(&new.pod, (pods[1].pod.addresses()[0], PORT).into(), new.pod.addresses())
    })?;
    ensure!(two.status()?["problems"] == serde_json::json!([]), "{}", two.status()?["problems"]);
    Ok(())
}

#[test]
fn an_uplink_that_goes_down_or_is_replaced_is_back_with_its_ways() -> Result<()> {
    needs_root!();
    let it = Three::new()?;
    let [one, ..] = &it.nodes;
    let pods = it.pods()?;
    let pods: Vec<_> = pods.iter().collect();
    let netns = one.netns();
    let routes_back = || -> Result<()> {
        let (v4, v6) = ONE.subnet.router();
        netns.ip(&format!("address replace {}/64 dev uplink nodad", ONE.ipv6()))?;
        netns.ip(&format!("route replace default via {v4}"))?;
        netns.ip(&format!("-6 route replace default via {v6}"))?;
        Ok(())
    };
    netns.ip("link set dev uplink down")?;
    ensure!(eventually(PATIENCE, || ways(one).is_ok_and(|it| it.iter().all(|(_, overlay)| *overlay))));
    netns.ip("link set dev uplink up")?;
    routes_back()?;
    leads_to(one, &[TWO], &[THREE])?;
    in_time("all reach all", || all_reach_all(&pods))?;

    // Another interface with the same Ethernet address, so that no neighbour has to find out.
    let links: serde_json::Value = serde_json::from_str(&netns.ip("-json link show dev uplink")?)?;
    let mac = links[0]["address"].as_str().context("an Ethernet address")?.to_owned();
    netns.ip("link delete dev uplink")?;
    let there = it.fleet.router.netns().path().display();
    netns.ip(&format!("link add uplink address {mac} type veth peer name lan1-11 netns {there}"))?;
    it.fleet.router.netns().ip("link set dev lan1-11 up master lan1")?;
    netns.ip(&format!("address add {}/24 dev uplink", ONE.ipv4()))?;
    netns.ip("link set dev uplink up")?;
    routes_back()?;
    leads_to(one, &[TWO], &[THREE])?;
    in_time("all reach all", || all_reach_all(&pods))
}

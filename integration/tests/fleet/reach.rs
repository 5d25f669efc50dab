//! Everybody reaches everybody, by every way of routing.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use integration::{
    fleet::{Families, Fleet, Place, Subnet},
    needs_root,
    testbed::{Answering, Machine, Node},
};

use crate::scene::{
    ONE, PORT, Serving, THREE, TWO, all_reach_all, in_time, is_seen_as, leads_to, overlay_entries,
};

/// The MTU of a pod.
fn mtu(serving: &Serving<'_>) -> Result<u64> {
    let links: serde_json::Value =
        serde_json::from_str(&serving.pod.netns().ip("-json link show dev eth0")?)?;
    links[0]["mtu"].as_u64().context("an MTU")
}

/// Nodes reach the pods of others, seen with the address that leads back; pods reach other nodes.
fn nodes_and_pods(
    node: (&Node, Place),
    other: (&Node, Place),
    pod: &Serving<'_>,
    of_node: &Serving<'_>,
) -> Result<()> {
    let own: Vec<_> = node.1.addresses().into_iter().chain(node.1.gateways()).collect();
    for address in pod.pod.addresses() {
        is_seen_as(node.0, (*address, PORT).into(), &own).context("from the node")?;
    }
    let _server = Answering::start(other.0, "node", 443)?;
    for address in other.1.addresses() {
        is_seen_as(&of_node.pod, SocketAddr::new(address, 443), &node.1.addresses())
            .context("to the node")?;
    }
    Ok(())
}

#[test]
fn five_nodes_of_two_subnets_reach_each_other_directly_and_by_the_overlay() -> Result<()> {
    needs_root!();
    let fleet = Fleet::new()?;
    let (four, five) = (Place::new(Subnet::First, 14), Place::new(Subnet::Second, 15));
    let places = [("one", ONE), ("two", TWO), ("three", THREE), ("four", four), ("five", five)];
    let nodes: Vec<_> =
        places.iter().map(|(name, place)| fleet.node(name, *place, &[])).collect::<Result<_>>()?;
    leads_to(&nodes[0], &[TWO, four], &[THREE, five])?;
    leads_to(&nodes[2], &[five], &[ONE, TWO, four])?;
    let pods: Vec<_> = (nodes.iter().enumerate())
        .map(|(at, node)| Serving::on(&fleet, node, &format!("p{at}")))
        .collect::<Result<_>>()?;
    let pods: Vec<_> = pods.iter().collect();
    in_time("all reach all", || all_reach_all(&pods))?;
    ensure!(mtu(pods[0])? == 1450, "{}", mtu(pods[0])?);
    // Beyond, and in the subnet.
    nodes_and_pods((&nodes[0], ONE), (&nodes[2], THREE), pods[2], pods[0]).context("by the overlay")?;
    nodes_and_pods((&nodes[0], ONE), (&nodes[1], TWO), pods[1], pods[0]).context("directly")?;
    // An entry of each family for each node beyond, which is one machine.
    ensure!(overlay_entries(&nodes[0])? == (4, 2), "{:?}", overlay_entries(&nodes[0])?);
    for node in &nodes {
        ensure!(node.status()?["problems"] == serde_json::json!([]), "{}", node.status()?["problems"]);
        ensure!(!node.log().contains("repaired"), "nodes that come are no damage:\n{}", node.log());
    }
    Ok(())
}

#[test]
fn both_families_go_through_the_overlay_of_one() -> Result<()> {
    needs_root!();
    let fleet = Fleet::new()?;
    // IPv6 goes by the overlay everywhere: the nodes tell no IPv6 address.
    let told = |place: Place| Place { told: Families::V4, ..place };
    let one = fleet.node("one", told(ONE), &[])?;
    let two = fleet.node("two", told(TWO), &["--routing=vxlan"])?;
    let three = fleet.node("three", told(THREE), &[])?;
    leads_to(&two, &[], &[ONE, THREE])?;
    let found = in_time("one leads directly where it can", || {
        let ways = crate::scene::ways(&one)?;
        let direct: Vec<_> =
            ways.iter().filter(|(_, overlay)| !overlay).map(|(prefix, _)| prefix.clone()).collect();
        ensure!(direct == ["10.244.12.0/24"] && ways.len() == 4, "{ways:?}");
        Ok(())
    });
    found?;
    let pods = [("a", &one), ("b", &two), ("c", &three)];
    let pods: Vec<_> =
        pods.iter().map(|(name, node)| Serving::on(&fleet, node, name)).collect::<Result<_>>()?;
    // From one to two directly, and back through the overlay.
    in_time("all reach all", || all_reach_all(&pods.iter().collect::<Vec<_>>()))
}

#[test]
fn nodes_of_ipv6_alone_have_their_overlay_over_ipv6() -> Result<()> {
    needs_root!();
    let fleet = Fleet::of(Families::V6)?;
    let one = fleet.node("one", ONE, &[])?;
    let two = fleet.node("two", TWO, &[])?;
    let three = fleet.node("three", THREE, &["--routing=vxlan"])?;
    let pods = [("a", &one), ("b", &two), ("c", &three)];
    let pods: Vec<_> =
        pods.iter().map(|(name, node)| Serving::on(&fleet, node, name)).collect::<Result<_>>()?;
    let pods: Vec<_> = pods.iter().collect();
    ensure!(pods[0].pod.addresses().len() == 1, "{:?}", pods[0].pod.addresses());
    in_time("all reach all", || all_reach_all(&pods))?;
    ensure!(mtu(pods[0])? == 1430, "{}", mtu(pods[0])?);
    let overlay = one.netns().ip("-details link show dev cambric-overlay")?;
    ensure!(overlay.contains(&format!("local {}", ONE.ipv6())), "{overlay}");
    Ok(())
}

#[test]
fn nodes_of_ipv4_alone_reach_each_other() -> Result<()> {
    needs_root!();
    let fleet = Fleet::of(Families::V4)?;
    let one = fleet.node("one", ONE, &[])?;
    let three = fleet.node("three", THREE, &[])?;
    let pods = [Serving::on(&fleet, &one, "a")?, Serving::on(&fleet, &three, "c")?];
    in_time("all reach all", || all_reach_all(&pods.iter().collect::<Vec<_>>()))
}

#[test]
fn nodes_of_one_subnet_need_no_overlay() -> Result<()> {
    needs_root!();
    let fleet = Fleet::new()?;
    let one = fleet.node("one", ONE, &["--routing=direct"])?;
    let two = fleet.node("two", TWO, &["--routing=direct"])?;
    let pods = [Serving::on(&fleet, &one, "a")?, Serving::on(&fleet, &two, "b")?];
    leads_to(&one, &[TWO], &[])?;
    in_time("all reach all", || all_reach_all(&pods.iter().collect::<Vec<_>>()))?;
    ensure!(mtu(&pods[0])? == 1500, "{}", mtu(&pods[0])?);
    ensure!(!one.netns().links()?.iter().any(|link| link == "cambric-overlay"));
    nodes_and_pods((&one, ONE), (&two, TWO), &pods[1], &pods[0])
}

#[test]
fn a_directory_of_manifests_tells_of_nodes_as_the_api_does() -> Result<()> {
    needs_root!();
    let fleet = Fleet::of_directory()?;
    let one = fleet.node("one", ONE, &[])?;
    let two = fleet.node("two", TWO, &[])?;
    let three = fleet.node("three", THREE, &[])?;
    let pods = [("a", &one), ("b", &two), ("c", &three)];
    let pods: Vec<_> =
        pods.iter().map(|(name, node)| Serving::on(&fleet, node, name)).collect::<Result<_>>()?;
    leads_to(&one, &[TWO], &[THREE])?;
    in_time("all reach all", || all_reach_all(&pods.iter().collect::<Vec<_>>()))?;
    fleet.unregister("three")?;
    leads_to(&one, &[TWO], &[])?;
    ensure!(overlay_entries(&one)? == (0, 0), "{:?}", overlay_entries(&one)?);
    // It comes back in the other one's subnet.
    fleet.register("three", Place { subnet: Subnet::First, ..THREE })?;
    leads_to(&one, &[TWO, THREE], &[])
}

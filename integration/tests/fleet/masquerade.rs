//! What leaves the cluster leaves with the node's address, what stays in it with its own.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use integration::{
    fleet::{Fleet, Place, Subnet},
    needs_root,
    testbed::Answering,
};

use crate::scene::{ONE, PORT, Serving, THREE, TWO, in_time, is_seen_as, is_seen_by_tcp, leads_to};

const OUTSIDE: u16 = 8080;

#[test]
fn nodes_and_the_world_see_the_node_and_pods_see_the_pod() -> Result<()> {
    needs_root!();
    let fleet = Fleet::new()?;
    let one = fleet.node("one", ONE, &[])?;
    let two = fleet.node("two", TWO, &[])?;
    let three = fleet.node("three", THREE, &[])?;
    leads_to(&one, &[TWO], &[THREE])?;
    let a = Serving::on(&fleet, &one, "a")?;
    let servers =
        [Answering::start(&fleet.router, "router", OUTSIDE)?, Answering::start(&two, "two", OUTSIDE)?];
    let _three = Answering::start(&three, "three", OUTSIDE)?;
    let (router4, router6) = Subnet::First.router();
    let beyond: [IpAddr; 2] = [Subnet::Second.router().0.into(), Subnet::Second.router().1.into()];
    let targets = [router4.into(), router6.into()].into_iter().chain(beyond);
    for to in targets.chain(TWO.addresses()).chain(THREE.addresses()) {
        is_seen_by_tcp(&a.pod, SocketAddr::new(to, OUTSIDE), &ONE.addresses())?;
    }
    drop(servers);

    // A node that comes later: what goes to its pods before its prefixes are known leads nowhere, and afterwards has its
    // own address.
    let four = Place::new(Subnet::Second, 14);
    let node = fleet.node("four", four, &[])?;
    let d = Serving::on(&fleet, &node, "d")?;
    for to in d.pod.addresses() {
        in_time("the newcomer's pod is reached", || {
            is_seen_as(&a.pod, (*to, PORT).into(), a.pod.addresses())
        })?;
    }
    Ok(())
}

#[test]
fn whatever_is_excepted_sees_the_pod() -> Result<()> {
    needs_root!();
    let fleet = Fleet::new()?;
    let prefixes = ["192.0.2.0/24", "198.51.100.0/24", "2001:db8::/64", "2001:db8:2::/64"];
    let flags: Vec<_> = prefixes.iter().map(|it| format!("--no-masquerade={it}")).collect();
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let one = fleet.node("one", ONE, &flags)?;
    // All nodes have the same: one that does not except its own address takes what comes unmasqueraded from beyond for forged.
    let two = fleet.node("two", TWO, &flags)?;
    let three = fleet.node("three", THREE, &flags)?;
    leads_to(&one, &[TWO], &[THREE])?;
    let a = Serving::on(&fleet, &one, "a")?;
    let _servers = [Answering::start(&two, "two", OUTSIDE)?, Answering::start(&three, "three", OUTSIDE)?];
    // The answers of the node beyond come through the overlay.
    for to in TWO.addresses().into_iter().chain(THREE.addresses()) {
        in_time("the pod is seen", || {
            is_seen_by_tcp(&a.pod, SocketAddr::new(to, OUTSIDE), a.pod.addresses())
        })?;
    }
    Ok(())
}

//! Large packets find their way through the overlay and beside it, or their sender is told.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use integration::{
    fleet::Fleet,
    needs_root,
    testbed::{Machine, Pod},
};

use crate::scene::{ONE, Serving, THREE, TWO, all_reach_all, in_time, leads_to};

/// As much as takes many aggregates.
const BYTES: usize = 2_000_000;
const TCP: u16 = 5001;
const UDP: u16 = 5002;

/// What is large goes from one pod to another and back, by TCP and in pieces.
fn carries(from: &Pod<'_>, to: &Pod<'_>) -> Result<()> {
    for address in to.addresses() {
        let _tcp = to.serve_tcp(SocketAddr::new(*address, TCP))?;
        from.connect(SocketAddr::new(*address, TCP))?
            .exchange(BYTES)
            .with_context(|| format!("tcp to {address}"))?;
        let _udp = to.serve_udp(SocketAddr::new(*address, UDP))?;
        // A path whose MTU is not known yet refuses the first. The kernel checks the sums of small datagrams, of larger ones and
        // of those in pieces in different ways.
        for bytes in [10, 1000, 8000] {
            in_time(&format!("udp to {address}, {bytes} bytes"), || {
                ensure!(from.echoes_udp(SocketAddr::new(*address, UDP), bytes)?, "nothing came back");
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Whether a packet of so many bytes arrives that must not be cut.
fn whole(from: &Pod<'_>, to: IpAddr, bytes: u32) -> Result<(bool, String)> {
    let payload = bytes - if to.is_ipv4() { 28 } else { 48 };
    let pings = from.ping(to, &["-M", "do", "-c1", "-W1", "-s", &payload.to_string()])?;
    Ok((pings.received == 1, pings.text))
}

fn mtu(pod: &Pod<'_>) -> Result<u64> {
    let links: serde_json::Value = serde_json::from_str(&pod.netns().ip("-json link show dev eth0")?)?;
    links[0]["mtu"].as_u64().context("an MTU")
}

#[test]
fn large_packets_pass_the_overlay_and_are_told_of_where_they_cannot() -> Result<()> {
    needs_root!();
    let fleet = Fleet::new()?;
    let one = fleet.node("one", ONE, &["--mtu=1500"])?;
    let three = fleet.node("three", THREE, &[])?;
    let (a, c) = (Serving::on(&fleet, &one, "a")?, Serving::on(&fleet, &three, "c")?);
    leads_to(&one, &[], &[THREE])?;
    in_time("all reach all", || all_reach_all(&[&a, &c]))?;
    ensure!((mtu(&a.pod)?, mtu(&c.pod)?) == (1500, 1450));
    for address in c.pod.addresses() {
        let (arrived, text) = whole(&a.pod, *address, 1500)?;
        let told = text.contains("mtu") && text.contains("1450");
        ensure!(!arrived && told, "{address}: {text}");
        ensure!(whole(&a.pod, *address, 1450)?.0, "{address}");
    }
    carries(&a.pod, &c.pod)?;
    carries(&c.pod, &a.pod)?;

    // On its way a frame is cut where it must be: the way between nodes may be narrower than their uplinks.
    for (subnet, link) in [("192.0.2.0/24", "lan1"), ("198.51.100.0/24", "lan2")] {
        fleet.router.netns().ip(&format!("route replace {subnet} dev {link} mtu 1400"))?;
    }
    carries(&a.pod, &c.pod).context("where the network is narrow")?;

    // An uplink that changes is followed: by the overlay, and by pods that come.
    for node in [&one, &three] {
        node.netns().ip("link set dev uplink mtu 1400")?;
    }
    in_time("the overlay follows", || {
        let overlay = three.netns().ip("link show dev cambric-overlay")?;
        ensure!(overlay.contains("mtu 1350"), "{overlay}");
        Ok(())
    })?;
    let new = fleet.add_pod(&three, "new")?;
    ensure!(mtu(&new)? == 1350, "{}", mtu(&new)?);
    carries(&c.pod, &a.pod).context("of a pod that was there before")?;
    carries(&new, &a.pod)
}

#[test]
fn large_packets_go_directly() -> Result<()> {
    needs_root!();
    let fleet = Fleet::new()?;
    let one = fleet.node("one", ONE, &["--routing=direct"])?;
    let two = fleet.node("two", TWO, &["--routing=direct"])?;
    let (a, b) = (Serving::on(&fleet, &one, "a")?, Serving::on(&fleet, &two, "b")?);
    in_time("all reach all", || all_reach_all(&[&a, &b]))?;
    for address in b.pod.addresses() {
        ensure!(whole(&a.pod, *address, 1500)?.0, "{address}");
    }
    carries(&a.pod, &b.pod)?;
    // The network has become narrower than the MTU that the pods were made with.
    for node in [&one, &two] {
        node.netns().ip("link set dev uplink mtu 1400")?;
    }
    for address in b.pod.addresses() {
        in_time("it is told of", || {
            let (arrived, text) = whole(&a.pod, *address, 1500)?;
            ensure!(!arrived && text.contains("1400"), "{address}: {text}");
            Ok(())
        })?;
    }
    carries(&a.pod, &b.pod)
}

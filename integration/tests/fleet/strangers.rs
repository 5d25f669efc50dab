//! What others have made on a node stays, what others say of themselves is not believed blindly, and both is told of.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use integration::{
    fleet::{Fleet, Place, Subnet, node_object},
    needs_root,
    testbed::{Machine, Netns, Node},
};
use serde_json::json;

use crate::scene::{ONE, Serving, THREE, TWO, all_reach_all, in_time, leads_to, tells, ways};

#[test]
fn routes_and_interfaces_of_others_are_left_alone_and_told_of() -> Result<()> {
    needs_root!();
    let fleet = Fleet::new()?;
    let one = fleet.machine("one", ONE, &[])?;
    let netns = one.netns();
    // What another network plugin may have left.
    netns.ip("route add 10.244.12.0/24 via 192.0.2.99")?;
    netns.ip("link add other type vxlan id 51770 dstport 4789 local 192.0.2.11")?;
    netns.ip("link add cambric-overlay type bridge")?;
    for (name, place) in [("one", ONE), ("two", TWO), ("three", THREE)] {
        fleet.register(name, place)?;
    }
    one.start_daemon()?;
    tells(&one, "a route to 10.244.12.0/24", true)?;
    tells(&one, "an interface cambric-overlay that is not Cambric's", true)?;
    ensure!(netns.ip("route show 10.244.12.0/24")?.contains("via 192.0.2.99"), "{}", netns.ip("route")?);
    ensure!(netns.ip("-d link show cambric-overlay")?.contains("bridge"));

    netns.ip("link delete cambric-overlay")?;
    tells(&one, "the VXLAN interface other has the number 51770", true)?;
    netns.ip("link delete other")?;
    netns.ip("route delete 10.244.12.0/24")?;
    leads_to(&one, &[TWO], &[THREE])?;
    tells(&one, "Cambric's", false)?;
    tells(&one, "overlay", false)?;

    // Whoever takes a prefix over has it.
    netns.ip("route replace 10.244.13.0/24 via 192.0.2.99")?;
    tells(&one, "a route to 10.244.13.0/24", true)?;
    ensure!(netns.ip("route show 10.244.13.0/24")?.contains("via 192.0.2.99"));
    netns.ip("route delete 10.244.13.0/24")?;
    leads_to(&one, &[TWO], &[THREE])
}

#[test]
fn what_nodes_claim_is_given_to_one_and_told_of() -> Result<()> {
    needs_root!();
    let fleet = Fleet::new()?;
    let one = fleet.node("one", ONE, &[])?;
    fleet.register("two", TWO)?;
    leads_to(&one, &[TWO], &[])?;
    let address = |text: &str| -> Result<IpAddr> { Ok(text.parse()?) };
    let cidrs = |cidrs: &[&str]| cidrs.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
    let steady = ways(&one)?;

    // The same prefix, one around it, and this node's own.
    fleet.put(&node_object(
        "zed",
        &[address("192.0.2.77")?],
        &cidrs(&["10.244.12.0/24", "fd00:244::/32"]),
    ))?;
    tells(&one, "the pod CIDR 10.244.12.0/24 of the node zed overlaps 10.244.12.0/24 of two", true)?;
    tells(&one, "the pod CIDR fd00:244::/32 of the node zed overlaps", true)?;
    fleet.put(&node_object("own", &[address("192.0.2.78")?], &cidrs(&["10.244.11.128/25"])))?;
    tells(&one, "of the node own overlaps 10.244.11.0/24 of this node", true)?;
    // A Node of a machine that goes by another name now, one without an address, one without prefixes.
    fleet.put(&node_object("renamed", &[ONE.ipv4().into()], &cidrs(&["10.244.50.0/24"])))?;
    tells(&one, "the node renamed has the InternalIP 192.0.2.11", true)?;
    fleet.put(&node_object("mute", &[], &cidrs(&["10.244.51.0/24"])))?;
    tells(&one, "the node mute has no InternalIP", true)?;
    fleet.put(&node_object("bare", &[address("192.0.2.79")?], &[]))?;
    tells(&one, "the pods of bare are out of reach", true)?;
    fleet.put(&node_object("six", &[address("2001:db8:2::80")?], &cidrs(&["10.244.52.0/24"])))?;
    tells(&one, "the node six has no InternalIP that the overlay reaches", true)?;
    ensure!(ways(&one)? == steady, "{:?}", ways(&one)?);
    let log = one.log();
    ensure!(log.matches("put the route to 10.244.12.0/24").count() == 1, "{log}");

    // The one that had it is gone: the other one has it.
    fleet.unregister("two")?;
    in_time("zed has the prefix", || {
        let route = one.netns().ip("route show 10.244.12.0/24")?;
        ensure!(route.contains("via 192.0.2.77"), "{route}");
        Ok(())
    })?;
    for name in ["zed", "own", "renamed", "mute", "bare", "six"] {
        fleet.unregister(name)?;
    }
    leads_to(&one, &[], &[])?;
    in_time("nothing is told of", || {
        let problems = one.status()?["problems"].clone();
        ensure!(problems == json!([]), "{problems}");
        Ok(())
    })
}

#[test]
fn blocks_by_configuration_that_the_node_does_not_tell_of_are_told_of() -> Result<()> {
    needs_root!();
    let fleet = Fleet::new()?;
    let one = fleet.node("one", ONE, &["--pool=10.99.0.0/24"])?;
    fleet.register("two", Place::new(Subnet::First, 12))?;
    tells(&one, "other nodes do not lead packets to this node's addresses in 10.99.0.0/24", true)?;
    fleet.put(&node_object("one", &[ONE.ipv4().into()], &["10.99.0.0/24".to_owned()]))?;
    tells(&one, "other nodes do not lead packets", false)
}

/// A machine of the first subnet that is no node, and speaks the overlay's protocol to node one as if it had this address.
fn outsider(fleet: &Fleet, one: &Node, address: IpAddr) -> Result<Netns> {
    let links: serde_json::Value =
        serde_json::from_str(&one.netns().ip("-json link show dev cambric-overlay")?)?;
    let mac = links[0]["address"].as_str().context("an Ethernet address")?;
    let (netns, router) = (Netns::new("outsider")?, fleet.router.netns());
    netns.ip(&format!("link add eth0 type veth peer name outsider netns {}", router.path().display()))?;
    router.ip("link set dev outsider up master lan1")?;
    netns.ip("address add 192.0.2.200/24 dev eth0")?;
    netns.ip("link set dev eth0 up")?;
    router.wait_until_forwards("outsider")?;
    netns.ip("link add vx type vxlan id 51770 dstport 4789 local 192.0.2.200 nolearning")?;
    netns.ip(&format!("address add {address}/32 dev vx"))?;
    netns.ip("link set dev vx up")?;
    netns.ip(&format!("neighbour add 10.244.11.1 lladdr {mac} dev vx"))?;
    netns.run("bridge", &["fdb", "append", mac, "dev", "vx", "dst", "192.0.2.11"])?;
    netns.ip(&format!("route add 10.244.11.0/24 via 10.244.11.1 dev vx onlink src {address}"))?;
    Ok(netns)
}

/// Sends a datagram from an address of a namespace.
fn send(netns: &Netns, from: IpAddr, to: SocketAddr) -> Result<()> {
    netns.inside(|| UdpSocket::bind((from, 0))?.send_to(b"forged", to))?;
    Ok(())
}

#[test]
fn frames_are_believed_from_nodes_alone_and_pods_cannot_make_any() -> Result<()> {
    needs_root!();
    let fleet = Fleet::new()?;
    let one = fleet.node("one", ONE, &[])?;
    let two = fleet.node("two", TWO, &["--routing=vxlan"])?;
    let (a, b) = (Serving::on(&fleet, &one, "a")?, Serving::on(&fleet, &two, "b")?);
    let other = fleet.add_pod(&one, "other")?;
    in_time("all reach all", || all_reach_all(&[&a, &b]))?;
    let target = SocketAddr::new(a.pod.ipv4().into(), 7777);
    let heard = a.pod.serve_udp(target)?;
    let dropped = |reason: &str, at_least: u64| {
        in_time(reason, || {
            let count = one.drops(reason)?;
            ensure!(count >= at_least, "{}", one.status()?["drops"]);
            Ok(())
        })
    };

    // Whoever can reach the node's port is not therefore a node.
    let stranger = outsider(&fleet, &one, b.pod.ipv4().into())?;
    send(&stranger, b.pod.ipv4().into(), target)?;
    dropped("foreign_frame", 1)?;
    // Not even a node speaks for a pod of another.
    two.netns().ip(&format!("address add {}/32 dev lo", other.ipv4()))?;
    send(two.netns(), other.ipv4().into(), target)?;
    dropped("forged_endpoint", 1)?;
    // The node's address would be that of masqueraded frames of a pod's own making.
    for node in [ONE, TWO].iter().flat_map(|place| place.addresses()) {
        let own = if node.is_ipv4() { a.pod.ipv4().into() } else { a.pod.ipv6().into() };
        send(a.pod.netns(), own, SocketAddr::new(node, 4789))?;
    }
    dropped("endpoint_frame", 4)?;
    ensure!(heard.peers().is_empty(), "{:?}", heard.peers());

    // Once the cluster knows the machine, it is believed.
    fleet.put(&node_object("new", &["192.0.2.200".parse()?], &["10.244.200.0/24".to_owned()]))?;
    in_time("a node is heard", || {
        send(&stranger, b.pod.ipv4().into(), target)?;
        ensure!(!heard.peers().is_empty());
        Ok(())
    })
}

#[test]
fn frames_with_a_broadcast_address_are_believed_from_nobody() -> Result<()> {
    needs_root!();
    let fleet = Fleet::new()?;
    let one = fleet.node("one", ONE, &["--routing=vxlan"])?;
    let two = fleet.node("two", TWO, &["--routing=vxlan"])?;
    let (a, b) = (Serving::on(&fleet, &one, "a")?, Serving::on(&fleet, &two, "b")?);
    in_time("all reach all", || all_reach_all(&[&a, &b]))?;
    let target = SocketAddr::new(a.pod.ipv4().into(), 7777);
    let heard = a.pod.serve_udp(target)?;
    let stranger = outsider(&fleet, &one, b.pod.ipv4().into())?;
    let frames = integration::testbed::Frames::open(&stranger, "eth0")?;
    let mut inner = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], one.netns().mac_of("cambric-overlay")?)
        .ipv4(b.pod.ipv4().octets(), a.pod.ipv4().octets(), 64)
        .udp(40_000, 7777)
        .write(&mut inner, b"forged")?;
    // RFC 7348: the flag says that there is a number, which is in the upper three bytes of the second word.
    let mut frame = 0x0800_0000_u32.to_be_bytes().to_vec();
    frame.extend((51_770_u32 << 8).to_be_bytes());
    frame.extend(&inner);
    for to in [[0xff; 6], [0x01, 0, 0x5e, 0, 0, 1]] {
        // As itself and as a node: no node sends so.
        for from in [[192, 0, 2, 200], [192, 0, 2, 12]] {
            let mut outer = Vec::new();
            etherparse::PacketBuilder::ethernet2(stranger.mac_of("eth0")?, to)
                .ipv4(from, [192, 0, 2, 11], 64)
                .udp(40_001, 4789)
                .write(&mut outer, &frame)?;
            let before = one.drops("foreign_frame")?;
            in_time("the frame is dropped", || {
                // The kernel opens the bridge's port to the new machine a little later.
                frames.send(&outer)?;
                ensure!(one.drops("foreign_frame")? > before, "{}", one.status()?["drops"]);
                Ok(())
            })?;
        }
    }
    ensure!(heard.peers().is_empty(), "{:?}", heard.peers());
    Ok(())
}

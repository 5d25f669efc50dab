//! Nobody sends as the node, as a pod, or as nobody.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{Frames, Machine, NEIGHBOUR4, NEIGHBOUR6, NODE4, NODE6, Netns, eventually},
};

use crate::scene::{Ends, MARK, closed, is_dropped, node, of_wire, open, tap, udp};
use crate::table::{FAR_POD4, FAR_POD6, NODES};

#[test]
fn the_wire_sends_to_pods_as_no_one_that_it_cannot_be() -> Result<()> {
    needs_root!();
    let node = node()?;
    let pod = open(&node, "a")?;
    let (frames, ends) = of_wire(&node)?;
    let inside = tap(&pod)?;
    let good4 = udp(ends, NEIGHBOUR4.into(), pod.ipv4().into(), 7777)?;
    let good6 = udp(ends, NEIGHBOUR6.into(), pod.ipv6().into(), 7777)?;
    for source in ["192.0.2.2", "10.88.0.1", "127.0.0.1", "0.0.0.0", "224.0.0.5", "255.255.255.255"] {
        let bad = udp(ends, source.parse()?, pod.ipv4().into(), 7777)?;
        is_dropped(&node, "martian", &inside, || frames.send(&bad), || frames.send(&good4))?;
    }
    for source in ["2001:db8::2", "fd00:88::1", "::", "::1", "fe80::9", "ff02::1", "::ffff:192.0.2.1"] {
        let bad = udp(ends, source.parse()?, pod.ipv6().into(), 7777)?;
        is_dropped(&node, "martian", &inside, || frames.send(&bad), || frames.send(&good6))?;
    }
    Ok(())
}

#[test]
fn the_wire_sends_to_the_node_neither_as_its_pods_nor_as_itself() -> Result<()> {
    needs_root!();
    let node = node()?;
    let pod = open(&node, "a")?;
    let (frames, ends) = of_wire(&node)?;
    for name in ["all", "uplink"] {
        node.netns().sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0")?;
    }
    // Once the prefixes of the far node are known.
    node.apply("nodes.yaml", NODES)?;
    for (from, to) in
        [(IpAddr::from(FAR_POD4), IpAddr::from(pod.ipv4())), (FAR_POD6.into(), pod.ipv6().into())]
    {
        let before = node.drops("foreign_way")?;
        // Each is the first of its flow.
        let mut ports = 7000..;
        let refused = || {
            let frame = udp(ends, from, to, ports.next().unwrap_or_default());
            frame.and_then(|frame| frames.send(&frame)).is_ok()
                && node.drops("foreign_way").is_ok_and(|now| now > before)
        };
        ensure!(eventually(Duration::from_secs(10), refused), "{from}: {}", node.log());
    }
    let port = 9999;
    for (pod, node_address, far, others) in [
        (
            IpAddr::from(pod.ipv4()),
            IpAddr::from(NODE4),
            IpAddr::from(NEIGHBOUR4),
            [
                (FAR_POD4.into(), "foreign_way"),
                ("10.88.0.77".parse()?, "martian"),
                ("192.0.2.255".parse()?, "martian"),
                ("192.0.2.0".parse()?, "martian"),
                ("240.0.0.1".parse()?, "martian"),
            ],
        ),
        (
            pod.ipv6().into(),
            NODE6.into(),
            NEIGHBOUR6.into(),
            [
                (FAR_POD6.into(), "foreign_way"),
                ("fd00:88::77".parse()?, "martian"),
                ("fd00:88::".parse()?, "martian"),
                ("::".parse()?, "martian"),
                ("::ffff:192.0.2.9".parse()?, "martian"),
            ],
        ),
    ] {
        let socket = node.netns().inside(|| UdpSocket::bind((node_address, port)))?;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        let sources = [(pod, "forged_endpoint"), (node_address, "martian")].into_iter().chain(others);
        // Also with a broadcast Ethernet address, for the host takes such a packet, too.
        let broadcast = Ends { to: [0xff; 6], ..ends };
        for ((source, reason), to) in sources.flat_map(|source| [(source, ends), (source, broadcast)]) {
            let before = node.drops(reason)?;
            frames.send(&udp(to, source, node_address, port)?)?;
            frames.send(&udp(ends, far, node_address, port)?)?;
            let mut buffer = [0; 64];
            let (_, from) = socket.recv_from(&mut buffer)?;
            ensure!(from.ip() == far, "a datagram of {from} arrived");
            ensure!(node.drops(reason)? == before + 1, "{reason}: {}", node.status()?["drops"]);
        }
    }
    Ok(())
}

/// A machine on a network of the node that is no uplink.
fn stranger(node: &integration::testbed::Node) -> Result<(Netns, Frames, Ends)> {
    let netns = Netns::new("stranger")?;
    let host = node.netns();
    host.ip(&format!("link add mgmt type veth peer name eth0 netns {}", netns.path().display()))?;
    host.ip("address add 203.0.113.1/24 dev mgmt")?;
    host.ip("address add 2001:db8:77::1/64 dev mgmt nodad")?;
    host.ip("link set dev mgmt up")?;
    netns.ip("address add 203.0.113.2/24 dev eth0")?;
    netns.ip("address add 2001:db8:77::2/64 dev eth0 nodad")?;
    netns.ip("link set dev eth0 up")?;
    let ends = Ends { from: netns.mac_of("eth0")?, to: host.mac_of("mgmt")? };
    let frames = Frames::open(&netns, "eth0")?;
    Ok((netns, frames, ends))
}

#[test]
fn who_sends_as_the_node_by_another_interface_is_policed() -> Result<()> {
    needs_root!();
    let node = node()?;
    let (guarded, other) = (closed(&node, "closed")?, open(&node, "open")?);
    let (_netns, frames, ends) = stranger(&node)?;
    let (inside, control) = (tap(&guarded)?, tap(&other)?);
    let to = IpAddr::from(guarded.ipv6());
    let good = udp(ends, "2001:db8:77::2".parse()?, other.ipv6().into(), 7777)?;
    for source in ["2001:db8::2", "2001:db8:77::1", "fd00:88::1"] {
        let bad = udp(ends, source.parse()?, to, 7777)?;
        let before = node.drops("policy_ingress")?;
        frames.send(&bad)?;
        let dropped = || node.drops("policy_ingress").is_ok_and(|now| now > before);
        ensure!(eventually(Duration::from_secs(3), dropped), "{source}: {}", node.status()?["drops"]);
    }
    frames.send(&good)?;
    ensure!(eventually(Duration::from_secs(3), || control.count() == 1), "the control arrives");
    ensure!(inside.count() == 0, "{} arrived as the node", inside.count());

    // The node itself reaches its pods. And nobody joins the flow that it has opened.
    let source = SocketAddr::new(NODE6.into(), 40_000);
    let socket = node.netns().inside(|| UdpSocket::bind(source))?;
    socket.send_to(MARK.as_bytes(), (to, 7777))?;
    ensure!(eventually(Duration::from_secs(3), || inside.count() == 1), "the node reaches its pod");
    let before = node.drops("policy_ingress")?;
    frames.send(&udp(ends, NODE6.into(), to, 7777)?)?;
    let dropped = || node.drops("policy_ingress").is_ok_and(|now| now > before);
    ensure!(eventually(Duration::from_secs(3), dropped), "{}", node.status()?["drops"]);
    ensure!(inside.count() == 1, "somebody has joined the node's flow");
    Ok(())
}

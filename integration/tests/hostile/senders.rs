//! Nobody sends as the node, as a pod, or as nobody.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Result, ensure};
use etherparse::PacketBuilder;
use integration::{
    needs_root,
    testbed::{Frames, Machine, NEIGHBOUR4, NEIGHBOUR6, NODE4, NODE6, Netns, eventually},
};

use crate::scene::{Ends, MARK, closed, is_dropped, node, of_pod, of_wire, open, tap, udp};
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

/// A datagram in two pieces, the first of which has so long a header of options that Linux, which has put them together to look at them,
/// finds no room for it before the other and cuts the datagram anew.
fn pieces_with_options(ends: Ends, from: Ipv6Addr, to: Ipv6Addr) -> Result<[Vec<u8>; 2]> {
    const OPTIONS: usize = 512;
    const FIRST: usize = 936;
    let mut frame = Vec::new();
    let said = [MARK.as_bytes(), &[7; 1400]].concat();
    PacketBuilder::ethernet2(ends.from, ends.to)
        .ipv6(from.octets(), to.octets(), 64)
        .udp(40_000, 7777)
        .write(&mut frame, &said)?;
    let (ethernet_and_ip, data) = frame.split_at(54);
    let piece = |options: bool, at: usize, data: &[u8]| -> Result<Vec<u8>> {
        let mut piece = ethernet_and_ip.to_vec();
        let length = data.len() + 8 + if options { OPTIONS } else { 0 };
        piece[18..20].copy_from_slice(&u16::try_from(length)?.to_be_bytes());
        piece[20] = if options { 60 } else { 44 };
        if options {
            // Padding, in two options, for one has no room for more than 255 bytes.
            piece.extend([44, u8::try_from(OPTIONS / 8 - 1)?, 1, 253]);
            piece.extend([0; 253]);
            piece.extend([1, 251]);
            piece.extend([0; 251]);
            piece.extend([1, 0]);
        }
        piece.extend([17, 0]);
        piece.extend((u16::try_from(at)? | u16::from(at == 0)).to_be_bytes());
        piece.extend(7_u32.to_be_bytes());
        piece.extend(data);
        Ok(piece)
    };
    Ok([piece(true, 0, &data[..FIRST])?, piece(false, FIRST, &data[FIRST..])?])
}

#[test]
fn who_sends_as_the_node_in_pieces_that_linux_cuts_anew_is_policed() -> Result<()> {
    needs_root!();
    let node = node()?;
    let (guarded, other) = (closed(&node, "closed")?, open(&node, "open")?);
    let (_netns, frames, ends) = stranger(&node)?;
    let (inside, control) = (tap(&guarded)?, tap(&other)?);
    // Whoever asks netfilter for a connection has it put datagrams together. What is cut anew after that tells of no interface.
    let rules = "table inet track { chain seen { type filter hook prerouting priority 0; ct state new counter accept; }; }";
    node.netns().run("nft", &[rules])?;
    let send = |from: Ipv6Addr, to: Ipv6Addr| {
        pieces_with_options(ends, from, to)?.iter().try_for_each(|piece| frames.send(piece))
    };
    let mine: Ipv6Addr = "2001:db8:77::2".parse()?;
    for source in [NODE6, "2001:db8:77::1".parse()?, "fd00:88::1".parse()?] {
        let before = node.drops("policy_ingress")?;
        send(source, guarded.ipv6())?;
        let dropped = || node.drops("policy_ingress").is_ok_and(|now| now > before);
        ensure!(
            eventually(Duration::from_secs(3), dropped) && inside.count() == 0,
            "{source}: {} arrived, {}",
            inside.count(),
            node.status()?["drops"]
        );
    }
    send(mine, other.ipv6())?;
    ensure!(eventually(Duration::from_secs(3), || control.count() == 1), "{}", node.status()?["drops"]);
    ensure!(inside.count() == 0, "{} arrived as the node", inside.count());
    Ok(())
}

#[test]
fn the_node_is_met_at_its_addresses_alone_neither_at_loopback_nor_as_all_of_a_network() -> Result<()> {
    needs_root!();
    let node = node()?;
    let (bad, good) = (open(&node, "bad")?, open(&node, "good")?);
    let (_netns, _, _) = stranger(&node)?;
    node.netns().ip("address add 198.18.0.1/16 broadcast 198.18.0.255 dev mgmt")?;
    // Whatever the kernel takes for the node: the network of a peer address, and routes that somebody has added.
    node.netns().ip("address add 10.77.0.1 peer 10.77.9.0/24 dev mgmt")?;
    node.netns().ip("route add table local broadcast 10.78.0.99 dev mgmt")?;
    node.netns().ip("-6 route add table local anycast 2001:db8:78::99 dev mgmt")?;
    // As portmap sets it on host ends, and kube-proxy everywhere.
    node.netns().sysctl("net/ipv4/conf/all/route_localnet", "1")?;
    let port = 9999;
    let socket = node.netns().inside(|| UdpSocket::bind(("::", port)))?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    let (of_bad, of_good, wire) = (of_pod(&bad)?, of_pod(&good)?, of_wire(&node)?);
    // Whose datagram arrives first of one to `to` and a good one after it, and that the first was dropped for its reach.
    let first = |(frames, ends): &(Frames, Ends), from: IpAddr, to: &str| {
        let before = node.drops("link_scope")?;
        frames.send(&udp(*ends, from, to.parse()?, port)?)?;
        // Bare interfaces say something of the link, too; so the count alone proves nothing.
        let dropped =
            eventually(Duration::from_millis(300), || node.drops("link_scope").is_ok_and(|now| now > before));
        of_good.0.send(&udp(of_good.1, good.ipv6().into(), NODE6.into(), port)?)?;
        let (_, arrived) = socket.recv_from(&mut [0; 64])?;
        Ok::<_, anyhow::Error>((arrived.ip(), dropped))
    };
    for (way, from, to) in [
        (&of_bad, IpAddr::from(bad.ipv4()), "127.0.0.1"),
        (&of_bad, bad.ipv4().into(), "127.255.255.255"),
        (&of_bad, bad.ipv4().into(), "192.0.2.255"),
        (&of_bad, bad.ipv4().into(), "203.0.113.255"),
        (&of_bad, bad.ipv4().into(), "198.18.255.255"),
        (&of_bad, bad.ipv4().into(), "198.18.0.255"),
        (&of_bad, bad.ipv4().into(), "10.77.9.255"),
        (&of_bad, bad.ipv4().into(), "10.78.0.99"),
        (&of_bad, bad.ipv6().into(), "2001:db8:78::99"),
        (&of_bad, bad.ipv6().into(), "2001:db8::"),
        (&of_bad, bad.ipv6().into(), "2001:db8:77::"),
        (&wire, NEIGHBOUR4.into(), "127.0.0.1"),
    ] {
        // The daemon hears of a network a moment after it is there. What arrives before that is read away.
        let heard = eventually(Duration::from_secs(10), || {
            let refused = first(way, from, to).is_ok_and(|it| it == (good.ipv6().into(), true));
            let _ = socket.set_nonblocking(true);
            while socket.recv(&mut [0; 64]).is_ok() {}
            let _ = socket.set_nonblocking(false);
            refused
        });
        ensure!(heard, "{to}: {}", node.status()?["drops"]);
        // From then on none arrives.
        let (arrived, dropped) = first(way, from, to)?;
        ensure!(arrived == IpAddr::from(good.ipv6()), "{to}: a datagram of {arrived} arrived");
        ensure!(dropped, "{to}: {}", node.status()?["drops"]);
    }
    Ok(())
}

//! Who sends as an endpoint of another node is there: by the overlay from a node, or directly from that node.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use integration::{
    fleet::Fleet,
    needs_root,
    testbed::{Frames, Machine, Marked, Netns, Node, Pod, Tap, eventually},
};

use crate::scene::{ONE, Serving, THREE, TWO, all_reach_all, in_time, leads_to};

const MARK: &str = "as-another-nodes-pod";
const VXLAN_ID: u32 = 51_770;
const VXLAN_PORT: u16 = 4789;

/// Who sends frames: a machine with one interface, which it shares with a node.
struct Stranger {
    netns: Netns,
    frames: Frames,
    mac: [u8; 6],
}

impl Stranger {
    fn on(netns: Netns) -> Result<Self> {
        Ok(Self { frames: Frames::open(&netns, "eth0")?, mac: netns.mac_of("eth0")?, netns })
    }

    /// One in the first subnet.
    fn in_subnet(fleet: &Fleet) -> Result<Self> {
        let (netns, router) = (Netns::new("stranger")?, fleet.router.netns());
        netns.ip(&format!("link add eth0 type veth peer name stranger netns {}", router.path().display()))?;
        router.ip("link set dev stranger up master lan1")?;
        netns.ip("link set dev eth0 up")?;
        router.wait_until_forwards("stranger")?;
        Self::on(netns)
    }

    /// One on a network of the node that is no uplink, and the node's Ethernet address there.
    fn beside(node: &Node) -> Result<(Self, [u8; 6])> {
        let netns = Netns::new("stranger")?;
        let host = node.netns();
        host.ip(&format!("link add mgmt type veth peer name eth0 netns {}", netns.path().display()))?;
        host.ip("address add 203.0.113.1/24 dev mgmt")?;
        host.ip("address add 2001:db8:77::1/64 dev mgmt nodad")?;
        host.ip("link set dev mgmt up")?;
        netns.ip("link set dev eth0 up")?;
        // As a host that is lenient about where packets come from.
        for name in ["all", "mgmt", "uplink"] {
            host.sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0")?;
        }
        let to = host.mac_of("mgmt")?;
        Ok((Self::on(netns)?, to))
    }

    fn send(&self, frame: &[u8]) -> Result<()> {
        ensure!(!self.netns.links()?.is_empty());
        self.frames.send(frame)
    }
}

/// A datagram with the mark.
fn plain(from_mac: [u8; 6], to_mac: [u8; 6], from: IpAddr, to: IpAddr) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2(from_mac, to_mac);
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
        _ => anyhow::bail!("{from} and {to} are not of one family"),
    };
    let mut frame = Vec::new();
    builder.udp(40_000, 7777).write(&mut frame, MARK.as_bytes())?;
    Ok(frame)
}

/// The frame in one of the overlay (RFC 7348).
fn framed(from_mac: [u8; 6], to_mac: [u8; 6], from: [u8; 4], to: [u8; 4], inner: &[u8]) -> Result<Vec<u8>> {
    let mut payload = 0x0800_0000_u32.to_be_bytes().to_vec();
    payload.extend((VXLAN_ID << 8).to_be_bytes());
    payload.extend(inner);
    let mut outer = Vec::new();
    PacketBuilder::ethernet2(from_mac, to_mac)
        .ipv4(from, to, 64)
        .udp(40_001, VXLAN_PORT)
        .write(&mut outer, &payload)?;
    Ok(outer)
}

/// Both addresses of a pair of pods.
fn pairs(from: &Pod<'_>, to: &Pod<'_>) -> [(IpAddr, IpAddr); 2] {
    [(from.ipv4().into(), to.ipv4().into()), (from.ipv6().into(), to.ipv6().into())]
}

/// Expects that the node counts a drop for that reason, and that nothing arrives.
fn is_dropped(node: &Node, reason: &str, tap: &Tap, send: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = node.drops(reason)?;
    send()?;
    let counted = || node.drops(reason).is_ok_and(|now| now > before);
    ensure!(eventually(Duration::from_secs(3), counted), "{reason}: {}", node.status()?["drops"]);
    ensure!(tap.count() == 0, "{} arrived", tap.count());
    Ok(())
}

#[test]
fn frames_of_the_overlay_are_taken_by_uplinks_alone() -> Result<()> {
    needs_root!();
    let fleet = Fleet::new()?;
    let one = fleet.node("one", ONE, &["--routing=vxlan"])?;
    let two = fleet.node("two", TWO, &["--routing=vxlan"])?;
    let (a, b) = (Serving::on(&fleet, &one, "a")?, Serving::on(&fleet, &two, "b")?);
    in_time("all reach all", || all_reach_all(&[&a, &b]))?;
    let (stranger, to_mac) = Stranger::beside(&one)?;
    let inside = a.pod.tap(MARK)?;
    let overlay = one.netns().mac_of("cambric-overlay")?;
    let broadcast = [0xff; 6];
    for (from, to) in pairs(&b.pod, &a.pod) {
        let inner = plain([2, 0, 0, 0, 0, 9], overlay, from, to)?;
        // As itself and as a node; to what addresses the node takes packets at there.
        for source in [[203, 0, 113, 2], TWO.ipv4().octets()] {
            for destination in [
                [203, 0, 113, 1],
                ONE.ipv4().octets(),
                [203, 0, 113, 255],
                [255, 255, 255, 255],
                [224, 0, 0, 1],
            ] {
                for mac in [to_mac, broadcast] {
                    let frame = framed(stranger.mac, mac, source, destination, &inner)?;
                    // A broadcast address of IP in a frame to the node alone is dropped by the host before.
                    let before = one.drops("foreign_frame")?;
                    stranger.send(&frame)?;
                    let dropped = || one.drops("foreign_frame").is_ok_and(|now| now > before);
                    let counted = eventually(Duration::from_millis(500), dropped);
                    let unicast = destination[0] != 255 && destination[0] != 224 && destination[3] != 255;
                    ensure!(counted || !unicast, "{source:?} to {destination:?}: {}", one.status()?["drops"]);
                }
            }
        }
    }
    ensure!(inside.count() == 0, "{} arrived", inside.count());
    // Those of nodes are.
    in_time("all reach all", || all_reach_all(&[&a, &b]))
}

#[test]
fn what_a_pod_of_another_node_sends_comes_from_that_node() -> Result<()> {
    needs_root!();
    let fleet = Fleet::new()?;
    // Two nodes that send to each other by different ways, and one beyond.
    let one = fleet.node("one", ONE, &["--routing=vxlan"])?;
    let two = fleet.node("two", TWO, &[])?;
    let three = fleet.node("three", THREE, &[])?;
    leads_to(&one, &[], &[TWO, THREE])?;
    leads_to(&two, &[ONE], &[THREE])?;
    let (a, b, c) =
        (Serving::on(&fleet, &one, "a")?, Serving::on(&fleet, &two, "b")?, Serving::on(&fleet, &three, "c")?);
    in_time("all reach all", || all_reach_all(&[&a, &b, &c]))?;
    let stranger = Stranger::in_subnet(&fleet)?;
    let router_mac = fleet.router.netns().mac_of("lan1")?;
    for (node, site, pod, others) in
        [(&one, ONE, &a.pod, [&b.pod, &c.pod]), (&two, TWO, &b.pod, [&a.pod, &c.pod])]
    {
        let inside = pod.tap(MARK)?;
        let to_mac = node.netns().mac_of("uplink")?;
        for (from, to) in others.into_iter().flat_map(|other| pairs(other, pod)) {
            // What comes from behind the router has the router's address.
            for from_mac in [stranger.mac, router_mac] {
                let frame = plain(from_mac, to_mac, from, to)?;
                is_dropped(node, "foreign_way", &inside, || stranger.send(&frame))
                    .with_context(|| format!("{from} to {to}"))?;
                // Nor to the node's own stack: its node would have masqueraded it.
                let own = if to.is_ipv4() { site.ipv4().into() } else { site.ipv6().into() };
                let frame = plain(from_mac, to_mac, from, own)?;
                is_dropped(node, "foreign_way", &inside, || stranger.send(&frame))
                    .with_context(|| format!("{from} to {own}"))?;
            }
        }
    }
    // By an interface that is no uplink it is nobody's.
    let (beside, to_mac) = Stranger::beside(&one)?;
    let inside = a.pod.tap(MARK)?;
    for (from, to) in pairs(&b.pod, &a.pod) {
        let frame = plain(beside.mac, to_mac, from, to)?;
        is_dropped(&one, "foreign_way", &inside, || beside.send(&frame))?;
    }
    drop(beside);
    // A neighbour table that forgets does no harm.
    for node in [&one, &two] {
        node.netns().ip("neighbour flush dev uplink")?;
    }
    all_reach_all(&[&a, &b, &c])?;
    Ok(())
}

#[test]
fn a_nodes_new_ethernet_address_is_learnt() -> Result<()> {
    needs_root!();
    let fleet = Fleet::new()?;
    let one = fleet.node("one", ONE, &["--routing=direct"])?;
    let two = fleet.node("two", TWO, &["--routing=direct"])?;
    let (a, b) = (Serving::on(&fleet, &one, "a")?, Serving::on(&fleet, &two, "b")?);
    in_time("all reach all", || all_reach_all(&[&a, &b]))?;
    two.netns().ip("link set dev uplink address 02:00:00:00:77:02")?;
    // The kernel goes on sending to the old one for as long as it thinks it reachable.
    one.netns().ip("neighbour flush dev uplink")?;
    in_time("all reach all by the new one", || all_reach_all(&[&a, &b]))?;
    let target: SocketAddr = (a.pod.ipv4(), 80).into();
    ensure!(one.drops("foreign_way")? < 50, "{target}: {}", one.status()?["drops"]);
    Ok(())
}

#[test]
fn the_neighbours_of_an_administrator_stay_and_those_that_were_watched_go() -> Result<()> {
    needs_root!();
    let fleet = Fleet::new()?;
    let two = fleet.node("two", TWO, &["--routing=direct"])?;
    let one = fleet.node("one", ONE, &["--routing=direct"])?;
    let (a, b) = (Serving::on(&fleet, &one, "a")?, Serving::on(&fleet, &two, "b")?);
    in_time("all reach all", || all_reach_all(&[&a, &b]))?;
    let table = |node: &Node| node.netns().ip("neighbour show dev uplink");
    let is_watched = |node: &Node, address: std::net::Ipv4Addr| -> Result<bool> {
        let table = table(node)?;
        Ok(table
            .lines()
            .any(|line| line.starts_with(&format!("{address} ")) && line.contains("extern_learn")))
    };
    let (own, far) = (ONE.ipv4(), TWO.ipv4());
    for (node, other) in [(&one, far), (&two, own)] {
        let watched = || is_watched(node, other).is_ok_and(|it| it);
        ensure!(eventually(Duration::from_secs(10), watched), "{}", table(node)?);
    }
    let mac = one.netns().mac_of("uplink")?.map(|byte| format!("{byte:02x}")).join(":");
    let is_permanent = |table: &str| {
        let start = format!("{own} ");
        table
            .lines()
            .any(|line| line.starts_with(&start) && line.contains(&mac) && line.contains("PERMANENT"))
    };
    two.netns().ip(&format!("neighbour replace {own} lladdr {mac} dev uplink nud permanent"))?;
    // A daemon that starts watches all.
    two.stop_daemon()?;
    two.start_daemon()?;
    in_time("all reach all", || all_reach_all(&[&a, &b]))?;
    ensure!(is_permanent(&table(&two)?), "{}", table(&two)?);
    for (node, other) in [(&two, own), (&one, far)] {
        node.stop_daemon()?;
        let (state, bpffs) = (node.state_dir().display().to_string(), node.bpffs().display().to_string());
        node.ctl(&["uninstall", "--config=/dev/null", "--state-dir", &state, "--bpffs", &bpffs])?;
        ensure!(!is_watched(node, other)?, "{}", table(node)?);
    }
    ensure!(is_permanent(&table(&two)?), "{}", table(&two)?);
    Ok(())
}

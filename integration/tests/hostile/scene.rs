//! A node with a pod that may do nothing, one that nothing may reach, and one that no policy selects.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use etherparse::{IpFragOffset, Ipv4Header, PacketBuilder};
use integration::testbed::{Frames, Machine, Marked, Node, Pod, Tap, eventually};

/// What frames of the tests have in them.
pub const MARK: &str = "a-frame-of-the-test";

/// The pods `shop/closed-*` may send nothing and get nothing.
const CLOSED: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: shop, name: closed }
spec:
  podSelector: { matchLabels: { app: closed } }
  policyTypes: [Ingress, Egress]
";

/// A node in a cluster with the policy.
pub fn node() -> Result<Node> {
    let node = Node::in_cluster()?;
    node.apply("policy.yaml", CLOSED)?;
    Ok(node)
}

/// A pod that the policy selects.
pub fn closed<'n>(node: &'n Node, name: &str) -> Result<Pod<'n>> {
    node.add_pod_of(&format!("shop/{name}"), &[("app", "closed")])
}

/// A pod that no policy selects.
pub fn open<'n>(node: &'n Node, name: &str) -> Result<Pod<'n>> {
    node.add_pod_of(&format!("shop/{name}"), &[])
}

/// The Ethernet addresses of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub from: [u8; 6],
    pub to: [u8; 6],
}

/// Those of what a pod sends to its gateway, and a socket to send it with.
pub fn of_pod(pod: &Pod<'_>) -> Result<(Frames, Ends)> {
    let netns = pod.netns();
    let ends = Ends { from: netns.mac_of("eth0")?, to: gateway_mac(pod)? };
    Ok((Frames::open(netns, "eth0")?, ends))
}

fn gateway_mac(pod: &Pod<'_>) -> Result<[u8; 6]> {
    pod.netns().mac_of_neighbour(IpAddr::from([10, 88, 0, 1]))
}

/// Those of what the neighbour sends to the node, and a socket to send it with.
pub fn of_wire(node: &Node) -> Result<(Frames, Ends)> {
    let neighbour = &node.neighbour;
    let ends = Ends { from: neighbour.netns().mac_of("lan")?, to: node.netns().mac_of("uplink")? };
    Ok((Frames::open(neighbour.netns(), "lan")?, ends))
}

/// A datagram with the mark.
pub fn udp(ends: Ends, from: IpAddr, to: IpAddr, port: u16) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2(ends.from, ends.to);
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
        _ => anyhow::bail!("{from} and {to} are not of one family"),
    };
    let mut frame = Vec::new();
    builder.udp(40_000, port).write(&mut frame, MARK.as_bytes())?;
    Ok(frame)
}

/// A message of ICMP with the mark.
pub fn message(ends: Ends, from: IpAddr, to: IpAddr, kind: u8, id: u16) -> Result<Vec<u8>> {
    let [high, low] = id.to_be_bytes();
    let builder = PacketBuilder::ethernet2(ends.from, ends.to);
    let mut frame = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder
            .ipv4(from.octets(), to.octets(), 64)
            .icmpv4_raw(kind, 0, [high, low, 0, 1])
            .write(&mut frame, MARK.as_bytes())?,
        (IpAddr::V6(from), IpAddr::V6(to)) => builder
            .ipv6(from.octets(), to.octets(), 64)
            .icmpv6_raw(kind, 0, [high, low, 0, 1])
            .write(&mut frame, MARK.as_bytes())?,
        _ => anyhow::bail!("{from} and {to} are not of one family"),
    }
    Ok(frame)
}

/// The frame's datagram in two pieces. The kernel takes no smaller ones of IPv6 than its least MTU, but the last.
pub fn pieces(frame: &[u8], id: u16) -> Result<[Vec<u8>; 2]> {
    const FIRST: usize = 1280;
    let mut cut = [Vec::new(), Vec::new()];
    let v4 = frame[12] == 8;
    let data = &frame[if v4 { 34 } else { 54 }..];
    for (at, (piece, data)) in cut.iter_mut().zip([&data[..FIRST], &data[FIRST..]]).enumerate() {
        if v4 {
            let mut header = Ipv4Header::from_slice(&frame[14..])?.0;
            header.identification = id;
            header.dont_fragment = false;
            header.more_fragments = at == 0;
            header.fragment_offset = IpFragOffset::try_new(u16::try_from(at * FIRST / 8)?)?;
            header.set_payload_len(data.len())?;
            header.header_checksum = header.calc_header_checksum();
            piece.extend(&frame[..14]);
            header.write(piece)?;
        } else {
            piece.extend(&frame[..54]);
            piece[18..20].copy_from_slice(&u16::try_from(data.len() + 8)?.to_be_bytes());
            piece[20] = 44;
            let offset = u16::try_from(at * FIRST)? | u16::from(at == 0);
            piece.extend([frame[20], 0]);
            piece.extend(offset.to_be_bytes());
            piece.extend(u32::from(id).to_be_bytes());
        }
        piece.extend(data);
    }
    Ok(cut)
}

/// The frame with a VLAN tag.
pub fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    tagged.extend([0x81, 0x00]);
    tagged.extend(vlan.to_be_bytes());
    tagged.extend(&frame[12..]);
    tagged
}

/// Expects that what `send` sends is counted as dropped for that reason, and that a tap does not see it. `control` is sent
/// after it by the same way and must be seen: so the tap would have seen the other.
pub fn is_dropped(
    node: &Node,
    reason: &str,
    tap: &Tap,
    send: impl FnOnce() -> Result<()>,
    control: impl Fn() -> Result<()>,
) -> Result<()> {
    let (before, seen) = (node.drops(reason)?, tap.count());
    send()?;
    ensure!(
        eventually(Duration::from_secs(3), || node.drops(reason).is_ok_and(|now| now > before)),
        "nothing was dropped as {reason}: {}",
        node.status()?["drops"]
    );
    ensure!(tap.count() == seen, "{} forbidden frames arrived", tap.count() - seen);
    control()?;
    ensure!(
        eventually(Duration::from_secs(3), || tap.count() == seen + 1),
        "of 1 control {} arrived; dropped: {}",
        tap.count() - seen,
        node.status()?["drops"]
    );
    Ok(())
}

/// A tap in a machine for frames with the mark.
pub fn tap(machine: &impl Marked) -> Result<Tap> {
    machine.tap(MARK)
}

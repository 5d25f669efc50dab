//! Neighbour discovery is the link's: it carries nothing past policy.

use std::{net::Ipv6Addr, time::Duration};

use anyhow::{Result, ensure};
use etherparse::{Icmpv6Type, PacketBuilder};
use integration::{
    needs_root,
    testbed::{Machine, NEIGHBOUR6, NODE6, eventually},
};

use crate::scene::{Ends, MARK, closed, is_dropped, node, of_pod, of_wire, open, tap, udp};

/// A neighbour advertisement (136) or solicitation (135) with the mark as an option.
fn discovery(ends: Ends, from: Ipv6Addr, to: Ipv6Addr, kind: u8, hops: u8) -> Result<Vec<u8>> {
    let mut rest = from.octets().to_vec();
    // Type 253 is for experiments; the length is in units of eight bytes.
    rest.extend([253, 3]);
    rest.extend(MARK.as_bytes());
    rest.resize(16 + 24, 0);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ends.from, ends.to)
        .ipv6(from.octets(), to.octets(), hops)
        .icmpv6(Icmpv6Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: [0x60, 0, 0, 0] })
        .write(&mut frame, &rest)?;
    Ok(frame)
}

#[test]
fn discovery_to_a_unicast_address_passes_no_policy() -> Result<()> {
    needs_root!();
    let node = node()?;
    let (a, b, other) = (closed(&node, "closed-a")?, closed(&node, "closed-b")?, open(&node, "open")?);
    let (of_a, from_a) = of_pod(&a)?;
    let (of_other, from_other) = of_pod(&other)?;
    let (of_wire, from_wire) = of_wire(&node)?;
    let (at_b, at_other, outside) = (tap(&b)?, tap(&other)?, tap(&node.neighbour)?);
    let control_out = udp(from_other, other.ipv6().into(), NEIGHBOUR6.into(), 7777)?;
    let control_in = udp(from_wire, NEIGHBOUR6.into(), other.ipv6().into(), 7777)?;
    for kind in [135, 136] {
        for hops in [64, 255] {
            // Out of a pod that may send nothing.
            let frame = discovery(from_a, a.ipv6(), NEIGHBOUR6, kind, hops)?;
            is_dropped(
                &node,
                "foreign_discovery",
                &outside,
                || of_a.send(&frame),
                || of_other.send(&control_out),
            )?;
            let frame = discovery(from_a, a.ipv6(), b.ipv6(), kind, hops)?;
            let before = node.drops("foreign_discovery")?;
            of_a.send(&frame)?;
            // From the wire, as itself and as a pod.
            for source in [NEIGHBOUR6, other.ipv6()] {
                let frame = discovery(from_wire, source, b.ipv6(), kind, hops)?;
                of_wire.send(&frame)?;
            }
            is_dropped(
                &node,
                "foreign_discovery",
                &at_other,
                || of_wire.send(&discovery(from_wire, NEIGHBOUR6, other.ipv6(), kind, hops)?),
                || of_wire.send(&control_in),
            )?;
            ensure!(node.drops("foreign_discovery")? >= before + 3, "{}", node.status()?["drops"]);
            ensure!(at_b.count() == 0, "{} arrived at the closed pod", at_b.count());
        }
    }
    Ok(())
}

#[test]
fn a_pod_may_ask_for_its_gateway_at_the_gateways_address() -> Result<()> {
    needs_root!();
    let node = node()?;
    let (pod, peer) = (open(&node, "a")?, open(&node, "b")?);
    let gateway: Ipv6Addr = "fd00:88::1".parse()?;
    let (frames, ends) = of_pod(&pod)?;
    let inside = tap(&peer)?;
    let before = node.drops("foreign_discovery")?;
    frames.send(&discovery(ends, pod.ipv6(), gateway, 135, 255)?)?;
    frames.send(&udp(ends, pod.ipv6().into(), peer.ipv6().into(), 7777)?)?;
    ensure!(eventually(Duration::from_secs(3), || inside.count() == 1), "the control arrives");
    ensure!(node.drops("foreign_discovery")? == before, "{}", node.status()?["drops"]);
    ensure!(pod.reaches(gateway)? && pod.reaches(NODE6)?);
    Ok(())
}

/// The address of the link that follows from an Ethernet address.
fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let mut address = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, 0, 0, 0];
    address[13..].copy_from_slice(&mac[3..]);
    address.into()
}

/// An advertisement or a solicitation of `target`.
fn about(ends: Ends, from: Ipv6Addr, to: Ipv6Addr, kind: u8, target: Ipv6Addr) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ends.from, ends.to)
        .ipv6(from.octets(), to.octets(), 255)
        .icmpv6(Icmpv6Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: [0x60, 0, 0, 0] })
        .write(&mut frame, &target.octets())?;
    Ok(frame)
}

#[test]
fn a_pod_speaks_on_its_link_as_its_ethernet_address_says_and_as_nobody_else() -> Result<()> {
    needs_root!();
    let node = node()?;
    let pod = open(&node, "a")?;
    let (frames, ends) = of_pod(&pod)?;
    let all: Ipv6Addr = "ff02::1".parse()?;
    let (own, hosts) = (link_local(ends.from), link_local(ends.to));
    let nobody = Ipv6Addr::UNSPECIFIED;
    let dropped = || node.drops("foreign_source");
    let before = dropped()?;
    // Of itself: by both addresses, and while it looks whether they are free.
    for frame in [
        about(ends, own, all, 136, own)?,
        about(ends, pod.ipv6(), all, 136, pod.ipv6())?,
        about(ends, own, all, 135, "fd00:88::1".parse()?)?,
        about(ends, nobody, all, 135, own)?,
        about(ends, nobody, all, 135, pod.ipv6())?,
    ] {
        frames.send(&frame)?;
    }
    let masked = Ends { from: ends.to, to: ends.to };
    let forged = [
        about(ends, own, all, 136, hosts)?,
        about(ends, hosts, all, 136, hosts)?,
        // With the host's Ethernet address, too.
        about(masked, hosts, all, 136, hosts)?,
        about(ends, hosts, all, 135, "fd00:88::1".parse()?)?,
        about(ends, own, all, 136, "fe80::1".parse()?)?,
        about(ends, nobody, all, 135, hosts)?,
        about(ends, nobody, all, 135, "fd00:88::1".parse()?)?,
    ];
    for frame in &forged {
        frames.send(frame)?;
    }
    let wanted = before + forged.len() as u64;
    ensure!(eventually(Duration::from_secs(3), || dropped().is_ok_and(|now| now >= wanted)));
    ensure!(dropped()? == wanted, "{} were dropped, not {}", dropped()? - before, forged.len());
    Ok(())
}

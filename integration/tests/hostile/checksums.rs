//! A pod may leave its checksums to the kernel, but not have it write anything else.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, NEIGHBOUR4, NEIGHBOUR6, PartialChecksum, eventually},
};

use crate::scene::{is_dropped, node, of_pod, open, tap, udp};

const ETHERNET: u16 = 14;
const IPV4: u16 = 20;
const IPV6: u16 = 40;
/// Where UDP's destination port and checksum lie in its header.
const PORT: u16 = 2;
const CHECKSUM: u16 = 6;

#[test]
fn what_the_kernel_writes_into_a_pods_packet_later_is_its_checksum() -> Result<()> {
    needs_root!();
    let node = node()?;
    let (a, b) = (open(&node, "a")?, open(&node, "b")?);
    let (frames, ends) = of_pod(&a)?;
    let (outside, inside) = (tap(&node.neighbour)?, tap(&b)?);
    // The uplink leaves the sum to the kernel, which writes it when the packet leaves.
    node.netns().run("ethtool", &["-K", "uplink", "tx", "off"])?;
    // The kernel takes no start before that: into IPv4's source and IPv6's destination, then.
    for (from, far, near, header, address) in [
        (IpAddr::from(a.ipv4()), IpAddr::from(NEIGHBOUR4), IpAddr::from(b.ipv4()), IPV4, ETHERNET + 12),
        (a.ipv6().into(), NEIGHBOUR6.into(), b.ipv6().into(), IPV6, ETHERNET + 28),
    ] {
        let transport = ETHERNET + header;
        for (to, tap) in [(far, &outside), (near, &inside)] {
            let frame = udp(ends, from, to, 80)?;
            let good = PartialChecksum { start: transport, offset: CHECKSUM };
            for (start, place) in [
                (transport, transport + PORT),
                (transport - 1, transport + PORT),
                (transport, transport),
                (header, address),
                (header, address + 2),
                (transport, transport + CHECKSUM + 1),
            ] {
                let bad = PartialChecksum { start, offset: place - start };
                is_dropped(
                    &node,
                    "checksum_place",
                    tap,
                    || frames.send_partial(&frame, bad),
                    || frames.send_partial(&frame, good),
                )?;
            }
        }
    }
    Ok(())
}

#[test]
fn the_checksum_of_a_pods_own_tunnel_lies_behind_what_is_judged() -> Result<()> {
    needs_root!();
    let node = node()?;
    let a = open(&node, "a")?;
    let (frames, ends) = of_pod(&a)?;
    let outside = tap(&node.neighbour)?;
    let frame = udp(ends, a.ipv4().into(), NEIGHBOUR4.into(), 80)?;
    let behind = ETHERNET + IPV4 + 8;
    let before = node.drops("checksum_place")?;
    frames.send_partial(&frame, PartialChecksum { start: behind, offset: 0 })?;
    // It overwrites the first bytes of the mark, so it is the next one that is seen.
    frames.send(&frame)?;
    ensure!(eventually(Duration::from_secs(3), || outside.count() >= 1));
    ensure!(node.drops("checksum_place")? == before, "{}", node.status()?["drops"]);
    Ok(())
}

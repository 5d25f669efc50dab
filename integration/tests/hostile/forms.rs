//! What a frame looks like does not get it past the programs: VLAN tags, source routes.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Result, ensure};
use bpf::layout::MARK_FORWARDED;
use integration::{
    needs_root,
    testbed::{Machine, NEIGHBOUR4, NEIGHBOUR6, eventually},
};
use nix::sys::socket::{setsockopt, sockopt::Mark};

use crate::scene::{Ends, MARK, is_dropped, node, of_pod, of_wire, open, tagged, tap, udp};

#[test]
fn a_pod_cannot_choose_a_vlan_of_the_uplink_or_of_another_pod() -> Result<()> {
    needs_root!();
    let node = node()?;
    let (a, b) = (open(&node, "a")?, open(&node, "b")?);
    let (frames, ends) = of_pod(&a)?;
    let (outside, inside) = (tap(&node.neighbour)?, tap(&b)?);
    for (from, far, near) in [
        (a.ipv4().into(), NEIGHBOUR4.into(), b.ipv4().into()),
        (IpAddr::from(a.ipv6()), NEIGHBOUR6.into(), b.ipv6().into()),
    ] {
        for (to, tap) in [(far, &outside), (near, &inside)] {
            let frame = udp(ends, from, to, 7777)?;
            is_dropped(&node, "vlan", tap, || frames.send(&tagged(&frame, 100)), || frames.send(&frame))?;
        }
    }
    Ok(())
}

#[test]
fn a_frame_of_a_vlan_of_the_wire_is_none_of_the_uplink() -> Result<()> {
    needs_root!();
    let node = node()?;
    let pod = open(&node, "a")?;
    let (frames, ends) = of_wire(&node)?;
    let inside = tap(&pod)?;
    for (from, to) in [(IpAddr::from(NEIGHBOUR4), pod.ipv4().into()), (NEIGHBOUR6.into(), pod.ipv6().into())]
    {
        let frame = udp(ends, from, to, 7777)?;
        let before = inside.count();
        frames.send(&tagged(&frame, 100))?;
        frames.send(&frame)?;
        ensure!(eventually(Duration::from_secs(3), || inside.count() > before), "the plain frame arrives");
    }
    // Both plain ones, and nothing else.
    let arrived = inside.end();
    ensure!(arrived == 2, "{arrived} frames arrived");
    Ok(())
}

#[test]
fn a_mark_that_a_pod_sets_is_not_that_of_the_programs() -> Result<()> {
    needs_root!();
    let node = node()?;
    let pod = open(&node, "a")?;
    // What is larger than the way goes through the stack, which cuts it. The pieces are masqueraded at the uplink, unless they
    // seem to have been judged.
    node.netns().ip(&format!("route add {NEIGHBOUR4}/32 dev uplink mtu lock 1300"))?;
    let echo = node.neighbour.serve_udp(SocketAddr::new(NEIGHBOUR4.into(), 0))?;
    for mark in [0, MARK_FORWARDED] {
        let comes_back = pod.netns().inside(|| -> Result<bool> {
            std::fs::write("/proc/sys/net/ipv4/ip_no_pmtu_disc", "1")?;
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            setsockopt(&socket, Mark, &mark)?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            let mut answer = [0; 1500];
            Ok((0..3).any(|_| {
                socket.send_to(&[1; 1400], echo.address()).is_ok()
                    && socket.recv(&mut answer).is_ok_and(|length| length == 1400)
            }))
        })?;
        ensure!(comes_back, "mark {mark:#x}: the datagram comes back");
    }
    let own = IpAddr::from(pod.ipv4());
    ensure!(echo.peers().iter().all(|peer| peer.ip() != own), "unmasqueraded: {:?}", echo.peers());
    Ok(())
}

/// An IPv4 datagram with a loose source route: to `to` first, to `last` then.
fn loosely_routed(ends: Ends, from: [u8; 4], to: [u8; 4], last: [u8; 4]) -> Result<Vec<u8>> {
    let mut options = vec![131, 7, 4];
    options.extend(last);
    options.push(0);
    let mut header = etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::UDP, from, to)?;
    header.options = options.as_slice().try_into()?;
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(ends.from, ends.to)
        .ip(etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default()))
        .udp(40_000, 7777)
        .write(&mut frame, MARK.as_bytes())?;
    Ok(frame)
}

/// An IPv6 datagram with a routing header of type 4 (RFC 8754) and as many segments left.
fn routed(ends: Ends, from: [u8; 16], to: [u8; 16], segments_left: u8) -> Result<Vec<u8>> {
    let route =
        etherparse::Ipv6RawExtHeader::new_raw(etherparse::IpNumber::UDP, &[4, segments_left, 0, 0, 0, 0])?;
    let extensions = etherparse::Ipv6Extensions {
        routing: Some(etherparse::Ipv6RoutingExtensions { routing: route, final_destination_options: None }),
        ..etherparse::Ipv6Extensions::default()
    };
    let header = etherparse::Ipv6Header {
        hop_limit: 64,
        source: from,
        destination: to,
        ..etherparse::Ipv6Header::default()
    };
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(ends.from, ends.to)
        .ip(etherparse::IpHeaders::Ipv6(header, extensions))
        .udp(40_000, 7777)
        .write(&mut frame, MARK.as_bytes())?;
    Ok(frame)
}

#[test]
fn what_has_further_destinations_is_not_forwarded() -> Result<()> {
    needs_root!();
    let node = node()?;
    let (a, b) = (open(&node, "a")?, open(&node, "b")?);
    // A router that takes source routes, as Linux does unless told otherwise.
    for name in ["all", "uplink"] {
        node.netns().sysctl(&format!("net/ipv4/conf/{name}/accept_source_route"), "1")?;
    }
    let (of_a, from_a) = of_pod(&a)?;
    let (of_wire, from_wire) = of_wire(&node)?;
    let inside = tap(&b)?;
    let (far4, far6) = (NEIGHBOUR4.octets(), NEIGHBOUR6.octets());
    let (a4, b4, a6, b6) = (a.ipv4().octets(), b.ipv4().octets(), a.ipv6().octets(), b.ipv6().octets());
    for (frames, bad, good) in [
        (&of_a, loosely_routed(from_a, a4, b4, far4)?, udp(from_a, a4.into(), b4.into(), 7777)?),
        (&of_a, routed(from_a, a6, b6, 1)?, routed(from_a, a6, b6, 0)?),
        (&of_wire, loosely_routed(from_wire, far4, b4, far4)?, udp(from_wire, far4.into(), b4.into(), 7777)?),
        (&of_wire, routed(from_wire, far6, b6, 1)?, routed(from_wire, far6, b6, 0)?),
    ] {
        is_dropped(&node, "source_route", &inside, || frames.send(&bad), || frames.send(&good))?;
    }
    Ok(())
}

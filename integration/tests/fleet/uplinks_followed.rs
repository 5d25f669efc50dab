//! Uplinks are followed as addresses, routes, interfaces and Nodes change; what is none is left alone.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use integration::{
    fleet::{Fleet, node_object},
    needs_root,
    testbed::{Answering, Asking, Machine, Marked, Netns, Node, eventually},
};
use nix::{
    libc,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, sendto, socket},
};

use crate::{
    scene::{ONE, PATIENCE, PORT, Serving, TWO, in_time, is_seen_as, tells},
    second::{FAR, SECOND, Second, are, become_soon, has_programs, node},
};

/// What the first network is by its default routes alone, and with the Node's address.
const BY_ROUTES: &str = "default route IPv4, default route IPv6";
const BY_ALL: &str = "carries the Node's InternalIP 192.0.2.11, carries the Node's InternalIP 2001:db8::b, \
                      default route IPv4, default route IPv6";

/// A pod sees a far machine by this network, and is seen with this address of the node.
fn leaves_by(pod: &Serving<'_>, network: &str, own: [IpAddr; 2]) -> Result<()> {
    in_time(&format!("the way by {network}"), || {
        for (far, own) in FAR.into_iter().zip(own) {
            let to = SocketAddr::new(far, PORT);
            let answer = pod.pod.ask_tcp(to).with_context(|| format!("tcp to {to}"))?;
            ensure!(answer.name == network && answer.client.ip() == own, "{answer:?}");
        }
        Ok(())
    })
}

fn put_default(node: &Node, routers: [IpAddr; 2], dev: &str, metric: u32) -> Result<()> {
    for (family, router) in ["-4", "-6"].iter().zip(routers) {
        node.netns().ip(&format!("{family} route replace default via {router} dev {dev} metric {metric}"))?;
    }
    Ok(())
}

fn remove_default(node: &Node, dev: &str) -> Result<()> {
    for family in ["-4", "-6"] {
        node.netns().ip(&format!("{family} route delete default dev {dev}"))?;
    }
    Ok(())
}

#[test]
fn a_default_route_that_moves_is_followed_and_of_two_each_has_an_uplink() -> Result<()> {
    needs_root!();
    let (fleet, second) = (Fleet::new()?, Second::new()?);
    let one = node(&fleet, &second, ("one", ONE), &ONE.addresses(), &[])?;
    are(&one, &[("uplink", BY_ALL)])?;
    ensure!(has_programs(&one, "uplink")? && !has_programs(&one, SECOND)?);
    // One that another may win over.
    let (router4, router6) = ONE.subnet.router();
    remove_default(&one, "uplink")?;
    put_default(&one, [router4.into(), router6.into()], "uplink", 2048)?;
    let a = Serving::on(&fleet, &one, "a")?;
    let mut servers = Vec::new();
    for (netns, name) in [(fleet.router.netns(), "router"), (second.netns(), "second")] {
        for far in FAR {
            let how = if far.is_ipv4() { "/32 dev lo" } else { "/128 dev lo nodad" };
            netns.ip(&format!("address add {far}{how}"))?;
        }
        servers.push(if name == "router" {
            Answering::start(&fleet.router, name, PORT)?
        } else {
            Answering::start(&second, name, PORT)?
        });
    }
    leaves_by(&a, "router", ONE.addresses())?;

    // A second default route, which wins, then one alone again.
    for round in 0..3 {
        put_default(&one, Second::OWN, SECOND, 1)?;
        become_soon(&one, &[("uplink", BY_ALL), (SECOND, BY_ROUTES)])
            .with_context(|| format!("round {round}"))?;
        leaves_by(&a, "second", Second::addresses(ONE))?;
        ensure!(has_programs(&one, SECOND)?);
        remove_default(&one, SECOND)?;
        become_soon(&one, &[("uplink", BY_ALL)]).with_context(|| format!("round {round}"))?;
        leaves_by(&a, "router", ONE.addresses())?;
        ensure!(!has_programs(&one, SECOND)?, "the programs stay");
    }

    // The Node's address moves to the other network as well: the first is none any more, and again.
    fleet.put(&node_object("one", &Second::addresses(ONE), &ONE.pod_cidrs()))?;
    let [v4, v6] = Second::addresses(ONE);
    let by_node = format!("carries the Node's InternalIP {v4}, carries the Node's InternalIP {v6}");
    become_soon(&one, &[("uplink", BY_ROUTES), (SECOND, &by_node)])?;
    remove_default(&one, "uplink")?;
    become_soon(&one, &[(SECOND, &by_node)])?;
    ensure!(!has_programs(&one, "uplink")?);
    put_default(&one, [router4.into(), router6.into()], "uplink", 1024)?;
    become_soon(&one, &[("uplink", BY_ROUTES), (SECOND, &by_node)])?;
    leaves_by(&a, "router", ONE.addresses())?;

    // Another node that is beyond the second network, then gone.
    fleet.put(&node_object("one", &ONE.addresses(), &ONE.pod_cidrs()))?;
    become_soon(&one, &[("uplink", BY_ALL)])?;
    fleet.put(&node_object("two", &Second::addresses(TWO)[..1], &[]))?;
    become_soon(&one, &[("uplink", BY_ALL), (SECOND, "way to the node two (203.0.113.12)")])?;
    fleet.unregister("two")?;
    become_soon(&one, &[("uplink", BY_ALL)])?;
    let log = one.log();
    ensure!(!log.contains("repaired"), "following is no repair: {log}");
    Ok(())
}

#[test]
fn the_node_s_address_is_looked_for_and_missed() -> Result<()> {
    needs_root!();
    let (fleet, second) = (Fleet::new()?, Second::new()?);
    let told = Second::addresses(ONE);
    let one = node(&fleet, &second, ("one", ONE), &told, &["--uplink-exclude=sec*"])?;
    are(&one, &[("uplink", BY_ROUTES)])?;
    ensure!(!has_programs(&one, SECOND)?);
    tells(&one, "InternalIP 203.0.113.11 is on second, which is no uplink", true)?;
    tells(&one, "take it out of uplink-exclude", true)?;

    // An address that the machine does not have, nor any default route.
    fleet.put(&node_object("one", &["203.0.113.99".parse()?], &ONE.pod_cidrs()))?;
    tells(&one, "InternalIP 203.0.113.99 is on no interface", true)?;
    tells(&one, "InternalIP 203.0.113.11", false)?;
    remove_default(&one, "uplink")?;
    are(&one, &[])?;
    tells(&one, "this node has no uplink", true)?;
    let shown = one.ctl_output(&["status"])?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    ensure!(shown.contains("no uplink"), "{shown}");
    Ok(())
}

#[test]
fn an_interface_that_becomes_a_port_of_a_bridge_leaves_it_to_the_bridge() -> Result<()> {
    needs_root!();
    let (fleet, second) = (Fleet::new()?, Second::new()?);
    let one = node(&fleet, &second, ("one", ONE), &ONE.addresses(), &[])?;
    are(&one, &[("uplink", BY_ALL)])?;
    let a = Serving::on(&fleet, &one, "a")?;
    let _server = Answering::start(&fleet.router, "router", PORT)?;
    let (router4, router6) = ONE.subnet.router();
    let gateways = [IpAddr::from(router4), router6.into()];
    let reaches_out = |what: &str| {
        in_time(what, || {
            for (router, own) in gateways.into_iter().zip(ONE.addresses()) {
                is_seen_as(&a.pod, SocketAddr::new(router, PORT), &[own])?;
            }
            Ok(())
        })
    };
    reaches_out("by the interface")?;

    // As a network manager does it, with the daemon looking on.
    let netns = one.netns();
    netns.ip("link add br0 type bridge")?;
    netns.ip("link set br0 up")?;
    netns.ip("address flush dev uplink scope global")?;
    netns.ip("link set uplink master br0")?;
    netns.ip(&format!("address add {}/24 dev br0", ONE.ipv4()))?;
    netns.ip(&format!("address add {}/64 dev br0 nodad", ONE.ipv6()))?;
    put_default(&one, gateways, "br0", 1024)?;
    become_soon(&one, &[("br0", BY_ALL)])?;
    reaches_out("by the bridge")?;
    ensure!(has_programs(&one, "br0")? && !has_programs(&one, "uplink")?);
    Ok(())
}

/// Sends a frame out of an interface as it is.
fn send_frame(netns: &Netns, ifname: &str, frame: &[u8]) -> Result<()> {
    netns.inside(|| {
        let sender = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
        let index = nix::net::if_::if_nametoindex(ifname)?;
        let to = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET.try_into()?,
            sll_protocol: 0,
            sll_ifindex: index.try_into()?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0; 8],
        };
        let length = size_of::<libc::sockaddr_ll>().try_into()?;
        // SAFETY: the address is that of a whole `sockaddr_ll`, and is read before it goes.
        let to = unsafe { LinkAddr::from_raw((&raw const to).cast(), Some(length)) }.context("an address")?;
        sendto(sender.as_raw_fd(), frame, &to, MsgFlags::empty())?;
        Ok(())
    })
}

#[test]
fn a_frame_of_a_vlan_is_left_to_the_vlan_s_interface() -> Result<()> {
    needs_root!();
    let fleet = Fleet::new()?;
    let one = fleet.node("one", ONE, &[])?;
    let a = Serving::on(&fleet, &one, "a")?;
    let mac_of = |netns: &Netns, ifname: &str| -> Result<[u8; 6]> {
        let links: serde_json::Value =
            serde_json::from_str(&netns.ip(&format!("-json link show dev {ifname}"))?)?;
        let text = links[0]["address"].as_str().context("an Ethernet address")?.to_owned();
        let bytes =
            text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
        bytes.try_into().ok().context("six bytes")
    };
    let (there, own) = (mac_of(fleet.router.netns(), "lan1")?, mac_of(one.netns(), "uplink")?);
    let (router4, router6) = ONE.subnet.router();
    // No tag; a priority without a number; a VLAN's.
    for (tag, arrives) in [(None, true), (Some(0_u16), true), (Some(100), false)] {
        for address in a.pod.addresses() {
            let mark = format!("tagged {tag:?} for {address}");
            let tap = a.pod.tap(&mark)?;
            let frame = PacketBuilder::ethernet2(there, own);
            let frame = match address {
                IpAddr::V4(ip) => frame.ipv4(router4.octets(), ip.octets(), 64),
                IpAddr::V6(ip) => frame.ipv6(router6.octets(), ip.octets(), 64),
            };
            let mut bytes = Vec::new();
            frame.udp(4000, 4000).write(&mut bytes, mark.as_bytes())?;
            if let Some(number) = tag {
                let [high, low] = u16::to_be_bytes(number);
                bytes.splice(12..12, [0x81, 0x00, high, low]);
            }
            send_frame(fleet.router.netns(), "lan1-11", &bytes)?;
            let came =
                eventually(if arrives { PATIENCE } else { Duration::from_millis(300) }, || tap.count() > 0);
            ensure!(came == arrives, "{mark}: {came}");
        }
    }
    Ok(())
}

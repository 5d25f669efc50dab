//! Floods of a pod and of the wire, with packets that pass the whole node.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use integration::{
    needs_root,
    testbed::{
        Answering, Asking, Frames, Machine, NEIGHBOUR4, NEIGHBOUR6, NODE4, NODE6, Node, Pod, eventually,
    },
};

use crate::scene::{Ends, node, of_pod, of_wire, open};

fn syn(ends: Ends, from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16)) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ends.from, ends.to)
        .ipv4(from.octets(), to.octets(), 64)
        .tcp(ports.0, ports.1, 1, 65_000)
        .syn()
        .write(&mut frame, &[])?;
    Ok(frame)
}

/// Sends as many SYNs, each from another address or port.
fn flood(
    frames: &Frames,
    ends: Ends,
    count: u32,
    from: impl Fn(u32) -> (Ipv4Addr, u16),
    to: Ipv4Addr,
) -> Result<()> {
    for number in 0..count {
        let (address, port) = from(number);
        // A full queue loses some, as a wire does.
        let _ = frames.send(&syn(ends, address, to, (port, 8080))?);
    }
    Ok(())
}

#[test]
fn floods_of_a_pod_and_of_the_wire_leave_connections_alone_and_let_new_ones_in() -> Result<()> {
    needs_root!();
    let node = node()?;
    let (victim, flooder) = (open(&node, "victim")?, open(&node, "flooder")?);
    let _far = Answering::start(&node.neighbour, "far", 8080)?;
    let _near = Answering::start(&victim, "near", 8080)?;
    node.neighbour.netns().ip(&format!("route add {} via {NODE4}", victim.ipv4()))?;
    let far = (IpAddr::from(NEIGHBOUR4), 8080).into();
    let near = (IpAddr::from(victim.ipv4()), 8080).into();
    let mut out = victim.converse(far)?;
    let mut across = flooder.converse(near)?;
    let (wire, wire_ends) = of_wire(&node)?;
    let (inside, pod_ends) = of_pod(&flooder)?;
    let strange = u32::from(Ipv4Addr::new(100, 64, 0, 0));
    for round in 0..3_u32 {
        // 150,000 to the victim and 150,000 of the flooder, who has one address and many ports.
        flood(
            &wire,
            wire_ends,
            50_000,
            |number| ((strange + round * 50_000 + number).into(), 4_000),
            victim.ipv4(),
        )?;
        let port = |number| u16::try_from(1_000 + (number + round * 50_000) % 60_000).unwrap_or(1);
        flood(&inside, pod_ends, 50_000, |number| (flooder.ipv4(), port(number)), NEIGHBOUR4)?;
        out.goes_on().with_context(|| format!("round {round}: the victim's connection out"))?;
        across.goes_on().with_context(|| format!("round {round}: the connection between pods"))?;
        victim.converse(far)?.goes_on().with_context(|| format!("round {round}: a new one out"))?;
        node.neighbour.converse(near)?.goes_on().with_context(|| format!("round {round}: a new one in"))?;
    }
    let used = &node.status()?["conntrack"]["ipv4"];
    ensure!(used["entries"].as_u64() < used["capacity"].as_u64(), "{used}");
    // The line of those that wait is full, once the next sweep has counted; who reads the status learns of it.
    let is_told = || {
        node.status().is_ok_and(|status| {
            let full = &status["maps"]["waiting4"];
            full["capacity"] == 4_096
                && full["entries"].as_u64() > Some(3_686)
                && status["problems"].to_string().contains("the map waiting4 is nearly full")
        })
    };
    ensure!(eventually(Duration::from_secs(40), is_told), "{}", node.status()?);
    Ok(())
}

/// A SYN of the stranger with this number or, blind, the segment that would go on.
fn forged(ends: Ends, number: u32, to: SocketAddr, blind: bool) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2(ends.from, ends.to);
    let builder = match to.ip() {
        IpAddr::V4(to) => {
            let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + number);
            builder.ipv4(from.octets(), to.octets(), 64)
        }
        IpAddr::V6(to) => {
            let strange = Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 0);
            builder.ipv6((u128::from(strange) + u128::from(number)).to_be_bytes(), to.octets(), 64)
        }
    };
    let step = builder.tcp(4_000, to.port(), 1, 65_000);
    let step = if blind { step.ack(77) } else { step.syn() };
    let mut frame = Vec::new();
    step.write(&mut frame, &[])?;
    Ok(frame)
}

/// A connection of a pod to a server beyond the node, from both ends.
fn idle(node: &Node, pod: &Pod<'_>, at: IpAddr) -> Result<(TcpStream, TcpStream)> {
    let listener = node.neighbour.netns().inside(|| TcpListener::bind((at, 0)))?;
    let to = listener.local_addr()?;
    let client = pod.netns().inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(30)))?;
    client.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok((client, listener.accept()?.0))
}

#[test]
fn blind_acknowledgements_leave_idle_connections_alone() -> Result<()> {
    needs_root!();
    let node = node()?;
    let (quiet, victim) = (open(&node, "quiet")?, open(&node, "victim")?);
    let _open = Answering::start(&victim, "victim", 8080)?;
    let netns = node.neighbour.netns();
    netns.ip(&format!("route add {} via {NODE4}", victim.ipv4()))?;
    netns.ip(&format!("route add {} via {NODE6}", victim.ipv6()))?;
    let mut idle4 = idle(&node, &quiet, NEIGHBOUR4.into())?;
    let mut idle6 = idle(&node, &quiet, NEIGHBOUR6.into())?;
    let (wire, ends) = of_wire(&node)?;
    for (to, closed) in [(IpAddr::from(victim.ipv4()), 81), (IpAddr::from(victim.ipv6()), 81)] {
        // More than the table has entries, in turns: the answer to the SYN comes before the segment.
        for turn in 0..60 {
            for blind in [false, true, true] {
                for number in turn * 200..(turn + 1) * 200 {
                    let port = if number % 4 == 0 { closed } else { 8080 };
                    let _ = wire.send(&forged(ends, number, (to, port).into(), blind)?);
                }
            }
        }
    }
    // Their servers speak next: nothing but the entry says whose the port is.
    for (client, server) in [&mut idle4, &mut idle6] {
        server.write_all(b"next")?;
        let mut heard = [0; 4];
        client.read_exact(&mut heard).context("an idle connection is lost")?;
    }
    // And what the stranger has sent is no connection, but for a lucky number in 32,768.
    let listed = node.ctl(&["ct", "list", "--address", &victim.ipv4().to_string()])?;
    let waits = |state: &str| matches!(state, "new" | "answered" | "closed");
    let (waiting, connections): (Vec<_>, Vec<_>) =
        listed.as_array().context("a list")?.iter().partition(|it| it["state"].as_str().is_some_and(waits));
    ensure!(
        waiting.len() > 100 && connections.len() < 10,
        "{} of {}: {connections:?}",
        connections.len(),
        waiting.len()
    );
    Ok(())
}

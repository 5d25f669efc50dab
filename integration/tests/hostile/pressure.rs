//! Floods of a pod and of the wire, with packets that pass the whole node.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use integration::{
    needs_root,
    testbed::{Answering, Asking, Frames, Machine, NEIGHBOUR4, NODE4},
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
    Ok(())
}

//! Datagrams in pieces arrive in whatever order the pieces come.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use etherparse::PacketBuilder;
use integration::{
    needs_root,
    testbed::{Machine, NEIGHBOUR4, NEIGHBOUR6, Netns},
};

use crate::scene::{Ends, node, of_pod, of_wire, open, pieces};

const PORT: u16 = 7777;
const SAID: [u8; 1400] = [7; 1400];

fn datagram(ends: Ends, from: IpAddr, to: IpAddr) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2(ends.from, ends.to);
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
        _ => bail!("{from} and {to} are not of one family"),
    };
    let mut frame = Vec::new();
    builder.udp(40_000, PORT).write(&mut frame, &SAID)?;
    Ok(frame)
}

/// A socket that waits for datagrams.
fn listen(netns: &Netns, address: IpAddr) -> Result<UdpSocket> {
    let socket = netns.inside(|| UdpSocket::bind(SocketAddr::new(address, PORT)))?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(socket)
}

#[test]
fn pieces_that_overtake_each_other_arrive() -> Result<()> {
    needs_root!();
    let node = node()?;
    let (a, b) = (open(&node, "a")?, open(&node, "b")?);
    let ((pod, of_a), (wire, of_far)) = (of_pod(&a)?, of_wire(&node)?);
    for (a, of_b, far) in [
        (IpAddr::from(a.ipv4()), IpAddr::from(b.ipv4()), IpAddr::from(NEIGHBOUR4)),
        (a.ipv6().into(), b.ipv6().into(), NEIGHBOUR6.into()),
    ] {
        let (inside, outside) = (listen(b.netns(), of_b)?, listen(node.neighbour.netns(), far)?);
        for (frames, ends, from, to, socket) in [
            (&pod, of_a, a, of_b, &inside),
            (&pod, of_a, a, far, &outside),
            (&wire, of_far, far, of_b, &inside),
        ] {
            let frame = datagram(ends, from, to)?;
            for id in 1..=20 {
                let [first, later] = pieces(&frame, id)?;
                // The way of the others.
                let order = if id == 1 { [&first, &later] } else { [&later, &first] };
                for piece in order {
                    frames.send(piece)?;
                }
                let mut datagram = [0; 1500];
                let length = socket.recv(&mut datagram).with_context(|| {
                    format!("{from} to {to}, {id}: {:?}", node.status().map(|it| it["drops"].clone()))
                })?;
                ensure!(datagram[..length] == SAID, "{from} to {to}, {id}: {length} bytes");
            }
        }
    }
    Ok(())
}

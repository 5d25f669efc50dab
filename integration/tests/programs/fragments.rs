//! Datagrams in pieces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, PacketBuilder};
use integration::programs::{
    Bench, DROP, FAR4, FAR6, Knobs, Local, NODE4, NODE6, PASS, REDIRECT, Served, Tally, ip,
};

use crate::packets::*;

/// A bench whose clock stands: pieces of a datagram that come far apart are not taken for such.
fn bench() -> Bench {
    Bench::new(&Knobs { tick: Some(1_000), ..Knobs::default() }).unwrap()
}

/// A piece of a UDP datagram; `offset` in units of 8 bytes.
fn piece4(from: &Local, to: Ipv4Addr, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut header = Ipv4Header::new(
        u16::try_from(payload.len()).unwrap(),
        64,
        IpNumber::UDP,
        from.ipv4.octets(),
        to.octets(),
    )
    .unwrap();
    header.identification = 99;
    header.dont_fragment = false;
    header.more_fragments = more;
    header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut packet = Vec::new();
    Ethernet2Header { source: from.mac, destination: from.host_mac, ether_type: etherparse::EtherType::IPV4 }
        .write(&mut packet)
        .unwrap();
    header.write(&mut packet).unwrap();
    packet.extend(payload);
    packet
}

#[test]
fn later_fragments_follow_the_first() {
    let bench = bench();
    let a = bench.a;
    let whole = udp4(&a, FAR4, (5000, 53));
    let first = piece4(&a, FAR4, 0, true, &whole[34..]);
    let later = piece4(&a, FAR4, 2, false, b"the rest of it");

    let before = bench.tally().unwrap();
    assert_eq!(bench.run("from_endpoint", a.ifindex, &later).unwrap().action, DROP);
    changes(&bench, &before, &[("unknown_fragment", 1)], (0, 0));

    let before = bench.tally().unwrap();
    assert_eq!(bench.run("from_endpoint", a.ifindex, &first).unwrap().action, REDIRECT);
    let ran = bench.run("from_endpoint", a.ifindex, &later).unwrap();
    assert_eq!(ran.action, REDIRECT);
    let (header, rest) = Ipv4Header::from_slice(&ran.packet[14..]).unwrap();
    assert_eq!((header.source, header.time_to_live), (NODE4.octets(), 63));
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!(rest, b"the rest of it", "data is not taken for ports");
    changes(&bench, &before, &[], (2, 0));
}

#[test]
fn a_header_between_the_fragment_header_and_the_transport_does_not_matter() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let mut whole = Vec::new();
    PacketBuilder::ethernet2(a.mac, a.host_mac)
        .ipv6(a.ipv6.octets(), b.ipv6.octets(), 64)
        .udp(5000, 53)
        .write(&mut whole, b"payload")
        .unwrap();
    // Destination options, then UDP.
    let mut begins = vec![17, 0, 1, 4, 0, 0, 0, 0];
    begins.extend(&whole[54..]);
    begins.push(0);
    let first = piece6_of(&whole, 60, 0, true, &begins);
    let later = piece6_of(&whole, 60, 3, false, b"the rest of it");
    for packet in [&first, &later] {
        assert_eq!(bench.run("from_endpoint", a.ifindex, packet).unwrap().action, REDIRECT);
    }
    assert_eq!(bench.tally().unwrap().flows, (0, 1), "both are of one flow");
}

#[test]
fn a_piece_that_overtakes_its_first_is_counted_at_a_node_port_too() {
    let bench = bench();
    let a = bench.a;
    let outside = Local { ipv4: FAR4, mac: [2; 6], host_mac: bench.uplink_mac, ..a };
    bench.serve(&Served::udp(1, (NODE4, 30_080).into(), &[(a.ipv4, 8080).into()])).unwrap();
    for (port, action, counted) in [(30_080, REDIRECT, 2), (40_000, PASS, 0)] {
        let whole = udp4(&outside, NODE4, (5000, port));
        let first = piece4(&outside, NODE4, 0, true, &whole[34..]);
        let later = piece4(&outside, NODE4, 2, false, b"the rest of it");
        let before = bench.tally().unwrap();
        for _ in 0..2 {
            assert_eq!(bench.run("from_network", bench.uplink, &later).unwrap().action, PASS);
        }
        changes(&bench, &before, &[], (0, 0));
        assert_eq!(bench.run("from_network", bench.uplink, &first).unwrap().action, action);
        assert_eq!(bench.drops().unwrap().get("early_fragment").copied().unwrap_or(0), counted);
        assert_eq!(bench.run("from_network", bench.uplink, &later).unwrap().action, action);
        // The next datagram has another number.
        bench.forget_pieces().unwrap();
        bench.forget_drops().unwrap();
    }
}

#[test]
fn pieces_that_are_larger_than_the_way_are_cut_by_the_host() {
    let bench = bench();
    ip("route add 198.51.100.1 via 192.0.2.1 mtu lock 1300").unwrap();
    let client = Ipv4Addr::new(203, 0, 113, 9);
    let outside = Local { ipv4: client, mac: [2; 6], host_mac: bench.uplink_mac, ..bench.a };
    bench.serve(&Served::udp(1, (NODE4, 30_080).into(), &[(FAR4, 8080).into()])).unwrap();
    let mut whole = Vec::new();
    PacketBuilder::ethernet2([2; 6], bench.uplink_mac)
        .ipv4(client.octets(), NODE4.octets(), 64)
        .udp(5000, 30_080)
        .write(&mut whole, &[7; 1440])
        .unwrap();
    let first = piece4(&outside, NODE4, 0, true, &whole[34..]);
    // Small enough, but one that has the first may put them together.
    let later = piece4(&outside, NODE4, 181, false, b"the rest of it");
    let before = bench.tally().unwrap();
    let mut ports = Vec::new();
    for packet in [&first, &later] {
        let ran = bench.run("from_network", bench.uplink, packet).unwrap();
        assert_eq!(ran.action, PASS);
        let (header, _) = Ipv4Header::from_slice(&ran.packet[14..]).unwrap();
        assert_eq!((header.source, header.destination), (client.octets(), FAR4.octets()));
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        // As the stack sends it, where it leaves.
        let out = bench.run("to_network", bench.uplink, &ran.packet).unwrap();
        assert_eq!(out.action, PASS);
        let (header, rest) = Ipv4Header::from_slice(&out.packet[14..]).unwrap();
        assert_eq!((header.source, header.destination), (NODE4.octets(), FAR4.octets()));
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        ports.push(u16::from_be_bytes([rest[0], rest[1]]));
    }
    assert!((10_000..30_000).contains(&ports[0]), "{ports:?}");
    // Near view, far view, and the stack's.
    changes(&bench, &before, &[], (3, 0));
    // What may not be cut is refused, and its sender told.
    let mut whole_piece = first.clone();
    whole_piece[20] |= 0x40;
    let mut header = Ipv4Header::from_slice(&whole_piece[14..]).unwrap().0;
    header.header_checksum = header.calc_header_checksum();
    whole_piece[24..26].copy_from_slice(&header.header_checksum.to_be_bytes());
    let told = bench.run("from_network", bench.uplink, &whole_piece).unwrap();
    assert_eq!((told.action, told.packet[34..36].to_vec()), (REDIRECT, vec![3, 4]));
}

/// A UDP datagram in two pieces, the first of which has the ports.
fn pieces(macs: [[u8; 6]; 2], from: IpAddr, to: IpAddr, ports: (u16, u16), id: u16) -> [Vec<u8>; 2] {
    let mut whole = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            PacketBuilder::ethernet2(macs[0], macs[1])
                .ipv4(from.octets(), to.octets(), 64)
                .udp(ports.0, ports.1)
                .write(&mut whole, b"payload.")
                .unwrap();
            let sender = Local {
                ifindex: 0,
                ipv4: from,
                ipv6: Ipv6Addr::UNSPECIFIED,
                mac: macs[0],
                host_mac: macs[1],
                slot: 0,
            };
            [piece4(&sender, to, 0, true, &whole[34..]), piece4(&sender, to, 2, false, b"the rest")]
                .map(|piece| numbered(&piece, id))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            PacketBuilder::ethernet2(macs[0], macs[1])
                .ipv6(from.octets(), to.octets(), 64)
                .udp(ports.0, ports.1)
                .write(&mut whole, b"payload.")
                .unwrap();
            [piece6(&whole, 0, true, &whole[54..]), piece6(&whole, 2, false, b"the rest")].map(|mut piece| {
                piece[60..62].copy_from_slice(&id.to_be_bytes());
                piece
            })
        }
        _ => panic!("{from} and {to} are not of one family"),
    }
}

/// Where a packet is from, as it says.
fn source_of(packet: &[u8]) -> IpAddr {
    if packet[12] == 8 {
        IpAddr::from(<[u8; 4]>::try_from(&packet[26..30]).unwrap())
    } else {
        IpAddr::from(<[u8; 16]>::try_from(&packet[22..38]).unwrap())
    }
}

/// The endpoint, as each family has it.
fn addresses(local: &Local) -> [IpAddr; 2] {
    [local.ipv4.into(), local.ipv6.into()]
}

#[test]
fn pieces_that_overtake_their_first_follow_the_datagram_before() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let (of_a, wire) = ([a.mac, a.host_mac], [[2; 6], bench.uplink_mac]);
    for family in 0..2 {
        let [a4, b4] = [&a, &b].map(|local| addresses(local)[family]);
        let (far, node) = ([FAR4.into(), FAR6.into()][family], [NODE4.into(), NODE6.into()][family]);
        for (program, ifindex, macs, from, to, seen) in [
            ("from_endpoint", a.ifindex, of_a, a4, b4, a4),
            ("from_endpoint", a.ifindex, of_a, a4, far, node),
            ("from_network", bench.uplink, wire, far, a4, far),
        ] {
            let run = |packet: &[u8]| bench.run(program, ifindex, packet).unwrap();
            // Of the datagrams that are swapped, nobody knows where the first leads.
            let before = bench.tally().unwrap();
            let [first, later] = pieces(macs, from, to, (5000, 53), 1);
            assert_ne!(run(&later).action, REDIRECT);
            assert_eq!(run(&first).action, REDIRECT);
            for id in 2..102 {
                // Of other flows, too.
                let [first, later] = pieces(macs, from, to, (5000 + id % 3, 53), id);
                for piece in [&later, &first] {
                    let ran = run(piece);
                    assert_eq!(ran.action, REDIRECT, "{program} {from} {to} {id}: {:?}", bench.drops());
                    assert_eq!(source_of(&ran.packet), seen);
                }
                let ran = run(&later);
                assert!(ran.packet.ends_with(b"the rest"), "data is not taken for ports");
            }
            let views = if seen == from { 3 } else { 6 };
            let lost: &[_] = if program == "from_endpoint" { &[("unknown_fragment", 1)] } else { &[] };
            changes(&bench, &before, lost, if family == 0 { (views, 0) } else { (0, views) });
        }
        // By another interface nobody speaks of these.
        let [_, later] = pieces([b.mac, b.host_mac], a4, far, (5000, 53), 300);
        let before = bench.tally().unwrap();
        assert_eq!(bench.run("from_endpoint", b.ifindex, &later).unwrap().action, DROP);
        changes(&bench, &before, &[("unknown_fragment", 1)], (0, 0));
    }
}

#[test]
fn a_piece_that_overtakes_its_first_is_policed_as_the_flow_before_and_opens_none() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let macs = [a.mac, a.host_mac];
    for family in 0..2 {
        let [from, to] = [&a, &b].map(|local| addresses(local)[family]);
        let run = |packet: &[u8]| bench.run("from_endpoint", a.ifindex, packet).unwrap().action;
        let [first, _] = pieces(macs, from, to, (5000, 53), 1);
        assert_eq!(run(&first), REDIRECT);
        let [_, later] = pieces(macs, from, to, (5000, 53), 2);
        // What is refused now is refused of pieces, too: the slot of nobody has no posture.
        bench.place_endpoint(&Local { slot: 77, ..b }).unwrap();
        bench.raise_epoch().unwrap();
        let before = bench.tally().unwrap();
        assert_eq!(run(&later), DROP);
        changes(&bench, &before, &[("policy_unknown", 1)], (0, 0));
        bench.place_endpoint(&b).unwrap();
        bench.raise_epoch().unwrap();
        assert_eq!(run(&later), REDIRECT);
        // Once that flow's time is over, it leads nobody.
        bench.set_tick(10_000 * (u32::try_from(family).unwrap() + 1)).unwrap();
        let before = bench.tally().unwrap();
        assert_eq!(run(&later), DROP);
        bench.forget_flows().unwrap();
        assert_eq!(run(&later), DROP);
        assert_eq!(bench.tally().unwrap().flows, (0, 0));
        let counted = |tally: &Tally| {
            tally.drops.iter().find(|(name, _)| *name == "early_fragment").map_or(0, |(_, n)| *n)
        };
        assert_eq!(counted(&bench.tally().unwrap()) - counted(&before), 2);
    }
}

#[test]
fn a_piece_is_led_to_no_backend_by_the_datagram_before() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let macs = [a.mac, a.host_mac];
    for (family, number) in [(0, 1), (1, 3)] {
        let service: IpAddr = ["10.96.0.10".parse().unwrap(), "fd00:96::10".parse().unwrap()][family];
        let [from, backend] = [&a, &b].map(|local| addresses(local)[family]);
        bench.serve(&Served::udp(number, (service, 53).into(), &[(backend, 8053).into()])).unwrap();
        let run = |packet: &[u8]| bench.run("from_endpoint", a.ifindex, packet).unwrap().action;
        for (id, action) in [(1, REDIRECT), (2, DROP)] {
            let [first, later] = pieces(macs, from, service, (5000, 53), id);
            if id == 1 {
                assert_eq!(run(&first), REDIRECT);
            }
            let before = bench.tally().unwrap();
            assert_eq!(run(&later), action);
            let counted: &[_] = if action == DROP { &[("early_fragment", 1)] } else { &[] };
            changes(&bench, &before, counted, (0, 0));
            assert_eq!(run(&first), REDIRECT);
            assert_eq!(run(&later), REDIRECT);
        }
    }
}

/// The same piece of another datagram.
fn numbered(piece: &[u8], id: u16) -> Vec<u8> {
    let mut piece = piece.to_vec();
    piece[18..20].copy_from_slice(&id.to_be_bytes());
    let mut header = Ipv4Header::from_slice(&piece[14..]).unwrap().0;
    header.header_checksum = header.calc_header_checksum();
    piece[24..26].copy_from_slice(&header.header_checksum.to_be_bytes());
    piece
}

#[test]
fn forged_first_pieces_neither_evict_a_datagram_nor_change_its_ports() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let first = piece4(&a, FAR4, 0, true, &udp4(&a, FAR4, (5000, 53))[34..]);
    let later = piece4(&a, FAR4, 2, false, b"the rest of it");
    assert_eq!(bench.run("from_endpoint", a.ifindex, &first).unwrap().action, REDIRECT);
    // b says that it is a, with other ports, of this datagram and of 20,000 others.
    let forged = piece4(
        &Local { mac: b.mac, host_mac: b.host_mac, ..a },
        FAR4,
        0,
        true,
        &udp4(&a, FAR4, (6000, 99))[34..],
    );
    let before = bench.tally().unwrap();
    assert_eq!(bench.run("from_endpoint", b.ifindex, &forged).unwrap().action, DROP);
    for id in 1_000..21_000 {
        assert_eq!(bench.run("from_endpoint", b.ifindex, &numbered(&forged, id)).unwrap().action, DROP);
    }
    changes(&bench, &before, &[("foreign_source", 20_001)], (0, 0));
    let before = bench.tally().unwrap();
    let ran = bench.run("from_endpoint", a.ifindex, &later).unwrap();
    assert_eq!(ran.action, REDIRECT, "{:?}", bench.drops());
    changes(&bench, &before, &[], (0, 0));
}

#[test]
fn an_endpoint_that_begins_datagrams_without_end_leaves_room_for_those_of_others() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let first = piece4(&a, FAR4, 0, true, &udp4(&a, FAR4, (5000, 53))[34..]);
    let later = piece4(&a, FAR4, 2, false, b"the rest of it");
    let flood = piece4(&b, FAR4, 0, true, &udp4(&b, FAR4, (6000, 53))[34..]);
    assert_eq!(bench.run("from_endpoint", a.ifindex, &first).unwrap().action, REDIRECT);
    // Each way in has its own datagrams, and a share of the room for them.
    let mut refused = 0;
    for id in 0..20_000 {
        match bench.run("from_endpoint", b.ifindex, &numbered(&flood, id)).unwrap().action {
            REDIRECT => {}
            action => {
                assert_eq!(action, DROP);
                refused += 1;
            }
        }
    }
    assert_eq!(bench.drops().unwrap().get("fragment_share").copied().unwrap_or(0), refused);
    for id in 0..10 {
        let (first, later) = (numbered(&first, 500 + id), numbered(&later, 500 + id));
        assert_eq!(
            bench.run("from_endpoint", a.ifindex, &first).unwrap().action,
            REDIRECT,
            "{:?}",
            bench.drops()
        );
        assert_eq!(
            bench.run("from_endpoint", a.ifindex, &later).unwrap().action,
            REDIRECT,
            "{:?}",
            bench.drops()
        );
    }
}

#[test]
fn a_piece_of_a_number_that_comes_again_is_of_another_datagram() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let wire = [[2; 6], bench.uplink_mac];
    for family in 0..2 {
        let (far, node) = ([FAR4.into(), FAR6.into()][family], [NODE4.into(), NODE6.into()][family]);
        let transport = [34, 54][family];
        // Both ask, and are masqueraded.
        let [to_a, to_b] = [a, b].map(|local| {
            let [first, _] =
                pieces([local.mac, local.host_mac], addresses(&local)[family], far, (5000, 53), 7);
            let whole = match family {
                0 => udp4(&local, FAR4, (5000, 53)),
                _ => udp6(&local, FAR6, (5000, 53)),
            };
            assert_eq!(bench.run("from_endpoint", local.ifindex, &first).unwrap().action, REDIRECT);
            let ran = bench.run("from_endpoint", local.ifindex, &whole).unwrap();
            u16::from_be_bytes([ran.packet[transport], ran.packet[transport + 1]])
        });
        assert_ne!(to_a, to_b);
        let run = |packet: &[u8]| bench.run("from_network", bench.uplink, packet).unwrap();
        let led_to = |packet: &[u8]| {
            let ran = run(packet);
            assert_eq!(ran.action, REDIRECT, "{:?}", bench.drops());
            <[u8; 6]>::try_from(&ran.packet[..6]).unwrap()
        };
        let [first, later] = pieces(wire, far, node, (53, to_a), 101);
        assert_eq!([led_to(&first), led_to(&later)], [a.mac, a.mac]);
        let tick = 1_001 + u32::try_from(family).unwrap();
        bench.set_tick(tick).unwrap();
        let [first, later] = pieces(wire, far, node, (53, to_b), 101);
        assert_eq!(run(&later).action, PASS, "it is not led to whom the last of that number was for");
        assert_eq!([led_to(&first), led_to(&later)], [b.mac, b.mac]);
    }
}

#[test]
fn the_wire_floods_with_pieces_and_those_of_others_arrive() {
    let bench = bench();
    let a = bench.a;
    let outside = Local { ipv4: FAR4, mac: [2; 6], host_mac: bench.uplink_mac, ..a };
    let flooder = Local { ipv4: Ipv4Addr::new(203, 0, 113, 66), ..outside };
    let of = |local: &Local, to| {
        let first = piece4(local, to, 0, true, &udp4(local, to, (5000, 53))[34..]);
        [first, piece4(local, to, 2, false, b"the rest of it")]
    };
    let by_wire = |packet: &[u8]| bench.run("from_network", bench.uplink, packet).unwrap().action;
    let by_pod = |packet: &[u8]| bench.run("from_endpoint", a.ifindex, packet).unwrap().action;
    let (sent, inside, flood) = (of(&outside, a.ipv4), of(&a, FAR4), of(&flooder, a.ipv4));
    // More than there is room for.
    for id in 0..40_000 {
        assert_eq!(by_wire(&numbered(&flood[0], id)), REDIRECT, "{id}: {:?}", bench.drops());
        if id % 5_000 == 0 {
            for piece in &sent {
                assert_eq!(by_wire(&numbered(piece, id)), REDIRECT, "{id}: {:?}", bench.drops());
            }
            for piece in &inside {
                assert_eq!(by_pod(&numbered(piece, id)), REDIRECT, "{id}: {:?}", bench.drops());
            }
        }
    }
    assert_eq!(bench.drops().unwrap().get("fragment_share").copied().unwrap_or(0), 0);
}

#[test]
fn a_later_piece_that_came_by_the_stack_does_not_leave_with_an_endpoints_address() {
    let bench = bench();
    let (a, far) = (bench.a, Local { ipv4: Ipv4Addr::new(203, 0, 113, 66), ..bench.a });
    let out = |packet: &[u8]| bench.run("to_network", bench.uplink, packet).unwrap();
    for family in 0..2 {
        let to = [FAR4.into(), FAR6.into()][family];
        let [first, later] = pieces([a.mac, a.host_mac], addresses(&a)[family], to, (5000, 53), 1);
        let before = bench.tally().unwrap();
        assert_eq!(out(&later).action, DROP);
        changes(&bench, &before, &[("unknown_fragment", 1)], (0, 0));
        // As it should be: the first tells of it.
        for piece in [&first, &later] {
            let ran = out(piece);
            assert_eq!(ran.action, PASS);
            assert_eq!(source_of(&ran.packet), [IpAddr::from(NODE4), NODE6.into()][family]);
        }
    }
    // What the node forwards for others is not its concern.
    let later = piece4(&far, FAR4, 2, false, b"the rest of it");
    assert_eq!(out(&later).action, PASS);
}

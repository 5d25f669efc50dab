//! Direct server return: who puts a mark into a packet, and which marks are believed.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use etherparse::{IpNumber, Ipv4Header, Ipv4Options};
use integration::programs::{Bench, FAR4, FAR6, NODE4, NODE6, REDIRECT, Ran, Served};
use integration::testbed::time_passes;

use crate::packets::*;

const CLIENT4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// Another node, where the client met the service.
const OTHER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 8);
const NODE_PORT: u16 = 30_080;

fn set_mode(bench: &Bench, dsr: bool) {
    bench.set_external(dsr, ("10.88.0.1".parse().unwrap(), "fd00:88::1".parse().unwrap())).unwrap();
}

/// A node with a backend of a node port, which knows another node.
fn backends_node(dsr: bool) -> Bench {
    let bench = bench();
    set_mode(&bench, dsr);
    let backend = (bench.a.ipv4, 8080).into();
    bench.serve(&Served::tcp(1, (Ipv4Addr::UNSPECIFIED, NODE_PORT).into(), &[backend])).unwrap();
    bench.serve(&Served::udp(1, (Ipv4Addr::UNSPECIFIED, NODE_PORT).into(), &[backend])).unwrap();
    bench.know_machine(OTHER4.into()).unwrap();
    bench
}

/// The packet with these options of its IP header.
fn with_options(packet: &[u8], options: &[u8]) -> Vec<u8> {
    let (mut header, rest) = Ipv4Header::from_slice(&packet[14..]).unwrap();
    header.options = Ipv4Options::try_from(options).unwrap();
    header.set_payload_len(rest.len()).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut marked = packet[..14].to_vec();
    header.write(&mut marked).unwrap();
    marked.extend(rest);
    marked
}

/// A segment of the client that another node has sent on, with the mark of where it was met.
fn marked(bench: &Bench, flags: u8, mark: Option<SocketAddrV4>) -> Vec<u8> {
    let plain = network4(bench, CLIENT4, bench.a.ipv4, (50_000, 8080), flags);
    mark.map_or_else(|| plain.clone(), |mark| with_options(&plain, &option(mark)))
}

fn option(mark: SocketAddrV4) -> Vec<u8> {
    [&[158, 8][..], &mark.port().to_be_bytes(), &mark.ip().octets()].concat()
}

fn arrive(bench: &Bench, packet: &[u8]) -> Ran {
    bench.run("from_network", bench.uplink, packet).unwrap()
}

/// Where the backend's answer comes from, as the client sees it.
fn answered_from(bench: &Bench) -> (IpAddr, u16) {
    let reply = tcp4(&bench.a, CLIENT4, (8080, 50_000), TCP_SYN_ACK);
    let ran = bench.run("from_endpoint", bench.a.ifindex, &reply).unwrap();
    assert_eq!(ran.action, REDIRECT);
    let left = seen(&ran.packet);
    (left.source, left.ports.0)
}

#[test]
fn a_mark_is_believed_in_this_mode_and_of_an_address_of_the_cluster_only() {
    let mark = SocketAddrV4::new(OTHER4, NODE_PORT);
    for (dsr, mark, source) in [
        (true, mark, (IpAddr::from(OTHER4), NODE_PORT)),
        (false, mark, (bench().a.ipv4.into(), 8080)),
        (true, SocketAddrV4::new(FAR4, NODE_PORT), (bench().a.ipv4.into(), 8080)),
        (true, SocketAddrV4::new(OTHER4, 22), (bench().a.ipv4.into(), 8080)),
    ] {
        let bench = backends_node(dsr);
        assert_eq!(arrive(&bench, &marked(&bench, TCP_SYN, Some(mark))).action, REDIRECT);
        assert_eq!(answered_from(&bench), source, "{dsr} {mark}");
    }
}

#[test]
fn a_mark_does_not_move_a_connection_that_lives() {
    let bench = backends_node(true);
    let third = Ipv4Addr::new(192, 0, 2, 9);
    bench.know_machine(third.into()).unwrap();
    let first = SocketAddrV4::new(OTHER4, NODE_PORT);
    arrive(&bench, &marked(&bench, TCP_SYN, Some(first)));
    let own = (IpAddr::from(OTHER4), NODE_PORT);
    assert_eq!(answered_from(&bench), own);
    // Anybody can write one.
    let second = Some(SocketAddrV4::new(third, NODE_PORT));
    assert_eq!(arrive(&bench, &marked(&bench, TCP_ACK, second)).action, REDIRECT);
    assert_eq!(answered_from(&bench), own);
    // The same client port by another node: refused at once, as from there.
    let refused = arrive(&bench, &marked(&bench, TCP_SYN, second));
    assert_eq!(refused.action, REDIRECT);
    let told = seen(&refused.packet);
    assert_eq!(
        (told.source, told.destination, told.ports),
        (third.into(), CLIENT4.into(), (NODE_PORT, 50_000))
    );
    assert_eq!(refused.packet[47], 0x14, "a reset");
    assert_eq!(bench.drops().unwrap()["port_taken"], 1);
    assert_eq!(answered_from(&bench), own);
    // Once the first has ended, the port is used again.
    arrive(&bench, &marked(&bench, TCP_RST, None));
    arrive(&bench, &marked(&bench, TCP_SYN, second));
    assert_eq!(answered_from(&bench), (third.into(), NODE_PORT));
}

#[test]
fn a_connection_that_was_forgotten_is_found_again() {
    let bench = backends_node(true);
    let mark = SocketAddrV4::new(OTHER4, NODE_PORT);
    arrive(&bench, &marked(&bench, TCP_SYN, Some(mark)));
    let own = (IpAddr::from(OTHER4), NODE_PORT);
    assert_eq!(answered_from(&bench), own);
    for first in [None, Some("client"), Some("backend")] {
        bench.forget_flows().unwrap();
        // Whoever sends next, the flow begins again.
        match first {
            Some("client") => {
                assert_eq!(arrive(&bench, &marked(&bench, TCP_ACK, None)).action, REDIRECT);
            }
            Some(_) => {
                bench
                    .run("from_endpoint", bench.a.ifindex, &tcp4(&bench.a, CLIENT4, (8080, 50_000), TCP_ACK))
                    .unwrap();
            }
            None => {}
        }
        assert_eq!(arrive(&bench, &marked(&bench, TCP_ACK, Some(mark))).action, REDIRECT);
        assert_eq!(answered_from(&bench), own, "{first:?}");
    }
}

#[test]
fn a_connection_reminds_the_backends_node_once_a_second() {
    let bench = bench();
    set_mode(&bench, true);
    bench.serve(&Served::tcp(1, (NODE4, NODE_PORT).into(), &[(FAR4, 8080).into()])).unwrap();
    let syn = network4(&bench, CLIENT4, NODE4, (50_000, NODE_PORT), TCP_SYN);
    let ack = network4(&bench, CLIENT4, NODE4, (50_000, NODE_PORT), TCP_ACK);
    assert_eq!(arrive(&bench, &syn).packet.len(), syn.len() + 8);
    time_passes(std::time::Duration::from_millis(1200), "a mark is repeated once a second");
    let sizes: Vec<_> = (0..5).map(|_| arrive(&bench, &ack).packet.len() - ack.len()).collect();
    assert_eq!(sizes[0], 8);
    assert!(sizes.iter().filter(|size| **size == 8).count() <= 2, "{sizes:?}");
}

#[test]
fn what_has_no_room_for_a_mark_goes_by_this_node_both_ways() {
    let bench = bench();
    set_mode(&bench, true);
    bench.serve(&Served::tcp(1, (NODE4, NODE_PORT).into(), &[(FAR4, 8080).into()])).unwrap();
    for (options, source) in [(32, CLIENT4), (36, NODE4), (40, NODE4)] {
        let port = 50_000 + u16::try_from(options).unwrap();
        let syn = network4(&bench, CLIENT4, NODE4, (port, NODE_PORT), TCP_SYN);
        let ran = arrive(&bench, &with_options(&syn, &vec![1; options]));
        assert_eq!(ran.action, REDIRECT);
        let (header, _) = Ipv4Header::from_slice(&ran.packet[14..]).unwrap();
        assert_eq!((header.source, header.protocol), (source.octets(), IpNumber::TCP), "{options}");
        assert_eq!(header.header_checksum, header.calc_header_checksum());
    }
    // Hop-by-hop options are the first header of IPv6, before any mark.
    bench.serve(&Served::tcp(2, (NODE6, NODE_PORT).into(), &[(FAR6, 8080).into()])).unwrap();
    let client = "2001:db8:9::9".parse().unwrap();
    let plain = network6(&bench, client, NODE6, (50_000, NODE_PORT), TCP_SYN);
    assert_eq!(seen(&arrive(&bench, &plain).packet).source, IpAddr::from(client));
    let plain = network6(&bench, client, NODE6, (50_001, NODE_PORT), TCP_SYN);
    let mut hop_by_hop = plain[..54].to_vec();
    hop_by_hop[20] = 0;
    hop_by_hop[18..20].copy_from_slice(&u16::try_from(plain.len() - 54 + 8).unwrap().to_be_bytes());
    hop_by_hop.extend([6, 0, 1, 4, 0, 0, 0, 0]);
    hop_by_hop.extend(&plain[54..]);
    let ran = arrive(&bench, &hop_by_hop);
    assert_eq!((ran.action, seen(&ran.packet).source), (REDIRECT, IpAddr::from(NODE6)));
    assert_eq!(ran.packet.len(), hop_by_hop.len());
}

#[test]
fn an_address_that_other_nodes_do_not_know_is_not_marked() {
    let bench = bench();
    set_mode(&bench, true);
    bench.serve_node_ports_at(NODE4).unwrap();
    let node_port = (Ipv4Addr::UNSPECIFIED, NODE_PORT).into();
    bench.serve(&Served::tcp(1, node_port, &[(FAR4, 8080).into()])).unwrap();
    let syn = network4(&bench, CLIENT4, NODE4, (50_000, NODE_PORT), TCP_SYN);
    let ran = arrive(&bench, &syn);
    assert_eq!((seen(&ran.packet).source, ran.packet.len()), (NODE4.into(), syn.len()));
    bench.know_machine(NODE4.into()).unwrap();
    let syn = network4(&bench, CLIENT4, NODE4, (50_001, NODE_PORT), TCP_SYN);
    let ran = arrive(&bench, &syn);
    assert_eq!((seen(&ran.packet).source, ran.packet.len()), (CLIENT4.into(), syn.len() + 8));
}

//! What the programs answer themselves: resets, and errors about what is too large.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bpf::layout::COUNTER_ANSWERS_SUPPRESSED;
use etherparse::{IpNumber, Ipv4Header, Ipv4Options, PacketBuilder, PacketHeaders, TcpHeader};
use integration::programs::{Bench, DROP, FAR4, FAR6, Knobs, Local, NODE4, NODE6, REDIRECT, Ran, Served, ip};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::packets::*;

const CLIENT4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const CLUSTER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const BARE: usize = 14 + 20 + 20;

/// The TCP header of an answer, every checksum of which is right.
#[track_caller]
fn reset(ran: &Ran, from: IpAddr, to: IpAddr) -> TcpHeader {
    assert_eq!(ran.action, REDIRECT);
    let seen = seen(&ran.packet);
    assert_eq!((seen.source, seen.destination, seen.hops), (from, to, 64));
    let headers = PacketHeaders::from_ethernet_slice(&ran.packet).unwrap();
    assert!(headers.payload.slice().is_empty());
    let tcp = headers.transport.unwrap().tcp().unwrap();
    assert!(tcp.rst && tcp.options.as_slice().is_empty(), "{tcp:?}");
    tcp
}

/// A segment with these options of its IP header, its TCP header, and data; padded to the least that Ethernet carries.
fn segment(
    from: Ipv4Addr,
    to: Ipv4Addr,
    options: &[u8],
    make: impl Fn(&mut TcpHeader),
    data: &[u8],
) -> Vec<u8> {
    let mut tcp = TcpHeader::new(40_000, 80, 1000, 65_000);
    make(&mut tcp);
    let mut ip = Ipv4Header::new(0, 3, IpNumber::TCP, from.octets(), to.octets()).unwrap();
    ip.options = Ipv4Options::try_from(options).unwrap();
    ip.set_payload_len(tcp.header_len() + data.len()).unwrap();
    ip.header_checksum = ip.calc_header_checksum();
    tcp.checksum = tcp.calc_checksum_ipv4(&ip, data).unwrap();
    let mut packet = vec![2; 12];
    packet.extend([8, 0]);
    ip.write(&mut packet).unwrap();
    tcp.write(&mut packet).unwrap();
    packet.extend(data);
    packet.resize(packet.len().max(60), 0);
    packet
}

#[test]
fn every_segment_to_a_service_without_backends_is_reset() {
    let bench = bench();
    bench.serve(&Served::tcp(1, (NODE4, 80).into(), &[])).unwrap();
    let syn = |tcp: &mut TcpHeader| tcp.syn = true;
    let ack = |tcp: &mut TcpHeader| {
        tcp.ack = true;
        tcp.acknowledgment_number = 77;
    };
    let with_options = |tcp: &mut TcpHeader| {
        tcp.syn = true;
        tcp.set_options_raw(&[2, 4, 5, 180]).unwrap();
    };
    let run = |packet: &[u8]| {
        let mut packet = packet.to_vec();
        packet[..6].copy_from_slice(&bench.uplink_mac);
        bench.run("from_network", bench.uplink, &packet).unwrap()
    };
    // Of 54 and 58 bytes, with options, with data: of a SYN, and of a connection that was there.
    for (options, data) in [(&[][..], &b""[..]), (&[1, 1, 1, 0], b""), (&[], b"data"), (&[1; 36], &[7; 900])]
    {
        let length = u32::try_from(data.len()).unwrap();
        for packet in [
            segment(CLIENT4, NODE4, options, syn, data),
            segment(CLIENT4, NODE4, options, with_options, data),
        ] {
            let ran = run(&packet);
            let tcp = reset(&ran, NODE4.into(), CLIENT4.into());
            assert!(tcp.ack, "{tcp:?}");
            assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (0, 1001 + length));
            assert_eq!(ran.packet.len(), BARE);
        }
        let tcp = reset(&run(&segment(CLIENT4, NODE4, options, ack, data)), NODE4.into(), CLIENT4.into());
        assert!(!tcp.ack, "{tcp:?}");
        assert_eq!((tcp.sequence_number, tcp.source_port, tcp.destination_port), (77, 80, 40_000));
    }
    // Nobody answers a reset.
    let silent = run(&segment(CLIENT4, NODE4, &[], |tcp| tcp.rst = true, b""));
    assert_eq!(silent.action, DROP);
}

#[test]
fn segments_of_ipv6_are_reset_too() {
    let bench = bench();
    bench.serve(&Served::tcp(1, (NODE6, 80).into(), &[])).unwrap();
    let client = "2001:db8:9::9".parse().unwrap();
    let plain = network6(&bench, client, NODE6, (40_000, 80), TCP_ACK);
    // Destination options behind the header.
    let mut with_options = plain[..54].to_vec();
    with_options[20] = 60;
    with_options[18..20].copy_from_slice(&u16::try_from(plain.len() - 54 + 8).unwrap().to_be_bytes());
    with_options.extend([6, 0, 1, 4, 0, 0, 0, 0]);
    with_options.extend(&plain[54..]);
    for packet in [plain, with_options] {
        let ran = bench.run("from_network", bench.uplink, &packet).unwrap();
        assert_eq!(reset(&ran, NODE6.into(), client.into()).sequence_number, 7);
    }
}

#[test]
fn a_connection_that_lives_is_reset_where_no_backend_is_left_on_the_node() {
    let bench = bench();
    let a = bench.a;
    let service = Served::tcp(1, (NODE4, 80).into(), &[(a.ipv4, 8080).into()]);
    bench.serve(&service).unwrap();
    let send = |port, flags| {
        bench.run("from_network", bench.uplink, &network4(&bench, CLIENT4, NODE4, (port, 80), flags)).unwrap()
    };
    assert_eq!(seen(&send(40_000, TCP_SYN).packet).destination, IpAddr::from(a.ipv4));
    bench.part(&Served { elsewhere: true, ..service }, (a.ipv4, 8080).into()).unwrap();
    reset(&send(40_000, TCP_ACK), NODE4.into(), CLIENT4.into());
    assert_eq!(send(40_001, TCP_SYN).action, DROP, "who connects goes to another node");
    assert_eq!(bench.drops().unwrap()["no_local_backend"], 2);
}

#[test]
fn a_port_that_is_taken_is_refused_at_once() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let cluster = SocketAddr::from((CLUSTER, 80));
    bench.serve(&Served::tcp(1, cluster, &[(b.ipv4, 8080).into()])).unwrap();
    bench.run("from_endpoint", a.ifindex, &tcp4(&a, CLUSTER, (40_000, 80), TCP_SYN)).unwrap();
    let ran = bench.run("from_endpoint", a.ifindex, &tcp4(&a, b.ipv4, (40_000, 8080), TCP_SYN)).unwrap();
    reset(&ran, b.ipv4.into(), a.ipv4.into());
}

#[test]
fn an_error_quotes_options_and_the_first_of_the_pieces() {
    let bench = bench();
    let client: std::net::Ipv6Addr = "2001:db8:9::9".parse().unwrap();
    ip("route add 2001:db8:1::1 via 2001:db8::1 dev up0 mtu lock 1300").unwrap();
    bench.serve(&Served::udp(1, (NODE6, 30_080).into(), &[(FAR6, 8080).into()])).unwrap();
    let mut whole = Vec::new();
    PacketBuilder::ethernet2([2; 6], bench.uplink_mac)
        .ipv6(client.octets(), NODE6.octets(), 64)
        .udp(5000, 30_080)
        .write(&mut whole, &[7; 1440])
        .unwrap();
    let first = piece6(&whole, 0, true, &whole[54..54 + 1400]);
    let ran = bench.run("from_network", bench.uplink, &first).unwrap();
    assert_eq!(ran.action, REDIRECT);
    // The checksum is verified.
    let answer = seen(&ran.packet);
    assert_eq!((answer.source, answer.destination), (NODE6.into(), client.into()));
    assert_eq!(ran.packet[54..56], [2, 0], "packet too big");
    assert_eq!(ran.packet[58..62], 1300_u32.to_be_bytes());
    assert_eq!(ran.packet[62..], first[14..14 + 40 + 8 + 8], "the piece as far as its ports");
    assert_eq!(bench.drops().unwrap()["too_large"], 1);
    // With options of the IP header, to a port that nobody serves any more.
    bench.serve(&Served::udp(2, (FAR4, 53).into(), &[])).unwrap();
    let mut header = Ipv4Header::new(0, 64, IpNumber::UDP, CLIENT4.octets(), FAR4.octets()).unwrap();
    header.options = [1, 1, 1, 0].into();
    header.set_payload_len(16).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut packet = whole[..12].to_vec();
    packet.extend([8, 0]);
    header.write(&mut packet).unwrap();
    packet.extend([0, 1, 0, 53, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    let ran = bench.run("from_network", bench.uplink, &packet).unwrap();
    assert_eq!((ran.action, seen(&ran.packet).source), (REDIRECT, FAR4.into()));
    assert_eq!(ran.packet[34..36], [3, 3], "port unreachable");
    assert_eq!(ran.packet[42..], packet[14..14 + 24 + 8]);
}

#[test]
fn a_flood_is_answered_so_often_and_does_not_keep_others_from_an_answer() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    bench.serve(&Served::tcp(1, (CLUSTER, 80).into(), &[])).unwrap();
    bench.serve(&Served::udp(2, (CLUSTER, 53).into(), &[])).unwrap();
    let sent = 5_000_u16;
    let mut answered = 0;
    let began = std::time::Instant::now();
    for port in 0..sent {
        let packet = if port % 2 == 0 {
            udp4(&a, CLUSTER, (10_000 + port, 53))
        } else {
            tcp4(&a, CLUSTER, (10_000 + port, 80), TCP_SYN)
        };
        match bench.run("from_endpoint", a.ifindex, &packet).unwrap().action {
            REDIRECT => answered += 1,
            action => assert_eq!(action, DROP),
        }
    }
    // A thousand in each tick of 1.07 s, of which the runs may have touched one more than they filled.
    let ticks = began.elapsed().as_nanos() / (1 << 30) + 2;
    assert!(answered >= 1_000 && answered <= 1_000 * ticks, "{answered} answers in {ticks} ticks");
    let suppressed = bench.counted(COUNTER_ANSWERS_SUPPRESSED).unwrap();
    assert_eq!(suppressed, u64::from(sent) - u64::try_from(answered).unwrap());
    assert_eq!(bench.drops().unwrap().get("no_backend"), Some(&u64::from(sent)), "refused all the same");
    // Another endpoint, and the network, have answers of their own.
    let other = bench.run("from_endpoint", b.ifindex, &tcp4(&b, CLUSTER, (40_000, 80), TCP_SYN)).unwrap();
    reset(&other, CLUSTER.into(), b.ipv4.into());
}

#[test]
fn a_flood_does_not_keep_the_size_of_a_way_from_its_senders() {
    let bench = bench();
    let a = bench.a;
    ip("route add 198.51.100.1 via 192.0.2.1 mtu lock 1300").unwrap();
    bench.serve(&Served::udp(1, (CLUSTER, 53).into(), &[])).unwrap();
    bench.serve(&Served::udp(2, (NODE4, 30_080).into(), &[(FAR4, 8080).into()])).unwrap();
    while bench.counted(COUNTER_ANSWERS_SUPPRESSED).unwrap() == 0 {
        bench.run("from_endpoint", a.ifindex, &udp4(&a, CLUSTER, (5000, 53))).unwrap();
    }
    let large = large(&a, NODE4);
    let told = bench.run("from_endpoint", a.ifindex, &large).unwrap();
    assert_eq!((told.action, &told.packet[34..36]), (REDIRECT, &[3, 4][..]));
}

/// A datagram to a node port that is larger than the way to its backend takes, and not to be cut.
fn large(from: &Local, to: Ipv4Addr) -> Vec<u8> {
    let mut large = Vec::new();
    PacketBuilder::ethernet2(from.mac, from.host_mac)
        .ipv4(from.ipv4.octets(), to.octets(), 64)
        .udp(5000, 30_080)
        .write(&mut large, &[7; 1400])
        .unwrap();
    large[20] |= 0x40;
    let mut header = Ipv4Header::from_slice(&large[14..]).unwrap().0;
    header.header_checksum = header.calc_header_checksum();
    large[24..26].copy_from_slice(&header.header_checksum.to_be_bytes());
    large
}

#[test]
fn who_has_all_answers_of_a_processor_leaves_some_to_others() {
    let mut only = CpuSet::new();
    only.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &only).unwrap();
    let bench = Bench::new(&Knobs { tick: Some(1_000), ..Knobs::default() }).unwrap();
    let (a, b) = (bench.a, bench.b);
    ip("route add 198.51.100.1 via 192.0.2.1 mtu lock 1300").unwrap();
    bench.serve(&Served::tcp(1, (CLUSTER, 80).into(), &[])).unwrap();
    bench.serve(&Served::udp(2, (NODE4, 30_080).into(), &[(FAR4, 8080).into()])).unwrap();
    // Of this sort an endpoint has as many as the processor.
    let flood = large(&a, NODE4);
    let answered =
        (0..11_000).filter(|_| bench.run("from_endpoint", a.ifindex, &flood).unwrap().action == REDIRECT);
    assert_eq!(answered.count(), 10_100);
    for number in 0..101 {
        let told = bench.run("from_endpoint", b.ifindex, &large(&b, NODE4)).unwrap();
        let syn = tcp4(&b, CLUSTER, (40_000 + number, 80), TCP_SYN);
        let refused = bench.run("from_endpoint", b.ifindex, &syn).unwrap();
        if number == 100 {
            assert_eq!((told.action, refused.action), (DROP, DROP));
            break;
        }
        assert_eq!((told.action, &told.packet[34..36]), (REDIRECT, &[3, 4][..]));
        reset(&refused, CLUSTER.into(), b.ipv4.into());
    }
}

//! Services per packet: whose destination becomes a backend, and what comes back.

use std::net::{IpAddr, SocketAddr};

use bpf::layout::{CT_RESET, CtEntry, ENDPOINT_CHAINED, ENDPOINT_SHAPED};
use etherparse::{PacketBuilder, PacketHeaders};
use integration::programs::{Bench, DROP, FAR4, FAR6, Local, NODE4, NODE6, PASS, REDIRECT, Ran, Served};

use crate::packets::{
    Seen, TCP_ACK, TCP_RST, TCP_SYN, TCP_SYN_ACK, bench, changes, macs, network4, network6, seen, tcp4, tcp6,
    udp4,
};

const CLUSTER: &str = "10.96.0.10:80";
const CLIENT4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(203, 0, 113, 9);

fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

fn v4(address: IpAddr) -> std::net::Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address}"),
    }
}

fn delivered(ran: &Ran) -> Seen {
    assert_eq!(ran.action, REDIRECT);
    seen(&ran.packet)
}

#[test]
fn what_is_addressed_to_a_service_goes_to_its_backend_and_back() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let cluster: SocketAddr = CLUSTER.parse().unwrap();
    bench.serve(&Served::tcp(1, cluster, &[at(b.ipv4, 8080)])).unwrap();
    let before = bench.tally().unwrap();
    let there =
        bench.run("from_endpoint", a.ifindex, &tcp4(&a, v4(cluster.ip()), (40_000, 80), TCP_SYN)).unwrap();
    assert_eq!(
        delivered(&there),
        Seen { source: a.ipv4.into(), destination: b.ipv4.into(), hops: 64, ports: (40_000, 8080) }
    );
    assert_eq!(macs(&there.packet), (b.host_mac, b.mac));
    let back = bench.run("from_endpoint", b.ifindex, &tcp4(&b, a.ipv4, (8080, 40_000), TCP_SYN_ACK)).unwrap();
    assert_eq!(
        delivered(&back),
        Seen { source: cluster.ip(), destination: a.ipv4.into(), hops: 64, ports: (80, 40_000) }
    );
    changes(&bench, &before, &[], (2, 0));
}

#[test]
fn nobody_beyond_the_node_answers_as_a_service() {
    for far in [false, true] {
        let bench = bench();
        let (a, b) = (bench.a, bench.b);
        let services: [(IpAddr, IpAddr, IpAddr); 2] = [
            ("10.96.0.10".parse().unwrap(), a.ipv4.into(), if far { FAR4.into() } else { b.ipv4.into() }),
            ("fd00:96::10".parse().unwrap(), a.ipv6.into(), if far { FAR6.into() } else { b.ipv6.into() }),
        ];
        for (number, (service, client, backend)) in (1..).zip(services) {
            bench.serve(&Served::tcp(number, at(service, 80), &[at(backend, 8080)])).unwrap();
            let from = |local: &Local, to: IpAddr, ports, flags| match to {
                IpAddr::V4(to) => tcp4(local, to, ports, flags),
                IpAddr::V6(to) => tcp6(local, to, ports, flags),
            };
            let network = |from: IpAddr, to: IpAddr, ports, flags| match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => network4(&bench, from, to, ports, flags),
                (IpAddr::V6(from), IpAddr::V6(to)) => network6(&bench, from, to, ports, flags),
                _ => unreachable!(),
            };
            let opened =
                bench.run("from_endpoint", a.ifindex, &from(&a, service, (40_000, 80), TCP_SYN)).unwrap();
            let there = seen(&opened.packet);
            let forged = |flags, when: &str| {
                let martians = || bench.drops().unwrap().get("martian").copied().unwrap_or(0);
                let before = martians();
                let packet = network(service, client, (80, 40_000), flags);
                let ran = bench.run("from_network", bench.uplink, &packet).unwrap();
                assert_eq!(ran.action, DROP, "{service} by {backend}, {when}");
                assert_eq!(martians(), before + 1, "{service} by {backend}, {when}");
            };
            forged(TCP_SYN_ACK, "before the answer");
            let answer = |flags| {
                let ports = (8080, there.ports.0);
                let back = if far {
                    bench.run("from_network", bench.uplink, &network(backend, there.source, ports, flags))
                } else {
                    bench.run("from_endpoint", b.ifindex, &from(&b, client, ports, flags))
                };
                assert_eq!(delivered(&back.unwrap()).source, service);
            };
            answer(TCP_SYN_ACK);
            forged(TCP_SYN_ACK, "after the answer");
            forged(TCP_ACK, "after the answer");
            forged(TCP_RST, "after the answer");
            bench.run("from_endpoint", a.ifindex, &from(&a, service, (40_000, 80), TCP_ACK)).unwrap();
            forged(TCP_ACK, "when it is established");
            answer(TCP_ACK);
        }
    }
}

#[test]
fn what_is_translated_for_an_endpoint_of_another_plugin_is_delivered_too() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    for local in [&a, &b] {
        bench.add_endpoint(local, ENDPOINT_CHAINED).unwrap();
    }
    bench.serve_node_ports_at(NODE4).unwrap();
    let cluster: SocketAddr = CLUSTER.parse().unwrap();
    let served = Served {
        frontends: vec![cluster, at(NODE4, 30_080)],
        ..Served::tcp(1, cluster, &[at(b.ipv4, 8080)])
    };
    bench.serve(&served).unwrap();
    // Between endpoints the stack would take neither the service's address nor the node's for a pod's.
    let there =
        bench.run("from_endpoint", a.ifindex, &tcp4(&a, v4(cluster.ip()), (40_000, 80), TCP_SYN)).unwrap();
    assert_eq!((there.action, macs(&there.packet)), (REDIRECT, (b.host_mac, b.mac)));
    let back = bench.run("from_endpoint", b.ifindex, &tcp4(&b, a.ipv4, (8080, 40_000), TCP_SYN_ACK)).unwrap();
    assert_eq!((back.action, delivered(&back).source), (REDIRECT, cluster.ip()));
    // Its own backend.
    let there =
        bench.run("from_endpoint", b.ifindex, &tcp4(&b, v4(cluster.ip()), (40_001, 80), TCP_SYN)).unwrap();
    assert_eq!((there.action, macs(&there.packet)), (REDIRECT, (b.host_mac, b.mac)));
    // From outside.
    let there = network4(&bench, CLIENT4, NODE4, (40_000, 30_080), TCP_SYN);
    let there = bench.run("from_network", bench.uplink, &there).unwrap();
    assert_eq!((there.action, delivered(&there).destination), (REDIRECT, b.ipv4.into()));
    let back =
        bench.run("from_endpoint", b.ifindex, &tcp4(&b, CLIENT4, (8080, 40_000), TCP_SYN_ACK)).unwrap();
    assert_eq!(delivered(&back).source, IpAddr::from(NODE4));
}

#[test]
fn a_discipline_sees_what_a_backend_answers_unless_the_stack_would_not_take_it() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    bench.add_endpoint(&b, ENDPOINT_SHAPED).unwrap();
    bench.serve_node_ports_at(NODE4).unwrap();
    let cluster: SocketAddr = CLUSTER.parse().unwrap();
    let served = Served {
        frontends: vec![cluster, at(NODE4, 30_080)],
        ..Served::tcp(1, cluster, &[at(b.ipv4, 8080)])
    };
    bench.serve(&served).unwrap();
    // To an endpoint by way of the stack, as the service.
    bench.run("from_endpoint", a.ifindex, &tcp4(&a, v4(cluster.ip()), (40_000, 80), TCP_SYN)).unwrap();
    let back = bench.run("from_endpoint", b.ifindex, &tcp4(&b, a.ipv4, (8080, 40_000), TCP_SYN_ACK)).unwrap();
    assert_eq!(back.action, PASS);
    assert_eq!((seen(&back.packet).source, seen(&back.packet).ports), (cluster.ip(), (80, 40_000)));
    // To a client outside from the node's own address: by the uplink.
    let there = network4(&bench, CLIENT4, NODE4, (40_000, 30_080), TCP_SYN);
    bench.run("from_network", bench.uplink, &there).unwrap();
    let back =
        bench.run("from_endpoint", b.ifindex, &tcp4(&b, CLIENT4, (8080, 40_000), TCP_SYN_ACK)).unwrap();
    assert_eq!(delivered(&back).source, IpAddr::from(NODE4));
}

#[test]
fn ipv6_is_served_like_ipv4() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let cluster: SocketAddr = "[fd00:96::10]:80".parse().unwrap();
    bench.serve(&Served::tcp(1, cluster, &[at(b.ipv6, 8080)])).unwrap();
    let IpAddr::V6(address) = cluster.ip() else { panic!() };
    let there = bench.run("from_endpoint", a.ifindex, &tcp6(&a, address, (40_000, 80), TCP_SYN)).unwrap();
    assert_eq!(delivered(&there).destination, IpAddr::from(b.ipv6));
    let back = bench.run("from_endpoint", b.ifindex, &tcp6(&b, a.ipv6, (8080, 40_000), TCP_SYN_ACK)).unwrap();
    assert_eq!(delivered(&back).source, cluster.ip());
}

#[test]
fn two_services_with_one_backend_are_told_apart_by_the_source_port() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let backend = at(b.ipv4, 8080);
    let addresses = ["10.96.0.10:80", "10.96.0.11:80"].map(|text| text.parse::<SocketAddr>().unwrap());
    for (number, address) in (1..).zip(addresses) {
        bench.serve(&Served::tcp(number, address, &[backend])).unwrap();
    }
    let ports = addresses.map(|to| {
        let there =
            bench.run("from_endpoint", a.ifindex, &tcp4(&a, v4(to.ip()), (40_000, 80), TCP_SYN)).unwrap();
        delivered(&there).ports.0
    });
    assert_eq!(ports[0], 40_000);
    assert_ne!(ports[1], 40_000, "the second is another flow to the backend");
    for (port, address) in ports.into_iter().zip(addresses) {
        let reply = tcp4(&b, a.ipv4, (8080, port), TCP_SYN_ACK);
        let back = delivered(&bench.run("from_endpoint", b.ifindex, &reply).unwrap());
        assert_eq!((back.source, back.ports), (address.ip(), (80, 40_000)));
    }
    // The backend itself, by the same ports: that flow is somebody's.
    let direct = bench.run("from_endpoint", a.ifindex, &tcp4(&a, b.ipv4, (40_000, 8080), TCP_SYN)).unwrap();
    assert_eq!(delivered(&direct).source, IpAddr::from(b.ipv4), "refused at once");
    assert_eq!(bench.drops().unwrap()["port_taken"], 1);
}

#[test]
fn an_endpoint_meets_itself_by_its_service() {
    let bench = bench();
    let a = bench.a;
    let cluster: SocketAddr = CLUSTER.parse().unwrap();
    bench.set_external(false, ("10.88.0.1".parse().unwrap(), "fd00:88::1".parse().unwrap())).unwrap();
    bench.serve(&Served::tcp(1, cluster, &[at(a.ipv4, 8080)])).unwrap();
    let there =
        bench.run("from_endpoint", a.ifindex, &tcp4(&a, v4(cluster.ip()), (40_000, 80), TCP_SYN)).unwrap();
    let met = delivered(&there);
    assert_eq!((met.source, met.destination), ("10.88.0.1".parse().unwrap(), a.ipv4.into()));
    let reply = tcp4(&a, v4(met.source), (8080, met.ports.0), TCP_SYN_ACK);
    let back = delivered(&bench.run("from_endpoint", a.ifindex, &reply).unwrap());
    assert_eq!(
        back,
        Seen { source: cluster.ip(), destination: a.ipv4.into(), hops: 64, ports: (80, 40_000) }
    );
}

#[test]
fn a_flow_keeps_its_backend_until_that_is_gone() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    let cluster: SocketAddr = CLUSTER.parse().unwrap();
    let service = Served::tcp(1, cluster, &[at(b.ipv4, 8080), at(b.ipv4, 8081)]);
    bench.serve(&service).unwrap();
    let send = |flags| {
        let packet = tcp4(&a, v4(cluster.ip()), (40_000, 80), flags);
        delivered(&bench.run("from_endpoint", a.ifindex, &packet).unwrap()).ports.1
    };
    let first = send(TCP_SYN);
    bench.raise_epoch().unwrap();
    assert_eq!(send(TCP_ACK), first);
    // It takes no new connections, but is an endpoint still.
    let other = service.backends.iter().find(|it| it.port() != first).unwrap();
    bench.serve(&Served { backends: vec![*other], ..service.clone() }).unwrap();
    bench.raise_epoch().unwrap();
    assert_eq!(send(TCP_ACK), first);
    bench.part(&service, at(b.ipv4, first)).unwrap();
    assert_eq!(send(TCP_ACK), other.port());
}

#[test]
fn a_forged_reset_does_not_end_a_flow() {
    let bench = bench();
    let (a, b) = (bench.a, bench.b);
    bench.run("from_endpoint", a.ifindex, &tcp4(&a, b.ipv4, (1, 2), TCP_SYN)).unwrap();
    bench.run("from_endpoint", b.ifindex, &tcp4(&b, a.ipv4, (2, 1), TCP_SYN_ACK)).unwrap();
    bench.run("from_endpoint", b.ifindex, &tcp4(&b, a.ipv4, (2, 1), TCP_RST)).unwrap();
    assert_ne!(bench.flows4().unwrap()[0].1.flags & CT_RESET, 0);
    bench.run("from_endpoint", a.ifindex, &tcp4(&a, b.ipv4, (1, 2), TCP_ACK)).unwrap();
    assert_ne!(bench.flows4().unwrap()[0].1.flags & CT_RESET, 0, "the other side may not know yet");
    bench.run("from_endpoint", b.ifindex, &tcp4(&b, a.ipv4, (2, 1), TCP_ACK)).unwrap();
    assert_eq!(bench.flows4().unwrap()[0].1.flags & CT_RESET, 0, "who has reset goes on");
}

#[test]
fn a_closed_service_answers() {
    let bench = bench();
    let a = bench.a;
    let cluster: SocketAddr = CLUSTER.parse().unwrap();
    bench.serve(&Served::tcp(1, cluster, &[])).unwrap();
    bench.serve(&Served { protocol: 17, ..Served::tcp(2, cluster, &[]) }).unwrap();
    // Without data, as what opens a connection is.
    let mut syn = Vec::new();
    PacketBuilder::ethernet2(a.mac, a.host_mac)
        .ipv4(a.ipv4.octets(), v4(cluster.ip()).octets(), 64)
        .tcp(40_000, 80, 1000, 65_000)
        .syn()
        .write(&mut syn, &[])
        .unwrap();
    let reset = bench.run("from_endpoint", a.ifindex, &syn).unwrap();
    assert_eq!(
        delivered(&reset),
        Seen { source: cluster.ip(), destination: a.ipv4.into(), hops: 64, ports: (80, 40_000) }
    );
    let tcp = PacketHeaders::from_ethernet_slice(&reset.packet).unwrap().transport.unwrap().tcp().unwrap();
    assert!(tcp.rst && tcp.ack && tcp.acknowledgment_number == 1001, "{tcp:?}");
    assert_eq!(macs(&reset.packet), (a.host_mac, a.mac));

    let udp = bench.run("from_endpoint", a.ifindex, &udp4(&a, v4(cluster.ip()), (40_000, 80))).unwrap();
    let unreachable = delivered(&udp);
    assert_eq!((unreachable.source, unreachable.destination), (cluster.ip(), a.ipv4.into()));
    assert_eq!(udp.packet[34..36], [3, 3], "port unreachable");
    assert_eq!(bench.drops().unwrap()["no_backend"], 2);
}

#[test]
fn a_backend_elsewhere_is_reached_with_the_nodes_address() {
    let bench = bench();
    let before = bench.tally().unwrap();
    for (client, node, far, port) in [
        (IpAddr::from(CLIENT4), IpAddr::from(NODE4), IpAddr::from(FAR4), 30_080_u16),
        ("2001:db8:9::9".parse().unwrap(), NODE6.into(), FAR6.into(), 30_080),
    ] {
        bench
            .serve(&Served::tcp(if node.is_ipv4() { 1 } else { 2 }, at(node, port), &[at(far, 8080)]))
            .unwrap();
        let packet = |from: IpAddr, to: IpAddr, ports, flags| match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => network4(&bench, from, to, ports, flags),
            (IpAddr::V6(from), IpAddr::V6(to)) => network6(&bench, from, to, ports, flags),
            _ => unreachable!(),
        };
        let there = delivered(
            &bench.run("from_network", bench.uplink, &packet(client, node, (50_000, port), TCP_SYN)).unwrap(),
        );
        assert_eq!((there.source, there.destination, there.hops, there.ports.1), (node, far, 63, 8080));
        let reply = packet(far, node, (8080, there.ports.0), TCP_SYN_ACK);
        let back = delivered(&bench.run("from_network", bench.uplink, &reply).unwrap());
        assert_eq!(back, Seen { source: node, destination: client, hops: 63, ports: (port, 50_000) });
    }
    changes(&bench, &before, &[], (2, 2));
}

#[test]
fn every_node_sends_a_client_to_the_same_backend() {
    let choose = |frontend: SocketAddr| {
        std::thread::spawn(move || {
            let bench = bench();
            let backends: Vec<_> = (1..=9).map(|port| at(FAR4, port)).collect();
            bench.serve(&Served { by_client: true, ..Served::tcp(1, frontend, &backends) }).unwrap();
            (0..200_u16)
                .map(|port| {
                    let packet = network4(
                        &bench,
                        CLIENT4,
                        v4(frontend.ip()),
                        (50_000 + port, frontend.port()),
                        TCP_SYN,
                    );
                    delivered(&bench.run("from_network", bench.uplink, &packet).unwrap()).ports.1
                })
                .collect::<Vec<_>>()
        })
        .join()
        .unwrap()
    };
    let by_one = choose(at(NODE4, 30_080));
    assert_eq!(by_one, choose("203.0.113.100:80".parse().unwrap()));
    let met: std::collections::BTreeSet<_> = by_one.into_iter().collect();
    assert_eq!(met.len(), 9);
}

/// The packet that one node sends on is taken by the backend's node, whose endpoint answers the client itself.
fn returns_directly(client: IpAddr, node: IpAddr, of: fn(&Bench) -> IpAddr) {
    let sent = std::thread::spawn(move || {
        let bench = bench();
        bench.set_external(true, ("10.88.0.1".parse().unwrap(), "fd00:88::1".parse().unwrap())).unwrap();
        // Where the other node's endpoints are: this one has none there.
        let (a, b) = (bench.a, bench.b);
        bench.remove_endpoint(&a).unwrap();
        bench.remove_endpoint(&b).unwrap();
        bench.serve(&Served::tcp(1, at(node, 30_080), &[at(of(&bench), 8080)])).unwrap();
        let syn = from_network(&bench, client, node, (50_000, 30_080), TCP_SYN);
        let there = bench.run("from_network", bench.uplink, &syn).unwrap();
        let met = delivered(&there);
        assert_eq!((met.source, met.destination, met.ports), (client, of(&bench), (50_000, 8080)));
        let ack = from_network(&bench, client, node, (50_000, 30_080), TCP_ACK);
        // The first of another tick of the clock carries a reminder.
        let send = || bench.run("from_network", bench.uplink, &ack).unwrap();
        let later = [send(), send()].into_iter().find(|later| later.packet.len() == ack.len());
        let later = later.expect("what opens a connection carries the mark, and others rarely");
        assert!(there.packet.len() > syn.len());
        (there.packet, later.packet)
    });
    let (first, later) = sent.join().unwrap();

    let bench = bench();
    let a = bench.a;
    let backend = of(&bench);
    // By an address of the other node, which this one does not know: it serves the same node port.
    let any =
        if node.is_ipv4() { IpAddr::from([0, 0, 0, 0]) } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    bench.serve(&Served::tcp(1, at(any, 30_080), &[at(backend, 8080)])).unwrap();
    bench.set_external(true, ("10.88.0.1".parse().unwrap(), "fd00:88::1".parse().unwrap())).unwrap();
    bench.know_machine(node).unwrap();
    let mut first = first;
    first[..6].copy_from_slice(&bench.uplink_mac);
    let mut later = later;
    later[..6].copy_from_slice(&bench.uplink_mac);
    for packet in [&first, &later] {
        let taken = bench.run("from_network", bench.uplink, packet).unwrap();
        let met = delivered(&taken);
        assert_eq!((met.source, met.destination, met.ports), (client, backend, (50_000, 8080)));
        assert_eq!(taken.packet.len(), later.len(), "the mark is taken out");
    }
    let reply = match client {
        IpAddr::V4(client) => tcp4(&a, client, (8080, 50_000), TCP_SYN_ACK),
        IpAddr::V6(client) => tcp6(&a, client, (8080, 50_000), TCP_SYN_ACK),
    };
    let back = delivered(&bench.run("from_endpoint", a.ifindex, &reply).unwrap());
    assert_eq!((back.source, back.destination, back.ports), (node, client, (30_080, 50_000)));
}

fn from_network(bench: &Bench, from: IpAddr, to: IpAddr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => network4(bench, from, to, ports, flags),
        (IpAddr::V6(from), IpAddr::V6(to)) => network6(bench, from, to, ports, flags),
        _ => panic!("{from} and {to} are of two families"),
    }
}

#[test]
fn a_backends_node_answers_the_client_directly() {
    returns_directly(CLIENT4.into(), NODE4.into(), |bench| bench.a.ipv4.into());
}

#[test]
fn a_backends_node_answers_the_client_directly_by_ipv6() {
    returns_directly("2001:db8:9::9".parse().unwrap(), NODE6.into(), |bench| bench.a.ipv6.into());
}

#[test]
fn a_backend_in_the_nodes_own_namespace_is_reached_by_the_stack() {
    let bench = bench();
    let a = bench.a;
    bench.set_external(false, ("10.88.0.1".parse().unwrap(), "fd00:88::1".parse().unwrap())).unwrap();
    let cluster: SocketAddr = CLUSTER.parse().unwrap();
    bench.serve(&Served::tcp(1, cluster, &[at(NODE4, 6443)])).unwrap();
    let there =
        bench.run("from_endpoint", a.ifindex, &tcp4(&a, v4(cluster.ip()), (40_000, 80), TCP_SYN)).unwrap();
    assert_eq!(there.action, PASS);
    assert_eq!((seen(&there.packet).destination, seen(&there.packet).ports), (NODE4.into(), (40_000, 6443)));
    let mut reply = network4(&bench, NODE4, a.ipv4, (6443, 40_000), TCP_SYN_ACK);
    reply[..6].copy_from_slice(&a.mac);
    let back = bench.run("to_endpoint", a.ifindex, &reply).unwrap();
    assert_eq!(back.action, PASS);
    assert_eq!((seen(&back.packet).source, seen(&back.packet).ports), (cluster.ip(), (80, 40_000)));
    let flows = bench.flows4().unwrap();
    assert!(flows.iter().all(|(_, entry)| entry.service() == 1));
}

/// The view of a served flow that its backend has is no leave to pass for who sends with its addresses past the service.
#[test]
fn who_joins_a_served_flow_past_the_service_is_not_let_through() {
    let bench = bench();
    let b = bench.b;
    bench.serve_node_ports_at(NODE4).unwrap();
    let cluster: SocketAddr = CLUSTER.parse().unwrap();
    let served = Served {
        frontends: vec![cluster, at(NODE4, 30_080)],
        ..Served::tcp(1, cluster, &[at(b.ipv4, 8080)])
    };
    bench.serve(&served).unwrap();
    let there = network4(&bench, CLIENT4, NODE4, (40_000, 30_080), TCP_SYN);
    let there = bench.run("from_network", bench.uplink, &there).unwrap();
    assert_eq!(delivered(&there).ports, (40_000, 8080));
    let before = bench.tally().unwrap();
    // By another interface, so that the host's stack forwards it.
    let past = network4(&bench, CLIENT4, b.ipv4, (40_000, 8080), TCP_ACK);
    assert_eq!(bench.run("to_endpoint", b.ifindex, &past).unwrap().action, DROP);
    changes(&bench, &before, &[("port_taken", 1)], (0, 0));
}

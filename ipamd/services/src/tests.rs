//! What the model of the API does not kind: large services, full tables, backends in the node's own namespace, and
//! endpoints on their way out.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ipamd_api::{AttachmentKey, PortMapping};
use ipamd_waiting::pause_until;

use super::{
    Balancer, NodeAddresses, Site,
    listing::Listing as _,
    memory::{Destination, From, Memory},
    tables::{Backend, Family, FrontendKey, Limits, PortRow, Tables},
};
use ipamd_model::{
    objects::{Change, Kind, Object, ObjectId},
    services::{EndpointSlice, HostPort, Role, Service, ServicePort, SliceEndpoint, SlicePort},
};

pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
pub(super) const NODE_PORT: u16 = 30_080;
pub(super) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
pub(super) const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 88, 0, 9));
/// Room for little.
const SMALL: Limits =
    Limits { sets: 8, backends: 6, lookups: 65_521, frontends: 16, members: 64, source_ranges: 16 };

pub(super) fn cluster_ip(number: u8) -> IpAddr {
    [10, 96, 0, number].into()
}

/// A service of one TCP port, with that node port.
fn service(number: u8, node_port: Option<u16>) -> Change {
    Change::Put(Object::Service(Arc::new(Service {
        namespace: "ns".into(),
        name: format!("s{number}").into(),
        role: Role::Balanced,
        cluster_ips: [cluster_ip(number)].into(),
        external_ips: Box::default(),
        load_balancer_ips: Box::default(),
        source_ranges: Box::default(),
        ports: [ServicePort { name: "".into(), protocol: 6, port: 80, node_port }].into(),
        affinity: None,
        internal_local: false,
        external_local: false,
        health_check_port: None,
        refused: Box::default(),
    })))
}

pub(super) fn backend(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 88, 0, 0).to_bits() + number).into()
}

fn slice(number: u8, addresses: impl IntoIterator<Item = IpAddr>) -> Change {
    let endpoint = |address| SliceEndpoint {
        address,
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        hints: None,
    };
    Change::Put(Object::EndpointSlice(Arc::new(EndpointSlice {
        namespace: "ns".into(),
        name: format!("s{number}").into(),
        service: Some(format!("s{number}").into()),
        balanced: true,
        ports: [SlicePort { name: "".into(), protocol: 6, port: 8080 }].into(),
        endpoints: addresses.into_iter().map(endpoint).collect(),
        refused: Box::default(),
    })))
}

fn no_slice(number: u8) -> Change {
    Change::Remove(ObjectId {
        kind: Kind::EndpointSlice,
        namespace: Some("ns".into()),
        name: format!("s{number}").into(),
    })
}

pub(super) fn start(tables: &Memory, first: &[Change]) -> Balancer {
    let site = Site { node: "node".into(), zone: None, pools: Vec::new() };
    let balancer = Balancer::new(Box::new(tables.clone()), site);
    let addresses = NodeAddresses::new([NODE.into()].into(), &[]);
    balancer.start(addresses, [], first).unwrap();
    balancer
}

/// Who takes a connection to the node port, or to the service's own address.
fn led(tables: &Memory, from: From, to: (IpAddr, u16)) -> BTreeSet<IpAddr> {
    match tables.connect(from, FrontendKey { address: to.0, port: to.1, protocol: 6 }) {
        Destination::Backends(backends) => backends.into_iter().map(|it| it.address).collect(),
        other => panic!("{other:?}"),
    }
}

fn from_outside(tables: &Memory) -> BTreeSet<IpAddr> {
    led(tables, From::Outside(CLIENT), (NODE.into(), NODE_PORT))
}

fn from_inside(tables: &Memory, number: u8) -> BTreeSet<IpAddr> {
    led(tables, From::Endpoint(POD), (cluster_ip(number), 80))
}

#[test]
fn a_service_outgrows_scores_and_comes_back_to_them() {
    let tables = Memory::default();
    let few: BTreeSet<_> = (1..=100).map(backend).collect();
    let many: BTreeSet<_> = (1..=1_000).map(backend).collect();
    let balancer = start(&tables, &[service(1, Some(NODE_PORT)), slice(1, few.clone())]);
    assert_eq!(from_outside(&tables), few);
    balancer.apply(&[slice(1, many.clone())]);
    assert_eq!(from_outside(&tables), many, "each has places in the table");
    assert_eq!(from_inside(&tables, 1), many);
    // Another daemon takes the table over as it is, and makes another for what is new.
    drop(balancer);
    let epoch = tables.epoch();
    let balancer = start(&tables, &[service(1, Some(NODE_PORT)), slice(1, many.clone())]);
    assert_eq!((from_outside(&tables), tables.epoch()), (many.clone(), epoch));
    balancer.apply(&[slice(1, many.iter().copied().skip(1))]);
    assert_eq!(from_outside(&tables), many.into_iter().skip(1).collect());
    balancer.apply(&[slice(1, few.clone())]);
    assert_eq!(from_outside(&tables), few);
}

#[test]
fn without_room_what_was_in_force_stays_until_there_is_some() {
    let tables = Memory::new(SMALL);
    let three: BTreeSet<_> = (1..=3).map(backend).collect();
    let balancer = start(&tables, &[service(1, None), slice(1, three.clone()), service(2, None)]);
    // Six more do not fit beside the three.
    balancer.apply(&[slice(1, (1..=6).map(backend))]);
    assert_eq!(from_inside(&tables, 1), three);
    let problems = |balancer: &Balancer| {
        let state = balancer.lock();
        state.ledger.programmed.values().flatten().flat_map(|port| port.problems.clone()).collect::<Vec<_>>()
    };
    assert_eq!(problems(&balancer), ["there is no room for 6 more backends; what was in force stays"]);
    // Another service does not suffer.
    balancer.apply(&[slice(2, [backend(9)])]);
    assert_eq!(from_inside(&tables, 2), [backend(9)].into());
    // Too many backends become fewer.
    balancer.apply(&[slice(1, (5..=6).map(backend))]);
    assert_eq!(from_inside(&tables, 1), [backend(5), backend(6)].into());
    assert_eq!(problems(&balancer), Vec::<String>::new());
}

#[test]
fn a_node_port_has_one_owner_and_goes_to_the_next() {
    let tables = Memory::default();
    let balancer = start(
        &tables,
        &[
            service(1, Some(NODE_PORT)),
            slice(1, [backend(1)]),
            service(2, Some(NODE_PORT)),
            slice(2, [backend(2)]),
        ],
    );
    assert_eq!(from_outside(&tables), [backend(1)].into());
    assert_eq!(from_inside(&tables, 2), [backend(2)].into(), "its own address is served all the same");
    balancer.apply(&[service(1, None)]);
    assert_eq!(from_outside(&tables), [backend(2)].into());
}

#[test]
fn the_ports_of_the_nodes_own_backends_are_marked() {
    let tables = Memory::default();
    let marked = |port| tables.is_marked(PortRow::OfBackends, port);
    let balancer = start(&tables, &[service(1, None), slice(1, [NODE.into(), backend(1)])]);
    assert!(marked(8080) && !marked(80));
    balancer.apply(&[slice(1, [backend(1)])]);
    assert!(!marked(8080));
    balancer.set_node_addresses(NodeAddresses::new([NODE.into(), backend(1)].into(), &[]));
    assert!(marked(8080), "an address of the node's that came later");
}

#[test]
fn a_served_port_is_looked_at_as_long_as_connections_were_made_there() {
    let tables = Memory::default();
    let marked = || tables.is_marked(PortRow::Served, NODE_PORT);
    let balancer = start(&tables, &[service(1, Some(NODE_PORT)), slice(1, [backend(1)])]);
    assert!(marked());
    balancer.apply(&[service(1, None)]);
    balancer.forget_ports(&[NODE_PORT].into());
    assert!(marked(), "a connection goes on");
    balancer.forget_ports(&[80].into());
    assert!(!marked());
    balancer.apply(&[service(1, Some(NODE_PORT))]);
    balancer.forget_ports(&[].into());
    assert!(marked());
}

#[test]
fn a_parting_does_not_hide_that_a_change_has_failed() {
    let tables = Memory::default();
    let balancer = start(&tables, &[service(1, None), slice(1, [backend(1), backend(2)])]);
    balancer.apply(&[slice(1, [backend(1)])]);
    tables.fail(true);
    balancer.apply(&[slice(1, [backend(1), backend(3)])]);
    tables.fail(false);
    pause_until(balancer.next_drain_end().unwrap());
    assert_eq!(balancer.expire_drained().len(), 1);
    balancer.retry();
    assert_eq!(from_inside(&tables, 1), [backend(1), backend(3)].into());
}

#[test]
fn an_endpoint_that_is_gone_parts_unless_it_comes_back() {
    let tables = Memory::default();
    let balancer = start(&tables, &[service(1, None), slice(1, [backend(1), backend(2)])]);
    let members = |tables: &Memory| tables.all_members().into_iter().map(|it| it.address).collect::<Vec<_>>();
    assert_eq!(balancer.next_drain_end(), None);
    balancer.apply(&[no_slice(1)]);
    assert_eq!(members(&tables), [backend(1), backend(2)], "they keep what they have for a moment");
    balancer.apply(&[slice(1, [backend(1)])]);
    assert_eq!(balancer.expire_drained(), []);
    pause_until(balancer.next_drain_end().unwrap());
    let gone: Vec<_> = balancer.expire_drained().into_iter().map(|it| it.backend).collect();
    assert_eq!(gone, [Backend { address: backend(2), port: 8080 }]);
    assert_eq!(members(&tables), [backend(1)]);
    assert_eq!(balancer.next_drain_end(), None);
}

fn mapping(host_ip: Option<IpAddr>, host_port: u16) -> PortMapping {
    PortMapping { host_ip, host_port, container_port: 8080, protocol: 6 }
}

fn container(name: &str) -> AttachmentKey {
    AttachmentKey { network: "net".into(), container_id: name.into(), ifname: "eth0".into() }
}

fn node_addresses(addresses: &[IpAddr]) -> NodeAddresses {
    NodeAddresses::new(addresses.iter().copied().collect(), &[])
}

#[test]
fn a_port_of_the_node_follows_the_nodes_addresses() {
    let tables = Memory::default();
    let balancer = start(&tables, &[]);
    let (other, loopback) = (IpAddr::from([192, 0, 2, 8]), IpAddr::from([127, 0, 0, 1]));
    let objection = balancer.host_port_conflict(&[mapping(Some(other), 53)]).unwrap();
    assert_eq!(
        objection,
        "the node's port 192.0.2.8:53/tcp cannot lead to a container: 192.0.2.8 is no address of this node: take one \
         that is, or none"
    );
    for allowed in [None, Some(NODE.into()), Some(loopback), Some(Ipv4Addr::UNSPECIFIED.into())] {
        assert_eq!(balancer.host_port_conflict(&[mapping(allowed, 53)]), None);
    }
    // One from before such ports were refused, or whose address has gone since.
    balancer.set_host_ports(&container("a"), &[mapping(Some(other), 53)], &[POD]);
    let at = |address| FrontendKey { address, port: 53, protocol: 6 };
    for from in [From::Endpoint(backend(3)), From::Node, From::Outside(CLIENT)] {
        assert_eq!(tables.connect(from, at(other)), Destination::NotAService, "{from:?}");
    }
    assert_eq!(
        balancer.problems(),
        [
            "a port of net/a/eth0: 192.0.2.8:53/tcp does not lead to it: 192.0.2.8 is no address of this node: take one \
          that is, or none"
        ]
    );
    balancer.set_node_addresses(node_addresses(&[NODE.into(), other]));
    assert_eq!(led(&tables, From::Outside(CLIENT), (other, 53)), [POD].into());
    assert_eq!(
        (balancer.problems().len(), balancer.host_port_conflict(&[mapping(Some(other), 53)])),
        (0, None)
    );
    balancer.set_node_addresses(node_addresses(&[NODE.into()]));
    assert_eq!(tables.connect(From::Node, at(other)), Destination::NotAService);
    assert_eq!(balancer.problems().len(), 1);
    balancer.set_host_ports(&container("a"), &[], &[]);
    assert_eq!(balancer.problems().len(), 0);
}

#[test]
fn a_port_at_loopback_is_the_nodes_own() {
    let tables = Memory::default();
    let balancer = start(&tables, &[]);
    let loopback = IpAddr::from([127, 0, 0, 1]);
    balancer.set_host_ports(&container("a"), &[mapping(Some(loopback), 8000)], &[POD]);
    assert_eq!(led(&tables, From::Node, (loopback, 8000)), [POD].into());
    let at = FrontendKey { address: loopback, port: 8000, protocol: 6 };
    assert_eq!(tables.connect(From::Endpoint(backend(3)), at), Destination::NotAService);
    assert_eq!(tables.connect(From::Outside(CLIENT), at), Destination::NotAService);
}

#[test]
fn a_port_of_the_node_is_never_in_the_way_of_a_service() {
    let tables = Memory::default();
    // The node has a service's address on an interface, as IPVS leaves it behind.
    let all = [NODE.into(), cluster_ip(1)];
    let balancer = start(&tables, &[]);
    balancer.set_node_addresses(node_addresses(&all));
    let ports =
        [mapping(Some(cluster_ip(1)), 81), mapping(Some(NODE.into()), NODE_PORT), mapping(None, 9000)];
    balancer.set_host_ports(&container("a"), &ports, &[POD]);
    let from_node = |address, port| tables.connect(From::Node, FrontendKey { address, port, protocol: 6 });
    let to_pod = led(&tables, From::Node, (cluster_ip(1), 81));
    assert_eq!(to_pod, [POD].into(), "as long as it is only an address of the node");
    let number = |tables: &Memory| {
        let frontends = tables.frontends(Family::V4).unwrap();
        frontends.into_iter().find(|(key, _)| key.port == 9000).unwrap().1.service
    };
    let before = number(&tables);
    balancer.apply(&[service(1, Some(NODE_PORT)), slice(1, [backend(1)])]);
    assert_eq!(from_node(cluster_ip(1), 81), Destination::Refused, "the address is the service's, whole");
    assert_eq!(from_outside(&tables), [backend(1)].into());
    assert_eq!(from_inside(&tables, 1), [backend(1)].into());
    assert_eq!(led(&tables, From::Node, (NODE.into(), 9000)), [POD].into(), "its other port stays");
    assert_eq!(number(&tables), before, "with its connections");
    assert_eq!(balancer.problems().len(), 2, "{:?}", balancer.problems());
    assert_eq!(
        balancer.host_port_conflict(&[mapping(None, NODE_PORT)]).unwrap(),
        format!(
            "the node's port {NODE_PORT}/tcp cannot lead to a container: the service ns/s1 is reached there"
        )
    );
    assert!(balancer.host_port_conflict(&[mapping(Some(cluster_ip(1)), 9999)]).is_some());
    // Another daemon finds it so, and does not turn it round.
    drop(balancer);
    let site = Site { node: "node".into(), zone: None, pools: Vec::new() };
    let balancer = Balancer::new(Box::new(tables.clone()), site);
    let held = ports.map(|mapping| HostPort { key: container("a"), pod: None, mapping, backends: vec![POD] });
    balancer
        .start(node_addresses(&all), held, &[service(1, Some(NODE_PORT)), slice(1, [backend(1)])])
        .unwrap();
    assert_eq!(from_outside(&tables), [backend(1)].into());
    assert_eq!((from_node(cluster_ip(1), 81), number(&tables)), (Destination::Refused, before));
    // When the service is gone, the ports are the container's.
    balancer.apply(&[Change::Remove(ObjectId::namespaced(Kind::Service, "ns", "s1"))]);
    assert_eq!(led(&tables, From::Node, (cluster_ip(1), 81)), [POD].into());
    assert_eq!(from_outside(&tables), [POD].into());
    assert_eq!(balancer.problems(), Vec::<String>::new());
}

#[test]
fn a_family_without_source_ranges_is_open() {
    let tables = Memory::default();
    let (v4, v6): (IpAddr, IpAddr) = ([203, 0, 113, 1].into(), "2001:db8::80".parse().unwrap());
    let Change::Put(Object::Service(plain)) = service(1, None) else { unreachable!() };
    let with = |ranges: &[&str]| {
        Change::Put(Object::Service(Arc::new(Service {
            cluster_ips: [cluster_ip(1), "fd00:96::1".parse().unwrap()].into(),
            load_balancer_ips: [v4, v6].into(),
            source_ranges: ranges.iter().map(|it| it.parse().unwrap()).collect(),
            ..(*plain).clone()
        })))
    };
    let far: IpAddr = "2001:db8:9::9".parse().unwrap();
    let six: IpAddr = "fd00:88::5".parse().unwrap();
    let Change::Put(Object::EndpointSlice(of_six)) = slice(1, [six]) else { unreachable!() };
    let of_six = Change::Put(Object::EndpointSlice(Arc::new(EndpointSlice {
        name: "six".into(),
        ..(*of_six).clone()
    })));
    let balancer = start(&tables, &[with(&["192.0.2.0/24"]), slice(1, [backend(1)]), of_six]);
    let at = |address| FrontendKey { address, port: 80, protocol: 6 };
    assert_eq!(tables.connect(From::Outside(CLIENT), at(v4)), Destination::Dropped);
    assert_eq!(led(&tables, From::Outside(far), (v6, 80)), [six].into(), "IPv6 has no ranges");
    balancer.apply(&[with(&["2001:db8:7::/48"])]);
    assert_eq!(led(&tables, From::Outside(CLIENT), (v4, 80)), [backend(1)].into(), "now IPv4 has none");
    assert_eq!(tables.connect(From::Outside(far), at(v6)), Destination::Dropped);
    balancer.apply(&[with(&["192.0.2.0/24", "2001:db8:7::/48"])]);
    assert_eq!(tables.connect(From::Outside(CLIENT), at(v4)), Destination::Dropped);
    assert_eq!(tables.connect(From::Outside(far), at(v6)), Destination::Dropped);
}

/// What a trace says of a connection is what the tables do to it.
#[test]
fn what_is_told_of_a_connection_is_what_becomes_of_it() {
    let tables = Memory::default();
    let vip: IpAddr = [203, 0, 113, 1].into();
    let Change::Put(Object::Service(plain)) = service(1, Some(NODE_PORT)) else { unreachable!() };
    let ranged = Change::Put(Object::Service(Arc::new(Service {
        load_balancer_ips: [vip].into(),
        source_ranges: ["192.0.2.0/24".parse().unwrap()].into(),
        ..(*plain).clone()
    })));
    let balancer = start(&tables, &[ranged, slice(1, [backend(1)]), service(2, None), no_slice(2)]);
    balancer.set_node_addresses(node_addresses(&[NODE.into()]));
    let welcome: IpAddr = [192, 0, 2, 77].into();
    let sources = [From::Endpoint(POD), From::Node, From::Outside(CLIENT), From::Outside(welcome)];
    let mut refused = 0;
    for from in sources {
        let (source, inside) = match from {
            From::Endpoint(source) => (source, true),
            From::Node => (NODE.into(), true),
            From::Outside(source) => (source, false),
        };
        for address in [cluster_ip(1), cluster_ip(2), vip, NODE.into(), [198, 51, 100, 7].into()] {
            for (protocol, port) in [(6, 80), (6, 81), (17, 80), (6, NODE_PORT), (1, 0)] {
                let told = balancer.resolve(protocol, source, (address, port).into(), inside);
                let done = tables.connect(from, FrontendKey { address, port, protocol });
                let what = format!("{from:?} {address}:{port}/{protocol}: {told:?}, {done:?}");
                match done {
                    Destination::NotAService => assert_eq!(told, None, "{what}"),
                    Destination::Backends(backends) => {
                        let told = told.expect(&what);
                        let told: BTreeSet<_> = told.backends.iter().map(std::net::SocketAddr::ip).collect();
                        assert_eq!(told, backends.into_iter().map(|it| it.address).collect(), "{what}");
                    }
                    Destination::Refused | Destination::Dropped => {
                        let told = told.expect(&what);
                        assert!(told.backends.is_empty(), "{what}");
                        refused += usize::from(told.refusal.is_some());
                    }
                }
            }
        }
    }
    assert!(refused > 10, "{refused}");
}

#[test]
fn who_listens_where_a_port_of_the_node_leads_elsewhere_is_told_of() {
    let tables = Memory::default();
    let balancer = start(&tables, &[]);
    balancer.set_host_ports(&container("a"), &[mapping(None, 53)], &[POD]);
    let listens = |at: &str, protocol| ipamd_kernel::netlink::Listener { at: at.parse().unwrap(), protocol };
    let (tcp, udp) = (ipamd_kernel::netlink::Protocol::Tcp, ipamd_kernel::netlink::Protocol::Udp);
    for (listener, told) in [
        (listens("0.0.0.0:53", tcp), true),
        (listens("[::]:53", tcp), true),
        (listens(&format!("{NODE}:53"), tcp), true),
        (listens("0.0.0.0:53", udp), false),
        (listens("0.0.0.0:54", tcp), false),
        (listens("192.0.2.99:53", tcp), false),
    ] {
        let problems = balancer.shadowed(&[listener]);
        assert_eq!(problems.len(), usize::from(told), "{listener:?}: {problems:?}");
        let named = |it: &String| it.contains(&listener.at.to_string()) && it.contains("net/a/eth0");
        assert!(problems.iter().all(named), "{problems:?}");
    }
}

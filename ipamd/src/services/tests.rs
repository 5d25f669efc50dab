//! What the model of the API does not reach: large services, full tables, backends in the node's own namespace, and
//! endpoints on their way out.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    thread,
    time::Duration,
};

use super::{
    Balancer, NodeAddresses, Site,
    memory::{From, Led, Memory},
    tables::{Backend, FrontendKey, Limits, PortRow},
};
use crate::cluster::{
    objects::{Change, Kind, Object, ObjectId},
    services::{EndpointSlice, Role, Service, ServicePort, SliceEndpoint, SlicePort},
};

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const NODE_PORT: u16 = 30_080;
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 88, 0, 9));
/// Room for little.
const SMALL: Limits = Limits { sets: 8, backends: 6, lookups: 65_521, frontends: 16 };

fn cluster_ip(number: u8) -> IpAddr {
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
    })))
}

fn backend(number: u32) -> IpAddr {
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
        ports: [SlicePort { name: "".into(), protocol: 6, port: 8080 }].into(),
        endpoints: addresses.into_iter().map(endpoint).collect(),
    })))
}

fn no_slice(number: u8) -> Change {
    Change::Remove(ObjectId {
        kind: Kind::EndpointSlice,
        namespace: Some("ns".into()),
        name: format!("s{number}").into(),
    })
}

fn start(tables: &Memory, first: &[Change]) -> Balancer {
    let site = Site { node: "node".into(), zone: None, pools: Vec::new() };
    let balancer = Balancer::new(Box::new(tables.clone()), site);
    let addresses = NodeAddresses::new([NODE.into()].into(), &[]);
    balancer.start(addresses, [], first).unwrap();
    balancer
}

/// Who takes a connection to the node port, or to the service's own address.
fn led(tables: &Memory, from: From, to: (IpAddr, u16)) -> BTreeSet<IpAddr> {
    match tables.lead(from, FrontendKey { address: to.0, port: to.1, protocol: 6 }) {
        Led::To(backends) => backends.into_iter().map(|it| it.address).collect(),
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
        state.programmed.values().flatten().flat_map(|port| port.problems.clone()).collect::<Vec<_>>()
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
    thread::sleep(Duration::from_millis(1_100));
    assert_eq!(balancer.part().len(), 1);
    balancer.retry();
    assert_eq!(from_inside(&tables, 1), [backend(1), backend(3)].into());
}

#[test]
fn an_endpoint_that_is_gone_parts_unless_it_comes_back() {
    let tables = Memory::default();
    let balancer = start(&tables, &[service(1, None), slice(1, [backend(1), backend(2)])]);
    let members = |tables: &Memory| tables.all_members().into_iter().map(|it| it.address).collect::<Vec<_>>();
    assert_eq!(balancer.next_parting(), None);
    balancer.apply(&[no_slice(1)]);
    assert_eq!(members(&tables), [backend(1), backend(2)], "they keep what they have for a moment");
    balancer.apply(&[slice(1, [backend(1)])]);
    assert_eq!(balancer.part(), []);
    thread::sleep(Duration::from_millis(1_100));
    let gone: Vec<_> = balancer.part().into_iter().map(|it| it.backend).collect();
    assert_eq!(gone, [Backend { address: backend(2), port: 8080 }]);
    assert_eq!(members(&tables), [backend(1)]);
    assert_eq!(balancer.next_parting(), None);
}

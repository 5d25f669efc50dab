//! Who may make services and slices can make very many, and very odd ones. None of that keeps others from theirs.

use std::{
    net::Ipv4Addr,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use ipamd_api::{AttachmentKey, PortMapping};

use super::{
    Balancer,
    memory::{Destination, From, Memory},
    tables::{Family, FrontendKey, Limits, Tables as _},
    tests::{POD, start},
};
use ipamd_model::{
    objects::{Change, Kind, Object, ObjectId},
    services::{EndpointSlice, Role, Service, ServicePort, SliceEndpoint, SlicePort},
};
use ipamd_runtime::work;

/// Tables a sixteenth as large as the programs'.
const LIMITS: Limits = Limits {
    sets: 4_096,
    backends: 16_384,
    lookups: 65_536,
    frontends: 4_096,
    members: 16_384,
    source_ranges: 4_096,
};

fn address(first: u8, number: u32) -> std::net::IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::new(first, 0, 0, 0).to_bits() + number).into()
}

fn service(namespace: &str, number: u32, ports: u16) -> Service {
    let port = |at| ServicePort { name: format!("p{at}").into(), protocol: 6, port: 1 + at, node_port: None };
    Service {
        namespace: namespace.into(),
        name: format!("s{number:05}").into(),
        role: Role::Balanced,
        cluster_ips: [address(11, number)].into(),
        external_ips: Box::default(),
        load_balancer_ips: Box::default(),
        source_ranges: Box::default(),
        ports: (0..ports).map(port).collect(),
        affinity: None,
        internal_local: false,
        external_local: false,
        health_check_port: None,
        refused: Box::default(),
    }
}

fn put(service: Service) -> Change {
    Change::Put(Object::Service(Arc::new(service)))
}

fn gone(namespace: &str, number: u32) -> Change {
    Change::Remove(ObjectId::namespaced(Kind::Service, namespace, &format!("s{number:05}")))
}

/// One of the slices of a service, with these endpoints behind each of its ports.
fn slice(namespace: &str, of: u32, name: u32, ports: u16, endpoints: impl Iterator<Item = u32>) -> Change {
    let endpoint = |number| SliceEndpoint {
        address: address(10, number),
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        hints: None,
    };
    let port = |at| SlicePort { name: format!("p{at}").into(), protocol: 6, port: 8_000 + at };
    Change::Put(Object::EndpointSlice(Arc::new(EndpointSlice {
        namespace: namespace.into(),
        name: format!("s{of:05}-{name}").into(),
        service: Some(format!("s{of:05}").into()),
        balanced: true,
        ports: (0..ports).map(port).collect(),
        endpoints: endpoints.map(endpoint).collect(),
        refused: Box::default(),
    })))
}

/// How many take a connection of a pod to the first port of a service.
fn takers(tables: &Memory, number: u32) -> usize {
    let to = FrontendKey { address: address(11, number), port: 1, protocol: 6 };
    match tables.connect(From::Endpoint(POD), to) {
        Destination::Backends(backends) => backends.len(),
        _ => 0,
    }
}

fn problems(balancer: &Balancer, namespace: &str) -> Vec<String> {
    let state = balancer.lock();
    assert!(!state.failed, "the tables were asked for more than they take");
    let of_it = state
        .ledger
        .programmed
        .iter()
        .filter(|(owner, _)| owner.namespace().is_some_and(|it| **it == *namespace));
    let ports = of_it.flat_map(|(_, ports)| ports);
    ports.flat_map(|port| port.plan.problems.iter().chain(&port.problems).cloned()).collect()
}

/// Of places at which nothing is served.
fn unserved(balancer: &Balancer) -> Vec<String> {
    let mut said = problems(balancer, "greedy");
    said.retain(|it| it.contains("is not served: "));
    said
}

/// A service of another namespace comes, and is served at once.
fn another_is_served(balancer: &Balancer, tables: &Memory) {
    balancer.apply(&[put(service("shop", 90_000, 1)), slice("shop", 90_000, 0, 1, 0..3)]);
    assert_eq!((takers(tables, 90_000), problems(balancer, "shop")), (3, Vec::new()));
}

#[test]
fn frontends_that_do_not_fit_are_refused_to_the_namespace_that_asks_for_them() {
    let tables = Memory::new(LIMITS);
    let balancer = start(&tables, &[]);
    let many: Vec<_> = (0..5_000).map(|number| put(service("greedy", number, 1))).collect();
    balancer.apply(&many);
    let said = unserved(&balancer);
    assert_eq!(said.len(), 5_000 - (4_096 - 1) / 2, "a port and an address each, and one is the node's own");
    assert!(said[0].contains("it needs 2 more addresses and ports"), "{}", said[0]);
    assert!(said[0].ends_with("are in use, and there is room for 4096"), "{}", said[0]);
    // Ports of one address are on the namespace's account alone, of which it has three quarters.
    let tables = Memory::new(LIMITS);
    let balancer = start(&tables, &[put(service("greedy", 1, 5_000))]);
    let said = unserved(&balancer);
    assert_eq!(said.len(), 5_000 - 3_072);
    assert!(said[0].ends_with("the namespace greedy has 3072, and may have 3072"), "{}", said[0]);
    another_is_served(&balancer, &tables);
    // What goes makes room.
    balancer.apply(&[put(service("greedy", 1, 2_000)), put(service("greedy", 2, 900))]);
    assert_eq!(problems(&balancer, "greedy"), Vec::<String>::new());
    // A daemon that starts on these tables counts the same.
    let balancer = start(
        &tables,
        &[
            put(service("greedy", 1, 5_000)),
            put(service("shop", 90_000, 1)),
            slice("shop", 90_000, 0, 1, 0..3),
        ],
    );
    assert_eq!(unserved(&balancer).len(), 5_000 - 3_072);
    another_is_served(&balancer, &tables);
}

#[test]
fn of_more_endpoints_than_fit_as_many_are_served_as_do() {
    let tables = Memory::new(LIMITS);
    let balancer = start(&tables, &[]);
    let slices = (0..100).map(|name| slice("greedy", 1, name, 3, name * 1_000..(name + 1) * 1_000));
    let all: Vec<_> = [put(service("greedy", 1, 3))].into_iter().chain(slices).collect();
    balancer.apply(&all);
    let said = problems(&balancer, "greedy");
    assert_eq!(takers(&tables, 1), 12_288, "three quarters of the members");
    assert!(!said.is_empty());
    another_is_served(&balancer, &tables);
    // With the tables of the programs it is what one port may have.
    let tables = Memory::default();
    let balancer = start(&tables, &all);
    assert_eq!(takers(&tables, 1), 65_535);
    let listed = problems(&balancer, "greedy");
    assert!(
        listed[0].starts_with("only 65535 of its endpoints are served: one port has no more"),
        "{}",
        listed[0]
    );
    assert_eq!(listed.len(), 3, "{listed:?}");
    another_is_served(&balancer, &tables);
}

#[test]
fn services_that_want_one_place_cost_others_nothing() {
    let tables = Memory::default();
    let shared = |number| Service {
        external_ips: [address(12, 0)].into(),
        ports: (0..4)
            .map(|at| ServicePort {
                name: format!("p{at}").into(),
                protocol: 6,
                port: 1 + at,
                node_port: None,
            })
            .collect(),
        ..service("greedy", number, 1)
    };
    let all: Vec<_> = (0..5_000).map(|number| put(shared(number))).collect();
    let balancer = start(&tables, &all);
    assert_eq!(problems(&balancer, "greedy").len(), 4_999 * 4);
    another_is_served(&balancer, &tables);
    // Neither what others give up nor what is tried again touches those that wait.
    let steps = work::of(|| {
        balancer.apply(&[gone("shop", 90_000)]);
        balancer.retry();
    });
    assert!(steps < 50, "{steps} steps");
    // When the holder goes, the next comes, and the others wait on.
    let steps = work::of(|| {
        balancer.apply(&[gone("greedy", 0)]);
    });
    assert!(steps < 100, "{steps} steps");
    assert_eq!(problems(&balancer, "greedy").len(), 4_998 * 4);
    let at = FrontendKey { address: address(12, 0), port: 1, protocol: 6 };
    assert!(tables.frontends(Family::V4).unwrap().iter().any(|(key, _)| *key == at));
}

#[test]
fn ports_and_slices_of_one_service_cost_in_proportion() {
    let steps = |ports: u16, slices: u32| {
        let of_it = (0..slices).map(|name| slice("greedy", 1, name, ports, name * 10..(name + 1) * 10));
        let all: Vec<_> = [put(service("greedy", 1, ports))].into_iter().chain(of_it).collect();
        work::of(|| drop(start(&Memory::default(), &all)))
    };
    let few = steps(50, 20);
    assert!(steps(100, 20) <= few * 5 / 2 && steps(50, 40) <= few * 5 / 2, "{few}");
    // The same addresses in every slice are looked at once in each.
    let same = |slices| {
        let of_it = (0..slices).map(|name| slice("greedy", 1, name, 1, 0..100));
        let all: Vec<_> = [put(service("greedy", 1, 1))].into_iter().chain(of_it).collect();
        work::of(|| drop(start(&Memory::default(), &all)))
    };
    assert!(same(2_000) <= same(1_000) * 5 / 2);
}

#[test]
fn whoever_asks_waits_for_no_large_change() {
    let balancer = Arc::new(start(&Memory::default(), &[put(service("shop", 1, 1))]));
    let (tell, told) = mpsc::channel();
    let asks = Arc::clone(&balancer);
    balancer.stall(|| {
        let asking = thread::spawn(move || {
            let mapping = PortMapping { host_port: 80, container_port: 80, protocol: 6, host_ip: None };
            let key =
                AttachmentKey { network: "net".into(), container_id: "c".into(), ifname: "eth0".into() };
            asks.set_host_ports_later(&key, vec![mapping], vec![POD]);
            let said = (asks.problems(), asks.shadowed(&[]), asks.host_port_conflict(&[mapping]));
            tell.send(said)
        });
        let said = told.recv_timeout(Duration::from_secs(30)).expect("it waits for the change");
        assert_eq!(said, (Vec::new(), Vec::new(), None));
        asking.join().unwrap().unwrap();
    });
    // What was to come comes with whoever has the state next.
    assert!(balancer.lock().ledger.programmed.len() == 2);
}

//! A daemon that starts on what another has left: at no moment is anybody led to the backends of another service, not even
//! when a write fails half way.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnetwork::IpNetwork;
use proptest::prelude::*;

use super::{
    Balancer, NodeAddresses, Site,
    memory::{Destination, From, Memory},
    tables::{
        Backend, Family, FrontendKey, FrontendValue, Limits, Member, PortRow, ServiceNumber, SetNumber,
        SetValue, TableError, Tables,
    },
    tests::{CLIENT, NODE, NODE_PORT, POD, cluster_ip},
};
use ipamd_model::{
    concerned::Concerned,
    objects::{Change, Object},
    services::{EndpointSlice, Role, Service, ServicePort, SliceEndpoint, SlicePort},
};

/// Tables that are looked at after each write, and of which one may fail.
struct Watched {
    tables: Memory,
    look: Box<dyn Fn(&Memory) + Send>,
    /// How many writes are made before all fail.
    good: usize,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.tables.fmt(f)
    }
}

impl Watched {
    fn write<T>(
        &mut self,
        write: impl FnOnce(&mut Memory) -> Result<T, TableError>,
    ) -> Result<T, TableError> {
        if self.good == 0 {
            return Err(TableError("it was told to fail".into()));
        }
        self.good -= 1;
        let written = write(&mut self.tables);
        (self.look)(&self.tables);
        written
    }
}

impl Tables for Watched {
    fn limits(&self) -> Limits {
        self.tables.limits()
    }

    fn put_backends(&mut self, family: Family, first: u32, all: &[(Backend, u32)]) -> Result<(), TableError> {
        self.write(|tables| tables.put_backends(family, first, all))
    }

    fn backends(&self, family: Family, first: u32, count: u32) -> Result<Vec<(Backend, u32)>, TableError> {
        self.tables.backends(family, first, count)
    }

    fn put_lookups(&mut self, first: u32, places: &[u32]) -> Result<(), TableError> {
        self.write(|tables| tables.put_lookups(first, places))
    }

    fn lookups(&self, first: u32, count: u32) -> Result<Vec<u32>, TableError> {
        self.tables.lookups(first, count)
    }

    fn put_set(&mut self, set: SetNumber, value: SetValue) {
        // It is a word in memory: it cannot fail.
        self.tables.put_set(set, value);
        (self.look)(&self.tables);
    }

    fn set(&self, set: SetNumber) -> SetValue {
        self.tables.set(set)
    }

    fn put_frontends(&mut self, frontends: &[(FrontendKey, FrontendValue)]) -> Result<(), TableError> {
        // One by one, as the kernel takes them.
        frontends.iter().try_for_each(|it| self.write(|tables| tables.put_frontends(&[*it])))
    }

    fn remove_frontends(&mut self, keys: &[FrontendKey]) -> Result<(), TableError> {
        keys.iter().try_for_each(|it| self.write(|tables| tables.remove_frontends(&[*it])))
    }

    fn frontends(&self, family: Family) -> Result<Vec<(FrontendKey, FrontendValue)>, TableError> {
        self.tables.frontends(family)
    }

    fn put_members(&mut self, members: &[(ServiceNumber, Member)]) -> Result<(), TableError> {
        self.write(|tables| tables.put_members(members))
    }

    fn remove_members(&mut self, members: &[(ServiceNumber, Backend)]) -> Result<(), TableError> {
        self.write(|tables| tables.remove_members(members))
    }

    fn members(&self, family: Family) -> Result<Vec<(ServiceNumber, Member)>, TableError> {
        self.tables.members(family)
    }

    fn put_source_ranges(
        &mut self,
        service: ServiceNumber,
        old: &[IpNetwork],
        new: &[IpNetwork],
    ) -> Result<(), TableError> {
        self.write(|tables| tables.put_source_ranges(service, old, new))
    }

    fn source_ranges(&self) -> Result<Vec<(ServiceNumber, IpNetwork)>, TableError> {
        self.tables.source_ranges()
    }

    fn mark_port(&mut self, row: PortRow, port: u16, marked: bool) {
        self.tables.mark_port(row, port, marked);
    }

    fn keep_ports(&mut self, row: PortRow, marked: &dyn Fn(u16) -> bool) {
        self.tables.keep_ports(row, marked);
    }

    fn set_host_backends(&mut self, any: bool) -> Result<(), TableError> {
        self.write(|tables| tables.set_host_backends(any))
    }

    fn raise_epoch(&mut self, concerned: &Concerned) -> Result<(), TableError> {
        self.write(|tables| tables.raise_epoch(concerned))
    }
}

/// A service of the model: by its name, 0 to 4.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// Which of the cluster's addresses it has.
    address: u8,
    node_port: Option<u16>,
    /// How many backends, and from which on.
    backends: (u8, u8),
}

type Cluster = BTreeMap<u8, Told>;

fn backends(name: u8, told: Told) -> BTreeSet<IpAddr> {
    let (first, count) = told.backends;
    // Whose a backend is can be seen.
    (first..first + count).map(|at| [10, 88, name, at].into()).collect()
}

fn changes(cluster: &Cluster) -> Vec<Change> {
    let each = cluster.iter().flat_map(|(name, told)| {
        let service = Service {
            namespace: "ns".into(),
            name: format!("s{name}").into(),
            role: Role::Balanced,
            cluster_ips: [cluster_ip(told.address)].into(),
            external_ips: Box::default(),
            load_balancer_ips: Box::default(),
            source_ranges: Box::default(),
            ports: [ServicePort { name: "".into(), protocol: 6, port: 80, node_port: told.node_port }].into(),
            affinity: None,
            internal_local: false,
            external_local: false,
            health_check_port: None,
            refused: Box::default(),
        };
        let endpoint = |address| SliceEndpoint {
            address,
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            hints: None,
        };
        let slice = EndpointSlice {
            namespace: "ns".into(),
            name: format!("s{name}").into(),
            service: Some(format!("s{name}").into()),
            balanced: true,
            ports: [SlicePort { name: "".into(), protocol: 6, port: 8080 }].into(),
            endpoints: backends(*name, *told).into_iter().map(endpoint).collect(),
            refused: Box::default(),
        };
        [Change::Put(Object::Service(Arc::new(service))), Change::Put(Object::EndpointSlice(Arc::new(slice)))]
    });
    each.collect()
}

/// Where services may be reached, by whom, and who may answer there in one of the clusters.
fn allowed(clusters: &[&Cluster]) -> BTreeMap<(From, FrontendKey), BTreeSet<IpAddr>> {
    let mut allowed: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    let key = |address, port| FrontendKey { address, port, protocol: 6 };
    for (name, told) in clusters.iter().copied().flatten() {
        let cluster = (From::Endpoint(POD), key(cluster_ip(told.address), 80));
        let node_port = told.node_port.map(|port| key(IpAddr::V4(NODE), port));
        let node_port = node_port.map(|key| [(From::Endpoint(POD), key), (From::Outside(CLIENT), key)]);
        for place in [cluster].into_iter().chain(node_port.into_iter().flatten()) {
            allowed.entry(place).or_default().extend(backends(*name, *told));
        }
    }
    allowed
}

/// Who answers once a cluster is in force. Two services that claim one place: either.
fn is_in_force(tables: &Memory, cluster: &Cluster) {
    for ((from, at), may) in allowed(&[cluster]) {
        match tables.connect(from, at) {
            Destination::Backends(backends) => {
                assert!(backends.iter().all(|it| may.contains(&it.address)), "{at:?}");
            }
            Destination::Refused => {
                let empty = cluster.values().any(|told| told.backends.1 == 0);
                assert!(empty, "{at:?} is refused although every service has backends");
            }
            other => panic!("{at:?}: {other:?}"),
        }
    }
}

fn start(tables: Memory, clusters: [&Cluster; 2], good: usize) -> bool {
    let allowed = allowed(&clusters);
    let look = move |tables: &Memory| {
        for ((from, at), may) in &allowed {
            if let Destination::Backends(backends) = tables.connect(*from, *at) {
                for backend in backends {
                    assert!(may.contains(&backend.address), "{from:?} is led from {at:?} to {backend:?}");
                }
            }
        }
    };
    let site = Site { node: "node".into(), zone: None, pools: Vec::new() };
    let balancer = Balancer::new(Box::new(Watched { tables, look: Box::new(look), good }), site);
    let addresses = NodeAddresses::new([NODE.into()].into(), &[]);
    balancer.start(addresses, [], &changes(clusters[1])).is_ok()
}

fn clusters() -> impl Strategy<Value = Cluster> {
    let port = prop::option::of(NODE_PORT..NODE_PORT + 2);
    let told = (0_u8..4, port, (1_u8..4, 0_u8..4));
    let told =
        told.prop_map(|(address, node_port, backends)| Told { address: address + 1, node_port, backends });
    prop::collection::btree_map(0_u8..4, told, 0..5)
}

#[test]
fn a_service_that_grew_meanwhile_leaves_the_backends_of_the_next_alone() {
    let told = |address, count| Told { address, node_port: None, backends: (1, count) };
    let before = Cluster::from([(0, told(1, 1)), (1, told(2, 1))]);
    let after = Cluster::from([(0, told(1, 2)), (1, told(2, 1))]);
    let tables = Memory::default();
    assert!(start(tables.clone(), [&Cluster::new(), &before], usize::MAX));
    assert!(start(tables.clone(), [&before, &after], usize::MAX));
    is_in_force(&tables, &after);
}

#[test]
fn a_node_port_that_changed_hands_meanwhile_leads_to_one_or_the_other() {
    let told = |address, node_port| Told { address, node_port, backends: (1, 2) };
    let before = Cluster::from([(1, told(2, Some(NODE_PORT)))]);
    // The first of the two comes first, and is not in the tables by its own address.
    let after = Cluster::from([(0, told(1, Some(NODE_PORT))), (1, told(2, None))]);
    let tables = Memory::default();
    assert!(start(tables.clone(), [&Cluster::new(), &before], usize::MAX));
    let members = tables.all_members();
    assert!(start(tables.clone(), [&before, &after], usize::MAX));
    is_in_force(&tables, &after);
    let kept = tables.members(Family::V4).unwrap();
    let of_second: BTreeSet<_> = kept.iter().filter(|(_, it)| members.contains(&it.backend)).collect();
    assert!(
        of_second.iter().all(|(_, it)| it.in_cluster),
        "the second keeps its number, and so its connections"
    );
}

proptest! {
    #[test]
    fn nobody_is_led_astray_by_a_restart(before in clusters(), after in clusters(), good in 0_usize..40) {
        let tables = Memory::default();
        prop_assert!(start(tables.clone(), [&Cluster::new(), &before], usize::MAX));
        start(tables.clone(), [&before, &after], good);
        prop_assert!(start(tables.clone(), [&before, &after], usize::MAX));
        is_in_force(&tables, &after);
    }
}

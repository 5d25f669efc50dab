//! The plan of a service's port on this node, in one family: a pure function from the cluster's state to frontends and
//! members.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    net::IpAddr,
};

use super::{
    site::Site,
    tables::{Backend, Family, FrontendKey, Member},
    topology::{self, Takes},
};
use ipamd_model::{
    policy::protocol,
    services::{EndpointSlice, Role, Service, ServicePort, SliceEndpoint},
};
use ipamd_runtime::work;

/// The kind of address by which a service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// A cluster IP.
    ClusterIp,
    /// A node port.
    NodePort,
    /// `externalIPs`.
    ExternalIp,
    /// An address of its load balancer.
    LoadBalancer,
    /// A host port of a container.
    HostPort,
}

impl FrontendKind {
    /// Whether it is meant for connections from outside.
    pub fn is_external(self) -> bool {
        self != Self::ClusterIp
    }
}

/// Which of a service's endpoints a connection may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All.
    Cluster,
    /// Those on this node.
    Local,
}

/// A frontend of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Its address, port and protocol.
    pub key: FrontendKey,
    /// Its kind.
    pub kind: FrontendKind,
    /// The endpoints for connections from inside.
    pub inside: Scope,
    /// The endpoints for connections from outside.
    pub outside: Scope,
    /// The source ranges are checked.
    pub ranged: bool,
}

/// One port of a service in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its frontends.
    pub frontends: Vec<Frontend>,
    /// Its endpoints, ordered by address and port.
    pub members: Vec<Member>,
    /// Seconds of affinity; 0: none.
    pub affinity: u32,
    /// Its problems, a sentence each.
    pub problems: Vec<String>,
}

impl Plan {
    /// The backends of a scope, in order.
    pub fn backends(&self, scope: Scope) -> Vec<Backend> {
        of_scope(&self.members, scope)
    }
}

/// The backends among members that take connections of a scope, in order.
pub fn of_scope(members: &[Member], scope: Scope) -> Vec<Backend> {
    let takes = |member: &&Member| match scope {
        Scope::Cluster => member.in_cluster,
        Scope::Local => member.in_local,
    };
    members.iter().filter(takes).map(|member| member.backend).collect()
}

/// An endpoint of a port, with its port.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The endpoint in its slice.
    pub endpoint: &'a SliceEndpoint,
    /// Its port.
    pub port: u16,
    /// It takes new connections that may go to any node.
    pub in_cluster: bool,
    /// It takes new connections that must stay on this node.
    pub in_local: bool,
}

/// The slices of a service by port. A service may have thousands of both.
#[derive(Debug, Default)]
pub struct Slices<'a>(HashMap<(&'a str, u8), Vec<(u16, &'a EndpointSlice)>>);

impl<'a> Slices<'a> {
    /// Sorts slices by their ports.
    pub fn new(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Self {
        let mut by_port: HashMap<_, Vec<_>> = HashMap::new();
        for slice in slices {
            // A port that a slice lists twice counts once.
            let mut ports: Vec<_> = slice.ports.iter().collect();
            ports.sort_unstable_by(|a, b| (&a.name, a.protocol, a.port).cmp(&(&b.name, b.protocol, b.port)));
            ports.dedup();
            for port in ports {
                by_port.entry((&*port.name, port.protocol)).or_default().push((port.port, slice));
            }
        }
        Self(by_port)
    }

    /// At most `most` endpoints of a port in a family, in the slices' order, and whether there are more. An endpoint of
    /// several slices counts once, as the first slice has it that calls it ready.
    pub fn candidates(
        &self,
        site: &Site,
        port: &ServicePort,
        family: Family,
        most: usize,
    ) -> (Vec<Candidate<'a>>, bool) {
        let mut found: BTreeMap<Backend, &SliceEndpoint> = BTreeMap::new();
        let mut more = false;
        for (number, slice) in self.0.get(&(&*port.name, port.protocol)).into_iter().flatten() {
            work::step(slice.endpoints.len());
            for endpoint in slice.endpoints.iter().filter(|it| Family::of(it.address) == family) {
                let room = found.len() < most;
                match found.entry(Backend { address: endpoint.address, port: *number }) {
                    Entry::Vacant(free) if room => drop(free.insert(endpoint)),
                    Entry::Vacant(_) => more = true,
                    Entry::Occupied(mut known) if !known.get().ready && endpoint.ready => {
                        known.insert(endpoint);
                    }
                    Entry::Occupied(_) => {}
                }
            }
            if more {
                // The rest is not counted.
                break;
            }
        }
        let takes = topology::takes(site, &found.values().copied().collect::<Vec<_>>());
        let each = found.into_iter().zip(takes);
        let each = each.map(|((backend, endpoint), Takes { cluster, local })| Candidate {
            endpoint,
            port: backend.port,
            in_cluster: cluster,
            in_local: local,
        });
        (each.collect(), more)
    }
}

/// The families in which a service is reached: those of its addresses.
pub fn families(service: &Service) -> impl Iterator<Item = Family> {
    Family::ALL.into_iter().filter(|family| service.cluster_ips.iter().any(|ip| Family::of(*ip) == *family))
}

/// The most endpoints of one port in a family: a set of backends counts them in 16 bits.
pub const MOST_OF_PORT: usize = u16::MAX as usize;

/// Plans a port of a service with at most so many endpoints; `None` if nothing of it is balanced in that family.
pub fn plan(
    site: &Site,
    service: &Service,
    port: &ServicePort,
    family: Family,
    slices: &Slices<'_>,
    most: usize,
) -> Option<Plan> {
    if service.role != Role::Balanced || !families(service).any(|it| it == family) {
        return None;
    }
    let most = most.min(MOST_OF_PORT);
    let (candidates, more) = slices.candidates(site, port, family, most);
    let members: Vec<_> = candidates
        .iter()
        .map(|it| Member {
            backend: Backend { address: it.endpoint.address, port: it.port },
            in_cluster: it.in_cluster,
            in_local: it.in_local,
        })
        .collect();
    let mut problems = Vec::new();
    if more {
        problems.push(if most == MOST_OF_PORT {
            format!("only {most} of its endpoints are served: one port has no more; divide it among several services")
        } else {
            format!("only {most} of its endpoints are served: its other ports have all others that one namespace may have")
        });
    }
    let mut frontends = frontends(service, port, family);
    if port.protocol == protocol::SCTP {
        // The checksum of SCTP covers the port, and a program cannot compute it again.
        let numbers: BTreeMap<_, _> =
            members.iter().rev().map(|it| (it.backend.port, it.backend.address)).collect();
        frontends.retain(|frontend| {
            let other = numbers.iter().find(|(port, _)| **port != frontend.key.port);
            if let Some((port, address)) = other {
                problems.push(format!(
                    "SCTP port {} cannot be translated to port {port} of {address}: the two must be equal",
                    frontend.key.port
                ));
            }
            other.is_none()
        });
    }
    Some(Plan { frontends, members, affinity: service.affinity.unwrap_or(0), problems })
}

/// The frontends of a port in a family.
fn frontends(service: &Service, port: &ServicePort, family: Family) -> Vec<Frontend> {
    let scope = |local: bool| if local { Scope::Local } else { Scope::Cluster };
    let frontend = |address: IpAddr, number: u16, kind: FrontendKind| Frontend {
        key: FrontendKey { address, port: number, protocol: port.protocol },
        kind,
        // A client inside needs no external traffic policy: the frontend treats it like the cluster address does.
        inside: if kind.is_external() { Scope::Cluster } else { scope(service.internal_local) },
        outside: scope(if kind.is_external() { service.external_local } else { service.internal_local }),
        // A family without ranges is open, as in kube-proxy.
        ranged: kind == FrontendKind::LoadBalancer
            && service.source_ranges.iter().any(|range| Family::of(range.network()) == family),
    };
    let lists = [
        (&service.cluster_ips, FrontendKind::ClusterIp),
        (&service.external_ips, FrontendKind::ExternalIp),
        (&service.load_balancer_ips, FrontendKind::LoadBalancer),
    ];
    let mut frontends = Vec::new();
    for (addresses, kind) in lists {
        let addresses = addresses.iter().filter(|address| Family::of(**address) == family);
        frontends.extend(addresses.map(|address| frontend(*address, port.port, kind)));
    }
    let node_port = port.node_port.filter(|number| *number != 0);
    frontends.extend(node_port.map(|number| frontend(family.unspecified(), number, FrontendKind::NodePort)));
    // An address may be listed twice, for example as external and as the load balancer's. The first one counts.
    let mut seen = std::collections::HashSet::new();
    frontends.retain(|frontend| seen.insert(frontend.key));
    frontends
}

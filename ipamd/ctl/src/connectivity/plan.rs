//! Which agent checks what, as a function of what there is.

use std::net::{IpAddr, SocketAddr};

use super::check::{Act, Check, Expect, Family, Kind, Probe};

/// The port that every agent in a pod serves.
pub(super) const PORT: u16 = 8080;
/// The port of servers that a policy keeps the guarded pod from.
pub(super) const SECOND_PORT: u16 = 8081;
/// The port of the services.
pub(super) const SERVICE_PORT: u16 = 80;
/// What a service's name in DNS is, in a cluster.
pub(super) const KNOWN_NAME: &str = "kubernetes.default.svc";

/// How many other nodes each node's agents turn to: the next ones in a ring, so that a large cluster is covered in a time
/// that does not grow with it.
const PEERS: usize = 8;

/// Something that can be checked, or why it cannot.
pub(super) type Offered<T> = Result<T, String>;

/// What there is.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    pub nodes: Vec<Node>,
    /// The pod that policies guard; it is on the first node.
    pub guarded: Offered<Vec<IpAddr>>,
    pub services: Offered<Services>,
    /// The port of each node that leads to its server.
    pub host_port: Offered<u16>,
    /// The port that agents in the network of their node serve.
    pub node_agents: Offered<u16>,
    pub outside: Offered<Vec<Outside>>,
    /// DNS servers to ask; `None` for the resolvers of each pod, in a cluster.
    pub dns: Offered<Vec<Option<IpAddr>>>,
}

/// A node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    /// Addresses of the server on it; none if it does not run.
    pub server: Vec<IpAddr>,
    /// Addresses of the service that has the node's client as its only backend.
    pub own_service: Vec<IpAddr>,
}

/// The service of all servers.
#[derive(Clone, Debug)]
pub(super) struct Services {
    pub addresses: Vec<IpAddr>,
    pub node_port: Option<u16>,
}

/// Somebody beyond the cluster: an address to ping, or one with a port to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outside {
    pub address: IpAddr,
    pub port: Option<u16>,
}

/// Names of the agents of a node.
pub(super) fn server(at: usize) -> String {
    format!("server-{at}")
}
pub(super) fn client(at: usize) -> String {
    format!("client-{at}")
}
pub(super) fn stranger(at: usize) -> String {
    format!("stranger-{at}")
}
pub(super) fn node_agent(at: usize) -> String {
    format!("node-{at}")
}
pub(super) fn node_client(at: usize) -> String {
    format!("node-client-{at}")
}
pub(super) const GUARDED: &str = "guarded";

/// The probes that stand for checks, for their agent.
pub(super) fn probes(checks: &[Check]) -> Vec<Probe> {
    let probe = |(number, check): (usize, &Check)| Probe {
        number,
        act: check.act.clone(),
        expect: check.expect.clone(),
    };
    checks.iter().enumerate().map(probe).collect()
}

impl Topology {
    /// The nodes that the agents of a node turn to, their own first.
    fn peers(&self, at: usize) -> impl Iterator<Item = (usize, &Node)> {
        let count = self.nodes.len();
        let peers = (0..count.min(PEERS + 1)).map(move |step| (at + step) % count);
        peers.map(|peer| (peer, &self.nodes[peer]))
    }

    /// Whether pods of a node have addresses of a family.
    fn speaks(&self, at: usize, address: IpAddr) -> bool {
        self.nodes[at].server.iter().any(|own| own.is_ipv4() == address.is_ipv4())
    }

    /// What the node's client checks.
    pub fn client(&self, at: usize) -> Vec<Check> {
        let mut checks = Checks::of(client(at));
        for (peer, node) in self.peers(at) {
            let by = server(peer);
            for &address in &node.server {
                let to = SocketAddr::new(address, PORT);
                let own = answer(&by, true);
                checks.add(Kind::PodToPod, &by, Act::Tcp(to), own.clone());
                checks.add(Kind::PodToPod, &by, Act::Udp(to), own);
                checks.add(Kind::Stream, &by, Act::Stream(to), answer(&by, true));
                checks.add(Kind::MtuSized, &by, Act::MtuSized(to), answer(&by, true));
                checks.add(Kind::OversizedRefused, &by, Act::OversizedRefused(to), Expect::Success);
                checks.add(Kind::OversizedCut, &by, Act::OversizedCut(to), answer(&by, true));
            }
            for &address in node.addresses.iter().filter(|it| self.speaks(at, **it)) {
                let act = match self.node_agents {
                    Ok(port) => (Act::Tcp((address, port).into()), answer(&node_agent(peer), false)),
                    Err(_) => (Act::Ping(address), Expect::Success),
                };
                checks.add(Kind::PodToNode, &node.name, act.0, act.1);
                self.by_node(&mut checks, peer, node, address);
            }
        }
        self.by_service(&mut checks, |it| self.speaks(at, it));
        for &address in &self.nodes[at].own_service {
            let to = SocketAddr::new(address, SERVICE_PORT);
            checks.add(Kind::Hairpin, "itself", Act::Tcp(to), answer(&client(at), false));
        }
        for outside in self.outside.iter().flatten().filter(|it| self.speaks(at, it.address)) {
            let act = match outside.port {
                Some(port) => Act::Connect((outside.address, port).into()),
                None => Act::Ping(outside.address),
            };
            checks.add(Kind::Outside, "outside", act, Expect::Success);
        }
        for server in self.dns.iter().flatten().filter(|it| it.is_none_or(|it| self.speaks(at, it))) {
            let name = if server.is_none() { KNOWN_NAME } else { "." };
            let act = Act::Resolve { server: *server, name: name.into() };
            checks.add(Kind::Dns, "resolver", act, Expect::Success);
        }
        for &address in self.guarded.iter().flatten() {
            let to = SocketAddr::new(address, PORT);
            checks.add(Kind::PolicyAllow, GUARDED, Act::Tcp(to), answer(GUARDED, false));
            checks.add(Kind::PolicyAllow, GUARDED, Act::Udp(to), answer(GUARDED, false));
        }
        if self.guarded.is_ok() {
            // What the guarded pod must not reach is there.
            for &address in self.nodes.first().iter().flat_map(|node| &node.server) {
                let to = SocketAddr::new(address, SECOND_PORT);
                checks.add(Kind::PolicyAllow, &server(0), Act::Tcp(to), answer(&server(0), false));
            }
        }
        checks.list
    }

    /// What the node's stranger checks, whom no policy lets in.
    pub fn stranger(&self, at: usize) -> Vec<Check> {
        let mut checks = Checks::of(stranger(at));
        let Ok(guarded) = &self.guarded else { return checks.list };
        for &address in guarded {
            let to = SocketAddr::new(address, PORT);
            checks.add(Kind::PolicyDeny, GUARDED, Act::Tcp(to), Expect::Silence);
            checks.add(Kind::PolicyDeny, GUARDED, Act::Udp(to), Expect::Silence);
        }
        // It has a network, all the same.
        for &address in self.nodes.first().iter().flat_map(|node| &node.server) {
            let to = SocketAddr::new(address, PORT);
            checks.add(Kind::PolicyAllow, &server(0), Act::Tcp(to), answer(&server(0), false));
        }
        checks.list
    }

    /// What the guarded pod checks, which may talk to one port of the servers only.
    pub fn guarded(&self) -> Vec<Check> {
        let mut checks = Checks::of(GUARDED.into());
        for &address in self.nodes.first().iter().flat_map(|node| &node.server) {
            let [first, second] = [PORT, SECOND_PORT].map(|port| SocketAddr::new(address, port));
            checks.add(Kind::PolicyAllow, &server(0), Act::Tcp(first), answer(&server(0), false));
            checks.add(Kind::PolicyDeny, &server(0), Act::Tcp(second), Expect::Silence);
        }
        checks.list
    }

    /// What is checked from the node's own network.
    pub fn node(&self, at: usize) -> Vec<Check> {
        let mut checks = Checks::of(node_client(at));
        for (peer, node) in self.peers(at) {
            let by = server(peer);
            for &address in &node.server {
                let to = SocketAddr::new(address, PORT);
                checks.add(Kind::NodeToPod, &by, Act::Tcp(to), answer(&by, false));
                checks.add(Kind::NodeToPod, &by, Act::Udp(to), answer(&by, false));
            }
            for &address in node.addresses.iter().filter(|it| self.speaks(peer, **it)) {
                self.by_node(&mut checks, peer, node, address);
            }
        }
        self.by_service(&mut checks, |it| self.speaks(at, it));
        checks.list
    }

    /// Ways to servers by an address of a node.
    fn by_node(&self, checks: &mut Checks, peer: usize, node: &Node, address: IpAddr) {
        if let Ok(Services { node_port: Some(port), .. }) = self.services {
            let to = SocketAddr::new(address, port);
            checks.add(Kind::NodePort, &node.name, Act::Tcp(to), answer("server-*", false));
            checks.add(Kind::NodePort, &node.name, Act::Udp(to), answer("server-*", false));
        }
        if let (Ok(port), false) = (&self.host_port, node.server.is_empty()) {
            let to = SocketAddr::new(address, *port);
            checks.add(Kind::HostPort, &node.name, Act::Tcp(to), answer(&server(peer), false));
        }
    }

    fn by_service(&self, checks: &mut Checks, speaks: impl Fn(IpAddr) -> bool) {
        let addresses = self.services.iter().flat_map(|services| &services.addresses);
        for &address in addresses.filter(|it| speaks(**it)) {
            let to = SocketAddr::new(address, SERVICE_PORT);
            checks.add(Kind::ClusterIp, "service", Act::Tcp(to), answer("server-*", false));
            checks.add(Kind::ClusterIp, "service", Act::Udp(to), answer("server-*", false));
        }
    }

    /// What is not checked, and why.
    pub fn left_out(&self) -> Vec<(Kind, String)> {
        let mut left_out = Vec::new();
        let mut note = |kinds: &[Kind], why: Option<&String>| {
            left_out.extend(why.into_iter().flat_map(|why| kinds.iter().map(|kind| (*kind, why.clone()))));
        };
        note(&[Kind::NodeToPod], self.node_agents.as_ref().err());
        note(&[Kind::Outside], self.outside.as_ref().err());
        note(&[Kind::ClusterIp, Kind::NodePort, Kind::Hairpin], self.services.as_ref().err());
        note(&[Kind::HostPort], self.host_port.as_ref().err());
        note(&[Kind::Dns], self.dns.as_ref().err());
        note(&[Kind::PolicyAllow, Kind::PolicyDeny], self.guarded.as_ref().err());
        left_out
    }
}

fn answer(by: &str, own_address: bool) -> Expect {
    Expect::Answer { by: by.to_owned(), own_address }
}

struct Checks {
    from: String,
    list: Vec<Check>,
}

impl Checks {
    fn of(from: String) -> Self {
        Self { from, list: Vec::new() }
    }

    fn add(&mut self, kind: Kind, whom: &str, act: Act, expect: Expect) {
        let (at, family) = match &act {
            Act::Tcp(to) | Act::Stream(to) | Act::Connect(to) => (format!("{to} tcp"), Some(to.ip())),
            Act::Udp(to) | Act::MtuSized(to) | Act::OversizedRefused(to) | Act::OversizedCut(to) => {
                (format!("{to} udp"), Some(to.ip()))
            }
            Act::Ping(to) => (format!("{to} icmp"), Some(*to)),
            Act::Resolve { server: Some(server), .. } => (format!("{server} dns"), Some(*server)),
            Act::Resolve { server: None, name } => (name.clone(), None),
        };
        let (from, family) = (self.from.clone(), family.map(Family::of));
        self.list.push(Check { kind, from, to: format!("{whom} {at}"), family, act, expect });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn topology(count: u8) -> Topology {
        let node = |at: u8| Node {
            name: format!("n{at}"),
            addresses: vec![[192, 0, 2, at + 1].into(), format!("2001:db8::{at:x}").parse().unwrap()],
            server: vec![[10, 0, at, 2].into(), format!("fd00:{at:x}::2").parse().unwrap()],
            own_service: vec![[10, 96, 1, at].into()],
        };
        Topology {
            nodes: (0..count).map(node).collect(),
            guarded: Ok(vec![[10, 0, 0, 3].into()]),
            services: Ok(Services { addresses: vec![[10, 96, 0, 1].into()], node_port: Some(30080) }),
            host_port: Ok(24681),
            node_agents: Ok(24680),
            outside: Ok(vec![Outside { address: [198, 51, 100, 1].into(), port: None }]),
            dns: Ok(vec![None]),
        }
    }

    fn kinds(checks: &[Check]) -> BTreeSet<Kind> {
        checks.iter().map(|check| check.kind).collect()
    }

    #[test]
    fn all_kinds_are_checked_where_everything_is_there() {
        let topology = topology(2);
        let mut all = kinds(&topology.client(0));
        all.extend(kinds(&topology.node(0)));
        all.extend(kinds(&topology.stranger(0)));
        all.extend(kinds(&topology.guarded()));
        // That a pod starts is no probe.
        all.insert(Kind::Start);
        assert_eq!(all, Kind::ALL.into_iter().collect());
        assert_eq!(topology.left_out(), []);
    }

    #[test]
    fn each_node_is_met_from_each_other_in_both_families() {
        let topology = topology(3);
        for at in 0..3 {
            let checks = topology.client(at);
            for (peer, node) in topology.nodes.iter().enumerate() {
                for address in node.server.iter().chain(&node.addresses) {
                    assert!(
                        checks.iter().any(|check| check.to.contains(&format!("{address}:"))
                            || check.to.contains(&format!("[{address}]:"))),
                        "{at} does not meet {address} of {peer}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_large_cluster_does_not_make_a_nodes_part_larger() {
        let (nine, large) = (topology(9), topology(200));
        assert_eq!(nine.client(0).len(), large.client(0).len());
        let met = |at: usize| large.client(at).into_iter().any(|check| check.to.starts_with("server-5 "));
        assert!(met(5) && met(4) && met(197) && !met(6));
    }

    #[test]
    fn nobody_is_asked_in_a_family_that_pods_do_not_have() {
        let mut topology = topology(2);
        for node in &mut topology.nodes {
            node.server.retain(IpAddr::is_ipv4);
        }
        let checks = [topology.client(0), topology.node(0)].concat();
        assert!(checks.iter().all(|check| check.family != Some(Family::IPv6)), "{checks:?}");
    }

    #[test]
    fn what_is_not_there_is_told_of_with_its_reason() {
        let mut topology = topology(1);
        topology.services = Err("no directory".into());
        topology.guarded = Err("no policies".into());
        topology.node_agents = Err("forbidden".into());
        let checks = kinds(&topology.client(0));
        let left_out = topology.left_out();
        for kind in [Kind::ClusterIp, Kind::NodePort, Kind::Hairpin] {
            assert!(left_out.contains(&(kind, "no directory".into())));
        }
        assert!(left_out.contains(&(Kind::PolicyDeny, "no policies".into())));
        assert!(!checks.contains(&Kind::ClusterIp) && !checks.contains(&Kind::PolicyAllow));
        // The node is asked by an echo instead.
        assert!(topology.client(0).iter().any(|check| matches!(check.act, Act::Ping(_))));
        assert_eq!(topology.stranger(0), []);
    }

    #[test]
    fn probes_are_numbered_as_their_checks() {
        let checks = topology(1).client(0);
        let probes = probes(&checks);
        assert!(
            probes.iter().enumerate().all(|(at, probe)| probe.number == at && probe.act == checks[at].act)
        );
    }
}

//! A service that is met on one node and has its backends on another.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{
        Answering, Asking, Conversation, Machine, NEIGHBOUR4, NEIGHBOUR6, NODE4, NODE6, Netns, Node, OTHER4,
        OTHER6, Pod, Settings, eventually, time_passes,
    },
};
use libbpf_rs::{MapCore, MapHandle};
use serde_json::{Value, json};

use crate::{
    manifests::{endpoint, file, service, slice},
    shop::{CLUSTER4, CLUSTER6, NODE_PORT, at},
};

const CLIENT4: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2);
/// Where the service is met, and by whom.
pub const NODE_PORTS: [(&str, IpAddr, IpAddr); 2] =
    [("IPv4", IpAddr::V4(NODE4), IpAddr::V4(CLIENT4)), ("IPv6", IpAddr::V6(NODE6), IpAddr::V6(CLIENT6))];

/// A client of a third network.
pub struct Client(Netns);

impl Machine for Client {
    fn netns(&self) -> &Netns {
        &self.0
    }
}

impl Client {
    fn behind(router: &Netns) -> Result<Self> {
        let netns = Netns::new("client")?;
        netns.ip(&format!("link add eth0 type veth peer name client netns {}", router.path().display()))?;
        for (netns, link, v4, v6) in [
            (&netns, "eth0", CLIENT4.to_string(), CLIENT6.to_string()),
            (router, "client", "100.64.0.1".to_owned(), "2001:db8:2::1".to_owned()),
        ] {
            netns.ip(&format!("address add {v4}/24 dev {link}"))?;
            netns.ip(&format!("address add {v6}/64 dev {link} nodad"))?;
            netns.ip(&format!("link set dev {link} up"))?;
        }
        netns.ip("route add default via 100.64.0.1")?;
        netns.ip("-6 route add default via 2001:db8:2::1")?;
        Ok(Self(netns))
    }
}

/// A node where the service is met, one with a backend, and a client.
pub struct Nodes {
    pub front: Node,
    pub back: Node,
    pub client: Client,
}

impl Nodes {
    pub fn start(flags: &[&str]) -> Result<Self> {
        let mut settings = Settings::default().cluster();
        for flag in ["--no-masquerade=10.88.0.0/15", "--no-masquerade=fd00:88::/31"].iter().chain(flags) {
            settings = settings.flag(*flag);
        }
        let mut others = settings.clone().pools(&["10.89.0.0/16", "fd00:89::/64"]);
        "--node-name=other".clone_into(&mut others.flags[0]);
        let front = Node::start_with(settings)?;
        let back = front.beside(others)?;
        let client = Client::behind(front.neighbour.netns())?;
        // By these a node knows the others' addresses.
        let nodes = file(&[("node", NODE4, NODE6), ("other", OTHER4, OTHER6)].map(|(name, v4, v6)| {
            let addresses = [v4.to_string(), v6.to_string()]
                .map(|address| json!({"type": "InternalIP", "address": address}));
            json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
                "status": {"addresses": addresses},
            })
        }));
        for node in [&front, &back] {
            node.apply("nodes.yaml", &nodes)?;
            for name in ["machines4", "machines6"] {
                let map = MapHandle::from_pinned_path(node.bpffs().join("maps").join(name))?;
                ensure!(eventually(Duration::from_secs(5), || map.keys().count() == 2), "{name}");
            }
        }
        Ok(Self { front, back, client })
    }

    /// Puts the service in force on both, with this as its backend.
    pub fn serve(&self, backend: &Pod<'_>, more: &Value) -> Result<()> {
        let mut spec = json!({
            "type": "NodePort", "clusterIP": CLUSTER4, "clusterIPs": [CLUSTER4, CLUSTER6],
            "ports": [
                {"name": "tcp", "port": 80, "nodePort": NODE_PORT},
                {"name": "udp", "port": 80, "protocol": "UDP", "nodePort": NODE_PORT},
            ],
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let there = json!({"nodeName": "other"});
        let manifest = file(&[
            service("web", &spec),
            slice("web", "IPv4", &[endpoint(backend.ipv4(), &there)]),
            slice("web", "IPv6", &[endpoint(backend.ipv6(), &there)]),
        ]);
        // The backend's node first: what reaches it is meant for it from then on.
        self.back.apply("web.yaml", &manifest)?;
        self.front.apply("web.yaml", &manifest)?;
        Ok(())
    }
}

/// Asks in every way, and has each answer come from where it was asked and tell of the client that is expected.
fn is_served(client: &impl Asking, to: SocketAddr, seen: IpAddr) -> Result<()> {
    for round in 0..3 {
        for (how, answer) in [
            ("tcp", client.ask_tcp(to)),
            ("udp", client.ask_udp(to)),
            ("unconnected udp", client.ask_udp_unconnected(to)),
        ] {
            let answer = answer.with_context(|| format!("{how} to {to}, round {round}"))?;
            ensure!(answer.name == "far" && answer.client.ip() == seen, "{how} to {to}: {answer:?}");
        }
    }
    let mut conversation = client.converse(to)?;
    for _ in 0..20 {
        conversation.goes_on()?;
    }
    Ok(())
}

#[test]
fn the_backend_sees_the_node_that_was_met() -> Result<()> {
    needs_root!();
    let nodes = Nodes::start(&[])?;
    let pod = nodes.back.add_pod_of("shop/far", &[])?;
    let _server = Answering::start(&pod, "far", 8080)?;
    nodes.serve(&pod, &json!({}))?;
    for (family, node, _) in NODE_PORTS {
        is_served(&nodes.client, at(node, NODE_PORT), node).context(family)?;
    }
    Ok(())
}

#[test]
fn with_direct_server_return_the_backend_sees_the_client_and_answers_it() -> Result<()> {
    needs_root!();
    let nodes = Nodes::start(&["--external-service-mode=dsr"])?;
    let pod = nodes.back.add_pod_of("shop/far", &[])?;
    let _server = Answering::start(&pod, "far", 8080)?;
    nodes.serve(&pod, &json!({}))?;
    let client = &nodes.client;
    let mut talks = Vec::new();
    for (family, node, own) in NODE_PORTS {
        let to = at(node, NODE_PORT);
        is_served(client, to, own).context(family)?;
        talks.extend((0..10).map(|_| client.converse(to)).collect::<io::Result<Vec<_>>>()?);
    }
    // Neither daemon is needed for what runs, nor do their restarts disturb it.
    for node in [&nodes.front, &nodes.back] {
        node.kill_daemon();
        talks.iter_mut().try_for_each(Conversation::goes_on)?;
        node.start_daemon()?;
        talks.iter_mut().try_for_each(Conversation::goes_on)?;
    }
    // The front saw none of the answers.
    time_passes(Duration::from_millis(1500), "a front repeats the mark of a connection once a second");
    talks.iter_mut().try_for_each(Conversation::goes_on)?;
    Ok(())
}

#[test]
fn a_datagram_that_leaves_no_room_for_its_mark_comes_in_pieces() -> Result<()> {
    needs_root!();
    let nodes = Nodes::start(&["--external-service-mode=dsr"])?;
    let pod = nodes.back.add_pod_of("shop/far", &[])?;
    let _server = Answering::start(&pod, "far", 8080)?;
    nodes.serve(&pod, &json!({}))?;
    for (family, node, _) in NODE_PORTS {
        let to = at(node, NODE_PORT);
        let socket = nodes.client.udp_socket(to)?;
        Asking::connect(&nodes.client, &socket, to)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        // As large as the link takes; the node says how much the way takes.
        let datagram = vec![7; if node.is_ipv4() { 1_472 } else { 1_452 }];
        let answered = eventually(Duration::from_secs(3), || {
            socket.send(&datagram).is_ok() && socket.recv(&mut [0; 256]).is_ok()
        });
        ensure!(answered, "{family}: {}", nodes.front.status()?["drops"]);
        ensure!(nodes.front.drops("too_large")? > 0, "{family}");
    }
    Ok(())
}

#[test]
fn pods_reach_a_backend_of_another_node_as_themselves() -> Result<()> {
    needs_root!();
    for mode in ["--socket-lb=on", "--socket-lb=off", "--external-service-mode=dsr"] {
        let nodes = Nodes::start(&[mode])?;
        let pod = nodes.back.add_pod_of("shop/far", &[])?;
        let _server = Answering::start(&pod, "far", 8080)?;
        nodes.serve(&pod, &json!({}))?;
        let client = nodes.front.add_pod_of("shop/client", &[])?;
        for (to, own) in [(CLUSTER4, client.ipv4().into()), (CLUSTER6, IpAddr::from(client.ipv6()))] {
            is_served(&client, at(to, 80), own).context(mode)?;
        }
        for (to, own) in [(NODE4.into(), client.ipv4().into()), (IpAddr::from(NODE6), client.ipv6().into())] {
            is_served(&client, at(to, NODE_PORT), own).context(mode)?;
        }
    }
    Ok(())
}

#[test]
fn what_is_too_large_for_the_way_to_the_backend_is_told_to_the_client() -> Result<()> {
    needs_root!();
    for mode in ["--external-service-mode=snat", "--external-service-mode=dsr"] {
        let nodes = Nodes::start(&[mode])?;
        let pod = nodes.back.add_pod_of("shop/far", &[])?;
        let _server = Answering::start(&pod, "far", 8080)?;
        nodes.serve(&pod, &json!({}))?;
        // Only the node that is met knows that the way is narrow.
        for (route, via) in
            [("10.89.0.0/16", NEIGHBOUR4.to_string()), ("fd00:89::/64", NEIGHBOUR6.to_string())]
        {
            nodes.front.netns().ip(&format!("route add {route} via {via} mtu lock 1300"))?;
        }
        for (family, node, _) in NODE_PORTS {
            let mut conversation = nodes.client.converse(at(node, NODE_PORT))?;
            for _ in 0..3 {
                conversation.carries(20_000).with_context(|| format!("{mode} {family}"))?;
            }
        }
    }
    Ok(())
}

#[test]
fn datagrams_larger_than_the_way_arrive_in_pieces() -> Result<()> {
    needs_root!();
    for (mode, narrow) in [
        ("--external-service-mode=snat", true),
        ("--external-service-mode=dsr", true),
        // The mark alone makes the first piece too large.
        ("--external-service-mode=dsr", false),
    ] {
        let nodes = Nodes::start(&[mode])?;
        let pod = nodes.back.add_pod_of("shop/far", &[])?;
        let _server = Answering::start(&pod, "far", 8080)?;
        nodes.serve(&pod, &json!({}))?;
        if narrow {
            for (route, via) in
                [("10.89.0.0/16", NEIGHBOUR4.to_string()), ("fd00:89::/64", NEIGHBOUR6.to_string())]
            {
                nodes.front.netns().ip(&format!("route add {route} via {via} mtu lock 1350"))?;
            }
        }
        for (family, node, own) in NODE_PORTS {
            let to = at(node, NODE_PORT);
            let socket = nodes.client.udp_socket(to)?;
            Asking::connect(&nodes.client, &socket, to)?;
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
            let asks = |length: usize| {
                let mut text = [0; 256];
                let sent = socket.send(&vec![7; length]);
                let received = sent.and_then(|_| socket.recv(&mut text));
                received.map(|length| String::from_utf8_lossy(&text[..length]).into_owned())
            };
            // IPv4 is cut on the way. In IPv6 the sender does it, once it was told; what tells it may be lost, for the kernel sends
            // the ICMP errors of all network namespaces through one socket of a processor, which other tests fill.
            let patience = if node.is_ipv4() { 1 } else { 20 };
            let first = (0..patience).find_map(|_| asks(4_000).ok());
            let seen = if mode.ends_with("dsr") { own } else { node };
            let context = || format!("{mode} narrow: {narrow} {family}: {}", nodes.front.log());
            ensure!(first.with_context(context)?.contains(&seen.to_string()), "{mode} {family}");
            for length in [1_500, 2_999, 9_000, 40_000] {
                asks(length).with_context(|| format!("{length} bytes")).with_context(context)?;
            }
        }
    }
    Ok(())
}

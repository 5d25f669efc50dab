//! HostEndpoints: what the node itself sends and gets, what passes through it, and what cannot be closed by mistake.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Answering, Asking, Machine, NEIGHBOUR4, NEIGHBOUR6, NODE4, NODE6, Netns, Node, eventually},
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 8080;
const OTHER: u16 = 8081;
/// Calico's failsafe port of SSH.
const SSH: u16 = 22;

fn host_endpoint(node: &Node, name: &str, interface: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\n\
         metadata: {{ name: {name}, labels: {{ role: node }} }}\n\
         spec: {{ node: {}, interfaceName: \"{interface}\", expectedIPs: [{NODE4}, \"{NODE6}\"] }}\n",
        node.name()
    )
}

/// A GlobalNetworkPolicy for host endpoints, with these fields in YAML's flow form.
fn policy(name: &str, fields: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{ name: {name} }}\n\
         spec: {{ selector: \"role == 'node'\", {fields} }}\n"
    )
}

fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

fn node_addresses() -> [IpAddr; 2] {
    [NODE4.into(), NODE6.into()]
}

fn neighbour_addresses() -> [IpAddr; 2] {
    [NEIGHBOUR4.into(), NEIGHBOUR6.into()]
}

/// Whether a machine is answered at a port, by both protocols and at all addresses alike.
fn is_answered(from: &impl Machine, to: &[IpAddr], port: u16) -> Result<bool> {
    let mut answers = Vec::new();
    for address in to {
        answers.push(from.ask_tcp(at(*address, port)).is_ok());
        answers.push(from.ask_udp(at(*address, port)).is_ok());
    }
    let first = *answers.first().context("nobody was asked")?;
    ensure!(
        answers.iter().all(|it| *it == first),
        "{to:?} port {port}: {answers:?} (TCP, UDP of each address)"
    );
    Ok(first)
}

/// Waits until all addresses answer, or none.
fn becomes(what: &str, wanted: bool, from: &impl Machine, to: &[IpAddr], port: u16) -> Result<()> {
    ensure!(eventually(PATIENCE, || is_answered(from, to, port).ok() == Some(wanted)), "{what}");
    Ok(())
}

/// Waits until the policies of so many interfaces are in force.
fn polices(node: &Node, name: &str) -> Result<()> {
    let is_told = || node.status().is_ok_and(|status| status["host_endpoints"].to_string().contains(name));
    ensure!(
        eventually(PATIENCE, is_told),
        "the policies of {name} are not in force: {}",
        node.status()?["problems"]
    );
    Ok(())
}

/// What the daemon says of a connection to the node.
fn trace(node: &Node, from: &str) -> Result<Value> {
    let (to, port) = (NODE4.to_string(), format!("tcp/{OTHER}"));
    node.ctl(&["policy", "trace", "--from", from, "--to", &to, "--port", &port])
}

#[test]
fn a_named_interface_is_closed_but_for_failsafe_ports_and_what_policies_allow() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let pod = node.add_pod_of("shop/web", &[("app", "web")])?;
    let neighbour = &node.neighbour;
    node.neighbour.netns().ip(&format!("route add 10.88.0.0/16 via {NODE4}"))?;
    node.neighbour.netns().ip(&format!("-6 route add fd00:88::/64 via {NODE6}"))?;
    let _servers = [
        Answering::start(&node, "node", PORT)?,
        Answering::start(&node, "node", OTHER)?,
        Answering::start(&node, "ssh", SSH)?,
        Answering::start(neighbour, "neighbour", PORT)?,
        Answering::start(&pod, "web", PORT)?,
    ];
    let mut lasting = neighbour.converse(at(NODE4, PORT))?;
    let mut cut = neighbour.converse(at(NODE4, OTHER))?;
    let mut outbound = node.converse(at(NEIGHBOUR4, PORT))?;
    // The policy is there before the host endpoint, as whoever is careful does it.
    node.apply(
        "allow.yaml",
        &policy(
            "allow-8080",
            &format!("ingress: [{{ action: Allow, protocol: TCP, destination: {{ ports: [{PORT}] }} }}]"),
        ),
    )?;
    node.apply("host.yaml", &host_endpoint(&node, "uplink-of-node", "uplink"))?;
    polices(&node, "uplink-of-node")?;

    // Connections that policy allows go on, the others do not.
    lasting.goes_on().context("a connection that policy allows")?;
    ensure!(cut.goes_on().is_err(), "a connection goes on that no policy allows");
    ensure!(outbound.goes_on().is_err(), "what the node has opened goes on, and no policy allows it");
    for address in node_addresses() {
        ensure!(neighbour.ask_tcp(at(address, PORT)).is_ok(), "{address}: the policy allows this port");
        ensure!(neighbour.ask_udp(at(address, PORT)).is_err(), "{address}: not of UDP");
        ensure!(neighbour.ask_tcp(at(address, SSH)).is_ok(), "{address}: SSH is a failsafe port");
        ensure!(!neighbour.reaches(address)?, "{address}: no policy allows a ping");
    }
    ensure!(!is_answered(neighbour, &node_addresses(), OTHER)?, "no policy allows this port");
    ensure!(!is_answered(&node, &neighbour_addresses(), PORT)?, "no policy allows what the node sends");
    // Pods are not concerned: the policy is not applied to what is forwarded.
    ensure!(is_answered(neighbour, pod.addresses(), PORT)?, "the network reaches the pod");
    ensure!(is_answered(&pod, &neighbour_addresses(), PORT)?, "the pod reaches the network");
    // Only by TCP: a UDP server that is bound to all addresses answers a pod from its gateway's address.
    ensure!(pod.ask_tcp(at(NODE4, OTHER)).is_ok(), "the pod reaches its node");
    ensure!(is_answered(&node, pod.addresses(), PORT)?, "the node reaches its pod");

    // It stays so while no daemon runs, and when the next one starts.
    node.kill_daemon();
    ensure!(!is_answered(neighbour, &node_addresses(), OTHER)?, "while no daemon runs");
    lasting.goes_on().context("while no daemon runs")?;
    let denied = std::thread::scope(|scope| -> Result<bool> {
        let prober = scope.spawn(|| {
            let mut open = false;
            for _ in 0..4 {
                open |= neighbour.ask_tcp(at(NODE4, OTHER)).is_ok();
            }
            !open
        });
        node.start_daemon()?;
        Ok(prober.join().unwrap_or(false))
    })?;
    ensure!(denied, "a closed port was open while the daemon started");
    polices(&node, "uplink-of-node")?;
    lasting.goes_on().context("after a restart")?;

    // A rule for what the node opens; a trace says the same.
    node.apply("out.yaml", &policy("out", "types: [Egress], egress: [{ action: Allow }]"))?;
    becomes("the node reaches the network", true, &node, &neighbour_addresses(), PORT)?;
    let trace = trace(&node, &NEIGHBOUR4.to_string())?;
    ensure!(trace["verdict"] == "deny", "{trace}");
    ensure!(trace.to_string().contains("uplink-of-node"), "{trace}");

    node.withdraw("host.yaml")?;
    becomes("the node is open again", true, neighbour, &node_addresses(), OTHER)?;
    Ok(())
}

#[test]
fn a_star_polices_what_pods_send_to_the_node() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let pod = node.add_pod_of("shop/web", &[("app", "web")])?;
    let _servers = [
        Answering::start(&node, "node", PORT)?,
        Answering::start(&node, "node", OTHER)?,
        Answering::start(&pod, "web", PORT)?,
    ];
    let mut opened = pod.converse(at(NODE4, OTHER))?;
    node.apply(
        "allow.yaml",
        &policy(
            "pods-may",
            &format!(
                "ingress: [{{ action: Allow, source: {{ selector: \"app == 'web'\" }}, \
                 protocol: TCP, destination: {{ ports: [{PORT}] }} }}]"
            ),
        ),
    )?;
    node.apply("host.yaml", &host_endpoint(&node, "all-of-node", "*"))?;
    polices(&node, "all-of-node")?;
    ensure!(opened.goes_on().is_err(), "a pod's connection goes on that no policy allows");
    for address in node_addresses() {
        ensure!(pod.ask_tcp(at(address, PORT)).is_ok(), "{address}: the policy allows this pod");
        ensure!(pod.ask_tcp(at(address, OTHER)).is_err(), "{address}: not at another port");
        ensure!(node.neighbour.ask_tcp(at(address, PORT)).is_err(), "{address}: the network is not that pod");
    }
    ensure!(is_answered(&node, pod.addresses(), PORT)?, "the node always reaches its pods");
    let trace = trace(&node, "shop/web")?;
    ensure!(trace["verdict"] == "deny" && trace.to_string().contains("all-of-node"), "{trace}");
    node.withdraw("host.yaml")?;
    ensure!(eventually(PATIENCE, || pod.ask_tcp(at(NODE4, OTHER)).is_ok()), "the node is not open again");
    Ok(())
}

#[test]
fn what_is_forwarded_is_policed_where_a_policy_says_so() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let pod = node.add_pod_of("shop/web", &[("app", "web")])?;
    let neighbour = &node.neighbour;
    neighbour.netns().ip(&format!("route add 10.88.0.0/16 via {NODE4}"))?;
    neighbour.netns().ip(&format!("-6 route add fd00:88::/64 via {NODE6}"))?;
    let _servers = [
        Answering::start(&pod, "web", PORT)?,
        Answering::start(&pod, "web", OTHER)?,
        Answering::start(neighbour, "neighbour", PORT)?,
        Answering::start(neighbour, "neighbour", OTHER)?,
    ];
    let mut inbound = neighbour.converse(at(pod.addresses()[0], OTHER))?;
    let mut allowed = neighbour.converse(at(pod.addresses()[0], PORT))?;
    node.apply("host.yaml", &host_endpoint(&node, "uplink-of-node", "uplink"))?;
    polices(&node, "uplink-of-node")?;
    inbound.goes_on().context("nothing is applied to what is forwarded yet")?;
    let rule = format!("[{{ action: Allow, destination: {{ ports: [{PORT}] }}, protocol: PROTO }}]");
    let rules = format!(
        "{}, {}",
        rule.replace("PROTO", "TCP").trim_matches(['[', ']']),
        rule.replace("PROTO", "UDP").trim_matches(['[', ']'])
    );
    node.apply(
        "forward.yaml",
        &policy("forward", &format!("applyOnForward: true, ingress: [{rules}], egress: [{rules}]")),
    )?;
    becomes("the network is refused at a port of the pod", false, neighbour, pod.addresses(), OTHER)?;
    ensure!(inbound.goes_on().is_err(), "a connection goes on that is not allowed any more");
    allowed.goes_on().context("a connection that is allowed")?;
    ensure!(is_answered(neighbour, pod.addresses(), PORT)?, "the network at the allowed port");
    ensure!(is_answered(&pod, &neighbour_addresses(), PORT)?, "the pod at the allowed port");
    ensure!(!is_answered(&pod, &neighbour_addresses(), OTHER)?, "the pod at another port");
    Ok(())
}

#[test]
fn what_comes_is_judged_before_it_is_translated_and_without_a_memory_if_so_wanted() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let neighbour = &node.neighbour;
    let _servers = [
        Answering::start(&node, "node", PORT)?,
        Answering::start(&node, "node", OTHER)?,
        Answering::start(neighbour, "neighbour", PORT)?,
    ];
    let profile = host_endpoint(&node, "uplink-of-node", "uplink")
        .replace("interfaceName", "profiles: [projectcalico-default-allow], interfaceName");
    node.apply("host.yaml", &profile)?;
    polices(&node, "uplink-of-node")?;
    ensure!(is_answered(neighbour, &node_addresses(), OTHER)?, "the profile allows what no policy speaks of");
    let deny = format!("[{{ action: Deny, protocol: TCP, destination: {{ ports: [{OTHER}] }} }}]");
    node.apply(
        "early.yaml",
        &policy("early", &format!("preDNAT: true, applyOnForward: true, ingress: {deny}")),
    )?;
    for address in node_addresses() {
        let denied = || neighbour.ask_tcp(at(address, OTHER)).is_err();
        ensure!(eventually(PATIENCE, denied), "{address}: the port is not denied");
        ensure!(neighbour.ask_udp(at(address, OTHER)).is_ok(), "{address}: UDP is not denied");
        ensure!(neighbour.ask_tcp(at(address, PORT)).is_ok(), "{address}: nor another port");
    }
    ensure!(is_answered(&node, &neighbour_addresses(), PORT)?, "answers to the node are not what comes");
    node.withdraw("early.yaml")?;
    becomes("the port is open again", true, neighbour, &node_addresses(), OTHER)?;
    node.apply(
        "untracked.yaml",
        &policy(
            "untracked",
            &format!(
                "doNotTrack: true, applyOnForward: true, ingress: {deny}, egress: [{{ action: Allow }}]"
            ),
        ),
    )?;
    for address in node_addresses() {
        let denied = || neighbour.ask_tcp(at(address, OTHER)).is_err();
        ensure!(eventually(PATIENCE, denied), "{address}: the port is not denied without a memory");
    }
    ensure!(is_answered(neighbour, &node_addresses(), PORT)?, "another port is not denied");
    Ok(())
}

#[test]
fn an_interface_that_is_no_uplink_is_policed_too() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let stranger = Netns::new("beside")?;
    let host = node.netns();
    host.ip(&format!("link add mgmt type veth peer name eth0 netns {}", stranger.path().display()))?;
    host.ip("address add 203.0.113.1/24 dev mgmt")?;
    host.ip("link set dev mgmt up")?;
    stranger.ip("address add 203.0.113.2/24 dev eth0")?;
    stranger.ip("link set dev eth0 up")?;
    stranger.wait_until_sends("eth0")?;
    let _server = Answering::start(&node, "node", PORT)?;
    let reached = |port| {
        let to = at([203, 0, 113, 1], port);
        stranger.inside(|| std::net::TcpStream::connect_timeout(&to, Duration::from_secs(1))).is_ok()
    };
    ensure!(reached(PORT), "nothing is policed yet");
    node.apply("host.yaml", &host_endpoint(&node, "management", "mgmt"))?;
    polices(&node, "management")?;
    ensure!(!reached(PORT), "no policy allows it");
    node.kill_daemon();
    ensure!(!reached(PORT), "while no daemon runs");
    node.start_daemon()?;
    polices(&node, "management")?;
    ensure!(!reached(PORT), "after a restart");
    ensure!(node.neighbour.ask_tcp(at(NODE4, PORT)).is_ok(), "the uplink has no host endpoint");
    node.withdraw("host.yaml")?;
    ensure!(eventually(PATIENCE, || reached(PORT)), "the interface is not open again");
    Ok(())
}

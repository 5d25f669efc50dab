//! What a pod can ask for: ports of the node, bandwidth, name servers.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{Answering, Asking, Machine, NODE4, NODE6, Netns, Node},
};

use crate::{
    cri::message::{count, field, text},
    netns_of,
    runtime::{Containerd, run},
};

const TCP: u64 = 0;
const UDP: u64 = 1;

/// `PodSandboxConfig.port_mappings`: an entry.
fn port(protocol: u64, host_port: u64, host_ip: &str) -> Vec<u8> {
    field(5, &[count(1, protocol), count(2, 8080), count(3, host_port), text(4, host_ip)].concat())
}

/// `PodSandboxConfig.annotations`: an entry.
fn annotation(key: &str, value: &str) -> Vec<u8> {
    field(7, &[text(1, key), text(2, value)].concat())
}

fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    (address.into(), port).into()
}

#[test]
fn ports_of_the_node_lead_to_the_pods_that_ask_for_them() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let containerd = Containerd::start(&node)?;
    // As upstream's conformance case does it: one port, by two addresses and two protocols.
    let pods = [
        ("loopback", port(TCP, 54323, "127.0.0.1")),
        ("node", port(TCP, 54323, &NODE4.to_string())),
        ("udp", port(UDP, 54323, &NODE4.to_string())),
        ("any", [port(TCP, 54324, ""), port(UDP, 54324, "")].concat()),
    ];
    let mut sandboxes = Vec::new();
    let mut servers = Vec::new();
    for (name, ports) in &pods {
        let sandbox = containerd.run_sandbox_with(name, ports)?;
        let inside = Inside(Netns::of_others(containerd.seen(&netns_of(&node, &sandbox)?))?);
        servers.push(Answering::start(&inside, name, 8080)?);
        sandboxes.push(sandbox);
    }
    ensure!(node.ask_tcp(at([127, 0, 0, 1], 54323))?.name == "loopback");
    ensure!(node.neighbour.ask_tcp(at(NODE4, 54323))?.name == "node");
    ensure!(node.neighbour.ask_udp(at(NODE4, 54323))?.name == "udp");
    for address in [at(NODE4, 54324), at(NODE6, 54324)] {
        ensure!(node.neighbour.ask_tcp(address)?.name == "any", "TCP to {address}");
        ensure!(node.neighbour.ask_udp(address)?.name == "any", "UDP to {address}");
    }
    let taken = containerd.run_sandbox_with("taken", &port(TCP, 54323, &NODE4.to_string()));
    ensure!(taken.is_err_and(|error| error.to_string().contains("54323")), "a port leads to one pod");
    drop(servers);
    for sandbox in sandboxes {
        containerd.cri.remove_sandbox(&sandbox)?;
    }
    ensure!(node.neighbour.ask_tcp(at(NODE4, 54323)).is_err());
    node.is_left_clean()?;
    Ok(())
}

#[test]
fn bandwidth_name_servers_and_labels_do_not_keep_a_pod_from_running() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let containerd = Containerd::start(&node)?;
    let dns = field(4, &[text(1, "10.96.0.10"), text(2, "cluster.local"), text(3, "ndots:5")].concat());
    let label = field(6, &[text(1, "app"), text(2, "web")].concat());
    let limits = [
        annotation("kubernetes.io/ingress-bandwidth", "10M"),
        annotation("kubernetes.io/egress-bandwidth", "20M"),
    ];
    let sandbox = containerd.run_sandbox_with("asking", &[dns, label, limits.concat()].concat())?;
    netns_of(&node, &sandbox)?;
    let shaped = run(node.netns().command("tc")?.args(["qdisc", "show"]))?;
    ensure!(shaped.contains("qdisc tbf") && shaped.contains("rate 10Mbit"), "{shaped}");
    containerd.cri.remove_sandbox(&sandbox)?;
    node.is_left_clean()?;
    Ok(())
}

/// A sandbox as a machine.
struct Inside(Netns);

impl Machine for Inside {
    fn netns(&self) -> &Netns {
        &self.0
    }
}

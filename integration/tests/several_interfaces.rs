//! A pod with several interfaces, as Multus asks for them: one plugin call for each network, all of one container.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, NEIGHBOUR4, NEIGHBOUR6, Node, Pod, denied, hold, tcp},
};
use serde_json::{Value, json};

/// A pod, and its further interfaces with what their ADD printed.
struct Several<'n> {
    pod: Pod<'n>,
    others: Vec<(&'static str, &'static str, Value)>,
}

impl<'n> Several<'n> {
    /// `eth0` of the cluster's network, `net1` and `net2` of two more, by one daemon.
    fn add(node: &'n Node, name: &str) -> Result<Self> {
        let pod = node.add_pod_of(name, &[("app", "several")])?;
        let mut several = Self { pod, others: Vec::new() };
        for (network, ifname) in [("storage", "net1"), ("backup", "net2")] {
            let result = several.pod.cni("ADD").ifname(ifname).set("name", json!(network)).run()?;
            several.others.push((network, ifname, result));
        }
        Ok(several)
    }

    fn command(&self, command: &str, at: usize) -> Result<()> {
        let (network, ifname, result) = &self.others[at];
        let invocation = self.pod.cni(command).ifname(ifname).set("name", json!(network));
        invocation.set("prevResult", result.clone()).run().map(drop)
    }

    /// The addresses of a further interface.
    fn addresses(&self, at: usize) -> Vec<IpAddr> {
        let ips = self.others[at].2["ips"].as_array().into_iter().flatten();
        let text = |ip: &Value| ip["address"].as_str().and_then(|it| it.split('/').next()?.parse().ok());
        ips.filter_map(text).collect()
    }

    fn every_address(&self) -> Vec<IpAddr> {
        let others = (0..self.others.len()).flat_map(|at| self.addresses(at));
        self.pod.addresses().iter().copied().chain(others).collect()
    }
}

/// Whether the machine is answered at an address, and from it.
fn is_answered(from: &impl Machine, to: &Pod<'_>, address: IpAddr) -> Result<()> {
    let _echo = to.serve_udp(SocketAddr::new(address, 7000))?;
    ensure!(from.reaches(address)?, "{address} does not answer a ping");
    ensure!(from.echoes_udp(SocketAddr::new(address, 7000), 100)?, "{address} does not answer a datagram");
    Ok(())
}

#[test]
fn each_interface_answers_at_its_own_addresses() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let (one, other) = (Several::add(&node, "shop/one")?, Several::add(&node, "shop/other")?);
    ensure!(node.pod_links()?.len() == 6);
    for address in one.every_address() {
        is_answered(&other.pod, &one.pod, address)?;
        is_answered(&node, &one.pod, address)?;
    }
    // The first interface is the way out.
    ensure!(one.pod.reaches(NEIGHBOUR4)? && one.pod.reaches(NEIGHBOUR6)?);
    for at in 0..2 {
        one.command("CHECK", at)?;
    }
    one.pod.check()?;

    // One goes and the others stay; asked for again it is as before.
    one.command("DEL", 0)?;
    ensure!(node.pod_links()?.len() == 5);
    is_answered(&node, &one.pod, one.addresses(1)[0])?;
    is_answered(&node, &one.pod, one.pod.addresses()[0])?;
    let (network, ifname, _) = &one.others[0];
    one.pod.cni("ADD").ifname(ifname).set("name", json!(network)).run()?;
    one.command("DEL", 1)?;
    one.command("DEL", 0)?;
    is_answered(&node, &one.pod, one.pod.addresses()[0])?;
    one.pod.del()?;
    for at in 0..2 {
        other.command("DEL", at)?;
    }
    other.pod.del()?;
    node.is_left_clean()?;
    Ok(())
}

#[test]
fn a_pods_policy_holds_at_each_of_its_interfaces() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let several = Several::add(&node, "shop/several")?;
    let stranger = node.add_pod_of("shop/stranger", &[])?;
    let everywhere = several.every_address();
    let _listeners = several.pod.serve(&everywhere, &[tcp(80)])?;
    let connects = |address: &IpAddr| {
        let target = SocketAddr::new(*address, 80);
        let within = std::time::Duration::from_millis(500);
        stranger.netns().inside(|| std::net::TcpStream::connect_timeout(&target, within)).is_ok()
    };
    ensure!(everywhere.len() == 6 && everywhere.iter().all(connects));
    node.apply(
        "closed.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { namespace: shop, name: closed }\n\
         spec: { podSelector: { matchLabels: { app: several } }, policyTypes: [Ingress] }\n",
    )?;
    hold(denied(&stranger, &several.pod, tcp(80)))?;
    ensure!(!everywhere.iter().any(connects), "an interface is open");
    Ok(())
}

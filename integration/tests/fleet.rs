//! Several nodes: their pods reach each other with their own addresses, by every way of routing, and under policy.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{
        Fleet, Listeners, Machine, Node, Place, Pod, Subnet, allowed, denied, eventually, hold, tcp, udp,
    },
};
use serde_json::json;

/// How long a change may take to be in force, on a machine that runs other tests.
const PATIENCE: Duration = Duration::from_secs(20);

const ONE: Place = Place { subnet: Subnet::First, host: 11 };
const TWO: Place = Place { subnet: Subnet::First, host: 12 };
const THREE: Place = Place { subnet: Subnet::Second, host: 13 };

/// A pod with what it serves.
struct Serving<'n> {
    pod: Pod<'n>,
    _listeners: Listeners,
}

impl<'n> Serving<'n> {
    fn on(fleet: &Fleet, node: &'n Node, node_name: &str, name: &str) -> Result<Self> {
        let object = |addresses: &[IpAddr]| {
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": {"app": name}},
                "spec": {"nodeName": node_name, "containers": []},
                "status": {"podIPs": addresses.iter().map(|ip| json!({"ip": ip.to_string()})).collect::<Vec<_>>()},
            })
        };
        fleet.server.put(object(&[]));
        let pod = node.kubelet_sandbox(&format!("shop/{name}"), name)?.add()?;
        fleet.server.put(object(pod.addresses()));
        let listeners = pod.serve(pod.addresses(), &[tcp(80), udp(80)])?;
        Ok(Self { pod, _listeners: listeners })
    }
}

/// Every pod reaches every other, in both families, and is seen with its own address.
fn all_reach_all(pods: &[&Serving<'_>]) -> Result<()> {
    let mut table = Vec::new();
    for from in pods {
        for to in pods {
            for service in [tcp(80), udp(80)] {
                table.extend(allowed(&from.pod, &to.pod, service));
            }
        }
    }
    hold(table)
}

/// The address that a pod is seen with by another.
fn seen_as(from: &Pod<'_>, to: &Pod<'_>, address: IpAddr) -> Result<IpAddr> {
    let listener = to.netns().inside(|| std::net::TcpListener::bind((address, 8080)))?;
    let target = SocketAddr::new(address, 8080);
    let _stream = from.netns().inside(|| std::net::TcpStream::connect_timeout(&target, PATIENCE))?;
    Ok(listener.accept()?.1.ip())
}

/// The routes to other nodes' pods, by what they lead through.
fn ways(node: &Node) -> Result<(usize, usize)> {
    let mut count = (0, 0);
    for family in ["-4", "-6"] {
        for line in node.netns().ip(&format!("{family} route show proto 202"))?.lines() {
            match line {
                _ if line.contains("dev cambric-overlay") => count.1 += 1,
                _ if line.contains(" via ") => count.0 += 1,
                _ => {}
            }
        }
    }
    Ok(count)
}

fn whole_fleet(flags: &[&str], of_one: (usize, usize)) -> Result<()> {
    let fleet = Fleet::new()?;
    let one = fleet.node("one", ONE, flags)?;
    let two = fleet.node("two", TWO, flags)?;
    let three = fleet.node("three", THREE, flags)?;
    let settled = || ways(&one).is_ok_and(|ways| ways == of_one);
    ensure!(eventually(PATIENCE, settled), "{:?}\n{}", ways(&one)?, one.log());
    let a = Serving::on(&fleet, &one, "one", "a")?;
    let b = Serving::on(&fleet, &two, "two", "b")?;
    let c = Serving::on(&fleet, &three, "three", "c")?;
    ensure!(
        eventually(PATIENCE, || all_reach_all(&[&a, &b, &c]).is_ok()),
        "{:?}",
        all_reach_all(&[&a, &b, &c])
    );
    for (from, to) in [(&a, &b), (&a, &c), (&c, &b)] {
        for address in to.pod.addresses() {
            let seen = seen_as(&from.pod, &to.pod, *address)?;
            ensure!(from.pod.addresses().contains(&seen), "{address} sees {seen}");
        }
    }
    // Nodes reach the pods of others; pods reach other nodes.
    hold(allowed(&one, &c.pod, tcp(80)))?;
    hold(allowed(&three, &a.pod, udp(80)))?;
    let of_node = three.serve(&[THREE.ipv4().into()], &[tcp(443)])?;
    let target = SocketAddr::new(THREE.ipv4().into(), 443);
    a.pod.netns().inside(|| std::net::TcpStream::connect_timeout(&target, PATIENCE))?;
    drop(of_node);

    // Policy at the receiver sees the true source, wherever it is.
    fleet.server.put(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "guard", "namespace": "shop"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "c"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}]}],
        },
    }));
    let guarded = || hold(denied(&b.pod, &c.pod, tcp(80))).is_ok();
    ensure!(eventually(PATIENCE, guarded), "{}", three.log());
    hold(allowed(&a.pod, &c.pod, tcp(80)))?;
    hold(denied(&two, &c.pod, tcp(80)))?;
    hold(allowed(&three, &c.pod, tcp(80)))
}

#[test]
fn pods_reach_each_other_directly_and_by_the_overlay() -> Result<()> {
    needs_root!();
    // IPv6 goes by the overlay everywhere: the nodes tell no IPv6 address.
    whole_fleet(&[], (1, 3))
}

#[test]
fn pods_reach_each_other_by_the_overlay_alone() -> Result<()> {
    needs_root!();
    whole_fleet(&["--routing=vxlan"], (0, 4))
}

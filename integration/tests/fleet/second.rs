//! A second network of the nodes, and what they tell of their uplinks.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use integration::fleet::{Fleet, Place, node_object};
use integration::testbed::{Machine, Netns, Node};
use serde_json::Value;

use crate::scene::in_time;

/// What follows from a change must be so by then: a second, and what a busy machine takes.
pub const SOON: Duration = Duration::from_millis(2_500);
/// The interface of a node's second network.
pub const SECOND: &str = "second";
/// An address on both networks' machines that nodes have no route of their own to.
pub const FAR: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 18, 7, 7)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xfa, 0, 0, 0, 0, 7))];

/// A second network of the nodes, and a machine on it.
pub struct Second {
    machine: Netns,
}

impl Machine for Second {
    fn netns(&self) -> &Netns {
        &self.machine
    }
}

impl Second {
    pub fn new() -> Result<Self> {
        let machine = Netns::new("second")?;
        machine.ip("link add net type bridge")?;
        machine.ip("address add 203.0.113.1/24 dev net")?;
        machine.ip("address add 2001:db8:c::1/64 dev net nodad")?;
        machine.ip("link set net up")?;
        Ok(Self { machine })
    }

    pub const OWN: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 1)),
    ];

    /// The addresses of a node there.
    pub fn addresses(place: Place) -> [IpAddr; 2] {
        [
            Ipv4Addr::new(203, 0, 113, place.host).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, place.host.into()).into(),
        ]
    }

    /// Gives a node an interface there, without a default route.
    pub fn connect(&self, node: &Node, place: Place) -> Result<()> {
        let (netns, there, host) = (node.netns(), self.machine.path().display(), place.host);
        let [v4, v6] = Self::addresses(place);
        netns.ip(&format!("link add {SECOND} type veth peer name net-{host} netns {there}"))?;
        self.machine.ip(&format!("link set dev net-{host} up master net"))?;
        netns.ip(&format!("address add {v4}/24 dev {SECOND}"))?;
        netns.ip(&format!("address add {v6}/64 dev {SECOND} nodad"))?;
        netns.ip(&format!("link set dev {SECOND} up"))?;
        Ok(())
    }
}

/// A node with both networks whose Node tells these addresses.
pub fn node(
    fleet: &Fleet,
    second: &Second,
    (name, place): (&str, Place),
    told: &[IpAddr],
    flags: &[&str],
) -> Result<Node> {
    let node = fleet.machine(name, place, flags)?;
    second.connect(&node, place)?;
    fleet.put(&node_object(name, told, &place.pod_cidrs()))?;
    node.start_daemon()?;
    Ok(node)
}

/// The uplinks that a node tells of, each with its reasons.
pub fn uplinks(node: &Node) -> Result<Vec<(String, String)>> {
    let status = node.status()?;
    let uplinks = status["uplinks"].as_array().context("uplinks")?;
    let told = uplinks.iter().map(|uplink| {
        let reasons = uplink["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let name = uplink["name"].as_str().unwrap_or_default().to_owned();
        (name, reasons.collect::<Vec<_>>().join(", "))
    });
    Ok(told.collect())
}

/// Waits until these are a node's uplinks, with these reasons; returns how long that took.
pub fn are(node: &Node, expected: &[(&str, &str)]) -> Result<Duration> {
    let began = Instant::now();
    in_time("the uplinks", || {
        let found = uplinks(node)?;
        let found: Vec<_> = found.iter().map(|(name, why)| (name.as_str(), why.as_str())).collect();
        ensure!(found == expected, "{found:?} and not {expected:?}");
        Ok(())
    })?;
    Ok(began.elapsed())
}

/// The same, within a second or so.
pub fn become_soon(node: &Node, expected: &[(&str, &str)]) -> Result<()> {
    let took = are(node, expected)?;
    ensure!(took < SOON, "that took {took:?}");
    Ok(())
}

/// Whether programs are at an interface: their links are pinned by its name.
pub fn has_programs(node: &Node, ifname: &str) -> Result<bool> {
    let links = fs::read_dir(node.bpffs().join("links"))?;
    let names: Vec<_> = links.filter_map(|it| it.ok()?.file_name().into_string().ok()).collect();
    Ok(names.iter().any(|name| name.contains(ifname)))
}

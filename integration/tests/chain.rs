//! Behind us in a chain: Debian's portmap, bandwidth and tuning.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Binaries, Machine, NODE4, NODE6, Node, Pod, Settings},
};
use serde_json::{Value, json};

/// Where a runtime's command goes through all plugins of a list: in order for ADD and CHECK, backwards for DEL.
struct Chain<'n> {
    node: &'n Node,
    plugins: Vec<Value>,
}

impl<'n> Chain<'n> {
    /// `cambric` and then those.
    fn new(node: &'n Node, others: &[Value]) -> Self {
        Self { node, plugins: std::iter::once(node.config()).chain(others.iter().cloned()).collect() }
    }

    fn run(&self, pod: &Pod<'_>, command: &str, plugin: &Value, prev: &Value) -> Result<Value> {
        let mut config = plugin.clone();
        config["cniVersion"] = json!("1.0.0");
        config["name"] = json!("net");
        config["prevResult"] = prev.clone();
        let folder = if plugin["type"] == "cambric" {
            self.node.binaries().plugin()
        } else {
            Binaries::others().join("x")
        };
        let folder = folder.parent().context("a folder")?;
        let invocation = pod.cni(command).plugin(folder, config);
        invocation.run().with_context(|| format!("{command} of {}", plugin["type"]))
    }

    /// ADD of all.
    fn add(&self, name: &str) -> Result<Pod<'n>> {
        let sandbox = self.node.sandbox(name)?;
        let result = sandbox.cni("ADD").set("cniVersion", json!("1.0.0")).run()?;
        let mut pod = sandbox.added(result)?;
        for plugin in &self.plugins[1..] {
            pod.result = self.run(&pod, "ADD", plugin, &pod.result)?;
        }
        Ok(pod)
    }

    /// CHECK of all but portmap, which before its version 1.2 looks for the IPv4 rules in the IPv6 table too.
    fn check(&self, pod: &Pod<'_>) -> Result<()> {
        let mut plugins = self.plugins.iter().filter(|plugin| plugin["type"] != "portmap");
        plugins.try_for_each(|plugin| self.run(pod, "CHECK", plugin, &pod.result).map(drop))
    }

    fn del(&self, pod: &Pod<'_>) -> Result<()> {
        self.plugins.iter().rev().try_for_each(|plugin| self.run(pod, "DEL", plugin, &pod.result).map(drop))
    }
}

fn portmap(node: &Node, host_port: u16, container_port: u16) -> Value {
    let _ = node;
    json!({
        "type": "portmap", "capabilities": {"portMappings": true}, "snat": true,
        "runtimeConfig": {"portMappings": [
            {"hostPort": host_port, "containerPort": container_port, "protocol": "tcp"},
        ]},
    })
}

#[test]
fn a_port_of_the_host_leads_to_a_pod_by_portmap() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let chain = Chain::new(&node, &[portmap(&node, 8080, 80)]);
    let (pod, other) = (chain.add("a")?, node.add_pod("b")?);
    chain.check(&pod)?;
    for (any, node_address) in [("0.0.0.0:80", IpAddr::V4(NODE4)), ("[::]:80", NODE6.into())] {
        if any.starts_with('[') {
            drop(pod.netns().sysctl("net/ipv6/bindv6only", "1"));
        }
        let server = pod.serve_tcp(any.parse::<SocketAddr>()?)?;
        let port = (node_address, 8080);
        node.neighbour
            .connect(port)?
            .exchange(4 << 20)
            .with_context(|| format!("the neighbour, {node_address}"))?;
        other.connect(port)?.exchange(4 << 20).with_context(|| format!("another pod, {node_address}"))?;
        // The host itself, and the pod by its own mapping.
        node.connect(port)?.exchange(1 << 16).with_context(|| format!("the node, {node_address}"))?;
        pod.connect(port)?.exchange(1 << 16).with_context(|| format!("itself, {node_address}"))?;
        assert_eq!(server.peers().len(), 4);
    }
    chain.del(&pod)?;
    ensure!(node.neighbour.connect((IpAddr::V4(NODE4), 8080)).is_err());
    other.del()?;
    node.is_left_clean()?;
    Ok(())
}

/// In Mbit/s.
const RATE: f64 = 40.0;

fn bandwidth() -> Value {
    let bits = 40_000_000_u64;
    json!({
        "type": "bandwidth", "capabilities": {"bandwidth": true},
        "runtimeConfig": {"bandwidth": {
            "ingressRate": bits, "ingressBurst": 1_000_000, "egressRate": bits, "egressBurst": 1_000_000,
        }},
    })
}

/// Mbit/s from one pod to the other over about a second.
fn rate(from: &Pod<'_>, to: &Pod<'_>) -> Result<f64> {
    use std::io::{Read, Write};
    let listener = to.netns().inside(|| std::net::TcpListener::bind((IpAddr::V4(to.ipv4()), 0)))?;
    let address = listener.local_addr()?;
    let mut out =
        from.netns().inside(|| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(3)))?;
    out.set_write_timeout(Some(Duration::from_millis(200)))?;
    let (mut into, _) = listener.accept()?;
    into.set_read_timeout(Some(Duration::from_millis(200)))?;
    std::thread::scope(|scope| {
        let began = Instant::now();
        let period = Duration::from_millis(1500);
        scope.spawn(move || {
            let bytes = vec![7; 1 << 16];
            while began.elapsed() < period {
                let _ = out.write(&bytes);
            }
        });
        let (mut buffer, mut total) = (vec![0; 1 << 16], 0_u64);
        while began.elapsed() < period {
            total += into.read(&mut buffer).unwrap_or(0) as u64;
        }
        // In bits: a quick machine moves more than 4 GiB in this time.
        Ok(f64::from(u32::try_from(total * 8 / 1_000_000)?) / began.elapsed().as_secs_f64())
    })
}

#[test]
fn bandwidth_limits_what_a_pod_gets_and_what_it_sends() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let chain = Chain::new(&node, &[bandwidth()]);
    let (limited, free) = (chain.add("limited")?, node.add_pod("free")?);
    let other = node.add_pod("other")?;
    chain.check(&limited)?;
    let unlimited = rate(&free, &other)?;
    ensure!(unlimited > 4.0 * RATE, "without a limit only {unlimited} Mbit/s");
    for (way, got) in [("to it", rate(&free, &limited)?), ("from it", rate(&limited, &free)?)] {
        ensure!(got > RATE / 4.0 && got < RATE * 1.6, "{way}: {got} Mbit/s instead of {RATE}");
    }
    assert!(limited.reaches(free.ipv6())? && node.reaches(limited.ipv4())?);
    chain.del(&limited)?;
    free.del()?;
    other.del()?;
    node.is_left_clean()?;
    ensure!(
        node.netns().links()?.iter().all(|link| link == "lo" || link == "uplink"),
        "{:?}",
        node.netns().links()?
    );
    Ok(())
}

#[test]
fn a_limit_outlives_the_daemon() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let chain = Chain::new(&node, &[bandwidth()]);
    let (limited, free) = (chain.add("limited")?, node.add_pod("free")?);
    node.kill_daemon();
    node.start_daemon()?;
    for (way, got) in [("to it", rate(&free, &limited)?), ("from it", rate(&limited, &free)?)] {
        ensure!(got < RATE * 1.6, "{way}: {got} Mbit/s instead of {RATE}");
    }
    chain.check(&limited)
}

#[test]
fn tuning_may_change_what_we_made() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let tuning = json!({"type": "tuning", "mtu": 1400, "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}});
    let chain = Chain::new(&node, &[tuning]);
    let (pod, other) = (chain.add("a")?, node.add_pod("b")?);
    chain.check(&pod)?;
    assert!(pod.reaches(other.ipv4())? && other.reaches(pod.ipv6())?);
    chain.del(&pod)?;
    other.del()?;
    node.is_left_clean()?;
    Ok(())
}

#[test]
fn all_three_together_with_both_ways_of_attaching() -> Result<()> {
    needs_root!();
    for mode in ["tcx", "clsact"] {
        let node = Node::start_with(Settings::default().flag(format!("--attach={mode}")))?;
        let mut others = vec![portmap(&node, 8081, 81), json!({"type": "tuning", "sysctl": {}})];
        if mode == "tcx" {
            others.insert(1, bandwidth());
        }
        let chain = Chain::new(&node, &others);
        let pod = chain.add("a")?;
        chain.check(&pod)?;
        let _server = pod.serve_tcp("0.0.0.0:81".parse::<SocketAddr>()?)?;
        node.neighbour.connect((IpAddr::V4(NODE4), 8081))?.exchange(1 << 20).context(mode)?;
        chain.del(&pod)?;
        node.is_left_clean().context(mode)?;
    }
    Ok(())
}

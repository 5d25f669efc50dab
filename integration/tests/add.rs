//! ADD, and who reaches whom then.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{FAR4, FAR6, Machine, NEIGHBOUR4, NEIGHBOUR6, NODE4, NODE6, Netns, Node, Pod, Settings},
};
use serde_json::json;

/// Of the pods' default pools.
const GATEWAY4: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 1);

/// More than any buffer holds, so that segments are merged and cut on the way.
const LARGE: usize = 16 << 20;

fn both(pod: &Pod<'_>) -> [IpAddr; 2] {
    [pod.ipv4().into(), pod.ipv6().into()]
}

/// A free port of the address itself: a datagram's answer has to come from where the question went.
fn any(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 0)
}

/// Sends a lot from one to the other's `address` and back; returns whom the server saw.
fn transfer(from: &impl Machine, to: &impl Machine, address: IpAddr) -> Result<IpAddr> {
    let server = to.serve_tcp(any(address))?;
    from.connect((address, server.address().port()))?.exchange(LARGE)?;
    Ok(server.peers().first().context("a peer")?.ip())
}

#[test]
fn the_result_names_interfaces_addresses_and_routes() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    let result = &pod.result;
    assert_eq!(result["cniVersion"], "1.1.0");
    assert_eq!(result["interfaces"].as_array().map(Vec::len), Some(2), "{result}");
    assert_eq!(result["interfaces"][1]["name"], "eth0");
    assert_eq!(result["interfaces"][1]["sandbox"], json!(pod.netns().path()));
    assert_eq!(result["interfaces"][1]["mtu"], 1500);
    assert_eq!(result["ips"][0]["gateway"], json!(GATEWAY4));
    assert_eq!(result["ips"][1]["gateway"], json!(GATEWAY6));
    assert_eq!(result["ips"][0]["interface"], 1);
    let links = pod.netns().links()?;
    assert_eq!(links, ["lo", "eth0"]);
    let endpoints = node.ctl(&["endpoint", "list"])?;
    assert_eq!(endpoints[0]["host_ifname"], json!(pod.host_ifname()));
    assert_eq!(endpoints[0]["state"], "ready");
    assert!(node.netns().links()?.contains(&pod.host_ifname()));
    Ok(())
}

#[test]
fn pods_of_a_node_reach_each_other() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let (a, b) = (node.add_pod("a")?, node.add_pod("b")?);
    for (from, to) in [(&a, &b), (&b, &a)] {
        for address in both(to) {
            assert!(from.reaches(address)?, "{} to {address}", from.name());
        }
    }
    for address in both(&b) {
        let seen = transfer(&a, &b, address)?;
        assert!(a.addresses().contains(&seen), "b sees {seen}");
        let udp = b.serve_udp(any(address))?;
        assert!(a.echoes_udp((address, udp.address().port()), 1000)?, "udp to {address}");
    }
    // The way from one straight into the other left its mark.
    let flows = node.ctl(&["ct", "list"])?;
    ensure!(flows.as_array().is_some_and(|flows| !flows.is_empty()), "no connection is remembered");
    Ok(())
}

#[test]
fn a_pod_reaches_itself_by_its_own_address() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let a = node.add_pod("a")?;
    for address in both(&a) {
        assert!(a.reaches(address)?, "{address}");
    }
    Ok(())
}

#[test]
fn the_node_and_its_pods_reach_each_other() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    for address in both(&pod) {
        assert!(node.reaches(address)?, "node to {address}");
        transfer(&node, &pod, address)?;
    }
    for address in [IpAddr::V4(GATEWAY4), GATEWAY6.into(), NODE4.into(), NODE6.into()] {
        assert!(pod.reaches(address)?, "pod to {address}");
        let seen = transfer(&pod, &node, address)?;
        assert!(pod.addresses().contains(&seen), "the node sees {seen}");
    }
    Ok(())
}

#[test]
fn what_a_pod_sends_out_has_the_address_of_the_node() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    let ways: [(IpAddr, IpAddr); 4] = [
        (NEIGHBOUR4.into(), NODE4.into()),
        (NEIGHBOUR6.into(), NODE6.into()),
        (FAR4.into(), NODE4.into()),
        (FAR6.into(), NODE6.into()),
    ];
    for (address, node_address) in ways {
        assert!(pod.reaches(address)?, "ping to {address}");
        assert_eq!(transfer(&pod, &node.neighbour, address)?, node_address, "tcp to {address}");
        let udp = node.neighbour.serve_udp(any(address))?;
        assert!(pod.echoes_udp((address, udp.address().port()), 1000)?, "udp to {address}");
        assert_eq!(udp.peers()[0].ip(), node_address);
    }
    Ok(())
}

#[test]
fn the_node_itself_still_speaks_for_itself() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    for address in [IpAddr::V4(FAR4), FAR6.into()] {
        assert!(node.reaches(address)?, "node to {address}");
        transfer(&node, &node.neighbour, address)?;
    }
    for address in [IpAddr::V4(NODE4), NODE6.into()] {
        assert!(node.neighbour.reaches(address)?, "neighbour to {address}");
        transfer(&node.neighbour, &node, address)?;
    }
    Ok(())
}

#[test]
fn a_neighbour_with_a_route_reaches_a_pod_directly() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    node.neighbour.netns().ip(&format!("route add 10.88.0.0/16 via {NODE4}"))?;
    node.neighbour.netns().ip(&format!("-6 route add fd00:88::/64 via {NODE6}"))?;
    for address in both(&pod) {
        assert!(node.neighbour.reaches(address)?, "neighbour to {address}");
        let seen = transfer(&node.neighbour, &pod, address)?;
        assert!(seen == NEIGHBOUR4 || seen == NEIGHBOUR6, "the pod sees {seen}");
    }
    Ok(())
}

#[test]
fn fragments_arrive() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let (a, b) = (node.add_pod("a")?, node.add_pod("b")?);
    let targets =
        [b.ipv4().into(), b.ipv6().into(), FAR4.into(), FAR6.into(), GATEWAY4.into(), IpAddr::V6(GATEWAY6)];
    for to in targets {
        let pings = a.ping(to, &["-c3", "-i0.05", "-W1", "-s4000"])?;
        assert_eq!(pings.received, 3, "pod to {to}: {}", pings.text);
    }
    for to in both(&a) {
        let pings = node.ping(to, &["-c3", "-i0.05", "-W1", "-s4000"])?;
        assert_eq!(pings.received, 3, "node to {to}: {}", pings.text);
    }
    for to in [IpAddr::V4(FAR4), FAR6.into(), b.ipv4().into(), b.ipv6().into()] {
        let local = b.addresses().contains(&to);
        let server = if local { b.serve_udp(any(to)) } else { node.neighbour.serve_udp(any(to)) }?;
        assert!(a.echoes_udp((to, server.address().port()), 9000)?, "9000 bytes of UDP to {to}");
    }
    Ok(())
}

/// A narrow link behind the neighbour, with a server beyond.
struct Beyond {
    netns: Netns,
}

impl Beyond {
    const V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
    const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbe, 0, 0, 0, 0, 2);

    fn new(node: &Node) -> Result<Self> {
        let netns = Netns::new("beyond")?;
        let neighbour = node.neighbour.netns();
        neighbour
            .ip(&format!("link add narrow type veth peer name towards netns {}", netns.path().display()))?;
        for (netns, link, last) in [(neighbour, "narrow", 1), (&netns, "towards", 2)] {
            netns.ip(&format!("address add 203.0.113.{last}/24 dev {link}"))?;
            netns.ip(&format!("address add 2001:db8:be::{last}/64 dev {link} nodad"))?;
            netns.ip(&format!("link set dev {link} mtu 1400 up"))?;
        }
        // It announces more than its link takes, so that only the router's word makes the sender use less.
        netns.ip("route add default via 203.0.113.1 advmss 1460")?;
        netns.ip("-6 route add default via 2001:db8:be::1 advmss 1440")?;
        neighbour.sysctl("net/ipv4/ip_forward", "1")?;
        neighbour.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        Ok(Self { netns })
    }
}

impl Machine for Beyond {
    fn netns(&self) -> &Netns {
        &self.netns
    }
}

/// The MTU that `machine` has learnt for a path; `None` if nothing was.
fn learnt_mtu(machine: &impl Machine, to: IpAddr) -> Result<Option<u64>> {
    let route = machine.netns().ip(&format!("route get {to}"))?;
    let mut words = route.split_whitespace().skip_while(|word| *word != "mtu");
    Ok(words.nth(1).and_then(|mtu| mtu.parse().ok()))
}

#[test]
fn a_pod_learns_the_mtu_of_a_narrow_path_from_a_router() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    let beyond = Beyond::new(&node)?;
    for to in [IpAddr::V4(Beyond::V4), Beyond::V6.into()] {
        let pings = pod.ping(to, &["-c2", "-i0.1", "-W1", "-s1440", "-Mdo"])?;
        assert_eq!(pings.received, 0, "{}", pings.text);
        assert_eq!(learnt_mtu(&pod, to)?, Some(1400), "pod to {to}: {}", pings.text);
        transfer(&pod, &beyond, to)?;
    }
    Ok(())
}

#[test]
fn a_pod_learns_the_mtu_of_a_narrow_path_in_mid_transfer() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    let beyond = Beyond::new(&node)?;
    for to in [IpAddr::V4(Beyond::V4), Beyond::V6.into()] {
        assert_eq!(learnt_mtu(&pod, to)?, None);
        transfer(&pod, &beyond, to)?;
        assert_eq!(learnt_mtu(&pod, to)?, Some(1400), "pod to {to}");
    }
    Ok(())
}

#[test]
fn the_node_tells_a_pod_that_its_packets_are_too_big_for_the_uplink() -> Result<()> {
    needs_root!();
    let node = Node::new(Settings::default().flag("--mtu=1500"))?;
    node.netns().ip("link set uplink mtu 1400")?;
    node.neighbour.netns().ip("link set lan mtu 1400")?;
    node.start_daemon()?;
    let pod = node.add_pod("a")?;
    for to in [IpAddr::V4(FAR4), FAR6.into()] {
        let pings = pod.ping(to, &["-c2", "-i0.1", "-W1", "-s1440", "-Mdo"])?;
        assert_eq!(pings.received, 0, "{}", pings.text);
        assert_eq!(learnt_mtu(&pod, to)?, Some(1400), "pod to {to}: {}", pings.text);
        transfer(&pod, &node.neighbour, to)?;
        // What may be cut is.
        let pings = pod.ping(to, &["-c2", "-i0.1", "-W1", "-s1440", "-Mdont"])?;
        assert_eq!(pings.received, 2, "{}", pings.text);
    }
    Ok(())
}

#[test]
fn the_mtu_follows_from_the_uplink() -> Result<()> {
    needs_root!();
    let node = Node::new(Settings::default())?;
    node.netns().ip("link set uplink mtu 1420")?;
    node.neighbour.netns().ip("link set lan mtu 1420")?;
    node.start_daemon()?;
    let pod = node.add_pod("a")?;
    assert_eq!(pod.result["interfaces"][1]["mtu"], 1420);
    let small = node.sandbox("b")?;
    let result = small.cni("ADD").set("mtu", json!(1300)).run()?;
    assert_eq!(result["interfaces"][1]["mtu"], 1300);
    Ok(())
}

#[test]
fn a_packet_with_a_source_that_is_not_its_own_is_dropped_and_counted() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let (a, b) = (node.add_pod("a")?, node.add_pod("b")?);
    a.netns().ip("address add 10.88.9.9/32 dev eth0")?;
    a.netns().ip("address add fd00:88::99/128 dev eth0 nodad")?;
    for (to, from) in
        [(IpAddr::V4(b.ipv4()), "10.88.9.9"), (b.ipv6().into(), "fd00:88::99"), (FAR4.into(), "10.88.9.9")]
    {
        let before = node.drops("foreign_source")?;
        assert_eq!(a.ping(to, &["-c3", "-i0.05", "-W1", "-I", from])?.received, 0, "from {from} to {to}");
        assert_eq!(node.drops("foreign_source")? - before, 3, "from {from} to {to}");
    }
    assert!(a.reaches(b.ipv4())?);
    Ok(())
}

#[test]
fn a_packet_with_an_ethernet_address_that_is_not_its_own_is_dropped_and_counted() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let (a, b) = (node.add_pod("a")?, node.add_pod("b")?);
    assert!(a.reaches(b.ipv4())?, "before");
    a.netns().ip("link set eth0 address 02:00:00:00:be:ef")?;
    // Changing the address took the neighbours away.
    let gateway = &node.ctl(&["endpoint", "show", a.name()])?["host_mac"];
    let gateway = gateway.as_str().context("host_mac")?;
    a.netns().ip(&format!("neighbour replace {GATEWAY4} lladdr {gateway} nud permanent dev eth0"))?;
    let before = node.drops("foreign_mac")?;
    assert_eq!(a.ping(b.ipv4(), &["-c3", "-i0.05", "-W1"])?.received, 0);
    assert_eq!(node.drops("foreign_mac")? - before, 3);
    Ok(())
}

#[test]
fn an_address_that_nobody_has_is_unreachable_and_does_not_leave_the_node() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let a = node.add_pod("a")?;
    for to in ["10.88.200.1", "fd00:88::dead"] {
        let to: IpAddr = to.parse()?;
        let pings = a.ping(to, &["-c1", "-W1"])?;
        assert_eq!(pings.received, 0);
        assert!(pings.text.to_lowercase().contains("unreachable"), "{}", pings.text);
    }
    Ok(())
}

#[test]
fn a_deleted_pod_is_cut_off_and_its_address_answers_no_more() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let (a, b) = (node.add_pod("a")?, node.add_pod("b")?);
    assert!(a.reaches(b.ipv4())? && a.reaches(b.ipv6())?);
    b.del()?;
    for to in both(&b) {
        assert_eq!(a.ping(to, &["-c1", "-W1"])?.received, 0, "{to}");
    }
    assert_eq!(b.netns().links()?, ["lo"]);
    a.del()?;
    node.is_left_clean()?;
    Ok(())
}

#[test]
fn labels_pod_and_capabilities_are_taken() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let sandbox = node.sandbox("a")?;
    let invocation = sandbox
        .cni("ADD")
        .args("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=1-2;OTHER=3")
        .set("args", json!({"cni": {"labels": [{"key": "app", "value": "web"}]}}))
        .set("capabilities", json!({"mac": true}))
        .set("runtimeConfig", json!({"mac": "02:00:00:00:aa:01"}));
    let pod = {
        let result = invocation.run()?;
        sandbox.added(result)?
    };
    assert_eq!(pod.result["interfaces"][1]["mac"], "02:00:00:00:aa:01");
    let shown = node.ctl(&["endpoint", "show", "shop/web"])?;
    assert_eq!(shown["pod"]["name"], "web");
    assert_eq!(shown["labels"]["app"], "web");
    let other = node.add_pod("b")?;
    assert!(other.reaches(pod.ipv4())? && pod.reaches(other.ipv6())?);
    Ok(())
}

#[test]
fn a_daemon_that_is_away_is_code_11_and_status_50() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    node.cni("STATUS", "").run()?;
    node.stop_daemon()?;
    assert_eq!(node.cni("STATUS", "").refusal()?.code, 50);
    let sandbox = node.sandbox("a")?;
    let refused = sandbox.cni("ADD").refusal()?;
    assert_eq!(refused.code, 11, "{refused}");
    assert_eq!(sandbox.netns().links()?, ["lo"]);
    Ok(())
}

#[test]
fn a_pool_of_one_family_gives_addresses_of_that_family() -> Result<()> {
    needs_root!();
    for (pool, count) in [("10.99.0.0/24", 1), ("fd00:99::/64", 1)] {
        let node = Node::start_with(Settings::default().pools(&[pool]))?;
        let (a, b) = (node.add_pod("a")?, node.add_pod("b")?);
        assert_eq!(a.addresses().len(), count);
        assert!(a.reaches(b.addresses()[0])?, "{pool}");
        a.check()?;
    }
    Ok(())
}

/// Adds pods that must take packets at once.
fn add_pods_that_are_ready(node: &Node) -> Result<()> {
    for name in ["a", "b", "c", "d", "e"] {
        let pod = node.add_pod(name)?;
        for address in both(&pod) {
            // The kernel puts an address of IPv6 into this table later than it says.
            let way = pod.netns().ip(&format!("route get {address}"))?;
            ensure!(way.starts_with("local"), "{name}: {way}");
        }
        for address in both(&pod) {
            let first = node.ping(address, &["-c1", "-W10"])?;
            ensure!(first.received == 1, "{name}: {}", first.text);
        }
    }
    Ok(())
}

#[test]
fn a_pod_takes_packets_as_soon_as_its_add_is_done() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    // Others make and delete interfaces meanwhile, for which the kernel has one lock.
    let others = Netns::new("others")?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let busy = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                others.ip("link add one type veth peer name other")?;
                others.ip("link delete one")?;
            }
            Ok(())
        });
        let added = add_pods_that_are_ready(&node);
        stop.store(true, Ordering::Relaxed);
        added.and(busy.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

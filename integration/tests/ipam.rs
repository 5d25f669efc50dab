//! Addresses: who gets which, and who loses it.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, Node, Pod, Settings, eventually},
};
use ipamd_api::{
    AttachmentKey, Client, Reply, Request,
    wire::{NetnsId, Reserve},
};
use serde_json::{Value, json};

fn in_use(node: &Node) -> Result<HashSet<IpAddr>> {
    let listing = node.ctl(&["ipam", "list"])?;
    let addresses = listing["addresses"].as_array().into_iter().flatten();
    Ok(addresses.filter_map(|holder| holder["address"].as_str()?.parse().ok()).collect())
}

#[test]
fn an_exhausted_pool_is_code_101_with_its_name_and_counts() -> Result<()> {
    needs_root!();
    // Eight addresses: without the network's, the gateway's and the broadcast, five are left.
    let node = Node::start_with(Settings::default().pools(&["small=10.7.7.0/29"]))?;
    let mut pods = Vec::new();
    let refused = loop {
        let sandbox = node.sandbox(&format!("p{}", pods.len()))?;
        match sandbox.cni("ADD").run() {
            Ok(result) => pods.push(sandbox.added(result)?),
            Err(_) => break sandbox.cni("ADD").refusal()?,
        }
        ensure!(pods.len() <= 8, "more pods than addresses");
    };
    assert_eq!(refused.code, 101, "{refused}");
    let used = pods.len().to_string();
    assert!(refused.message.contains("small") && refused.message.contains(&used), "{refused}");
    assert_eq!(pods.len(), 5);
    assert_eq!(node.pod_links()?.len(), 5, "the refused ADD left nothing");
    pods[2].del()?;
    let again = node.add_pod("again")?;
    assert_eq!(again.ipv4(), pods[2].ipv4());
    Ok(())
}

#[test]
fn an_address_rests_before_it_is_used_again() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let first = node.add_pod("a")?;
    first.del()?;
    let second = node.add_pod("b")?;
    assert_ne!(first.ipv4(), second.ipv4());
    assert_ne!(first.ipv6(), second.ipv6());
    // Not even after a restart.
    second.del()?;
    node.stop_daemon()?;
    node.start_daemon()?;
    let third = node.add_pod("c")?;
    assert!(![first.ipv4(), second.ipv4()].contains(&third.ipv4()));
    Ok(())
}

fn ask_for<'n>(
    node: &'n Node,
    name: &str,
    ips: &Value,
) -> Result<Result<Pod<'n>, integration::testbed::Refusal>> {
    let sandbox = node.sandbox(name)?;
    let invocation = sandbox
        .cni("ADD")
        .set("capabilities", json!({"ips": true}))
        .set("runtimeConfig", json!({"ips": ips}));
    match invocation.run() {
        Ok(result) => Ok(Ok(sandbox.added(result)?)),
        Err(error) => Ok(Err(error.downcast()?)),
    }
}

#[test]
fn addresses_asked_for_are_given_or_refused_by_name() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = ask_for(&node, "a", &json!(["10.88.3.4/32", "fd00:88::3:4"]))??;
    assert_eq!(pod.addresses(), ["10.88.3.4".parse::<IpAddr>()?, "fd00:88::3:4".parse()?]);
    assert!(node.reaches(pod.ipv4())? && node.reaches(pod.ipv6())?);
    let taken = ask_for(&node, "b", &json!(["10.88.3.4"]))?.unwrap_err();
    assert_eq!(taken.code, 103, "{taken}");
    assert!(taken.message.contains("10.88.3.4"), "{taken}");
    let foreign = ask_for(&node, "c", &json!(["10.99.0.1"]))?.unwrap_err();
    assert_eq!(foreign.code, 102, "{foreign}");
    let gateway = ask_for(&node, "d", &json!(["10.88.0.1"]))?.unwrap_err();
    assert_eq!(gateway.code, 102, "{gateway}");
    let half = ask_for(&node, "e", &json!(["10.88.3.5"]))??;
    assert_eq!(half.addresses().len(), 2, "the other family gets one from its pool");
    assert_eq!(in_use(&node)?.len(), 4);
    Ok(())
}

#[test]
fn gc_releases_what_the_runtime_does_not_list() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let (kept, lost) = (node.add_pod("kept")?, node.add_pod("lost")?);
    let sandbox = node.sandbox("elsewhere")?;
    let elsewhere = sandbox.cni("ADD").set("name", json!("othernet")).run()?;
    let elsewhere = sandbox.added(elsewhere)?;
    let valid = json!([{"containerID": "kept", "ifname": "eth0"}]);
    node.cni("GC", "").set("cni.dev/valid-attachments", valid).run()?;
    kept.check()?;
    assert!(node.reaches(kept.ipv4())?);
    assert!(node.reaches(elsewhere.ipv4())?, "of another network");
    assert!(!node.pod_links()?.contains(&lost.host_ifname()));
    let used = in_use(&node)?;
    assert!(kept.addresses().iter().all(|ip| used.contains(ip)));
    assert!(lost.addresses().iter().all(|ip| !used.contains(ip)));
    Ok(())
}

#[test]
fn an_address_in_use_is_released_by_hand_only_with_force() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    let ip = pod.ipv4().to_string();
    assert!(node.ctl(&["ipam", "release", &ip]).is_err());
    assert!(node.reaches(pod.ipv4())?);
    assert_eq!(node.ctl(&["ipam", "show", &ip])?["key"]["container_id"], "a");
    node.ctl(&["ipam", "release", &ip, "--force"])?;
    node.is_left_clean()?;
    Ok(())
}

#[test]
fn a_daemon_that_starts_frees_what_nobody_uses_any_more() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let (gone, stays) = (node.add_pod("gone")?, node.add_pod("stays")?);
    let lost = gone.addresses().to_vec();
    node.kill_daemon();
    // The container dies without a DEL, and its interface with its namespace.
    let link = gone.host_ifname();
    drop(gone);
    assert!(eventually(Duration::from_secs(5), || node
        .pod_links()
        .is_ok_and(|links| !links.contains(&link))));
    node.start_daemon()?;
    // Within the grace, it is shown as broken and kept.
    let endpoints = node.ctl(&["endpoint", "list"])?;
    let states: Vec<_> = endpoints
        .as_array()
        .into_iter()
        .flatten()
        .map(|e| (e["key"]["container_id"].clone(), e["state"].clone()))
        .collect();
    assert!(states.contains(&(json!("stays"), json!("ready"))), "{states:?}");
    assert!(node.reaches(stays.ipv4())?);
    let freed = eventually(Duration::from_secs(100), || {
        in_use(&node).is_ok_and(|used| lost.iter().all(|ip| !used.contains(ip)))
    });
    assert!(freed, "{states:?}");
    stays.check()
}

#[test]
fn a_pool_that_is_too_small_or_overlaps_is_refused_by_name() -> Result<()> {
    needs_root!();
    for pools in [vec!["10.88.0.0/16", "10.88.1.0/24"], vec!["10.88.0.0/32"]] {
        let node = Node::new(Settings::default().pools(&pools))?;
        let error = node.start_daemon().unwrap_err().to_string();
        assert!(error.contains(pools[pools.len() - 1]), "{error}");
    }
    Ok(())
}

/// A runtime that kills an ADD sends its DEL at once, and the daemon may read the request of the killed one after it.
#[test]
fn what_a_killed_add_asks_for_after_its_del_is_released() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("stands")?;
    let key = AttachmentKey { network: "net".into(), container_id: "a".into(), ifname: "eth0".into() };
    let reserve = |key: &AttachmentKey| Reserve {
        key: key.clone(),
        netns: pod.netns().path().to_owned(),
        netns_id: NetnsId { dev: 4, ino: 1 },
        addresses: Vec::new(),
        mac: None,
        mtu: None,
        pod: None,
        labels: std::collections::BTreeMap::default(),
        port_mappings: Vec::new(),
        chained: None,
    };
    let mut killed = Client::connect(&node.socket())?;
    ensure!(matches!(killed.call(Request::Release { key: key.clone() })?, Reply::Done));
    let given = killed.call(Request::Reserve(Box::new(reserve(&key))))?;
    ensure!(matches!(given, Reply::Reservation(_)), "{given:?}");
    ensure!(in_use(&node)?.len() == 4);
    drop(killed);
    let is_free = || in_use(&node).is_ok_and(|used| used.len() == 2);
    // Long before it would count as left behind.
    ensure!(eventually(Duration::from_secs(15), is_free), "{:?}", in_use(&node)?);
    pod.check()
}

//! By what an endpoint's programs are attached: filters, where nothing behind Cambric in the chain needs their qdisc.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{FAR4, FAR6, Machine, Node, Pod, Settings, eventually},
};
use serde_json::json;
use tempfile::TempDir;

/// The folder of a runtime's configurations, in which the testbed's network chains these plugins.
fn configurations(others: &[&str]) -> Result<TempDir> {
    let dir = tempfile::tempdir()?;
    chain(&dir, others)?;
    Ok(dir)
}

fn chain(dir: &TempDir, others: &[&str]) -> Result<()> {
    let plugins: Vec<_> = ["cambric"].iter().chain(others).map(|kind| json!({"type": kind})).collect();
    let configuration = json!({"cniVersion": "1.0.0", "name": "net", "plugins": plugins});
    Ok(fs::write(dir.path().join("20-net.conflist"), configuration.to_string())?)
}

fn start(dir: &TempDir) -> Result<Node> {
    Node::start_with(Settings::default().flag(format!("--cni-conf-dir={}", dir.path().display())))
}

fn link_pins(node: &Node, pod: &Pod<'_>) -> Vec<PathBuf> {
    let links = fs::read_dir(node.bpffs().join("links")).into_iter().flatten().filter_map(Result::ok);
    let is_pods = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&pod.host_ifname()))
    };
    links.map(|entry| entry.path()).filter(is_pods).collect()
}

/// How many of the pod's two hooks have a filter.
fn filters(node: &Node, pod: &Pod<'_>) -> Result<usize> {
    let mut count = 0;
    for hook in ["ingress", "egress"] {
        let out =
            node.netns().command("tc")?.args(["filter", "show", "dev", &pod.host_ifname(), hook]).output()?;
        count += usize::from(String::from_utf8_lossy(&out.stdout).contains("handle 0xca"));
    }
    Ok(count)
}

#[test]
fn a_chain_without_a_qdisc_is_attached_by_filters() -> Result<()> {
    needs_root!();
    let switch = || fs::read_to_string("/sys/kernel/rcu_expedited").unwrap_or_default();
    let before = switch();
    let dir = configurations(&["portmap", "tuning"])?;
    let node = start(&dir)?;
    assert_eq!(node.status()?["attach_mode"], "tcx", "uplinks are");
    let (a, b) = (node.add_pod("a")?, node.add_pod("b")?);
    assert_eq!((filters(&node, &a)?, link_pins(&node, &a)), (2, vec![]));
    ensure!(a.reaches(b.ipv4())? && a.reaches(FAR4)? && a.reaches(FAR6)? && node.reaches(a.ipv6())?);
    a.netns().ip("address add 10.88.9.9/32 dev eth0")?;
    assert_eq!(a.ping(FAR4, &["-c2", "-i0.05", "-W1", "-I", "10.88.9.9"])?.received, 0);
    assert_eq!(node.drops("foreign_source")?, 2, "each packet met the program once");
    a.check()?;
    assert_eq!(node.status()?["problems"], json!([]));

    // The next daemon has programs of its own, which take the places of these.
    node.stop_daemon()?;
    ensure!(a.reaches(FAR4)?, "without a daemon");
    node.start_daemon()?;
    a.check()?;
    assert_eq!((filters(&node, &a)?, link_pins(&node, &a)), (2, vec![]));
    ensure!(a.reaches(b.ipv4())?);
    assert_eq!(switch(), before, "the machine's switch is the machine's");
    for pod in [&a, &b] {
        pod.del()?;
    }
    node.is_left_clean()?;
    Ok(())
}

#[test]
fn a_chain_that_may_need_the_qdisc_is_attached_by_tcx() -> Result<()> {
    needs_root!();
    let dir = configurations(&["bandwidth"])?;
    let node = start(&dir)?;
    let limited = node.add_pod("limited")?;
    assert_eq!((filters(&node, &limited)?, link_pins(&node, &limited).len()), (0, 0));
    // What is changed counts for the next ADD, and what stands is right as it stands.
    chain(&dir, &["portmap"])?;
    let free = node.add_pod("free")?;
    assert_eq!((filters(&node, &free)?, link_pins(&node, &free).len()), (2, 0));
    chain(&dir, &["somebodys-own"])?;
    let unknown = node.add_pod("unknown")?;
    assert_eq!((filters(&node, &unknown)?, link_pins(&node, &unknown).len()), (0, 0));
    for pod in [&limited, &free, &unknown] {
        pod.check()?;
        ensure!(pod.reaches(FAR4)? && pod.reaches(limited.ipv4())?);
    }
    Ok(())
}

#[test]
fn a_filter_that_somebody_removes_is_put_back() -> Result<()> {
    needs_root!();
    let dir = configurations(&[])?;
    let node = start(&dir)?;
    let pod = node.add_pod("a")?;
    for harm in ["filter del dev IFNAME ingress", "qdisc del dev IFNAME clsact"] {
        let harm = harm.replace("IFNAME", &pod.host_ifname());
        let done = node.netns().command("tc")?.args(harm.split(' ')).status().context("tc")?;
        // What was put back as a link has no filter.
        if done.success() {
            let healed = eventually(Duration::from_secs(10), || pod.check().is_ok());
            ensure!(healed, "after {harm}: {:?}", pod.check());
        }
        ensure!(pod.reaches(FAR4)?, "after {harm}");
    }
    Ok(())
}

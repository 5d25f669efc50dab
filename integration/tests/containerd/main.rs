//! Pods run by containerd, asked by the CRI as a kubelet would.

mod cri;
mod daemonset;
mod requests;
mod runtime;

use std::{collections::BTreeSet, net::IpAddr, sync::Mutex, thread};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, Node},
};
use runtime::{Containerd, run};

const SANDBOXES: usize = 100;
const AT_A_TIME: usize = 20;

/// Path of the sandbox's namespace, by the daemon's record.
fn netns_of(node: &Node, sandbox: &str) -> Result<String> {
    let endpoints = node.ctl(&["endpoint", "list"])?;
    let endpoint = endpoints.as_array().into_iter().flatten().find(|it| it["key"]["container_id"] == sandbox);
    let endpoint = endpoint.with_context(|| format!("no endpoint of {sandbox} in {endpoints}"))?;
    ensure!(endpoint["state"] == "ready" && endpoint["pod"]["namespace"] == "default", "{endpoint}");
    Ok(endpoint["netns"].as_str().context("a namespace")?.to_owned())
}

#[test]
fn containerd_runs_and_removes_pods_that_reach_each_other() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let containerd = Containerd::start(&node)?;
    let (a, b) = (containerd.run_sandbox("a")?, containerd.run_sandbox("b")?);
    let addresses = containerd.cri.addresses(&b)?;
    assert!(matches!(addresses[..], [IpAddr::V4(_), IpAddr::V6(_)]), "{addresses:?}");
    let netns = netns_of(&node, &a)?;
    for address in addresses {
        assert!(node.reaches(address)?, "the node to {address}");
        run(containerd.inside(&netns, "ping").args(["-n", "-c3", "-i0.05", "-W1"]).arg(address.to_string()))?;
    }
    for sandbox in [a, b] {
        containerd.cri.remove_sandbox(&sandbox)?;
    }
    assert_eq!(containerd.cri.sandboxes()?, 0);
    node.is_left_clean()?;
    Ok(())
}

#[test]
fn a_hundred_sandboxes_twenty_at_a_time_have_addresses_of_their_own_and_leave_nothing() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let containerd = Containerd::start(&node)?;
    let running = Mutex::new(Vec::new());
    at_a_time(|worker| {
        for pod in (worker..SANDBOXES).step_by(AT_A_TIME) {
            let sandbox = containerd.run_sandbox(&format!("pod-{pod}"))?;
            let addresses = containerd.cri.addresses(&sandbox)?;
            running.lock().expect("no thread panicked").push((sandbox, addresses));
        }
        Ok(())
    })?;
    let running = running.into_inner()?;
    let distinct: BTreeSet<IpAddr> = running.iter().flat_map(|(_, addresses)| addresses).copied().collect();
    assert_eq!((running.len(), distinct.len()), (SANDBOXES, 2 * SANDBOXES));
    at_a_time(|worker| {
        running
            .iter()
            .skip(worker)
            .step_by(AT_A_TIME)
            .try_for_each(|(sandbox, _)| containerd.cri.remove_sandbox(sandbox))
    })?;
    assert_eq!(containerd.cri.sandboxes()?, 0);
    node.is_left_clean()?;
    Ok(())
}

#[test]
fn without_the_daemon_sandboxes_are_removed_and_none_is_run() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let containerd = Containerd::start(&node)?;
    let sandbox = containerd.run_sandbox("a")?;
    node.kill_daemon();
    let refused = containerd.run_sandbox("b").expect_err("no daemon, no network").to_string();
    assert!(refused.contains("is cambric-ipamd running?"), "{refused}");
    containerd.cri.remove_sandbox(&sandbox)?;
    assert_eq!(node.pod_links()?, Vec::<String>::new());
    node.start_daemon()?;
    node.is_left_clean()?;
    Ok(())
}

/// Runs `work` on as many threads, each told its number; fails as the first of them did.
fn at_a_time(work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME)
            .map(|worker| {
                scope.spawn({
                    let work = &work;
                    move || work(worker)
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no thread panicked"))
    })
}

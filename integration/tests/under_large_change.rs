//! While thousands of policies come into force nobody waits for them: pods come and go, and whoever asks is answered.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, Node, Pod, Settings, eventually},
};

const POLICIES: usize = 10_000;
const PODS: usize = 12;
/// Pods that come while the policies come into force, and stay.
const KEPT: usize = 5;
/// Each policy is for the pods of one application, so each pod has a thousand of them.
const APPS: usize = 10;

/// A bound that a busy machine keeps, with everything compiled for tests; what it took is printed.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Policies each of a port and an address of its own.
fn policies() -> String {
    let mut text = String::new();
    for number in 0..POLICIES {
        let (high, low) = (number / 256, number % 256);
        let _ = write!(
            text,
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ namespace: shop, name: p{number} }}\n\
             spec: {{ podSelector: {{ matchLabels: {{ app: a{} }} }}, policyTypes: [Ingress], ingress: [ {{ from: [ {{ ipBlock: {{ cidr: 172.16.{high}.{low}/32 }} }} ],\
             ports: [ {{ port: {} }} ] }} ] }}\n",
            number % APPS,
            1 + number % 5_000
        );
    }
    text
}

fn start() -> Result<Node> {
    let settings =
        Settings::default().cluster().flag("--policy-entries=65536").flag("--metrics=127.0.0.1:9477");
    let node = Node::start_with(settings)?;
    Ok(node)
}

/// Whether a change is under way, by what a new pod's ADD says of it.
fn is_under_way(node: &Node) -> bool {
    node.log().contains("is cut off until its own is in force")
}

fn all_in_force(node: &Node) -> bool {
    node.status().is_ok_and(|status| status["policy"]["policies"].as_u64() >= Some(POLICIES as u64))
}

#[test]
fn adds_dels_and_questions_do_not_wait() -> Result<()> {
    needs_root!();
    let node = start()?;
    let pods = (0..PODS)
        .map(|number| node.add_pod_of(&format!("shop/p{number}"), &[]))
        .collect::<Result<Vec<_>>>()?;
    node.manifest("many.yaml", &policies())?;
    let mut longest = [
        ("ADD", Duration::ZERO),
        ("DEL", Duration::ZERO),
        ("status", Duration::ZERO),
        ("readyz", Duration::ZERO),
    ];
    let mut rounds = 0;
    // Some that come meanwhile stay.
    let mut kept = Vec::new();
    let began = Instant::now();
    while !all_in_force(&node) && began.elapsed() < Duration::from_secs(100) {
        let mut took = [Duration::ZERO; 4];
        let clock = Instant::now();
        let pod = node.add_pod_of(&format!("shop/new-{rounds}"), &[("app", "a3")])?;
        took[0] = clock.elapsed();
        let clock = Instant::now();
        node.status()?;
        took[2] = clock.elapsed();
        let clock = Instant::now();
        let probed = node
            .netns()
            .command("curl")?
            .args(["-sf", "--max-time", "5", "http://127.0.0.1:9477/readyz"])
            .status()?;
        ensure!(probed.success(), "{probed}");
        took[3] = clock.elapsed();
        let clock = Instant::now();
        if kept.len() < KEPT {
            kept.push(pod);
        } else {
            pod.del()?;
        }
        took[1] = clock.elapsed();
        for ((_, longest), took) in longest.iter_mut().zip(took) {
            *longest = (*longest).max(took);
        }
        rounds += 1;
    }
    ensure!(all_in_force(&node), "not in force after {:?}: {:?}", began.elapsed(), node.status());
    let all = began.elapsed();
    eprintln!(
        "{rounds} rounds while {POLICIES} policies came into force in {all:?}; the longest: {longest:?}"
    );
    // Who waits for the change waits for most of it, however slow the machine is.
    for (what, took) in longest {
        ensure!(took < AT_ONCE.max(all / 4), "{what} took {took:?} of {all:?}");
    }
    // Who comes and came is enforced by what is told as in force, at once: policies that let only strangers in. A pod that no
    // policy is for is reached.
    let reaches = |to: &Pod| anyhow::Ok(pods[0].ping(to.ipv4(), &["-c1", "-W1"])?.received > 0);
    kept.push(node.add_pod_of("shop/late", &[("app", "a3")])?);
    for pod in &kept {
        ensure!(!reaches(pod)?, "{} is reached", pod.ipv4());
        ensure!(node.reaches(pod.ipv4())?, "the node reaches its pods");
    }
    let free = node.add_pod_of("shop/free", &[])?;
    ensure!(eventually(Duration::from_secs(30), || reaches(&free).unwrap_or(false)));
    assert_eq!(node.status()?["endpoints"].as_u64(), Some((PODS + kept.len() + 1) as u64));
    Ok(())
}

#[test]
fn the_end_of_the_daemon_does_not_wait_either() -> Result<()> {
    needs_root!();
    let node = start()?;
    let pods = (0..PODS)
        .map(|number| node.add_pod_of(&format!("shop/p{number}"), &[]))
        .collect::<Result<Vec<_>>>()?;
    node.manifest("many.yaml", &policies())?;
    let mut number = 0;
    let under_way = eventually(Duration::from_mins(1), || {
        number += 1;
        node.add_pod_of(&format!("shop/new-{number}"), &[]).is_ok() && is_under_way(&node)
            || all_in_force(&node)
    });
    ensure!(under_way, "{}", node.log());
    let clock = Instant::now();
    node.stop_daemon()?;
    eprintln!("the daemon ended within {:?}", clock.elapsed());
    ensure!(clock.elapsed() < 2 * AT_ONCE, "{:?}", clock.elapsed());
    ensure!(node.reaches(pods[0].ipv4())?, "what was in force stays");
    Ok(())
}

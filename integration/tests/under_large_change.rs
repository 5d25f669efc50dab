//! While thousands of policies come into force nobody waits for them: pods come and go, and whoever asks is answered.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::{
    bench::answers::{Answers, Work},
    needs_root,
    testbed::{Machine, Node, Pod, eventually},
};

const POLICIES: Work = Work::Rebuild(10_000);
const TOO_MANY: Work = Work::Search(20_000);
const PODS: usize = 12;
/// Pods that come while the policies come into force, and stay.
const KEPT: usize = 5;

/// A bound that a busy machine keeps, with everything compiled for tests; what it took is printed, and `scripts/bench policy` measures
/// it with what is released.
const AT_ONCE: Duration = Duration::from_secs(2);

fn pods(node: &Node) -> Result<Vec<Pod<'_>>> {
    (0..PODS).map(|number| node.add_pod_of(&format!("shop/p{number}"), &[])).collect()
}

/// Nobody waited for it, whatever it was.
fn nobody_waited(answers: &Answers, what: &str) -> Result<()> {
    eprintln!("while {what}, {:?}:\n{answers}", answers.work);
    for asked in ["ADD", "DEL", "status", "readyz", "health check"] {
        ensure!(answers.times.contains_key(asked), "{asked} was never tried: {answers}");
    }
    // Who waits for the change waits for most of it, however slow the machine is.
    for (what, took) in answers.longest() {
        ensure!(took < AT_ONCE.max(answers.work / 4), "{what} took {took:?} of {:?}", answers.work);
    }
    Ok(())
}

/// Whether a change is under way, by what a new pod's ADD says of it.
fn is_under_way(node: &Node) -> bool {
    node.log().contains("is cut off until its own is in force")
}

#[test]
fn adds_dels_and_questions_do_not_wait() -> Result<()> {
    needs_root!();
    let node = POLICIES.node()?;
    let pods = pods(&node)?;
    let (answers, mut kept) = Answers::during(POLICIES, &node, KEPT)?;
    nobody_waited(&answers, "10,000 policies came into force")?;
    // Who comes and came is enforced by what is told as in force, at once: policies that let only strangers in. A pod that no
    // policy is for is reached.
    let reaches = |to: &Pod| anyhow::Ok(pods[0].ping(to.ipv4(), &["-c1", "-W1"])?.received > 0);
    kept.push(node.add_pod_of("shop/late", &[("app", POLICIES.app())])?);
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
fn nor_do_they_while_it_is_searched_what_fits() -> Result<()> {
    needs_root!();
    let node = TOO_MANY.node()?;
    let _pods = pods(&node)?;
    // What the policies are for: without it they fit.
    let guarded = node.add_pod_of("shop/guarded", &[("app", TOO_MANY.app())])?;
    let (answers, _kept) = Answers::during(TOO_MANY, &node, 0)?;
    nobody_waited(&answers, "it was searched what of 20,000 policies fits")?;
    ensure!(answers.pending > 0, "status has told of no policy that was not in force yet");
    let is_all_tried = || node.status().is_ok_and(|status| status["cluster"]["pending"] == 0);
    ensure!(eventually(Duration::from_secs(30), is_all_tried), "{:?}", node.status());
    let policy = &node.status()?["policy"];
    ensure!(policy["left_out"].as_u64() > Some(0), "they fit all: {policy}");
    ensure!(node.reaches(guarded.ipv4())?, "the node reaches its pods");
    Ok(())
}

#[test]
fn the_end_of_the_daemon_does_not_wait_either() -> Result<()> {
    needs_root!();
    let node = POLICIES.node()?;
    let pods = pods(&node)?;
    node.manifest("many.yaml", &POLICIES.manifest())?;
    let mut number = 0;
    let under_way = eventually(Duration::from_mins(1), || {
        number += 1;
        node.add_pod_of(&format!("shop/new-{number}"), &[]).is_ok() && is_under_way(&node)
            || POLICIES.is_done(&node)
    });
    ensure!(under_way, "{}", node.log());
    let clock = Instant::now();
    node.stop_daemon()?;
    eprintln!("the daemon ended within {:?}", clock.elapsed());
    ensure!(clock.elapsed() < 2 * AT_ONCE, "{:?}", clock.elapsed());
    ensure!(node.reaches(pods[0].ipv4())?, "what was in force stays");
    Ok(())
}

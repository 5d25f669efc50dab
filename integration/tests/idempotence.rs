//! ADD and DEL asked again, cut short, and without their daemon.

use std::{collections::HashMap, process::Command, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Invocation, Machine, Node, Pod, Refusal, Sandbox, eventually, time_passes},
};
use serde_json::json;

fn expect_working(node: &Node, pod: &Pod<'_>) -> Result<()> {
    pod.check()?;
    ensure!(node.reaches(pod.ipv4())? && node.reaches(pod.ipv6())?, "{:?} do not answer", pod.addresses());
    Ok(())
}

#[test]
fn add_asked_again_is_refused_and_touches_nothing() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    let (links, endpoints) = (node.netns().links()?, node.ctl(&["endpoint", "list"])?);
    let elsewhere = node.sandbox("elsewhere")?;
    let mac = json!({"mac": "02:00:00:00:00:07"});
    let ips = json!({"ips": ["10.88.3.4"]});
    for (again, said) in [
        (pod.cni("ADD"), "has an interface of that name already"),
        (pod.cni("ADD").set("runtimeConfig", mac), "stands already with the Ethernet address"),
        (pod.cni("ADD").set("runtimeConfig", ips), "without the requested 10.88.3.4"),
        (pod.cni("ADD").set("mtu", json!(1400)), "stands already with an MTU of"),
        (pod.cni("ADD").netns(elsewhere.netns().path()), "stands already in the network namespace"),
    ] {
        let refused = again.refusal()?;
        assert!(refused.code == 107 && refused.message.contains(said), "{refused}");
        assert!(refused.details.contains("DEL comes before another ADD"), "{refused}");
    }
    assert_eq!(node.netns().links()?, links, "the interface was not made anew");
    assert_eq!(node.ctl(&["endpoint", "list"])?, endpoints);
    assert_eq!(elsewhere.netns().links()?, ["lo"]);
    expect_working(&node, &pod)
}

#[test]
fn of_many_adds_of_one_container_at_a_time_one_wins() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let sandbox = node.sandbox("a")?;
    let results = thread::scope(|scope| {
        let adds: Vec<_> = (0..10).map(|_| scope.spawn(|| sandbox.cni("ADD").run())).collect();
        adds.into_iter().map(|add| add.join().expect("the thread ran")).collect::<Vec<_>>()
    });
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1, "{lost:?}");
    for refused in lost {
        let refused: Refusal = refused.unwrap_err().downcast()?;
        assert_eq!(refused.code, 107, "{refused}");
    }
    let pod = sandbox.added(won.into_iter().next().context("a result")??)?;
    expect_working(&node, &pod)?;
    pod.del()?;
    node.is_left_clean()
}

#[test]
fn add_makes_an_interface_anew_that_the_container_has_lost() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    for harm in ["link delete eth0", "link set eth0 down name eth7"] {
        pod.netns().ip(harm)?;
        assert_eq!(pod.cni("ADD").run()?["ips"], pod.result["ips"], "after {harm}");
        expect_working(&node, &pod)?;
    }
    pod.del()?;
    node.is_left_clean()
}

#[test]
fn attachments_that_differ_in_one_part_of_their_key_are_two() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    let second = pod.cni("ADD").ifname("eth1").run()?;
    assert_ne!(second["ips"][0], pod.result["ips"][0]);
    assert_eq!(node.pod_links()?.len(), 2);
    // The first keeps its routes.
    expect_working(&node, &pod)?;
    pod.cni("CHECK").ifname("eth1").set("prevResult", second).run()?;
    pod.cni("DEL").ifname("eth1").run()?;
    assert_eq!(node.pod_links()?.len(), 1);
    expect_working(&node, &pod)
}

#[test]
fn an_interface_of_another_is_not_touched() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let sandbox = node.sandbox("a")?;
    sandbox.netns().ip("link add eth0 type veth peer name other")?;
    let refused = sandbox.cni("ADD").refusal()?;
    assert_eq!(refused.code, 107, "{refused}");
    assert_eq!(sandbox.netns().links()?.len(), 3);
    node.is_left_clean()
}

#[test]
fn del_succeeds_twice_and_for_what_never_was() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    pod.del()?;
    pod.del()?;
    node.cni("DEL", "never").run()?;
    node.is_left_clean()
}

#[test]
fn del_succeeds_without_a_namespace() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    node.cni("DEL", pod.name()).run()?;
    node.is_left_clean()?;
    let pod = node.add_pod("b")?;
    drop(pod);
    node.cni("DEL", "b").netns("/run/netns/gone".as_ref()).run()?;
    node.is_left_clean()
}

#[test]
fn del_while_the_daemon_is_away_is_caught_up_with() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let (a, b) = (node.add_pod("a")?, node.add_pod("b")?);
    node.kill_daemon();
    assert!(a.reaches(b.ipv4())? && node.reaches(a.ipv6())?, "pods speak without the daemon");
    a.del()?;
    assert_eq!(node.pod_links()?, [b.host_ifname()], "the link goes at once");
    assert_eq!(a.netns().links()?, ["lo"]);
    assert_eq!(b.ping(a.ipv4(), &["-c1", "-W1"])?.received, 0);
    node.start_daemon()?;
    let addresses = node.ctl(&["ipam", "list"])?["addresses"].to_string();
    ensure!(!addresses.contains(&format!("\"{}\"", a.ipv4())), "{addresses}");
    expect_working(&node, &b)?;
    b.del()?;
    node.is_left_clean()
}

#[test]
fn del_and_add_while_the_daemon_is_away_then_add_again() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    node.kill_daemon();
    pod.del()?;
    assert_eq!(pod.cni("ADD").refusal()?.code, 11);
    node.start_daemon()?;
    let again = pod.cni("ADD").run()?;
    assert_eq!(again["ips"].as_array().map(Vec::len), Some(2));
    // The note that DEL left must not strike the new attachment.
    let notes = ipamd_api::files::released(&node.socket());
    let are_gone = || std::fs::read_dir(&notes).map_or(true, |mut notes| notes.next().is_none());
    ensure!(eventually(Duration::from_secs(10), are_gone), "the daemon leaves the note");
    pod.cni("CHECK").set("prevResult", again).run()?;
    pod.del()?;
    node.is_left_clean()
}

/// A system call by its name, and which of those of that name.
#[derive(Clone, Debug)]
struct Moment {
    call: String,
    nth: u32,
}

/// Every `step`th system call that an invocation makes, in order.
fn moments(node: &Node, invocation: &Invocation<'_>, step: usize) -> Result<Vec<Moment>> {
    ensure!(strace_is_there(), "strace is missing: apt-get install strace");
    let trace = node.folder().join(format!("trace-{:?}", thread::current().id()));
    let out = invocation.spawn(&["strace", "-qq", "-o", &trace.to_string_lossy()])?.wait_with_output()?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    let text = std::fs::read_to_string(&trace)?;
    let mut counts: HashMap<&str, u32> = HashMap::new();
    let mut moments = Vec::new();
    for call in text.lines().filter_map(|line| line.split_once('(')).map(|(call, _)| call) {
        let nth = counts.entry(call).or_default();
        *nth += 1;
        // The first starts the plugin, and strace does not see it begin.
        if call != "execve" {
            moments.push(Moment { call: call.to_owned(), nth: *nth });
        }
    }
    ensure!(moments.len() > 20, "it made only {} system calls", moments.len());
    Ok(moments.into_iter().step_by(step).collect())
}

/// Runs it under strace, which kills it on entry to that system call.
fn kill_at(invocation: &Invocation<'_>, moment: &Moment) -> Result<()> {
    let inject = format!("inject={}:signal=SIGKILL:when={}", moment.call, moment.nth);
    let child = invocation.spawn(&["strace", "-qq", "-o", "/dev/null", "-e", &inject])?;
    child.wait_with_output()?;
    Ok(())
}

fn strace_is_there() -> bool {
    Command::new("strace").arg("-V").output().is_ok_and(|out| out.status.success())
}

/// Every moment of an ADD.
fn moments_of_add(node: &Node, step: usize) -> Result<Vec<Moment>> {
    let sandbox = node.sandbox("traced")?;
    let moments = moments(node, &sandbox.cni("ADD"), step)?;
    sandbox.cni("DEL").run()?;
    Ok(moments)
}

#[test]
fn after_an_add_killed_at_any_step_del_leaves_nothing() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    for moment in moments_of_add(&node, 1)? {
        let sandbox = node.sandbox("a")?;
        kill_at(&sandbox.cni("ADD"), &moment)?;
        sandbox.cni("DEL").run()?;
        node.is_left_clean().with_context(|| format!("ADD killed at {moment:?}, and DEL"))?;
        ensure!(sandbox.netns().links()? == ["lo"], "killed at {moment:?}: {:?}", sandbox.netns().links()?);
    }
    Ok(())
}

/// ADD after one that was killed. Killed between its commit and its word, that one is complete: DEL comes first.
fn add_after_a_kill(sandbox: Sandbox<'_>) -> Result<Pod<'_>> {
    let result = match sandbox.cni("ADD").run() {
        Err(error) if error.downcast_ref::<Refusal>().is_some_and(|refused| refused.code == 107) => {
            sandbox.cni("DEL").run()?;
            sandbox.cni("ADD").run()?
        }
        result => result?,
    };
    sandbox.added(result)
}

#[test]
fn after_an_add_killed_at_any_step_add_succeeds() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    for moment in moments_of_add(&node, 2)? {
        let sandbox = node.sandbox("a")?;
        kill_at(&sandbox.cni("ADD"), &moment)?;
        let pod = add_after_a_kill(sandbox).with_context(|| format!("killed at {moment:?}, then added"))?;
        pod.check()?;
        let answers = node.ping(pod.ipv4(), &["-c1", "-W1"])?.received == 1;
        ensure!(answers, "killed at {moment:?}, then added, it does not answer");
        ensure!(node.pod_links()?.len() == 1, "killed at {moment:?}: {:?}", node.pod_links()?);
        pod.del()?;
        node.is_left_clean().with_context(|| format!("ADD killed at {moment:?}, ADD and DEL"))?;
    }
    Ok(())
}

#[test]
fn after_a_del_killed_at_any_step_del_leaves_nothing() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let traced = node.add_pod("traced")?;
    for moment in moments(&node, &traced.cni("DEL"), 1)? {
        let pod = node.add_pod("a")?;
        kill_at(&pod.cni("DEL"), &moment)?;
        pod.del()?;
        node.is_left_clean().with_context(|| format!("DEL killed at {moment:?}, and DEL"))?;
    }
    Ok(())
}

#[test]
fn an_add_killed_at_any_time_is_undone_by_its_next() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    for round in 0..40_u64 {
        let sandbox = node.sandbox("a")?;
        let mut child = sandbox.cni("ADD").spawn(&[])?;
        time_passes(Duration::from_micros(round * 300), "each is killed at another step");
        let _ = child.kill();
        child.wait()?;
        if round % 2 == 0 {
            let pod = add_after_a_kill(sandbox)?;
            pod.check()?;
            pod.del()?;
        } else {
            sandbox.cni("DEL").run()?;
        }
        node.is_left_clean().with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

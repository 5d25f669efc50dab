//! CHECK finds each single thing that is wrong, and names it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bpf::attach::Direction;
use integration::{
    needs_root,
    testbed::{Invocation, Machine, Node, Pod, Settings, eventually},
};
use serde_json::json;

/// What CHECK says of a pod.
fn faults(invocation: &Invocation<'_>) -> Result<String> {
    let refusal = invocation.refusal()?;
    ensure!(refusal.code == 104, "{refusal}");
    Ok(refusal.to_string())
}

/// Does harm inside a pod, which has `v4` and `v6` in the text as its addresses, and expects CHECK to name it.
fn inside(node: &Node, harm: &str, named: &str) -> Result<()> {
    let pod = node.add_pod("a")?;
    let told =
        |text: &str| text.replace("v4", &pod.ipv4().to_string()).replace("v6", &pod.ipv6().to_string());
    let (harm, named) = (told(harm), told(named));
    pod.check().with_context(|| format!("before {harm}"))?;
    pod.netns().ip(&harm)?;
    let said = faults(&pod.cni("CHECK"))?;
    ensure!(said.contains(&named), "after {harm} it should name {named:?}: {said}");
    pod.del()
}

#[test]
fn a_healthy_pod_passes_with_the_daemons_programs_attached_either_way() -> Result<()> {
    needs_root!();
    for mode in ["tcx", "clsact"] {
        let node = Node::start_with(Settings::default().flag(format!("--attach={mode}")))?;
        node.add_pod("a")?.check()?;
    }
    Ok(())
}

#[test]
fn what_is_wrong_in_the_container_is_named() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    inside(&node, "link set eth0 down", "eth0 in the container is down")?;
    inside(&node, "link set eth0 mtu 1600", "MTU 1600")?;
    inside(&node, "link set eth0 address 02:00:00:00:00:09", "Ethernet address 02:00:00:00:00:09")?;
    inside(&node, "address delete v4/32 dev eth0", "lacks the address v4/32")?;
    inside(&node, "address delete v6/128 dev eth0", "lacks the address v6/128")?;
    inside(&node, "route delete default", "lacks the default route by 10.88.0.1")?;
    inside(&node, "-6 route delete default", "lacks the default route by fd00:88::1")?;
    inside(&node, "neighbour delete 10.88.0.1 dev eth0", "lacks the neighbour 10.88.0.1")?;
    inside(&node, "neighbour delete fd00:88::1 dev eth0", "lacks the neighbour fd00:88::1")?;
    inside(
        &node,
        "neighbour replace 10.88.0.1 lladdr 02:00:00:00:00:07 dev eth0 nud permanent",
        "02:00:00:00:00:07",
    )?;
    inside(&node, "link set eth0 down name eth7", "eth0 is missing in the container")
}

#[test]
fn a_missing_pair_is_named_at_both_ends() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    pod.netns().ip("link delete eth0")?;
    let said = faults(&pod.cni("CHECK"))?;
    assert!(said.contains("eth0 is missing in the container"), "{said}");
    assert!(said.contains(&format!("{} is missing on the host", pod.host_ifname())), "{said}");
    assert!(!said.contains("never completed") && !said.contains("not completed"), "{said}");
    Ok(())
}

/// What the daemon would heal is found while it is held still.
fn on_the_host(harm: impl Fn(&Node, &Pod<'_>) -> Result<()>, named: &str) -> Result<()> {
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    // Healing and CHECK race: one that comes too late is done over.
    for _ in 0..20 {
        harm(&node, &pod)?;
        match pod.cni("CHECK").run() {
            Ok(_) => {}
            Err(error) => {
                let said = error.to_string();
                ensure!(said.contains(named), "it should name {named:?}: {said}");
                let healed = eventually(Duration::from_secs(10), || pod.check().is_ok());
                ensure!(healed, "it stays: {:?}", pod.check());
                return Ok(());
            }
        }
    }
    anyhow::bail!("CHECK never saw {named:?}")
}

#[test]
fn a_route_missing_on_the_host_is_named() -> Result<()> {
    needs_root!();
    on_the_host(
        |node, pod| node.netns().ip(&format!("route delete {}", pod.ipv4())).map(drop),
        "lacks the route to 10.88.",
    )?;
    on_the_host(
        |node, pod| node.netns().ip(&format!("-6 route delete {}", pod.ipv6())).map(drop),
        "lacks the route to fd00:88:",
    )
}

#[test]
fn a_neighbour_missing_on_the_host_is_named() -> Result<()> {
    needs_root!();
    on_the_host(
        |node, pod| {
            node.netns().ip(&format!("neighbour delete {} dev {}", pod.ipv4(), pod.host_ifname())).map(drop)
        },
        "lacks the neighbour 10.88.",
    )
}

#[test]
fn a_host_end_that_is_down_is_named() -> Result<()> {
    needs_root!();
    on_the_host(
        |node, pod| node.netns().ip(&format!("link set {} down", pod.host_ifname())).map(drop),
        "on the host is down",
    )
}

#[test]
fn a_detached_program_is_named() -> Result<()> {
    needs_root!();
    on_the_host(|_, pod| pod.detach(Direction::Ingress), "is not attached")
}

#[test]
fn a_detached_filter_is_named() -> Result<()> {
    needs_root!();
    let node = Node::start_with(Settings::default().flag("--attach=clsact"))?;
    let pod = node.add_pod("a")?;
    for _ in 0..20 {
        node.netns().run("tc", &["filter", "delete", "dev", &pod.host_ifname(), "ingress"])?;
        if let Err(error) = pod.check() {
            let said = error.to_string();
            ensure!(said.contains("filter"), "{said}");
            return Ok(());
        }
    }
    anyhow::bail!("CHECK never saw it")
}

#[test]
fn a_record_that_is_missing_or_differs_is_named() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    let mut other = pod.result.clone();
    other["ips"][0]["address"] = json!("10.88.77.77/32");
    let said = faults(&pod.cni("CHECK").set("prevResult", other))?;
    assert!(said.contains("10.88.77.77") || said.contains(&pod.ipv4().to_string()), "{said}");
    node.ctl(&["ipam", "release", &pod.ipv4().to_string(), "--force"])?;
    let said = pod.cni("CHECK").refusal()?;
    assert!(said.code == 3 || said.to_string().contains("no record"), "{said}");
    Ok(())
}

#[test]
fn an_attachment_that_never_was_is_code_3() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    let stranger = node.sandbox("stranger")?;
    let refused = stranger.cni("CHECK").set("prevResult", pod.result.clone()).refusal()?;
    assert_eq!(refused.code, 3, "{refused}");
    Ok(())
}

//! The same where the kernel has no tcx: programs attached by clsact filters.

use std::net::IpAddr;

use anyhow::Result;
use integration::{
    needs_root,
    testbed::{FAR4, FAR6, Machine, NODE4, Node, Settings},
};

fn start() -> Result<Node> {
    Node::start_with(Settings::default().flag("--attach=clsact"))
}

#[test]
fn everyone_reaches_everyone() -> Result<()> {
    needs_root!();
    let node = start()?;
    assert_eq!(node.status()?["attach_mode"], "clsact");
    let (a, b) = (node.add_pod("a")?, node.add_pod("b")?);
    for to in [IpAddr::V4(b.ipv4()), b.ipv6().into(), FAR4.into(), FAR6.into(), NODE4.into()] {
        assert!(a.reaches(to)?, "pod to {to}");
    }
    for to in [IpAddr::V4(a.ipv4()), a.ipv6().into()] {
        assert!(node.reaches(to)?, "node to {to}");
    }
    let server = node.neighbour.serve_tcp((IpAddr::V4(FAR4), 0))?;
    a.connect(server.address())?.exchange(4 << 20)?;
    assert_eq!(server.peers()[0].ip(), NODE4);
    Ok(())
}

#[test]
fn a_source_that_is_not_its_own_is_dropped() -> Result<()> {
    needs_root!();
    let node = start()?;
    let a = node.add_pod("a")?;
    a.netns().ip("address add 10.88.9.9/32 dev eth0")?;
    assert_eq!(a.ping(FAR4, &["-c2", "-i0.05", "-W1", "-I", "10.88.9.9"])?.received, 0);
    assert_eq!(node.drops("foreign_source")?, 2);
    Ok(())
}

#[test]
fn add_is_refused_again_and_check_and_del_are_idempotent() -> Result<()> {
    needs_root!();
    let node = start()?;
    let pod = node.add_pod("a")?;
    assert_eq!(pod.cni("ADD").refusal()?.code, 107);
    pod.check()?;
    pod.check()?;
    pod.del()?;
    pod.del()?;
    node.is_left_clean()?;
    Ok(())
}

#[test]
fn a_daemon_of_the_other_mode_takes_over() -> Result<()> {
    needs_root!();
    let node = start()?;
    let pod = node.add_pod("a")?;
    node.stop_daemon()?;
    assert!(pod.reaches(FAR4)?, "without a daemon");
    node.start_daemon()?;
    pod.check()
}

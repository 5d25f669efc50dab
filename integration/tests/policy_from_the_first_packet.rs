//! A pod that begins: not one forbidden packet gets to it or from it, however early it is sent.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{Marked, Node, Pod, Sandbox, Settings, Spray, eventually},
};
use serde_json::json;

const FORBIDDEN: &str = "this-is-forbidden";
const WELCOME: &str = "this-is-welcome";
/// Not the same: what cannot be delivered comes back to its sender inside an ICMP error.
const ANSWER: &str = "this-is-the-answer";

/// Rounds of each test: each has its own instant at which the pod begins.
const ROUNDS: u8 = 8;

/// Who is selected may speak with `app=friend` only.
const FRIENDS_ONLY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: shop, name: friends-only }
spec:
  podSelector: { matchLabels: { app: guarded } }
  policyTypes: [Ingress, Egress]
  ingress: [ { from: [ { podSelector: { matchLabels: { app: friend } } } ] } ]
  egress: [ { to: [ { podSelector: { matchLabels: { app: friend } } } ] } ]
";

/// ADD with these addresses.
fn add_at(sandbox: Sandbox<'_>, addresses: [IpAddr; 2]) -> Result<Pod<'_>> {
    let invocation = sandbox
        .cni("ADD")
        .set("capabilities", json!({"ips": true}))
        .set("runtimeConfig", json!({"ips": addresses}));
    let result = invocation.run()?;
    sandbox.added(result)
}

fn addresses(round: u8) -> [IpAddr; 2] {
    [
        IpAddr::from([10, 88, 7, 10 + round]),
        IpAddr::from([0xfd00, 0x88, 0, 0, 0, 0, 7, 10 + u16::from(round)]),
    ]
}

fn sockets(addresses: &[IpAddr]) -> Vec<SocketAddr> {
    addresses.iter().map(|&address| (address, 7777).into()).collect()
}

#[test]
fn no_forbidden_packet_reaches_a_pod_that_begins() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    node.apply("policy.yaml", FRIENDS_ONLY)?;
    let (friend, stranger) =
        (node.add_pod_of("shop/friend", &[("app", "friend")])?, node.add_pod_of("shop/stranger", &[])?);
    for round in 0..ROUNDS {
        let to = addresses(round);
        let sandbox = node.sandbox_of(&format!("shop/guarded-{round}"), &[("app", "guarded")])?;
        let (forbidden, welcome) = (sandbox.tap(FORBIDDEN)?, sandbox.tap(WELCOME)?);
        let bad = stranger.spray(sockets(&to), FORBIDDEN, Duration::from_micros(50))?;
        let good = friend.spray(sockets(&to), WELCOME, Duration::from_micros(500))?;
        let guarded = add_at(sandbox, to)?;
        ensure!(
            eventually(Duration::from_secs(5), || welcome.count() > 10),
            "round {round}: friends are let through"
        );
        ensure!(bad.sent() > 10 && good.sent() > 10, "round {round}: they do send");
        drop((bad, good));
        guarded.del()?;
        let (forbidden, welcome) = (forbidden.end(), welcome.end());
        ensure!(forbidden == 0, "round {round}: {forbidden} forbidden packets arrived, {welcome} others");
    }
    Ok(())
}

#[test]
fn a_pod_that_begins_sends_no_forbidden_packet() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    node.apply("policy.yaml", FRIENDS_ONLY)?;
    let (friend, stranger) =
        (node.add_pod_of("shop/friend", &[("app", "friend")])?, node.add_pod_of("shop/stranger", &[])?);
    let (forbidden, welcome) = (stranger.tap(FORBIDDEN)?, friend.tap(WELCOME)?);
    let outside = node.neighbour.tap(FORBIDDEN)?;
    for round in 0..ROUNDS {
        let sandbox = node.sandbox_of(&format!("shop/guarded-{round}"), &[("app", "guarded")])?;
        let mut refused = sockets(stranger.addresses());
        refused.extend(sockets(&[integration::testbed::FAR4.into(), integration::testbed::FAR6.into()]));
        let bad = sandbox.spray(refused, FORBIDDEN, Duration::from_micros(50))?;
        let good = sandbox.spray(sockets(friend.addresses()), WELCOME, Duration::from_micros(500))?;
        let before = welcome.count();
        let guarded = add_at(sandbox, addresses(round))?;
        ensure!(
            eventually(Duration::from_secs(5), || welcome.count() > before + 10),
            "round {round}: what it sends to friends arrives"
        );
        ensure!(eventually(Duration::from_secs(5), || bad.sent() > 100), "round {round}: it does send");
        drop((bad, good));
        guarded.del()?;
        ensure!(forbidden.count() == 0, "round {round}: {} forbidden packets arrived", forbidden.count());
        ensure!(outside.count() == 0, "round {round}: {} forbidden packets got out", outside.count());
    }
    Ok(())
}

#[test]
fn without_a_daemon_nothing_begins() -> Result<()> {
    needs_root!();
    for attach in ["tcx", "clsact"] {
        let node = Node::start_with(Settings::default().cluster().flag(format!("--attach={attach}")))?;
        node.apply("policy.yaml", FRIENDS_ONLY)?;
        let friend = node.add_pod_of("shop/friend", &[("app", "friend")])?;
        node.kill_daemon();
        let sandbox = node.sandbox_of("shop/guarded", &[("app", "guarded")])?;
        let (into, out) = (sandbox.tap(WELCOME)?, friend.tap(ANSWER)?);
        let sprays = [
            friend.spray(sockets(&addresses(0)), WELCOME, Duration::from_micros(100))?,
            sandbox.spray(sockets(friend.addresses()), ANSWER, Duration::from_micros(100))?,
        ];
        let refused = sandbox.cni("ADD").refusal()?;
        ensure!(refused.code == 11, "{refused}");
        // The node has no way for some of these.
        let tried = sprays.each_ref().map(Spray::tried);
        let more = || sprays.iter().zip(tried).all(|(spray, tried)| spray.tried() > tried + 100);
        ensure!(eventually(Duration::from_secs(10), more), "nothing is sent");
        ensure!(into.count() == 0 && out.count() == 0, "{} in, {} out", into.count(), out.count());
        node.start_daemon()?;
        add_at(sandbox, addresses(0))?;
        ensure!(
            eventually(Duration::from_secs(5), || into.count() > 0 && out.count() > 0),
            "then they speak"
        );
    }
    Ok(())
}

//! The daemon goes and comes back while policies are in force.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{
        FAR4, FAR6, Flow, Flowing, Listeners, Machine, Marked, Node, Pod, Settings, Spray, Tap, allowed,
        cases, denied, eventually, hold, tcp, time_passes, udp,
    },
};

const FORBIDDEN: &str = "this-is-forbidden";

/// `guarded` is spoken to by those whom this selector selects, and speaks with `friend` and with far machines only.
fn policy(peers: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ namespace: shop, name: guard }}\nspec:\n  \
         podSelector: {{ matchLabels: {{ app: guarded }} }}\n  policyTypes: [Ingress, Egress]\n  \
         ingress: [ {{ from: [ {{ podSelector: {peers} }} ] }} ]\n  \
         egress: [ {{ to: [ {{ podSelector: {FRIEND} }}, {{ ipBlock: {{ cidr: 198.51.100.0/24 }} }}, \
         {{ ipBlock: {{ cidr: \"2001:db8:fa::/64\" }} }} ] }} ]\n"
    )
}

const FRIEND: &str = "{ matchLabels: { app: friend } }";

struct Scene<'n> {
    node: &'n Node,
    guarded: Pod<'n>,
    friend: Pod<'n>,
    stranger: Pod<'n>,
    _listeners: Vec<Listeners>,
}

impl<'n> Scene<'n> {
    fn new(node: &'n Node) -> Result<Self> {
        node.apply("guard.yaml", &policy(FRIEND))?;
        let [guarded, friend, stranger] = ["guarded", "friend", "stranger"]
            .map(|app| node.add_pod_of(&format!("shop/{app}"), &[("app", app)]));
        let (guarded, friend, stranger) = (guarded?, friend?, stranger?);
        let listeners =
            [&guarded, &friend, &stranger].map(|pod| pod.serve(pod.addresses(), &[tcp(80), udp(80)]));
        let listeners = listeners.into_iter().collect::<Result<_>>()?;
        Ok(Self { node, guarded, friend, stranger, _listeners: listeners })
    }

    /// New connections are judged as the policy says, the stranger's by `stranger`.
    fn holds(&self, stranger: bool) -> Result<()> {
        let mut table = Vec::new();
        for service in [tcp(80), udp(80)] {
            table.extend(allowed(&self.friend, &self.guarded, service));
            table.extend(allowed(&self.guarded, &self.friend, service));
            table.extend(allowed(self.node, &self.guarded, service));
            table.extend(allowed(&self.friend, &self.stranger, service));
            table.extend(cases(&self.stranger, &self.guarded, service, stranger));
            table.extend(denied(&self.guarded, &self.stranger, service));
        }
        hold(table)
    }

    /// Flows that are allowed, both ways and out of the node.
    fn running(&self) -> Result<Vec<(String, Flow)>> {
        let pace = Duration::from_millis(2);
        let mut flows = Vec::new();
        for (from, to) in [(&self.friend, &self.guarded), (&self.guarded, &self.friend)] {
            for address in to.addresses() {
                let way = format!("from {} to {address}", from.name());
                flows.push((format!("udp {way}"), from.udp_flow(to, (*address, 0), pace)?));
                flows.push((format!("tcp {way}"), from.tcp_flow(to, (*address, 0), pace)?));
            }
        }
        for far in [IpAddr::from(FAR4), FAR6.into()] {
            let flow = self.guarded.udp_flow(&self.node.neighbour, (far, 0), pace)?;
            flows.push((format!("udp out to {far}"), flow));
        }
        Ok(flows)
    }

    /// What is forbidden, counted where it must not arrive.
    fn forbidden(&self) -> Result<Vec<(Spray, Tap)>> {
        let mut pairs = Vec::new();
        for (from, to) in [(&self.stranger, &self.guarded), (&self.guarded, &self.stranger)] {
            let sockets: Vec<SocketAddr> = to.addresses().iter().map(|ip| (*ip, 7777).into()).collect();
            let tap = to.tap(FORBIDDEN)?;
            pairs.push((from.spray(sockets, FORBIDDEN, Duration::from_micros(300))?, tap));
        }
        Ok(pairs)
    }
}

fn nothing_passed(pairs: Vec<(Spray, Tap)>) -> Result<()> {
    for (spray, tap) in pairs {
        let sent = spray.sent();
        drop(spray);
        let passed = tap.end();
        ensure!(passed == 0 && sent > 0, "{passed} of {sent} forbidden packets arrived");
    }
    Ok(())
}

fn all_is_whole(flows: Vec<(String, Flow)>) -> Result<()> {
    flows.into_iter().try_for_each(|(what, flow)| flow.end().whole(&what))
}

fn ten_restarts(settings: Settings) -> Result<()> {
    let node = Node::start_with(settings.cluster())?;
    let scene = Scene::new(&node)?;
    let (running, forbidden) = (scene.running()?, scene.forbidden()?);
    for round in 0..10 {
        if round % 3 == 2 {
            node.stop_daemon()?;
        } else {
            node.kill_daemon();
        }
        time_passes(
            Duration::from_millis(20 * (round % 3)),
            "the daemon is away for another time in each round",
        );
        node.start_daemon()?;
    }
    scene.holds(false)?;
    nothing_passed(forbidden)?;
    all_is_whole(running)
}

#[test]
fn ten_restarts_let_nothing_through_and_stop_nothing() -> Result<()> {
    needs_root!();
    ten_restarts(Settings::default())
}

#[test]
fn ten_restarts_let_nothing_through_and_stop_nothing_with_clsact() -> Result<()> {
    needs_root!();
    ten_restarts(Settings::default().flag("--attach=clsact"))
}

#[test]
fn policies_stay_in_force_without_a_daemon() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let scene = Scene::new(&node)?;
    // One that was allowed until the policy cut it, and stays cut.
    node.withdraw("guard.yaml")?;
    let cut = scene.stranger.udp_flow(&scene.guarded, (scene.guarded.ipv4(), 0), Duration::from_millis(2))?;
    ensure!(cut.goes_on(), "it goes before");
    let running = scene.running()?;
    node.apply("guard.yaml", &policy(FRIEND))?;
    ensure!(
        eventually(Duration::from_secs(2), || cut.is_silent_for(Duration::from_millis(100))),
        "it is cut"
    );
    let forbidden = scene.forbidden()?;
    node.kill_daemon();
    scene.holds(false)?;
    let (sent, arrived) = (cut.sent(), cut.arrived());
    ensure!(eventually(Duration::from_secs(10), || cut.sent() > sent + 150), "nothing is sent");
    ensure!(cut.arrived() == arrived, "it stays cut");
    nothing_passed(forbidden)?;
    // What changed meanwhile is in force once the daemon is ready.
    node.manifest("guard.yaml", &policy("{ matchLabels: { app: stranger } }"))?;
    node.start_daemon()?;
    let mut table = denied(&scene.friend, &scene.guarded, tcp(80));
    table.extend(allowed(&scene.stranger, &scene.guarded, tcp(80)));
    hold(table)?;
    ensure!(eventually(Duration::from_secs(2), || cut.goes_on()), "the old flow goes on: {:?}", cut.faults());
    node.kill_daemon();
    node.manifest("guard.yaml", &policy(FRIEND))?;
    node.start_daemon()?;
    scene.holds(false)?;
    for (what, flow) in running {
        let report = flow.end();
        // The friend's were cut for a while.
        ensure!(report.faults.is_empty(), "{what}: {report:?}");
        ensure!(
            !what.contains("from guarded") && !what.contains("out to") || report.arrived == report.sent,
            "{what}: {report:?}"
        );
    }
    Ok(())
}

#[test]
fn a_restart_with_tables_of_another_size_is_like_any_other() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let scene = Scene::new(&node)?;
    let (running, forbidden) = (scene.running()?, scene.forbidden()?);
    for flags in [
        ["--policy-entries=4096", "--policy-addresses=4096", "--policy-prefixes=4096", "--policy-rules=4096"],
        [
            "--policy-entries=65536",
            "--policy-addresses=8192",
            "--policy-prefixes=1024",
            "--policy-rules=32768",
        ],
    ] {
        node.kill_daemon();
        node.start_daemon_with(&flags)?;
        scene.holds(false)?;
    }
    nothing_passed(forbidden)?;
    all_is_whole(running)
}

#[test]
fn a_policy_is_in_force_before_the_daemon_says_that_it_is_ready() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let scene = Scene::new(&node)?;
    for round in 0..5 {
        let stranger = round % 2 == 0;
        node.kill_daemon();
        node.manifest("guard.yaml", &policy(if stranger { "{}" } else { FRIEND }))?;
        node.start_daemon()?;
        scene.holds(stranger)?;
    }
    assert!(node.reaches(scene.guarded.ipv4())?);
    Ok(())
}

//! Policies, labels and pods that change while others speak.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{
        Flow, Flowing, Machine, Marked, Node, Pod, allowed, denied, eventually, hold, tcp, time_passes, udp,
    },
};

const FORBIDDEN: &str = "this-is-forbidden";

/// A bound that a busy machine keeps; what it took is printed.
const AT_ONCE: Duration = Duration::from_secs(1);

/// What `app=guarded` gets: from whom, as the list of rules says.
fn guard(ingress: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ namespace: shop, name: guard }}\n\
         spec:\n  podSelector: {{ matchLabels: {{ app: guarded }} }}\n  policyTypes: [Ingress]\n  ingress: {ingress}\n"
    )
}

fn from(apps: &[&str]) -> String {
    let peers = apps.iter().map(|app| format!("{{ podSelector: {{ matchLabels: {{ app: {app} }} }} }}"));
    format!("[ {{ from: [ {} ] }} ]", peers.collect::<Vec<_>>().join(", "))
}

fn addresses(pod: &Pod<'_>) -> [IpAddr; 2] {
    [pod.ipv4().into(), pod.ipv6().into()]
}

/// Both families, a TCP stream and datagrams, each millisecond or so.
fn flows(from: &Pod<'_>, to: &Pod<'_>, pace: Duration) -> Result<Vec<(String, Flow)>> {
    let mut flows = Vec::new();
    for address in addresses(to) {
        flows.push((format!("udp to {address}"), from.udp_flow(to, (address, 0), pace)?));
        flows.push((format!("tcp to {address}"), from.tcp_flow(to, (address, 0), pace)?));
    }
    Ok(flows)
}

#[test]
fn while_policies_flip_nothing_forbidden_passes_and_nothing_else_stops() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let [guarded, friend, stranger, other] = ["guarded", "friend", "stranger", "other"]
        .map(|app| node.add_pod_of(&format!("shop/{app}"), &[("app", app)]));
    let (guarded, friend, stranger, _other) = (guarded?, friend?, stranger?, other?);
    node.apply("guard.yaml", &guard(&from(&["friend"])))?;
    let forbidden = guarded.tap(FORBIDDEN)?;
    let to: Vec<SocketAddr> = addresses(&guarded).map(|address| (address, 7777).into()).to_vec();
    let spray = stranger.spray(to, FORBIDDEN, Duration::from_micros(200))?;
    let steady = flows(&friend, &guarded, Duration::from_millis(2))?;
    // A second policy for the same pod that comes and goes, one for a pod that both speak with, unrelated ones, and pods.
    let extra = guard("[ { from: [ { podSelector: { matchLabels: { app: other } } } ] } ]")
        .replace("name: guard", "name: extra");
    let deny = guard("[]").replace("name: guard", "name: flip").replace("app: guarded", "app: other");
    let (stop, flips) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| -> Result<()> {
        let stop_after = StopAtEnd(&stop);
        let changes = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                node.manifest("extra.yaml", &extra)?;
                node.manifest("deny.yaml", &deny)?;
                time_passes(
                    Duration::from_millis(4),
                    "what is there for a moment only, the directory may never see",
                );
                node.remove_manifest("extra.yaml")?;
                node.remove_manifest("deny.yaml")?;
                time_passes(
                    Duration::from_millis(4),
                    "what is there for a moment only, the directory may never see",
                );
                flips.fetch_add(4, Ordering::Relaxed);
            }
            Ok(())
        });
        let others = scope.spawn(|| -> Result<()> {
            for round in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let app = ["friend", "other"][round % 2];
                let pod = node.add_pod_of(&format!("shop/passing-{round}"), &[("app", app)])?;
                let unrelated = guard("[]").replace("app: guarded", &format!("app: nobody-{round}"));
                node.manifest("unrelated.yaml", &unrelated.replace("name: guard", "name: unrelated"))?;
                pod.del()?;
            }
            Ok(())
        });
        let enough = || flips.load(Ordering::Relaxed) >= 500 && spray.sent() > 1000;
        let is_enough = eventually(Duration::from_mins(1), enough);
        drop(stop_after);
        ensure!(is_enough, "{} changes, {} packets", flips.load(Ordering::Relaxed), spray.sent());
        changes.join().expect("the thread ran")?;
        others.join().expect("the thread ran")
    })?;
    let flips = flips.into_inner();
    println!("{flips} changes, {} forbidden packets sent", spray.sent());
    drop(spray);
    for (what, flow) in steady {
        flow.end().whole(&what)?;
    }
    let passed = forbidden.end();
    ensure!(passed == 0, "{passed} forbidden packets arrived");
    Ok(())
}

/// Sets its flag however its scope is left.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_deny_cuts_what_runs_and_its_removal_lets_it_go_on() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let (guarded, friend) = (
        node.add_pod_of("shop/guarded", &[("app", "guarded")])?,
        node.add_pod_of("shop/friend", &[("app", "friend")])?,
    );
    let running = flows(&friend, &guarded, Duration::from_micros(500))?;
    for round in 0..3 {
        for (what, flow) in &running {
            ensure!(flow.goes_on(), "round {round}: {what} goes: {:?}", flow.faults());
        }
        let at = node.apply("guard.yaml", &guard("[]"))?;
        for (what, flow) in &running {
            let silence = Duration::from_millis(150);
            ensure!(
                eventually(Duration::from_secs(5), || flow.is_silent_for(silence)),
                "round {round}: {what} is not cut"
            );
            let took = flow.last_arrival().map_or(Duration::ZERO, |last| last.saturating_duration_since(at));
            println!("round {round}: {what}: the last packet came {took:?} after the manifest");
            ensure!(took < AT_ONCE, "round {round}: {what} is cut after {took:?}");
        }
        node.withdraw("guard.yaml")?;
        for (what, flow) in &running {
            // TCP sends again in its own time.
            ensure!(
                eventually(Duration::from_secs(5), || flow.goes_on()),
                "round {round}: {what} does not go on: {:?}",
                flow.faults()
            );
        }
    }
    for (what, flow) in running {
        let report = flow.end();
        ensure!(report.faults.is_empty(), "{what}: {report:?}");
        ensure!(what.starts_with("udp") || report.arrived == report.sent, "{what}: {report:?}");
    }
    Ok(())
}

#[test]
fn a_change_of_labels_moves_a_pod_into_a_policy_and_out_of_it() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let services = [tcp(80), udp(80)];
    let (guarded, friend) =
        (node.add_pod_of("shop/one", &[])?, node.add_pod_of("shop/two", &[("app", "friend")])?);
    let _listeners = guarded.serve(guarded.addresses(), &services)?;
    let labelled = |name: &str, app: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ namespace: shop, name: {name}, labels: {{ app: {app} }} }}\n"
        )
    };
    node.apply("guard.yaml", &guard("[ { from: [ { podSelector: { matchLabels: { app: friend } } } ] } ]"))?;
    let through = || hold(services.into_iter().flat_map(|service| allowed(&friend, &guarded, service)));
    let cut = || hold(services.into_iter().flat_map(|service| denied(&friend, &guarded, service)));
    through()?;
    // The subject's labels, then the peer's.
    node.apply("one.yaml", &labelled("one", "guarded"))?;
    through()?;
    let running = flows(&friend, &guarded, Duration::from_millis(1))?;
    node.apply("two.yaml", &labelled("two", "stranger"))?;
    cut()?;
    for (what, flow) in &running {
        ensure!(eventually(AT_ONCE, || flow.is_silent_for(Duration::from_millis(150))), "{what} is not cut");
    }
    node.apply("one.yaml", &labelled("one", "free"))?;
    through()?;
    node.apply("one.yaml", &labelled("one", "guarded"))?;
    cut()?;
    // Without an object of its own it has the labels that ADD came with.
    node.withdraw("two.yaml")?;
    through()?;
    for (what, flow) in &running {
        ensure!(
            eventually(Duration::from_secs(5), || flow.goes_on()),
            "{what} does not go on: {:?}",
            flow.faults()
        );
    }
    Ok(())
}

#[test]
fn an_update_never_interrupts_what_it_goes_on_to_allow() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let guarded = node.add_pod_of("shop/guarded", &[("app", "guarded")])?;
    let (a, b, c) = (
        node.add_pod_of("shop/a", &[("app", "a")])?,
        node.add_pod_of("shop/b", &[("app", "b")])?,
        node.add_pod_of("shop/c", &[("app", "c")])?,
    );
    let _listeners = guarded.serve(guarded.addresses(), &[tcp(80)])?;
    let before = guard(&from(&["a", "b"]));
    let after = guard(&from(&["b", "c"]));
    node.apply("guard.yaml", &before)?;
    let running = flows(&b, &guarded, Duration::from_micros(500))?;
    let began = Instant::now();
    let mut updates = 0;
    while began.elapsed() < Duration::from_secs(2) {
        for text in [&after, &before] {
            node.manifest("guard.yaml", text)?;
            time_passes(
                Duration::from_millis(7),
                "what is there for a moment only, the directory may never see",
            );
            updates += 1;
        }
    }
    println!("{updates} updates");
    node.apply("guard.yaml", &after)?;
    hold(
        [allowed(&b, &guarded, tcp(80)), allowed(&c, &guarded, tcp(80)), denied(&a, &guarded, tcp(80))]
            .concat(),
    )?;
    for (what, flow) in running {
        flow.end().whole(&what)?;
    }
    assert!(node.reaches(guarded.ipv4())?);
    Ok(())
}

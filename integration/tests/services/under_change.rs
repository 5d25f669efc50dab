//! Services that change while they are used.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{
        Answering, Asking, Conversation, NODE4, NODE6, Node, Pod, Settings, ask_from, ask_on, eventually,
    },
};
use nix::libc;
use serde_json::json;

use crate::{
    manifests::{endpoint, file, service, slice},
    shop::{CLUSTER4, CLUSTER6, NODE_PORT, Shop, at, shop},
};

/// The address of the service that is a [`Fence`].
const FENCE: &str = "10.96.0.99";

fn unready() -> serde_json::Value {
    json!({"conditions": {"ready": false}})
}

/// Conversations with each of two backends.
fn conversations(from: &impl Asking, to: SocketAddr, count: usize) -> Result<Vec<Conversation>> {
    Ok((0..count).map(|_| from.converse(to)).collect::<io::Result<_>>()?)
}

/// A service of its own, whose backend can go. Sockets end in the order in which their backends go, so when its connection has ended,
/// those of what went before it have ended, too, or never will.
struct Fence<'n> {
    node: &'n Node,
    shop: &'n Shop<'n>,
    pod: Pod<'n>,
    _server: Answering,
}

impl<'n> Fence<'n> {
    fn new(node: &'n Node, shop: &'n Shop<'n>) -> Result<Self> {
        let pod = node.add_pod_of("shop/fence", &[])?;
        let server = Answering::start(&pod, pod.name(), 8080)?;
        Ok(Self { node, shop, pod, _server: server })
    }

    fn serve(&self, endpoints: &[serde_json::Value]) -> Result<()> {
        let fence = service("fence", &json!({"clusterIP": FENCE, "clusterIPs": [FENCE]}));
        self.node.apply("fence.yaml", &file(&[fence, slice("fence", "IPv4", endpoints)]))?;
        Ok(())
    }

    /// Its backend goes now, and its connection ends.
    fn comes_behind(&self) -> Result<()> {
        self.serve(&[endpoint(self.pod.ipv4(), &json!({}))])?;
        let mut talk = self.shop.client.converse(at(FENCE, 80))?;
        self.serve(&[])?;
        ensure!(eventually(Duration::from_secs(10), || talk.goes_on().is_err()), "its sockets end");
        Ok(())
    }
}

#[test]
fn connections_to_backends_that_stay_go_on_and_the_others_end() -> Result<()> {
    needs_root!();
    for mode in ["on", "off"] {
        let node = Node::start_with(Settings::default().cluster().flag(format!("--socket-lb={mode}")))?;
        let shop = shop(&node)?;
        let mut talks = conversations(&shop.client, at(CLUSTER4, 80), 20)?;
        talks.extend(conversations(&shop.client, at(CLUSTER6, 80), 20)?);
        talks.extend(conversations(&node.neighbour, at(NODE4, NODE_PORT), 20)?);
        let fence = Fence::new(&node, &shop)?;
        // What is not ready takes nothing new and keeps what it has.
        shop.serve_each(&node, &json!({}), &[json!({}), unready()])?;
        fence.comes_behind()?;
        for talk in &mut talks {
            talk.goes_on()?;
        }
        // An endpoint that is gone for a moment only, as when it moves between slices.
        shop.serve_each(&node, &json!({}), &[json!({})])?;
        shop.serve(&node, &json!({}), &json!({}))?;
        fence.comes_behind()?;
        for talk in &mut talks {
            talk.goes_on()?;
        }
        // The second is no endpoint any more.
        shop.serve_each(&node, &json!({}), &[json!({})])?;
        let (stays, gone) = (shop.backends[0].name(), shop.backends[1].name());
        // Sockets of backends that go one soon after the other are looked for together.
        for talk in talks.iter_mut().filter(|talk| talk.answer.name == gone) {
            let ended = eventually(Duration::from_secs(10), || talk.goes_on().is_err());
            ensure!(ended, "--socket-lb={mode}: a connection to {gone} goes on");
        }
        for talk in &mut talks {
            let name = talk.answer.name.clone();
            let goes_on = talk.goes_on();
            ensure!(
                goes_on.is_ok() == (name == stays),
                "--socket-lb={mode}: a connection to {name}: {goes_on:?} ({gone} is gone)"
            );
        }
    }
    Ok(())
}

#[test]
fn datagrams_do_not_go_to_a_backend_that_is_gone() -> Result<()> {
    needs_root!();
    for mode in ["on", "off"] {
        let node = Node::start_with(Settings::default().cluster().flag(format!("--socket-lb={mode}")))?;
        let shop = shop(&node)?;
        let to = at(CLUSTER4, 80);
        let sockets: Vec<_> = (0..8)
            .map(|_| {
                let socket = shop.client.udp_socket(to)?;
                shop.client.connect(&socket, to)?;
                ask_on(&socket, to)?;
                Ok(socket)
            })
            .collect::<Result<_>>()?;
        let unconnected = shop.client.udp_socket(to)?;
        ask_from(&unconnected, to)?;
        shop.serve_each(&node, &json!({}), &[json!({})])?;
        let stays = shop.backends[0].name();
        for socket in &sockets {
            // It is moved, or it is ended and the application connects anew.
            let mut last = None;
            let moves = eventually(Duration::from_secs(10), || {
                let answer = ask_on(socket, to);
                let is_over = answer.as_ref().map_or(true, |answer| answer.name == stays);
                last = Some(answer);
                is_over
            });
            match last.context("it is asked")? {
                Ok(answer) => ensure!(moves, "--socket-lb={mode}: {answer:?}"),
                Err(error) => {
                    let ended =
                        [libc::ECONNABORTED, libc::EDESTADDRREQ].map(Some).contains(&error.raw_os_error());
                    ensure!(ended, "--socket-lb={mode}: {error}");
                    socket.take_error()?;
                    shop.client.connect(socket, to)?;
                    ensure!(ask_on(socket, to)?.name == stays);
                }
            }
        }
        let moves = || ask_from(&unconnected, to).is_ok_and(|answer| answer.name == stays);
        ensure!(eventually(Duration::from_secs(10), moves), "--socket-lb={mode}");
    }
    Ok(())
}

#[test]
fn a_service_changes_its_ports_and_addresses() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    let mut stands = shop.client.converse(at(CLUSTER4, 80))?;
    let moved = json!({
        "type": "NodePort", "clusterIP": "10.96.0.11", "clusterIPs": ["10.96.0.11"],
        "ports": [
            {"name": "tcp", "port": 81, "nodePort": 30_081},
            {"name": "udp", "port": 81, "protocol": "UDP", "nodePort": 30_081},
        ],
    });
    shop.serve(&node, &moved, &json!({}))?;
    ensure!(shop.client.ask_tcp(at("10.96.0.11", 81)).is_ok());
    ensure!(node.neighbour.ask_tcp(at(NODE4, 30_081)).is_ok());
    ensure!(node.neighbour.ask_tcp(at(NODE4, NODE_PORT)).is_err());
    ensure!(shop.client.ask_tcp(at(CLUSTER6, 80)).is_err());
    stands.goes_on()?;
    shop.serve(&node, &json!({}), &json!({}))?;
    ensure!(node.neighbour.ask_tcp(at(NODE4, NODE_PORT)).is_ok());
    node.withdraw("web.yaml")?;
    ensure!(node.neighbour.ask_tcp(at(NODE4, NODE_PORT)).is_err());
    Ok(())
}

#[test]
fn services_go_on_without_the_daemon_and_through_its_restart() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    let all = [at(CLUSTER4, 80), at(CLUSTER6, 80), at(NODE4, NODE_PORT)];
    let mut talks = Vec::new();
    for to in all {
        talks.extend(conversations(&shop.client, to, 10)?);
    }
    talks.extend(conversations(&node.neighbour, at(NODE4, NODE_PORT), 10)?);
    node.kill_daemon();
    let works = |talks: &mut Vec<Conversation>| -> Result<()> {
        for talk in talks {
            talk.goes_on()?;
        }
        for to in all {
            shop.client.ask_tcp(to)?;
            shop.client.ask_udp(to)?;
            node.ask_tcp(to)?;
        }
        node.neighbour.ask_tcp(at(NODE4, NODE_PORT))?;
        Ok(())
    };
    works(&mut talks)?;
    // What happened meanwhile is made up for.
    let text = std::fs::read_to_string(node.cluster().join("web.yaml"))?;
    node.start_daemon()?;
    works(&mut talks)?;
    Fence::new(&node, &shop)?.comes_behind()?;
    works(&mut talks)?;
    node.kill_daemon();
    node.remove_manifest("web.yaml")?;
    node.start_daemon()?;
    ensure!(shop.client.ask_tcp(at(CLUSTER4, 80)).is_err());
    ensure!(eventually(Duration::from_secs(5), || talks[0].goes_on().is_err()), "its sockets end");
    node.apply("web.yaml", &text)?;
    works(&mut Vec::new())
}

#[test]
fn a_restart_leads_nobody_to_another_services_backends() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    // By their names one comes before the other, and what it gets meanwhile lies where the other's backends are.
    let told = |name: &str, address: &str, backends: &[&Pod<'_>]| {
        let endpoints: Vec<_> = backends.iter().map(|it| endpoint(it.ipv4(), &json!({}))).collect();
        let spec = json!({"clusterIP": address, "clusterIPs": [address]});
        let text = file(&[service(name, &spec), slice(name, "IPv4", &endpoints)]);
        (format!("{name}.yaml"), text)
    };
    let [first, second] = &shop.backends[..] else { panic!("two backends") };
    for (name, text) in [told("a", "10.96.1.1", &[first]), told("b", "10.96.1.2", &[second])] {
        node.apply(&name, &text)?;
    }
    for round in 0..6 {
        node.kill_daemon();
        let backends = if round % 2 == 0 { vec![first, &shop.client] } else { vec![first] };
        let (name, text) = told("a", "10.96.1.1", &backends);
        std::fs::write(node.cluster().join(name), text)?;
        let done = AtomicBool::new(false);
        let asked = std::thread::scope(|scope| {
            let asks = scope.spawn(|| {
                let mut asked = 0;
                while !done.load(Ordering::Relaxed) {
                    let answer = shop.client.ask_tcp(at("10.96.1.2", 80))?;
                    ensure!(answer.name == second.name(), "{answer:?} in round {round}");
                    asked += 1;
                }
                Ok(asked)
            });
            let started = node.start_daemon();
            done.store(true, Ordering::Relaxed);
            started?;
            asks.join().expect("no panic")
        })?;
        ensure!(asked > 0);
    }
    Ok(())
}

#[test]
fn a_thousand_connections_outlive_changes_and_the_daemon() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    let stays = shop.backends[0].name();
    shop.serve_each(&node, &json!({}), &[json!({})])?;
    let mut talks = conversations(&shop.client, at(CLUSTER4, 80), 250)?;
    talks.extend(conversations(&shop.client, at(CLUSTER6, 80), 250)?);
    talks.extend(conversations(&node.neighbour, at(NODE4, NODE_PORT), 250)?);
    talks.extend(conversations(&node.neighbour, at(NODE6, NODE_PORT), 250)?);
    ensure!(talks.iter().all(|talk| talk.answer.name == stays));
    let terminating = json!({"conditions": {"ready": false, "serving": true, "terminating": true}});
    let local = json!({"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"});
    let affine = json!({"sessionAffinity": "ClientIP"});
    let moved = json!({"ports": [{"name": "tcp", "port": 81, "targetPort": 8080, "nodePort": 30_081}]});
    let closed = json!({"type": "ClusterIP", "externalIPs": []});
    for round in 0..3 {
        for (spec, first) in [
            (json!({}), json!({})),
            (local.clone(), json!({})),
            (affine.clone(), unready()),
            (json!({}), terminating.clone()),
            (moved.clone(), json!({})),
            (closed.clone(), json!({})),
        ] {
            // The second backend comes and goes, and so do services that have nothing to do with it.
            shop.serve_each(&node, &spec, &[first.clone(), json!({})])?;
            let other = service("other", &json!({"clusterIP": "10.96.0.99", "clusterIPs": ["10.96.0.99"]}));
            node.apply("other.yaml", &file(&[other]))?;
            shop.serve_each(&node, &spec, &[first])?;
            node.withdraw("other.yaml")?;
            for talk in &mut talks {
                talk.goes_on().with_context(|| format!("round {round}, {spec}"))?;
            }
        }
        node.kill_daemon();
        talks.iter_mut().try_for_each(Conversation::goes_on)?;
        node.start_daemon()?;
        talks.iter_mut().try_for_each(Conversation::goes_on)?;
    }
    Ok(())
}

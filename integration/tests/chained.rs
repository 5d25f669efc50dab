//! Behind another plugin in a chain: that one makes the interface and leads packets, Cambric polices them.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{
        First, Listeners, Machine, NEIGHBOUR4, NEIGHBOUR6, NODE4, NODE6, Node, Pod, Settings, allowed,
        denied, hold, tcp, udp,
    },
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(10);

/// Pods of `shop`, of whom one guards itself.
struct Pods<'n> {
    guarded: Pod<'n>,
    friend: Pod<'n>,
    stranger: Pod<'n>,
    _listeners: Vec<Listeners>,
}

const GUARD: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: shop, name: guard }
spec:
  podSelector: { matchLabels: { app: guarded } }
  ingress: [ { from: [ { podSelector: { matchLabels: { app: friend } } } ], ports: [ { port: 80 } ] } ]
";

impl<'n> Pods<'n> {
    fn add(node: &'n Node, first: First) -> Result<Self> {
        let add =
            |app: &str| node.sandbox_of(&format!("shop/{app}"), &[("app", app)])?.add_behind(node, first);
        let (guarded, friend, stranger) = (add("guarded")?, add("friend")?, add("stranger")?);
        let listeners = [&guarded, &friend].map(|pod| pod.serve(pod.addresses(), &[tcp(80), udp(80)]));
        let listeners = listeners.into_iter().collect::<Result<_>>()?;
        Ok(Self { guarded, friend, stranger, _listeners: listeners })
    }

    fn all(&self) -> [&Pod<'n>; 3] {
        [&self.guarded, &self.friend, &self.stranger]
    }

    fn are_guarded(&self, node: &Node) -> Result<()> {
        let mut table = allowed(&self.friend, &self.guarded, tcp(80));
        table.extend(denied(&self.stranger, &self.guarded, tcp(80)));
        table.extend(denied(&self.friend, &self.guarded, udp(80)));
        // The node reaches its own pods; who answers is answered.
        table.extend(allowed(node, &self.guarded, udp(80)));
        table.extend(allowed(&self.guarded, &self.friend, tcp(80)));
        hold(table)
    }
}

fn policed(first: First) -> Result<()> {
    let node = Node::start_with(Settings::default().behind_others().cluster())?;
    let pods = Pods::add(&node, first)?;
    let mut open = allowed(&pods.friend, &pods.guarded, tcp(80));
    open.extend(allowed(&pods.stranger, &pods.guarded, udp(80)));
    hold(open)?;
    for pod in pods.all() {
        pod.check()?;
        ensure!(pod.reaches(NEIGHBOUR4)? && pod.reaches(NEIGHBOUR6)?, "{} gets out", pod.name());
        ensure!(pod.reaches(NODE4)? && pod.reaches(NODE6)?, "{} reaches the node", pod.name());
    }
    let mut stands = tcp_between(&pods.stranger, &pods.guarded, 81)?;
    exchange(&mut stands)?;
    node.apply("guard.yaml", GUARD)?;
    pods.are_guarded(&node)?;
    ensure!(exchange(&mut stands).is_err(), "a connection outlives the policy that forbids it");
    ensure!(node.drops("policy_ingress")? > 0);

    // Who lies about itself is not heard.
    let forged = pods.friend.ipv4();
    pods.stranger.netns().ip(&format!("address add {forged}/32 dev eth0"))?;
    let before = node.drops("foreign_source")?;
    let target = SocketAddr::new(pods.guarded.ipv4().into(), 80);
    let heard = pods.stranger.netns().inside(|| connect_from(forged.into(), target));
    ensure!(heard.is_err() && node.drops("foreign_source")? > before);
    pods.stranger.netns().ip(&format!("address del {forged}/32 dev eth0"))?;

    // The daemon comes and goes.
    node.kill_daemon();
    pods.are_guarded(&node)?;
    node.start_daemon()?;
    pods.are_guarded(&node)?;
    for pod in pods.all() {
        pod.check()?;
    }
    let again = pods.guarded.sandbox().cni_behind(&pods.guarded.result).run()?;
    ensure!(again == pods.guarded.result, "ADD again says {again}");
    pods.are_guarded(&node)?;
    Ok(())
}

/// A connection between two pods, held at both ends.
fn tcp_between(
    from: &Pod<'_>,
    to: &Pod<'_>,
    port: u16,
) -> Result<(std::net::TcpStream, std::net::TcpStream)> {
    let target = SocketAddr::new(to.ipv4().into(), port);
    let listener = to.netns().inside(|| std::net::TcpListener::bind(target))?;
    let client = from.netns().inside(|| std::net::TcpStream::connect_timeout(&target, PATIENCE))?;
    let server = listener.accept()?.0;
    for end in [&client, &server] {
        end.set_read_timeout(Some(Duration::from_millis(500)))?;
    }
    Ok((client, server))
}

fn exchange((client, server): &mut (std::net::TcpStream, std::net::TcpStream)) -> Result<()> {
    use std::io::{Read, Write};
    client.write_all(b"x")?;
    server.read_exact(&mut [0])?;
    Ok(())
}

fn connect_from(source: IpAddr, target: SocketAddr) -> std::io::Result<()> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
    };
    use std::os::fd::AsRawFd;
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let wait = nix::sys::time::TimeVal::new(0, 500_000);
    setsockopt(&socket, sockopt::SendTimeout, &wait)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
    Ok(connect(socket.as_raw_fd(), &SockaddrStorage::from(target))?)
}

#[test]
fn pods_behind_a_bridge_are_policed() -> Result<()> {
    needs_root!();
    policed(First::Bridge)
}

#[test]
fn pods_that_are_routed_by_another_plugin_are_policed() -> Result<()> {
    needs_root!();
    policed(First::Ptp)
}

#[test]
fn del_cuts_a_pod_off_and_leaves_its_interface_to_the_other_plugin() -> Result<()> {
    needs_root!();
    let node = Node::start_with(Settings::default().behind_others())?;
    let add = |name: &str| node.sandbox(name)?.add_behind(&node, First::Bridge);
    let (a, b) = (add("a")?, add("b")?);
    ensure!(a.reaches(b.ipv4())?);
    a.del()?;
    a.del()?;
    let host_ifname = veth_of(&a)?;
    ensure!(
        node.netns().links()?.contains(&host_ifname),
        "{host_ifname} is gone: {:?}",
        node.netns().links()?
    );
    ensure!(!a.reaches(b.ipv4())? && !b.reaches(a.ipv4())?, "it is let through after DEL");
    ensure!(node.ctl(&["endpoint", "list"])?.as_array().is_some_and(|list| list.len() == 1));
    a.del_behind(&node, First::Bridge)?;
    let left = node.leftovers()?;
    ensure!(left.iter().all(|it| !it.contains("/cmb")), "an endpoint needs no pin: {left:?}");

    // Without the daemon DEL succeeds as well, and the daemon hears of it.
    node.stop_daemon()?;
    b.del_behind(&node, First::Bridge)?;
    node.start_daemon()?;
    node.is_left_clean()?;
    Ok(())
}

#[test]
fn an_address_that_the_other_plugin_gives_again_goes_to_the_new_pod() -> Result<()> {
    needs_root!();
    let node = Node::start_with(Settings::default().behind_others())?;
    let add = |name: &str| node.sandbox(name)?.add_behind(&node, First::Bridge);
    // Its DEL never comes to Cambric.
    let former = add("former")?;
    former.sandbox().first(&node, "DEL", First::Bridge, Some(&former.result)).run()?;
    std::fs::remove_dir_all(node.folder().join("host-local"))?;
    let (new, other) = (add("new")?, add("other")?);
    ensure!(new.addresses() == former.addresses(), "{:?}", new.addresses());
    ensure!(new.reaches(other.ipv4())? && other.reaches(new.ipv6())?);
    new.check()?;
    ensure!(former.check().is_err());
    Ok(())
}

#[test]
fn an_add_behind_another_plugin_is_done_when_the_container_takes_packets() -> Result<()> {
    needs_root!();
    let node = Node::start_with(Settings::default().behind_others())?;
    let sandbox = node.sandbox("a")?;
    let netns = sandbox.netns();
    // What another plugin may have done: the address is there, and the kernel still looks whether somebody else has it. It
    // takes no packets for it until then, a second and more.
    for (name, value) in [("accept_dad", "1"), ("dad_transmits", "2")] {
        netns.sysctl(&format!("net/ipv6/conf/default/{name}"), value)?;
    }
    let name = netns.path().file_name().and_then(|name| name.to_str()).context("the namespace's name")?;
    node.netns().ip(&format!("link add veth0 type veth peer name eth0 netns {name}"))?;
    node.netns().ip("link set veth0 up")?;
    netns.ip("link set eth0 up")?;
    netns.ip("address add 10.99.0.2/24 dev eth0")?;
    netns.ip("address add fd00:99::2/64 dev eth0")?;
    let route = || netns.ip("route get fd00:99::2").unwrap_or_default();
    ensure!(!route().starts_with("local"), "there is nothing to wait for: {}", route());
    let made = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "veth0"}, {"name": "eth0", "sandbox": netns.path()}],
        "ips": [{"address": "10.99.0.2/24", "interface": 1}, {"address": "fd00:99::2/64", "interface": 1}],
    });
    sandbox.cni_behind(&made).run()?;
    ensure!(route().starts_with("local"), "{}", route());
    Ok(())
}

/// The name that the other plugin gave the host's end.
fn veth_of(pod: &Pod<'_>) -> Result<String> {
    let interfaces = pod.result["interfaces"].as_array().context("interfaces")?;
    let is_host_end = |it: &&Value| it["name"].as_str().is_some_and(|name| name.starts_with("veth"));
    let host_end = interfaces.iter().find(is_host_end).context("the host's end")?;
    Ok(host_end["name"].as_str().context("a name")?.to_owned())
}

#[test]
fn what_cannot_be_policed_is_refused_and_leaves_nothing() -> Result<()> {
    needs_root!();
    let chained = Node::start_with(Settings::default().behind_others())?;
    let sandbox = chained.sandbox("a")?;
    let refused = sandbox.cni("ADD").refusal()?;
    ensure!(refused.code == 7 && refused.message.contains("first of its chain"), "{refused}");

    let made = sandbox.first(&chained, "ADD", First::Macvlan, None).run()?;
    let refused = sandbox.cni_behind(&made).refusal()?;
    ensure!(
        refused.code == 7 && refused.message.contains("veth pair whose other end is on the node"),
        "{refused}"
    );
    sandbox.first(&chained, "DEL", First::Macvlan, Some(&made)).run()?;

    let made = sandbox.first(&chained, "ADD", First::Ptp, None).run()?;
    for (key, value, code, said) in [
        ("mtu", json!(1400), 2, "mtu = 1400"),
        ("runtimeConfig", json!({"mac": "02:00:00:00:00:07"}), 2, "runtimeConfig.mac"),
        ("prevResult", json!({"interfaces": made["interfaces"], "ips": []}), 7, "prevResult.ips"),
        ("prevResult", json!({"ips": [{"address": "127.0.0.1/8"}]}), 7, "not 127.0.0.1"),
        ("prevResult", json!({"ips": "x"}), 7, "prevResult.ips must be a list"),
    ] {
        let refused = sandbox.cni_behind(&made).set(key, value).refusal()?;
        ensure!(refused.code == code && refused.message.contains(said), "{key}: {refused}");
    }
    ensure!(chained.leftovers()?.iter().all(|left| !left.contains("cmb")), "{:?}", chained.leftovers()?);

    let own = Node::start()?;
    let sandbox = own.sandbox("b")?;
    let made = sandbox.first(&own, "ADD", First::Ptp, None).run()?;
    let refused = sandbox.cni_behind(&made).refusal()?;
    ensure!(refused.code == 7 && refused.message.contains("not the first of its chain"), "{refused}");
    own.is_left_clean()?;
    Ok(())
}

#[test]
fn uninstalling_leaves_the_other_plugins_interfaces() -> Result<()> {
    needs_root!();
    let node = Node::start_with(Settings::default().behind_others())?;
    let a = node.sandbox("a")?.add_behind(&node, First::Bridge)?;
    let b = node.sandbox("b")?.add_behind(&node, First::Bridge)?;
    node.stop_daemon()?;
    let (state, bpffs) = (node.state_dir().display().to_string(), node.bpffs().display().to_string());
    node.ctl(&["uninstall", "--config=/dev/null", "--state-dir", &state, "--bpffs", &bpffs])?;
    ensure!(a.reaches(b.ipv4())?, "the bridge leads no more");
    let links = node.netns().ip("-d link show")?;
    ensure!(!links.contains("cmb"), "{links}");
    Ok(())
}

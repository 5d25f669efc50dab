//! What policy rejects is told to its sender at once: to pods, to the network, and to machines of other networks of the node.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use etherparse::PacketBuilder;
use integration::{
    needs_root,
    testbed::{
        FAR4, FAR6, Frames, Machine, NEIGHBOUR4, NEIGHBOUR6, NODE4, NODE6, Netns, Node, Pod, Settings,
        eventually,
    },
};

const PATIENCE: Duration = Duration::from_secs(20);
/// A sender that is told knows it sooner than it would send again.
const AT_ONCE: Duration = Duration::from_millis(900);
const PORT: u16 = 8080;

/// Nobody speaks to `app=guarded`, and `app=locked` speaks to nobody.
const POLICIES: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: shop, name: guard, annotations: { cambric.io/denied: reject } }
spec:
  podSelector: { matchLabels: { app: guarded } }
  ingress: []
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: shop, name: lock, annotations: { cambric.io/denied: reject } }
spec:
  podSelector: { matchLabels: { app: locked } }
  policyTypes: [Egress]
  egress: []
";

/// Counts the resets that come.
const RESETS: &str = "table inet seen { counter resets { } ; chain came { type filter hook prerouting priority -300; \
    tcp flags & rst == rst counter name resets; }; }";

/// What a client learns of a connection that it tries: the error, or `None` where it waits in vain.
fn connects(netns: &Netns, to: IpAddr) -> Result<Option<io::Error>> {
    let to = SocketAddr::new(to, PORT);
    let tried = netns.inside(|| io::Result::Ok(TcpStream::connect_timeout(&to, AT_ONCE)))?;
    match tried {
        Ok(_) => bail!("{to} is reached"),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(None),
        Err(error) => Ok(Some(error)),
    }
}

/// The same of a datagram.
fn asks(netns: &Netns, to: IpAddr) -> Result<Option<io::Error>> {
    let to = SocketAddr::new(to, PORT);
    let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let asked = netns.inside(|| {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(AT_ONCE))?;
        socket.send(b"question")?;
        io::Result::Ok(socket.recv(&mut [0; 16]).err())
    })?;
    Ok(asked.filter(|error| error.kind() != io::ErrorKind::WouldBlock))
}

/// That a sender is told of both sorts of packets.
fn is_told(netns: &Netns, to: IpAddr, who: &str) -> Result<()> {
    let tcp = connects(netns, to)?.with_context(|| format!("{who}: a connection to {to} waits in vain"))?;
    ensure!(tcp.kind() == io::ErrorKind::ConnectionRefused, "{who}: {to}: {tcp}");
    let udp = asks(netns, to)?.with_context(|| format!("{who}: a datagram to {to} waits in vain"))?;
    // "Administratively prohibited", as Linux tells it to a socket.
    let expected = if to.is_ipv4() { nix::libc::EHOSTUNREACH } else { nix::libc::EACCES };
    ensure!(udp.raw_os_error() == Some(expected), "{who}: {to}: {udp}");
    Ok(())
}

/// That it is told of nothing.
fn waits(netns: &Netns, to: IpAddr, who: &str) -> Result<()> {
    let learnt = [connects(netns, to)?, asks(netns, to)?];
    ensure!(learnt.iter().all(Option::is_none), "{who}: {to}: {learnt:?}");
    Ok(())
}

fn pods(node: &Node) -> Result<[Pod<'_>; 3]> {
    let [guarded, locked, free] =
        ["guarded", "locked", "free"].map(|app| node.add_pod_of(&format!("shop/{app}"), &[("app", app)]));
    Ok([guarded?, locked?, free?])
}

/// A machine on a network of the node that is no uplink.
fn beside(node: &Node) -> Result<Netns> {
    let netns = Netns::new("beside")?;
    let host = node.netns();
    host.ip(&format!("link add mgmt type veth peer name eth0 netns {}", netns.path().display()))?;
    host.ip("address add 203.0.113.1/24 dev mgmt")?;
    host.ip("address add 2001:db8:77::1/64 dev mgmt nodad")?;
    host.ip("link set dev mgmt up")?;
    netns.ip("address add 203.0.113.2/24 dev eth0")?;
    netns.ip("address add 2001:db8:77::2/64 dev eth0 nodad")?;
    netns.ip("link set dev eth0 up")?;
    netns.ip("route add default via 203.0.113.1")?;
    netns.ip("-6 route add default via 2001:db8:77::1")?;
    Ok(netns)
}

#[test]
fn every_sender_is_told_at_once() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let [guarded, locked, free] = pods(&node)?;
    let stranger = beside(&node)?;
    let to_node = node.netns().mac_of("mgmt")?;
    node.neighbour.netns().ip(&format!("route add 10.88.0.0/16 via {NODE4}"))?;
    node.neighbour.netns().ip(&format!("-6 route add fd00:88::/64 via {NODE6}"))?;
    node.apply("policies.yaml", POLICIES)?;
    let monitor = node.monitor(&["--verdict", "deny"])?;
    for to in guarded.addresses() {
        for (netns, who) in [
            (free.netns(), "a pod"),
            (node.neighbour.netns(), "the network"),
            (&stranger, "another network of the node"),
        ] {
            is_told(netns, *to, who)?;
        }
    }
    for to in [FAR4.into(), IpAddr::from(FAR6), NEIGHBOUR4.into(), NEIGHBOUR6.into()] {
        is_told(locked.netns(), to, "a pod that may not send")?;
    }
    for to in free.addresses() {
        is_told(locked.netns(), *to, "a pod that may not send")?;
    }
    // Somebody on the other network sends as the neighbour, who is not told of it.
    node.neighbour.netns().run("nft", &[RESETS])?;
    let told = || -> Result<String> {
        let counter = node.neighbour.netns().run("nft", &["list counter inet seen resets"])?;
        Ok(counter.lines().filter(|line| line.contains("packets")).collect())
    };
    let frames = Frames::open(&stranger, "eth0")?;
    let (before, refused) = (told()?, node.drops("policy_ingress")?);
    for port in 1..=5 {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(stranger.mac_of("eth0")?, to_node)
            .ipv4(NEIGHBOUR4.octets(), guarded.ipv4().octets(), 64)
            .tcp(40_000 + port, PORT, 7, 1000)
            .syn()
            .write(&mut frame, &[])?;
        frames.send(&frame)?;
    }
    let all_refused = || node.drops("policy_ingress").is_ok_and(|now| now >= refused + 5);
    ensure!(eventually(PATIENCE, all_refused), "{}", node.status()?["drops"]);
    ensure!(before.contains("packets 0") && told()? == before, "{before}: {}", told()?);
    is_told(node.neighbour.netns(), guarded.ipv4().into(), "the network")?;
    ensure!(told()?.contains("packets 1 "), "{}", told()?);
    monitor.tells("that it was rejected", |event| event["rejected"] == true)?;
    Ok(())
}

#[test]
fn the_node_says_it_for_all_and_a_namespace_for_its_own() -> Result<()> {
    needs_root!();
    let node = Node::start_with(Settings::default().cluster().flag("--denied=reject"))?;
    let [guarded, locked, free] = pods(&node)?;
    let plain = POLICIES.replace(", annotations: { cambric.io/denied: reject }", "");
    node.apply("policies.yaml", &plain)?;
    let to = guarded.addresses()[0];
    is_told(free.netns(), to, "by the node")?;
    let space = |denied: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{ name: shop, annotations: {{ cambric.io/denied: {denied} }} }}\n"
        )
    };
    node.apply("namespace.yaml", &space("drop"))?;
    waits(free.netns(), to, "by the namespace")?;
    waits(locked.netns(), FAR4.into(), "by the namespace")?;
    node.apply("namespace.yaml", &space("reject"))?;
    is_told(free.netns(), to, "by the namespace again")?;
    // A word that is not known says nothing. The object counts all the same: nobody gets past a policy by it.
    node.apply("namespace.yaml", &space("refuse"))?;
    let wrong = "\\\"refuse\\\" is neither \\\"drop\\\" nor \\\"reject\\\"";
    let said = || node.status().is_ok_and(|status| status["problems"].to_string().contains(wrong));
    ensure!(eventually(PATIENCE, said), "{}", node.status()?["problems"]);
    is_told(free.netns(), to, "by the node again")?;
    node.apply("policies.yaml", &POLICIES.replace("denied: reject", "denied: [refuse]"))?;
    node.stop_daemon()?;
    node.start_daemon()?;
    is_told(free.netns(), to, "by the node that is started anew")?;
    is_told(locked.netns(), FAR4.into(), "by the node that is started anew")?;
    Ok(())
}

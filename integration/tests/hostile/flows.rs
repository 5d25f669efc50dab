//! Flows that somebody forges, that were forgotten by half, or that two processors begin at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::Barrier,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bpf::layout::{CT_NAT_REVERSE, CtEntry4, CtKey, CtKey4, Plain};
use etherparse::PacketBuilder;
use integration::{
    needs_root,
    testbed::{Machine, NEIGHBOUR4, NODE4, Node, Settings, eventually, time_passes},
};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use serde_json::Value;

use crate::scene::{Ends, closed, of_wire, open, udp};

const PATIENCE: Duration = Duration::from_secs(5);

/// The connections of one source address.
fn connections(node: &Node, of: IpAddr) -> Result<Vec<Value>> {
    let listed = node.ctl(&["ct", "list", "--address", &of.to_string()])?;
    Ok(listed.as_array().context("a list")?.clone())
}

/// The state of the one connection of an address.
fn state(node: &Node, of: IpAddr) -> Result<String> {
    let found = connections(node, of)?;
    let [one] = &found[..] else { anyhow::bail!("{} connections of {of}: {found:?}", found.len()) };
    Ok(one["state"].as_str().context("a state")?.to_owned())
}

fn flows(node: &Node) -> Result<(MapHandle, Vec<(CtKey4, CtEntry4)>)> {
    let map = MapHandle::from_pinned_path(node.bpffs().join("maps/conntrack4"))?;
    let mut flows = Vec::new();
    for key in map.keys() {
        if let Some(value) = map.lookup(&key, MapFlags::ANY)? {
            flows.push((
                CtKey4::from_bytes(&key).context("key")?,
                CtEntry4::from_bytes(&value).context("entry")?,
            ));
        }
    }
    Ok((map, flows))
}

/// Forgets the views of connections to a port, as an eviction does.
fn evict(node: &Node, port: u16, which: impl Fn(&CtEntry4) -> bool) -> Result<usize> {
    let (map, flows) = flows(node)?;
    let mut evicted = 0;
    for (key, _) in
        flows.iter().filter(|(key, entry)| key.sides().iter().any(|it| it.1 == port) && which(entry))
    {
        map.delete(key.as_bytes())?;
        evicted += 1;
    }
    Ok(evicted)
}

/// A segment without data.
fn segment(ends: Ends, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), reset: bool) -> Result<Vec<u8>> {
    let step = PacketBuilder::ethernet2(ends.from, ends.to).ipv4(from.0.octets(), to.0.octets(), 64);
    let step = step.tcp(from.1, to.1, 0x1234_5678, 1024);
    let mut frame = Vec::new();
    if reset { step.rst() } else { step.syn() }.write(&mut frame, &[])?;
    Ok(frame)
}

#[test]
fn forged_connections_are_remembered_for_a_minute_at_most() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    let _listener = pod.netns().inside(|| TcpListener::bind((pod.ipv4(), 80)))?;
    let (frames, ends) = of_wire(&node)?;
    node.neighbour.netns().ip(&format!("route add 10.88.0.0/16 via {NODE4}"))?;
    for last in 100..200 {
        // The pod's answers go nowhere.
        frames.send(&segment(ends, (Ipv4Addr::new(192, 0, 2, last), 5_000), (pod.ipv4(), 80), false)?)?;
    }
    let answered = || -> Result<usize> {
        let found = connections(&node, pod.ipv4().into())?;
        for it in &found {
            ensure!(it["state"] != "established", "{it}");
            ensure!(it["expires_in"].as_u64().is_some_and(|left| left <= 65), "{it}");
        }
        Ok(found.iter().filter(|it| it["state"] == "answered").count())
    };
    ensure!(eventually(PATIENCE, || answered().is_ok_and(|count| count == 100)), "{:?}", answered());
    time_passes(Duration::from_secs(3), "the kernel sends a second and a third answer");
    ensure!(answered()? == 100);

    let honest = node.neighbour.connect((pod.ipv4(), 80))?;
    let of_honest = || Ok::<_, anyhow::Error>(connections(&node, NEIGHBOUR4.into())?[0]["state"].clone());
    ensure!(eventually(PATIENCE, || of_honest().is_ok_and(|it| it == "established")), "{:?}", of_honest());
    drop(honest);
    Ok(())
}

#[test]
fn a_blind_reset_ends_no_connection() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    let server = node.neighbour.serve_tcp((NEIGHBOUR4, 443))?;
    let stream = pod.connect(server.address())?;
    stream.exchange(100)?;
    time_passes(Duration::from_millis(1_200), "a stamp is written down once a second");
    let SocketAddr::V4(seen) = server.peers()[0] else { anyhow::bail!("IPv4") };
    let (frames, ends) = of_wire(&node)?;
    frames.send(&segment(ends, (NEIGHBOUR4, 443), (NODE4, seen.port()), true)?)?;
    let is =
        |wanted: &str| eventually(PATIENCE, || state(&node, pod.ipv4().into()).is_ok_and(|it| it == wanted));
    ensure!(is("reset"), "{:?}", state(&node, pod.ipv4().into()));
    time_passes(Duration::from_secs(12), "a closed connection is remembered for 10 s, and swept then");
    stream.exchange(100)?;
    ensure!(is("established"), "{:?}", state(&node, pod.ipv4().into()));
    Ok(())
}

#[test]
fn one_question_is_no_stream() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    let server = node.neighbour.serve_udp((NEIGHBOUR4, 53))?;
    let socket = pod.netns().inside(|| UdpSocket::bind((pod.ipv4(), 5_353)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let ask = || -> Result<()> {
        socket.send_to(b"question", server.address())?;
        socket.recv_from(&mut [0; 64])?;
        Ok(())
    };
    ask()?;
    ask()?;
    let found = connections(&node, pod.ipv4().into())?;
    ensure!(found.len() == 1 && found[0]["state"] == "answered", "{found:?}");
    ensure!(found[0]["expires_in"].as_u64().is_some_and(|left| left <= 33), "{found:?}");
    time_passes(Duration::from_millis(3_300), "what goes on for less than 3 s is no stream");
    ask()?;
    ensure!(state(&node, pod.ipv4().into())? == "established");
    Ok(())
}

#[test]
fn a_connection_goes_on_though_one_of_its_views_was_evicted() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    let server = node.neighbour.serve_tcp((NEIGHBOUR4, 443))?;
    let stream = pod.connect(server.address())?;
    stream.exchange(100)?;
    for far in [true, false, true, false] {
        time_passes(Duration::from_millis(2_300), "stamps are written down once a second");
        ensure!(evict(&node, 443, |entry| (entry.flags & CT_NAT_REVERSE != 0) == far)? == 1);
        stream.exchange(100).with_context(|| format!("after the eviction, far view: {far}"))?;
        let (_, views) = flows(&node)?;
        ensure!(views.len() == 2, "{views:?}");
    }
    ensure!(server.peers().len() == 1);
    Ok(())
}

#[test]
fn who_has_the_port_of_a_flow_that_is_over_gets_no_answers_of_another() -> Result<()> {
    needs_root!();
    let settings =
        Settings::default().flag("--masquerade-ports=20000-20000").flag("--conntrack-timeout=udp=2");
    let node = Node::start_with(settings)?;
    let (a, b) = (node.add_pod("a")?, node.add_pod("b")?);
    let server = node.neighbour.netns().inside(|| UdpSocket::bind((NEIGHBOUR4, 53)))?;
    server.set_read_timeout(Some(PATIENCE))?;
    let socket = |pod: &integration::testbed::Pod<'_>| -> Result<UdpSocket> {
        let socket = pod.netns().inside(|| UdpSocket::bind((pod.ipv4(), 5_353)))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(socket)
    };
    let (of_a, of_b) = (socket(&a)?, socket(&b)?);
    let mut buffer = [0; 64];
    of_a.send_to(b"a", (NEIGHBOUR4, 53))?;
    let (_, from) = server.recv_from(&mut buffer)?;
    // Nobody sweeps.
    node.kill_daemon();
    time_passes(Duration::from_secs(5), "the flow ends by the clock of the programs");
    of_b.send_to(b"b", (NEIGHBOUR4, 53))?;
    let (_, again) = server.recv_from(&mut buffer)?;
    ensure!(from == again && from.port() == 20_000, "{from} {again}");
    // Unanswered it would lose the port to the next.
    server.send_to(b"for b", again)?;
    ensure!(of_b.recv_from(&mut buffer).is_ok());
    of_a.send_to(b"a", (NEIGHBOUR4, 53))?;
    server.set_read_timeout(Some(Duration::from_millis(500)))?;
    ensure!(server.recv_from(&mut buffer).is_err(), "two pods leave by one port");
    server.send_to(b"also for b", again)?;
    ensure!(of_a.recv_from(&mut buffer).is_err() && of_b.recv_from(&mut buffer).is_ok());
    Ok(())
}

#[test]
fn two_processors_begin_one_flow() -> Result<()> {
    const FLOWS: usize = 400;
    needs_root!();
    let node = Node::start()?;
    let pod = node.add_pod("a")?;
    let server = node.neighbour.netns().inside(|| UdpSocket::bind((NEIGHBOUR4, 53)))?;
    server.set_read_timeout(Some(Duration::from_secs(3)))?;
    let together = Barrier::new(2);
    let send = |cpu: usize| -> Result<()> {
        let mut only = nix::sched::CpuSet::new();
        only.set(cpu)?;
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &only)?;
        for port in (10_000..).take(FLOWS) {
            let socket = pod.netns().inside(|| -> std::io::Result<UdpSocket> {
                let socket = socket_of(pod.ipv4(), port)?;
                socket.connect((NEIGHBOUR4, 53))?;
                Ok(socket)
            });
            together.wait();
            socket?.send(&port.to_be_bytes())?;
        }
        Ok(())
    };
    let receive = || {
        let mut seen: BTreeMap<u16, BTreeSet<SocketAddr>> = BTreeMap::new();
        let mut buffer = [0; 2];
        while let Ok((2, from)) = server.recv_from(&mut buffer) {
            seen.entry(u16::from_be_bytes(buffer)).or_default().insert(from);
        }
        seen
    };
    let seen = thread::scope(|scope| -> Result<_> {
        let both = [scope.spawn(|| send(0)), scope.spawn(|| send(1))];
        let seen = receive();
        both.into_iter().try_for_each(|it| it.join().expect("no panic"))?;
        Ok(seen)
    })?;
    ensure!(seen.len() > FLOWS * 9 / 10, "{} flows arrived", seen.len());
    let split: Vec<_> = seen.iter().filter(|(_, ports)| ports.len() > 1).collect();
    ensure!(split.is_empty(), "{} flows left by two ports: {split:?}", split.len());
    let (_, views) = flows(&node)?;
    let far = views.iter().filter(|(_, entry)| entry.flags & CT_NAT_REVERSE != 0).count();
    ensure!(far * 2 == views.len(), "{far} far views of {}", views.len());
    Ok(())
}

/// A socket on a port that another socket has, too.
fn socket_of(address: Ipv4Addr, port: u16) -> std::io::Result<UdpSocket> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt::ReusePort,
    };
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, ReusePort, &true)?;
    let [a, b, c, d] = address.octets();
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrIn::new(a, b, c, d, port))?;
    Ok(socket.into())
}

#[test]
fn a_server_goes_on_with_a_connection_that_was_forgotten() -> Result<()> {
    needs_root!();
    let node = crate::scene::node()?;
    node.neighbour.netns().ip(&format!("route add 10.88.0.0/16 via {NODE4}"))?;
    let (server, guarded) = (open(&node, "a")?, closed(&node, "closed")?);
    let listener = server.netns().inside(|| TcpListener::bind((server.ipv4(), 80)))?;
    let mut client = node.neighbour.netns().inside(|| std::net::TcpStream::connect((server.ipv4(), 80)))?;
    client.set_read_timeout(Some(PATIENCE))?;
    let (mut accepted, from) = listener.accept()?;
    ensure!(from.ip() == NEIGHBOUR4, "{from}");
    let is_open = || state(&node, server.ipv4().into()).is_ok_and(|it| it == "established");
    ensure!(eventually(PATIENCE, is_open), "{:?}", state(&node, server.ipv4().into()));
    ensure!(evict(&node, 80, |_| true)? >= 1);
    accepted.write_all(b"from the server")?;
    let mut buffer = [0; 15];
    client.read_exact(&mut buffer).context("what the server sends first")?;
    client.write_all(b"and on")?;
    accepted.read_exact(&mut buffer[..6])?;
    ensure!(state(&node, server.ipv4().into())? == "established");

    // It helps nobody whom policy does not let be answered.
    let (frames, ends) = of_wire(&node)?;
    let before = node.drops("policy_ingress")?;
    let frame = |to: Ipv4Addr| -> Result<Vec<u8>> {
        let step = PacketBuilder::ethernet2(ends.from, ends.to).ipv4(NEIGHBOUR4.octets(), to.octets(), 64);
        let mut frame = Vec::new();
        step.tcp(80, 40_000, 7, 1024).ack(9).write(&mut frame, b"data")?;
        Ok(frame)
    };
    frames.send(&frame(guarded.ipv4())?)?;
    ensure!(eventually(PATIENCE, || node.drops("policy_ingress").is_ok_and(|now| now > before)));
    frames.send(&udp(ends, NEIGHBOUR4.into(), server.ipv4().into(), 7)?)?;
    Ok(())
}

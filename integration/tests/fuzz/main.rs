//! Frames of any form, from a pod and from the wire, beside flows that lose nothing and a pod that nothing may reach.
//!
//! `CAMBRIC_FUZZ_SECONDS` says for how long, `CAMBRIC_FUZZ_SEED` which frames: the seed is printed, and the same one makes the
//! same frames. Without both it is a number of frames, not a time, so that a run without a change tells what the last one told: half of
//! them are always the same, the others have the seed of the commit that is tested (`CAMBRIC_COMMIT_SEED`, by `scripts/test`), so each
//! change brings new ones. `scripts/test fuzz` brings more.

mod frames;
mod random;

use std::{
    env,
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{
        Frames, Machine, Marked, NEIGHBOUR4, NEIGHBOUR6, NODE4, NODE6, Node, PartialChecksum, Pod,
        TcpStreamCheck, eventually,
    },
};

use self::{
    frames::{Cast, MARK_OF_POD, MARK_OF_WIRE, Sender},
    random::Random,
};

/// Frames of each sender between two looks at the flows: fewer than the kernel lets wait for a processor.
const BATCH: usize = 400;

/// The pod `shop/closed` may send nothing and get nothing.
const CLOSED: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: shop, name: closed }
spec:
  podSelector: { matchLabels: { app: closed } }
  policyTypes: [Ingress, Egress]
";

/// A number from the environment.
fn told(name: &str) -> Result<Option<u64>> {
    let Ok(text) = env::var(name) else { return Ok(None) };
    Ok(Some(text.parse().with_context(|| format!("{name}={text} is no number"))?))
}

/// A flow of datagrams that each must be answered.
struct Datagrams {
    socket: std::net::UdpSocket,
    exchanged: u64,
}

impl Datagrams {
    fn from(machine: &impl Machine, to: SocketAddr) -> Result<Self> {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let socket = machine.netns().inside(|| {
            let socket = std::net::UdpSocket::bind((any, 0))?;
            socket.connect(to)?;
            Ok::<_, std::io::Error>(socket)
        })?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self { socket, exchanged: 0 })
    }

    fn go_on(&mut self) -> Result<()> {
        let sent = self.exchanged.to_be_bytes();
        self.socket.send(&sent)?;
        let mut heard = [0; 64];
        let length = self.socket.recv(&mut heard).context("an answer is lost")?;
        ensure!(heard[..length] == sent, "another answer than was sent: {:?}", &heard[..length]);
        self.exchanged += 1;
        Ok(())
    }
}

/// Whether a packet that left the node by the uplink, sent by the pod that is hostile, has a source that it may not have: neither
/// the node's, for it is masqueraded, nor its own, with which it answers what came to it from the wire.
fn is_forged(packet: &[u8], own: &[IpAddr]) -> bool {
    let source = match packet.first().map(|byte| byte >> 4) {
        Some(4) => packet.get(12..16).and_then(|it| <[u8; 4]>::try_from(it).ok()).map(IpAddr::from),
        Some(6) => packet.get(8..24).and_then(|it| <[u8; 16]>::try_from(it).ok()).map(IpAddr::from),
        _ => None,
    };
    let node: [IpAddr; 2] = [NODE4.into(), NODE6.into()];
    let forged = source.is_none_or(|source| !node.contains(&source) && !own.contains(&source));
    if forged {
        println!("left with a forged source: {packet:02x?}");
    }
    forged
}

/// Shows a packet that has arrived where none may.
fn shown(packet: &[u8]) -> bool {
    println!("arrived at the closed pod: {packet:02x?}");
    true
}

fn addresses(pod: &Pod<'_>) -> [IpAddr; 2] {
    [pod.ipv4().into(), pod.ipv6().into()]
}

/// The pod that is hostile, and the wire.
fn senders(node: &Node, hostile: &Pod<'_>, cast: &Cast) -> Result<[(Frames, Sender); 2]> {
    let neighbour = &node.neighbour;
    let gateway = hostile.netns().mac_of_neighbour(IpAddr::from([10, 88, 0, 1]))?;
    Ok([
        (
            Frames::open(hostile.netns(), "eth0")?,
            Sender {
                mark: MARK_OF_POD,
                from: hostile.netns().mac_of("eth0")?,
                to: gateway,
                own: addresses(hostile).to_vec(),
            },
        ),
        (
            Frames::open(neighbour.netns(), "lan")?,
            Sender {
                mark: MARK_OF_WIRE,
                from: neighbour.netns().mac_of("lan")?,
                to: node.netns().mac_of("uplink")?,
                own: cast.outside.clone(),
            },
        ),
    ])
}

/// The frames of a run that was asked for nothing else. Among the first 100,000 are two that once reached the closed pod: a segment as that
/// pod has the node answer with a reset, and by the flow of that reset came a segment as the node.
const KEPT_SEED: u64 = 51_132_391_979_803;
/// So many of them, and as many of the commit's.
const KEPT_FRAMES: u64 = 1_250_000;

/// Frames of one seed.
struct Course {
    seed: u64,
    most: u64,
    time: Duration,
}

/// Those that the environment asks for.
fn courses() -> Result<Vec<Course>> {
    let (seconds, seed) = (told("CAMBRIC_FUZZ_SECONDS")?, told("CAMBRIC_FUZZ_SEED")?);
    if seconds.is_none() && seed.is_none() {
        let seeds = [Some(KEPT_SEED), told("CAMBRIC_COMMIT_SEED")?];
        let kept = |seed| Course { seed, most: KEPT_FRAMES, time: Duration::from_secs(30) };
        return Ok(seeds.into_iter().flatten().map(kept).collect());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let any = now.as_secs() ^ u64::from(now.subsec_nanos()) << 20;
    let time = Duration::from_secs(seconds.unwrap_or(60));
    Ok(vec![Course { seed: seed.unwrap_or(any), most: u64::MAX, time }])
}

/// Sends a batch; how many frames the kernel took, and how many it did not.
fn send_batch(frames: &Frames, sender: &Sender, cast: &Cast, random: &mut Random) -> Result<[u64; 2]> {
    let mut went = [0, 0];
    for _ in 0..BATCH {
        // The sender's own kernel does not take all.
        let taken = send(frames, &sender.frame(cast, random), random)?;
        went[usize::from(!taken)] += 1;
    }
    Ok(went)
}

/// Sends a frame, now and then one that the kernel is to complete; whether the kernel took it.
fn send(frames: &Frames, frame: &[u8], random: &mut Random) -> Result<bool> {
    if !random.one_in(8) {
        return Ok(frames.send(frame).is_ok());
    }
    let size = u64::try_from(frame.len())?;
    let checksum = PartialChecksum {
        start: u16::try_from(random.below(size))?,
        offset: u16::try_from(random.below(40))?,
    };
    Ok(frames.send_partial(frame, checksum).is_ok())
}

#[test]
fn frames_of_any_form_do_no_harm() -> Result<()> {
    needs_root!();
    let courses = courses()?;

    let node = Node::in_cluster()?;
    node.apply("policy.yaml", CLOSED)?;
    let closed = node.add_pod_of("shop/closed", &[("app", "closed")])?;
    let pods = ["hostile", "a", "b"].map(|name| node.add_pod_of(&format!("shop/{name}"), &[]));
    let [hostile, a, b] = pods;
    let (hostile, a, b) = (hostile?, a?, b?);
    let neighbour = &node.neighbour;
    neighbour.netns().ip(&format!("route add 10.88.0.0/16 via {NODE4}"))?;
    neighbour.netns().ip(&format!("route add fd00:88::/64 via {NODE6}"))?;
    let own = addresses(&hostile);
    let (forbidden, on_wire) = (
        [closed.tap_where(MARK_OF_POD, shown)?, closed.tap_where(MARK_OF_WIRE, shown)?],
        neighbour.tap_where(MARK_OF_POD, move |packet| is_forged(packet, &own))?,
    );

    let (mut datagrams, mut streams, mut servers, mut accepting) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for to in addresses(&b) {
        servers.push(b.serve_udp((to, 7000))?);
        accepting.push(b.serve_tcp((to, 7001))?);
        datagrams.push(Datagrams::from(&a, (to, 7000).into())?);
        datagrams.push(Datagrams::from(neighbour, (to, 7000).into())?);
        streams.push(Machine::connect(&a, (to, 7001))?);
    }
    for to in [IpAddr::from(NEIGHBOUR4), NEIGHBOUR6.into()] {
        servers.push(neighbour.serve_udp((to, 7000))?);
        datagrams.push(Datagrams::from(&a, (to, 7000).into())?);
    }

    let cast = Cast {
        pods: [&a, &b, &hostile, &closed].iter().flat_map(|pod| addresses(pod)).collect(),
        closed: addresses(&closed).to_vec(),
        node: vec![NODE4.into(), NODE6.into(), "10.88.0.1".parse()?, "fd00:88::1".parse()?],
        outside: vec![NEIGHBOUR4.into(), NEIGHBOUR6.into()],
    };
    let senders = senders(&node, &hostile, &cast)?;

    let (mut sent, mut refused) = (0_u64, 0_u64);
    for Course { seed, most, time } in courses {
        println!("seed {seed}: CAMBRIC_FUZZ_SEED={seed} has the same frames sent");
        // Each sender has numbers of its own, for both send at once.
        let mut randoms = [seed, !seed].map(Random::new);
        let (end, last) = (Instant::now() + time, most.saturating_add(sent + refused));
        while Instant::now() < end && sent + refused < last {
            let went = thread::scope(|scope| {
                let sending: Vec<_> = senders
                    .iter()
                    .zip(&mut randoms)
                    .map(|((frames, sender), random)| {
                        let cast = &cast;
                        scope.spawn(move || send_batch(frames, sender, cast, random))
                    })
                    .collect();
                sending.into_iter().map(|it| it.join().expect("no panic")).collect::<Result<Vec<_>>>()
            })?;
            for [taken, not] in went {
                sent += taken;
                refused += not;
            }
            for flow in &mut datagrams {
                flow.go_on()
                    .with_context(|| format!("a flow of datagrams, seed {seed}, after {sent} frames"))?;
            }
            for stream in &streams {
                TcpStreamCheck::exchange(stream, 2_000)
                    .with_context(|| format!("a connection, seed {seed}, after {sent} frames"))?;
            }
            let arrived: u64 = forbidden.iter().map(integration::testbed::Tap::count).sum();
            ensure!(
                arrived == 0,
                "{arrived} frames arrived at the closed pod, seed {seed}, after {sent} frames; its flows: {:?}",
                addresses(&closed).map(|it| node.ctl(&["ct", "list", "--address", &it.to_string()]))
            );
            let forged = on_wire.count();
            ensure!(
                forged == 0,
                "{forged} frames left with a forged source, seed {seed}, after {sent} frames"
            );
        }
    }
    // New flows and the daemon, too.
    ensure!(eventually(Duration::from_secs(10), || a.reaches(b.ipv4()).is_ok_and(|it| it)), "no ping");
    let drops = node.status()?["drops"].clone();
    ensure!(node.daemon().is_some(), "the daemon is gone");
    let exchanged: u64 = datagrams.iter().map(|flow| flow.exchanged).sum();
    println!(
        "{sent} frames sent, {refused} refused by the sender's kernel, {exchanged} datagrams answered; drops: {drops}"
    );
    ensure!(sent > refused, "most frames were not even sent");
    Ok(())
}

//! Many flows at once, while the node changes: what is lost and what comes out of order.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::socket::{setsockopt, sockopt::RcvBuf};

use crate::{netns::Netns, option_values::parts};

/// The receivers' first port, and how many they have.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 50;
/// How long what is under way is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// Sends are spread over steps of this length.
const STEP: Duration = Duration::from_millis(1);
/// Room for what a receiver has not read, in bytes.
const ROOM: usize = 8 << 20;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The namespace of the sender
    #[arg(long)]
    from: String,
    /// Who receives; the flows are divided among them
    #[arg(long, value_name = "NETNS,ADDRESS", value_parser = receiver, required = true)]
    to: Vec<Receiver>,
    /// How many flows
    #[arg(long, default_value_t = 50_000)]
    flows: u32,
    /// Packets per second of all flows together
    #[arg(long, default_value_t = 50_000)]
    rate: u32,
    /// How long they are sent, once each flow has begun
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Run once each flow has begun, and at the end
    #[arg(long, value_name = "COMMAND")]
    probe: Option<String>,
}

#[derive(Clone, Debug)]
struct Receiver {
    netns: Netns,
    address: IpAddr,
}

fn receiver(text: &str) -> Result<Receiver, String> {
    let [netns, address] = parts(text, "NETNS,ADDRESS")?;
    let address = address.parse().map_err(|error| format!("{address}: {error}"))?;
    Ok(Receiver { netns: Netns(netns), address })
}

/// How much was sent, and of that between the probes.
struct Sent {
    all: u64,
    between: u64,
}

/// What the receivers have counted.
#[derive(Debug, Default)]
struct Counts {
    received: AtomicU64,
    late: AtomicU64,
}

/// Sends, and prints what was sent between the probes, what was lost of all and what came out of order. What the probes
/// print comes before.
pub fn run(options: &Options) -> Result<()> {
    let per_receiver = options.flows / u32::try_from(options.to.len())?;
    let sources = usize::try_from(per_receiver / u32::from(PORTS))?;
    ensure!(sources > 0, "--flows must be at least {PORTS} for each receiver");
    let (counts, done) = (Counts::default(), AtomicBool::new(false));
    let sent = thread::scope(|scope| {
        let mut receivers = Vec::new();
        for to in &options.to {
            let sockets = in_netns(&to.netns, || listen(to.address))?;
            let (counts, done) = (&counts, &done);
            receivers.push(scope.spawn(move || receive(&sockets, sources, counts, done)));
        }
        let sent = in_netns(&Netns(options.from.clone()), || senders(options, sources)).and_then(|senders| {
            let sent = send(options, &senders);
            thread::sleep(PATIENCE);
            sent
        });
        done.store(true, Ordering::Relaxed);
        for receiver in receivers {
            receiver.join().map_err(|_| anyhow!("a receiver has panicked"))??;
        }
        sent
    })?;
    let (received, late) = (counts.received.into_inner(), counts.late.into_inner());
    let Sent { all, between } = sent;
    println!("{between} {} {late}", all.saturating_sub(received));
    Ok(())
}

/// Does something on a thread in a namespace: sockets stay in theirs.
fn in_netns<T: Send>(netns: &Netns, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            netns.enter()?;
            work()
        });
        thread.join().map_err(|_| anyhow!("a thread has panicked"))?
    })
}

fn listen(address: IpAddr) -> Result<Vec<UdpSocket>> {
    (0..PORTS)
        .map(|port| {
            let socket = UdpSocket::bind((address, FIRST_PORT + port))?;
            setsockopt(&socket, RcvBuf, &ROOM)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })
        .collect()
}

/// For each receiver its sockets, each of which has a flow to each port.
fn senders(options: &Options, sources: usize) -> Result<Vec<(IpAddr, Vec<UdpSocket>)>> {
    let any = |to: IpAddr| if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let sockets = |to: IpAddr| (0..sources).map(|_| UdpSocket::bind(any(to))).collect::<io::Result<Vec<_>>>();
    options.to.iter().map(|to| Ok((to.address, sockets(to.address).context("bind")?))).collect()
}

/// Each packet has the number of its sender's socket and its own number in the flow.
fn send(options: &Options, senders: &[(IpAddr, Vec<UdpSocket>)]) -> Result<Sent> {
    let flows: Vec<_> = (0..PORTS)
        .flat_map(|port| {
            senders.iter().map(move |(to, sockets)| (SocketAddr::new(*to, FIRST_PORT + port), sockets))
        })
        .flat_map(|(to, sockets)| {
            sockets.iter().enumerate().map(move |(number, socket)| (to, number, socket))
        })
        .collect();
    let per_step = u64::from(options.rate / 1000).max(1);
    let (mut sent, mut before, mut number) = (0_u64, 0, 0_u32);
    let begun = Instant::now();
    let mut end = None;
    loop {
        for chunk in flows.chunks(usize::try_from(per_step)?) {
            for (to, source, socket) in chunk {
                let mut packet = [0; 12];
                packet[..8].copy_from_slice(&(*source as u64).to_be_bytes());
                packet[8..].copy_from_slice(&number.to_be_bytes());
                socket.send_to(&packet, to).context("send")?;
            }
            sent += chunk.len() as u64;
            if end.is_some_and(|end| Instant::now() >= end) {
                probe(options)?;
                return Ok(Sent { all: sent, between: sent - before });
            }
            let due = begun + STEP * u32::try_from(sent / per_step)?;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        number += 1;
        if end.is_none() {
            // Each flow has begun.
            probe(options)?;
            before = sent;
            end = Some(Instant::now() + Duration::from_secs(options.seconds));
        }
    }
}

fn probe(options: &Options) -> Result<()> {
    let Some(command) = &options.probe else { return Ok(()) };
    let status =
        std::process::Command::new("bash").args(["-c", command]).status().context("run the probe")?;
    ensure!(status.success(), "the probe fails: {command}");
    Ok(())
}

fn receive(sockets: &[UdpSocket], sources: usize, counts: &Counts, done: &AtomicBool) -> Result<()> {
    // The number that is to come next, of each flow.
    let mut next = vec![vec![0_u32; sources]; sockets.len()];
    let mut packet = [0; 64];
    loop {
        let over = done.load(Ordering::Relaxed);
        let mut any = false;
        for (socket, next) in sockets.iter().zip(&mut next) {
            loop {
                match socket.recv(&mut packet) {
                    Ok(12) => {
                        any = true;
                        counts.received.fetch_add(1, Ordering::Relaxed);
                        let source = u64::from_be_bytes(packet[..8].try_into()?);
                        let number = u32::from_be_bytes(packet[8..12].try_into()?);
                        let expected = next.get_mut(usize::try_from(source)?).context("a strange packet")?;
                        if number < *expected {
                            counts.late.fetch_add(1, Ordering::Relaxed);
                        } else {
                            *expected = number + 1;
                        }
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("receive"),
                }
            }
        }
        if over && !any {
            return Ok(());
        }
        if !any {
            thread::sleep(STEP);
        }
    }
}

//! Flows whose packets and bytes are numbered, so that one that is missing is seen.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use super::machine::Machine;
use ipamd_waiting::{eventually, pause_until};

/// Room for what comes while a thread does not run.
const BUFFER: usize = 4 << 20;
/// How long the last ones may be under way.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a waiting thread looks whether it is over.
const TICK: Duration = Duration::from_millis(20);

/// What has become of a flow's numbers.
#[derive(Debug, Default)]
struct Tally {
    sent: u64,
    /// Numbers that arrived at the far end.
    arrived: BTreeSet<u64>,
    /// Numbers that came back.
    answered: BTreeSet<u64>,
    last_arrival: Option<Instant>,
    /// The longest time between two arrivals.
    longest_gap: Duration,
    faults: Vec<String>,
}

impl Tally {
    fn arrive(&mut self, number: u64) {
        let now = Instant::now();
        if let Some(last) = self.last_arrival.replace(now) {
            self.longest_gap = self.longest_gap.max(now - last);
        }
        self.arrived.insert(number);
    }
}

#[derive(Debug, Default)]
struct Shared {
    tally: Mutex<Tally>,
    /// Nothing more is sent.
    quiet: AtomicBool,
    over: AtomicBool,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Sends a number at each `pace` until the flow is quiet.
    fn pace(&self, pace: Duration, mut send: impl FnMut(u64) -> std::io::Result<()>) {
        let began = Instant::now();
        let mut next = 0;
        while !self.quiet.load(Ordering::Relaxed) {
            if let Err(error) = send(next) {
                self.tally().faults.push(format!("send {next}: {error}"));
                // A datagram's error concerns it alone; those of a connection end it.
                if !matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::WouldBlock) {
                    break;
                }
            }
            next += 1;
            self.tally().sent = next;
            let due = began + pace.saturating_mul(u32::try_from(next).unwrap_or(u32::MAX));
            pause_until(due);
        }
    }
}

/// A flow under way, both ways: the far end sends back what it gets. It ends when this is dropped.
#[derive(Debug)]
pub struct Flow {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    streams: Vec<TcpStream>,
}

/// What has become of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowReport {
    /// How many numbers were sent.
    pub sent: u64,
    /// How many arrived.
    pub arrived: u64,
    /// How many came back.
    pub answered: u64,
    /// The first numbers that did not arrive or not come back.
    pub missing: Vec<u64>,
    /// The longest time between two arrivals.
    pub longest_gap: Duration,
    /// Errors of the sockets.
    pub faults: Vec<String>,
}

impl FlowReport {
    /// Fails unless everything arrived and came back.
    pub fn whole(&self, what: &str) -> Result<()> {
        ensure!(
            self.arrived == self.sent
                && self.answered == self.sent
                && self.faults.is_empty()
                && self.sent > 0,
            "{what}: {self:?}"
        );
        Ok(())
    }
}

impl Flow {
    /// How many numbers have arrived.
    pub fn arrived(&self) -> u64 {
        self.shared.tally().arrived.len() as u64
    }

    /// How many numbers were sent.
    pub fn sent(&self) -> u64 {
        self.shared.tally().sent
    }

    /// When the last one arrived.
    pub fn last_arrival(&self) -> Option<Instant> {
        self.shared.tally().last_arrival
    }

    /// Waits until it is under way, or is so again: until more numbers come back than now.
    pub fn goes_on(&self) -> bool {
        let answered = self.shared.tally().answered.len();
        eventually(PATIENCE, || self.shared.tally().answered.len() > answered + 2)
    }

    /// Whether nothing has arrived for so long.
    pub fn is_silent_for(&self, period: Duration) -> bool {
        self.last_arrival().is_none_or(|last| last.elapsed() >= period)
    }

    /// What its sockets complained of.
    pub fn faults(&self) -> Vec<String> {
        self.shared.tally().faults.clone()
    }

    /// Sends no more, waits for what is under way, and reports.
    pub fn end(mut self) -> FlowReport {
        self.shared.quiet.store(true, Ordering::Relaxed);
        // The first thread is the one that sends: it may be about to send one more.
        eventually(PATIENCE, || self.threads[0].is_finished());
        eventually(PATIENCE, || {
            let tally = self.shared.tally();
            tally.answered.len() as u64 == tally.sent && tally.arrived.len() as u64 == tally.sent
        });
        self.join();
        let tally = self.shared.tally();
        let missing = (0..tally.sent).filter(|n| !tally.arrived.contains(n) || !tally.answered.contains(n));
        FlowReport {
            sent: tally.sent,
            arrived: tally.arrived.len() as u64,
            answered: tally.answered.len() as u64,
            missing: missing.take(10).collect(),
            longest_gap: tally.longest_gap,
            faults: tally.faults.clone(),
        }
    }

    fn join(&mut self) {
        self.shared.quiet.store(true, Ordering::Relaxed);
        self.shared.over.store(true, Ordering::Relaxed);
        for stream in &self.streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }

    fn udp(from: &impl Machine, to: &impl Machine, at: SocketAddr, pace: Duration) -> Result<Self> {
        let far = to.netns().inside(|| UdpSocket::bind(at)).with_context(|| format!("listen on {at}"))?;
        let at = far.local_addr()?;
        let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let near = from.netns().inside(|| {
            let near = UdpSocket::bind(any)?;
            near.connect(at)?;
            Ok::<_, std::io::Error>(near)
        })?;
        for socket in [&far, &near] {
            setsockopt(socket, RcvBufForce, &BUFFER)?;
            socket.set_read_timeout(Some(TICK))?;
        }
        let shared = Arc::<Shared>::default();
        let sender = near.try_clone()?;
        let [sending, arriving, answering] = [0; 3].map(|_| Arc::clone(&shared));
        let threads = vec![
            thread::spawn(move || sending.pace(pace, |number| sender.send(&number.to_be_bytes()).map(drop))),
            thread::spawn(move || {
                let mut buffer = [0; 8];
                while !arriving.is_over() {
                    if let Ok((8, peer)) = far.recv_from(&mut buffer) {
                        arriving.tally().arrive(u64::from_be_bytes(buffer));
                        let _ = far.send_to(&buffer, peer);
                    }
                }
            }),
            thread::spawn(move || {
                let mut buffer = [0; 8];
                while !answering.is_over() {
                    if let Ok(8) = near.recv(&mut buffer) {
                        answering.tally().answered.insert(u64::from_be_bytes(buffer));
                    }
                }
            }),
        ];
        Ok(Self { shared, threads, streams: Vec::new() })
    }

    fn tcp(from: &impl Machine, to: &impl Machine, at: SocketAddr, pace: Duration) -> Result<Self> {
        let listener =
            to.netns().inside(|| TcpListener::bind(at)).with_context(|| format!("listen on {at}"))?;
        let at = listener.local_addr()?;
        let near = from.netns().inside(|| TcpStream::connect_timeout(&at, PATIENCE));
        let near = near.with_context(|| format!("connect to {at}"))?;
        let (far, _) = listener.accept()?;
        for stream in [&near, &far] {
            stream.set_nodelay(true)?;
        }
        let shared = Arc::<Shared>::default();
        let streams = vec![near.try_clone()?, far.try_clone()?];
        let mut sender = near.try_clone()?;
        let mut back = far.try_clone()?;
        let [sending, arriving, answering] = [0; 3].map(|_| Arc::clone(&shared));
        let threads = vec![
            thread::spawn(move || sending.pace(pace, |number| sender.write_all(&number.to_be_bytes()))),
            thread::spawn(move || {
                arriving.read_in_order("there", far, Tally::arrive, |bytes| back.write_all(bytes));
            }),
            thread::spawn(move || {
                let answered = |tally: &mut Tally, number| {
                    tally.answered.insert(number);
                };
                answering.read_in_order("back", near, answered, |_| Ok(()));
            }),
        ];
        Ok(Self { shared, threads, streams })
    }
}

impl Shared {
    fn read_in_order(
        &self,
        way: &str,
        mut stream: TcpStream,
        mut note: impl FnMut(&mut Tally, u64),
        mut then: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) {
        let mut bytes = [0; 8];
        for expected in 0.. {
            let got = stream.read_exact(&mut bytes).and_then(|()| then(&bytes));
            if self.is_over() {
                return;
            }
            let number = u64::from_be_bytes(bytes);
            let mut tally = self.tally();
            match got {
                Err(error) => tally.faults.push(format!("{way}, {expected}: {error}")),
                Ok(()) if number != expected => {
                    tally.faults.push(format!("{way}: {number} instead of {expected}"));
                }
                Ok(()) => {
                    note(&mut tally, number);
                    continue;
                }
            }
            return;
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.join();
    }
}

/// Numbered flows of a machine.
pub trait Flowing: Machine + Sized {
    /// Sends numbered datagrams to `at`, an address of `to`, where a server is made that sends them back.
    fn udp_flow(&self, to: &impl Machine, at: impl Into<SocketAddr>, pace: Duration) -> Result<Flow> {
        Flow::udp(self, to, at.into(), pace)
    }

    /// Sends numbers by TCP to `at`, an address of `to`, where a server is made that sends them back.
    fn tcp_flow(&self, to: &impl Machine, at: impl Into<SocketAddr>, pace: Duration) -> Result<Flow> {
        Flow::tcp(self, to, at.into(), pace)
    }
}

impl<M: Machine> Flowing for M {}

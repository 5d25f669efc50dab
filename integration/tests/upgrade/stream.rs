//! Many numbered datagrams a second, one way, so that one that is missing or comes too late is seen.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use integration::testbed::{Machine, eventually, pause_until};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

/// Room for what comes while a thread does not run.
const BUFFER: usize = 32 << 20;
/// How often a waiting thread looks whether it is over.
const TICK: Duration = Duration::from_millis(50);
/// How long the last ones may be under way.
const PATIENCE: Duration = Duration::from_secs(10);

/// What has become of the numbers at one end.
#[derive(Debug, Default)]
struct End {
    arrived: AtomicU64,
    /// Numbers that came behind a greater one, or again.
    reordered: AtomicU64,
    /// The longest time between two, in microseconds.
    gap: AtomicU64,
}

impl End {
    /// Takes numbers until it is over; `then` does what else is to be done with each.
    fn listen(&self, socket: &UdpSocket, over: &AtomicBool, mut then: impl FnMut(&[u8; 8], SocketAddr)) {
        let (mut buffer, mut next, mut last) = ([0; 8], 0, None::<Instant>);
        while !over.load(Ordering::Relaxed) {
            let Ok((8, peer)) = socket.recv_from(&mut buffer) else { continue };
            let now = Instant::now();
            if let Some(last) = last.replace(now) {
                let gap = u64::try_from((now - last).as_micros()).unwrap_or(u64::MAX);
                self.gap.fetch_max(gap, Ordering::Relaxed);
            }
            let number = u64::from_be_bytes(buffer);
            if number < next {
                self.reordered.fetch_add(1, Ordering::Relaxed);
            }
            next = next.max(number + 1);
            self.arrived.fetch_add(1, Ordering::Relaxed);
            then(&buffer, peer);
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    sent: AtomicU64,
    there: End,
    back: End,
    quiet: AtomicBool,
    over: AtomicBool,
}

/// A stream under way. The far end sends every number back.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What has become of a stream since it was asked last: both ways together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// How many packets were sent, answers included.
    pub sent: u64,
    /// How many did not arrive.
    pub lost: u64,
    /// How many came behind a later one, or twice.
    pub reordered: u64,
    /// The longest time between two arrivals.
    pub gap: Duration,
}

impl Stream {
    /// Sends `rate` numbers a second from a machine to an address of another one.
    pub fn start(from: &impl Machine, to: &impl Machine, at: SocketAddr, rate: u32) -> Result<Self> {
        let far = to.netns().inside(|| UdpSocket::bind(at)).with_context(|| format!("listen on {at}"))?;
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
        let [sending, arriving, answering] = [0; 3].map(|_| Arc::clone(&shared));
        let sender = near.try_clone()?;
        let threads = vec![
            thread::spawn(move || {
                let (began, mut number) = (Instant::now(), 0_u64);
                while !sending.quiet.load(Ordering::Relaxed) {
                    // A refusal by the node counts as lost: the number does not arrive.
                    let _ = sender.send(&number.to_be_bytes());
                    number += 1;
                    sending.sent.store(number, Ordering::Relaxed);
                    let due = began + Duration::from_nanos(number * 1_000_000_000 / u64::from(rate));
                    let ahead = due.saturating_duration_since(Instant::now());
                    // Some at a time: sleeping is what costs.
                    if ahead > Duration::from_millis(1) {
                        pause_until(due);
                    }
                }
            }),
            thread::spawn(move || {
                arriving.there.listen(&far, &arriving.over, |bytes, peer| {
                    let _ = far.send_to(bytes, peer);
                });
            }),
            thread::spawn(move || answering.back.listen(&near, &answering.over, |_, _| {})),
        ];
        Ok(Self { shared, threads })
    }

    /// How many numbers have arrived at the far end.
    pub fn arrived(&self) -> u64 {
        self.shared.there.arrived.load(Ordering::Relaxed)
    }

    /// Sends no more, waits for what is under way, and reports.
    pub fn end(mut self) -> Report {
        self.shared.quiet.store(true, Ordering::Relaxed);
        let sender = self.threads.remove(0);
        let _ = sender.join();
        let shared = &self.shared;
        let sent = shared.sent.load(Ordering::Relaxed);
        let arrived = |end: &End| end.arrived.load(Ordering::Relaxed);
        eventually(PATIENCE, || arrived(&shared.there) >= sent && arrived(&shared.back) >= sent);
        let (there, back) = (arrived(&shared.there), arrived(&shared.back));
        let gap = [&shared.there, &shared.back].map(|end| end.gap.load(Ordering::Relaxed));
        let reordered = [&shared.there, &shared.back].map(|end| end.reordered.load(Ordering::Relaxed));
        Report {
            sent: sent + there,
            lost: sent.saturating_sub(there) + there.saturating_sub(back),
            reordered: reordered.iter().sum(),
            gap: Duration::from_micros(gap.into_iter().max().unwrap_or(0)),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.quiet.store(true, Ordering::Relaxed);
        self.shared.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

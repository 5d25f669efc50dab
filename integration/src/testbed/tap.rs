//! Counting what really arrives in a namespace, whoever listens there.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
        sockopt::RcvBufForce,
    },
};

use super::{machine::Machine, netns::Netns};
use ipamd_waiting::time_passes;

/// Packets on their way out, in `sockaddr_ll`.
const PACKET_OUTGOING: u8 = 4;
/// Room for what comes while the thread does not run.
const BUFFER: usize = 16 << 20;

/// Counts the packets that arrive on any interface of a namespace with a mark in them.
#[derive(Debug)]
pub struct Tap {
    seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    count: AtomicU64,
    last: Mutex<Option<Instant>>,
}

impl Tap {
    pub(super) fn open(
        netns: &Netns,
        mark: &str,
        wanted: impl Fn(&[u8]) -> bool + Send + 'static,
    ) -> Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let tapped = netns
            .inside(|| socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll))
            .context("tap a namespace")?;
        setsockopt(&tapped, RcvBufForce, &BUFFER)?;
        let (seen, stop) = (Arc::<Seen>::default(), Arc::<AtomicBool>::default());
        let (counted, stopped, mark) = (Arc::clone(&seen), Arc::clone(&stop), mark.as_bytes().to_vec());
        let thread = thread::spawn(move || {
            loop {
                let over = stopped.load(Ordering::Relaxed);
                let mut waiting = [PollFd::new(std::os::fd::AsFd::as_fd(&tapped), PollFlags::POLLIN)];
                let _ = poll(&mut waiting, PollTimeout::from(20_u8));
                counted.drain(&tapped, &mark, &wanted);
                if over {
                    break;
                }
            }
        });
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// How many have arrived.
    pub fn count(&self) -> u64 {
        self.seen.count.load(Ordering::Relaxed)
    }

    /// When the last one was taken note of.
    pub fn last(&self) -> Option<Instant> {
        *self.seen.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops, once all that has arrived is counted, and says how much that was.
    pub fn end(mut self) -> u64 {
        self.join();
        self.count()
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.join();
    }
}

impl Seen {
    fn drain(&self, tapped: &OwnedFd, mark: &[u8], wanted: &impl Fn(&[u8]) -> bool) {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = recvfrom::<LinkAddr>(tapped.as_raw_fd(), &mut buffer) {
            let outgoing = from.is_some_and(|from| from.pkttype() == PACKET_OUTGOING);
            let packet = &buffer[..length.min(buffer.len())];
            if !outgoing && packet.windows(mark.len()).any(|part| part == mark) && wanted(packet) {
                self.count.fetch_add(1, Ordering::Relaxed);
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
        }
    }
}

/// Datagrams with a mark, sent as fast as `pause` allows whether there is a way or not, until this is dropped.
#[derive(Debug)]
pub struct Spray {
    tried: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Spray {
    pub(super) fn start(netns: &Netns, to: Vec<SocketAddr>, mark: &str, pause: Duration) -> Result<Self> {
        let sockets = netns.inside(|| {
            let any = |to: &SocketAddr| if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            to.iter().map(|to| UdpSocket::bind(any(to))).collect::<std::io::Result<Vec<_>>>()
        })?;
        let (sent, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (counted, stopped, mark) = (Arc::clone(&sent), Arc::clone(&stop), mark.as_bytes().to_vec());
        let tried = Arc::<AtomicU64>::default();
        let all = Arc::clone(&tried);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for (socket, to) in sockets.iter().zip(&to) {
                    all.fetch_add(1, Ordering::Relaxed);
                    if socket.send_to(&mark, to).is_ok() {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                }
                time_passes(pause, "a sender keeps its pace");
            }
        });
        Ok(Self { tried, sent, stop, thread: Some(thread) })
    }

    /// How many it has tried to send.
    pub fn tried(&self) -> u64 {
        self.tried.load(Ordering::Relaxed)
    }

    /// How many the sender's kernel took.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Spray {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Taps and sprays of a machine.
pub trait Marked: Machine {
    /// Counts what arrives with that mark.
    fn tap(&self, mark: &str) -> Result<Tap> {
        Tap::open(self.netns(), mark, |_| true)
    }

    /// Counts what of that arrives of which `wanted` is true. It is given the packet from its IP header on.
    fn tap_where(&self, mark: &str, wanted: impl Fn(&[u8]) -> bool + Send + 'static) -> Result<Tap> {
        Tap::open(self.netns(), mark, wanted)
    }

    /// Sends datagrams with that mark.
    fn spray(&self, to: Vec<SocketAddr>, mark: &str, pause: Duration) -> Result<Spray> {
        Spray::start(self.netns(), to, mark, pause)
    }
}

impl<M: Machine> Marked for M {}

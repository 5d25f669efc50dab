//! TCP with every byte compared.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::readable::await_readable;
use anyhow::{Context, Result, ensure};

/// How long a connection may stand still.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server that sends back what it gets, until it is dropped.
#[derive(Debug)]
pub struct TcpEcho {
    address: SocketAddr,
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TcpEcho {
    /// Listens in the namespace of the calling thread.
    pub(super) fn listen(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (peers, stop) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let (seen, stopped) = (Arc::clone(&peers), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, peer)) => {
                        seen.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
                        thread::spawn(move || echo(stream));
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => await_readable(&listener),
                    Err(_) => break,
                }
            }
        });
        Ok(Self { address, peers, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who has connected, as it looks from here.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TcpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(Duration::from_mins(1)));
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
}

/// A connection to a [`TcpEcho`].
#[derive(Debug)]
pub struct TcpStreamCheck {
    stream: TcpStream,
}

impl TcpStreamCheck {
    pub(super) fn connect(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))
            .with_context(|| format!("connect to {to}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream })
    }

    /// Our end of the connection.
    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// Sends `length` bytes, and expects the very same back.
    ///
    /// # Panics
    /// If no thread can be started.
    pub fn exchange(&self, length: usize) -> Result<()> {
        let (mut out, mut back) = (&self.stream, &self.stream);
        let sent = pattern(length);
        thread::scope(|scope| {
            let sender = scope.spawn(|| out.write_all(&sent));
            let mut received = vec![0; length];
            back.read_exact(&mut received).context("read what should come back")?;
            sender.join().expect("the thread ran").context("send")?;
            let differs = sent.iter().zip(&received).position(|(sent, received)| sent != received);
            ensure!(differs.is_none(), "byte {differs:?} of {length} came back changed");
            Ok(())
        })
    }

    /// Closes it.
    pub fn close(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Bytes without a pattern that a lost or swapped segment would fit.
pub fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

//! What answers probes: one thread for all ports of a machine.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::service::{Protocol, Service};

/// Servers that accept every connection and send every datagram back, until this is dropped.
#[derive(Debug)]
pub struct Listeners {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Listeners {
    /// Listens in the namespace of the calling thread.
    pub(super) fn open(addresses: &[IpAddr], services: &[Service]) -> Result<Self> {
        let mut listeners = Vec::new();
        for address in addresses {
            for service in services {
                let at = SocketAddr::new(*address, service.port);
                listeners
                    .push(Listener::open(at, service.protocol).with_context(|| format!("listen on {at}"))?);
            }
        }
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut waiting: Vec<_> =
                    listeners.iter().map(|one| PollFd::new(one.as_fd(), PollFlags::POLLIN)).collect();
                if poll(&mut waiting, PollTimeout::from(50_u8)).is_err() {
                    continue;
                }
                let ready: Vec<bool> = waiting.iter().map(|fd| fd.any().unwrap_or(true)).collect();
                listeners.iter().zip(ready).filter(|(_, ready)| *ready).for_each(|(one, _)| one.answer());
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Listener {
    fn open(at: SocketAddr, protocol: Protocol) -> std::io::Result<Self> {
        match protocol {
            Protocol::Tcp => {
                let listener = TcpListener::bind(at)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(listener))
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind(at)?;
                socket.set_nonblocking(true)?;
                Ok(Self::Udp(socket))
            }
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }

    /// Answers all that has come.
    fn answer(&self) {
        let mut buffer = [0; 2048];
        loop {
            let failed = match self {
                Self::Tcp(listener) => listener.accept().map(drop).err(),
                Self::Udp(socket) => socket
                    .recv_from(&mut buffer)
                    .map(|(length, peer)| {
                        let _ = socket.send_to(&buffer[..length], peer);
                    })
                    .err(),
            };
            // Errors of one connection, as of a peer that is unreachable, are not those of the listener.
            match failed.map(|error| error.kind()) {
                None | Some(ErrorKind::ConnectionAborted | ErrorKind::ConnectionRefused) => {}
                Some(_) => return,
            }
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

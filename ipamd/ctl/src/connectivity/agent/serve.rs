//! Serving: an agent answers who it is and whom it sees.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use nix::{errno::Errno, ifaddrs::getifaddrs};

use super::{
    exchange::{self, Answer, plain},
    options::{self, Larger},
};

/// How long an address may be looked at by duplicate address detection before it can be bound.
const TENTATIVE: Duration = Duration::from_secs(5);
/// How long a client may keep a connection.
const PATIENCE: Duration = Duration::from_secs(20);
/// More than the largest datagram.
const LARGEST: usize = 65_536;

/// A port cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("{name} cannot serve port {port}: {source}")]
pub(super) struct ServeError {
    name: String,
    port: u16,
    source: io::Error,
}

/// Serves a port over TCP and UDP, on threads of its own, until the process ends.
pub(super) fn start(name: &str, port: u16) -> Result<(), ServeError> {
    let failed = |source| ServeError { name: name.to_owned(), port, source };
    let listener = listener(port).map_err(failed)?;
    let accepting = name.to_owned();
    thread::spawn(move || accept(&listener, &accepting));
    // A socket for each address: one for all of them would answer from the address that the route to the client suggests,
    // which on a node is not always the one that was asked.
    for address in addresses().map_err(failed)? {
        let socket = bind((address, port).into()).map_err(failed)?;
        options::set(&socket, address, Larger::Cut).map_err(failed)?;
        let name = name.to_owned();
        thread::spawn(move || answer(&socket, &name));
    }
    Ok(())
}

fn listener(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|error| match error.raw_os_error() {
        // A machine without IPv6.
        Some(code) if code == Errno::EAFNOSUPPORT as i32 || code == Errno::EADDRNOTAVAIL as i32 => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        }
        _ => Err(error),
    })
}

fn addresses() -> io::Result<Vec<IpAddr>> {
    let mut found: Vec<IpAddr> = getifaddrs()?
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
        })
        .filter(|address| !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()))
        .collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let end = Instant::now() + TENTATIVE;
    loop {
        match UdpSocket::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && Instant::now() < end => {
                thread::sleep(Duration::from_millis(50));
            }
            bound => return bound,
        }
    }
}

fn accept(listener: &TcpListener, name: &str) {
    loop {
        match listener.accept() {
            Ok((stream, client)) => {
                let name = name.to_owned();
                // Clients come and go; what becomes of one is its own affair.
                thread::spawn(move || serve(stream, &Answer { name, client: plain(client) }));
            }
            // Out of descriptors, perhaps.
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn serve(mut stream: TcpStream, answer: &Answer) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let asked = exchange::read_block(&mut stream)?;
    exchange::write_block(&mut stream, &serde_json::to_vec(answer)?)?;
    exchange::write_block(&mut stream, &asked)?;
    stream.flush()
}

fn answer(socket: &UdpSocket, name: &str) {
    let mut bytes = vec![0; LARGEST];
    loop {
        // An error is the echo of an earlier answer that nobody took.
        let Ok((length, client)) = socket.recv_from(&mut bytes) else { continue };
        let who = Answer { name: name.to_owned(), client: plain(client) };
        if let Some(answer) = exchange::answer(&bytes[..length], &who) {
            let _ = socket.send_to(&answer, client);
        }
    }
}

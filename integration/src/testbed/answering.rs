//! Servers that say who they are and who asked, and clients that ask: for whatever chooses among servers.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{machine::Machine, readable::await_readable};

/// How long a client waits.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a server looks whether it should end.
const LOOK: Duration = Duration::from_millis(20);

/// A server on a TCP and a UDP port of a machine. A line of TCP that it gets comes back; a datagram is answered by one.
#[derive(Debug)]
pub struct Answering {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The server's name.
    pub name: String,
    /// The client, as the server sees it.
    pub client: SocketAddr,
    /// The server, as the client's socket says.
    pub peer: SocketAddr,
}

impl Answering {
    /// Serves at a port of all addresses of a machine, under a name.
    pub fn start(machine: &impl Machine, name: &str, port: u16) -> Result<Self> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let bind = || Ok::<_, io::Error>((TcpListener::bind(any)?, UdpSocket::bind(any)?));
        let (tcp, udp) =
            machine.netns().inside(bind).with_context(|| format!("serve {name} at port {port}"))?;
        tcp.set_nonblocking(true)?;
        udp.set_read_timeout(Some(LOOK))?;
        let stop = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        threads.push({
            let (stop, name, accepted) = (Arc::clone(&stop), name.to_owned(), Arc::clone(&accepted));
            thread::spawn(move || serve_tcp(&tcp, &name, &stop, &accepted))
        });
        threads.push({
            let (stop, name) = (Arc::clone(&stop), name.to_owned());
            thread::spawn(move || serve_udp(&udp, &name, &stop))
        });
        Ok(Self { stop, accepted, threads })
    }

    /// Connections that it has taken.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve_tcp(listener: &TcpListener, name: &str, stop: &Arc<AtomicBool>, accepted: &AtomicU64) {
    let mut clients = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, client)) => {
                accepted.fetch_add(1, Ordering::Relaxed);
                let (name, stop) = (name.to_owned(), Arc::clone(stop));
                clients.push(thread::spawn(move || drop(serve_client(stream, client, &name, &stop))));
            }
            Err(_) => await_readable(listener),
        }
        clients.retain(|client| !client.is_finished());
    }
    for client in clients {
        let _ = client.join();
    }
}

fn serve_client(mut stream: TcpStream, client: SocketAddr, name: &str, stop: &AtomicBool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LOOK))?;
    writeln!(stream, "{name} {client}")?;
    let mut bytes = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(length) => stream.write_all(&bytes[..length])?,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn serve_udp(socket: &UdpSocket, name: &str, stop: &AtomicBool) {
    let mut bytes = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((_, client)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(format!("{name} {client}").as_bytes(), client);
        }
    }
}

fn answer(text: &str, peer: SocketAddr) -> io::Result<Answer> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("an answer {text:?}"));
    let (name, client) = text.trim().split_once(' ').ok_or_else(wrong)?;
    let client: SocketAddr = client.parse().map_err(|_| wrong())?;
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    Ok(Answer { name: name.to_owned(), client, peer })
}

/// A connection to an [`Answering`] server that stays.
#[derive(Debug)]
pub struct Conversation {
    stream: BufReader<TcpStream>,
    /// What the server said first.
    pub answer: Answer,
}

impl Conversation {
    /// Has a short line come back.
    pub fn goes_on(&mut self) -> io::Result<()> {
        self.carries(10)
    }

    /// Has a line of so many bytes come back.
    pub fn carries(&mut self, length: usize) -> io::Result<()> {
        let sent: String = ('a'..='z').cycle().take(length).chain(['\n']).collect();
        self.stream.get_mut().write_all(sent.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if line == sent { Ok(()) } else { Err(io::Error::other(format!("{line:?} came back"))) }
    }

    /// Its socket.
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }
}

/// What asks.
pub trait Asking: Machine {
    /// Opens a TCP connection that stays.
    fn converse(&self, to: SocketAddr) -> io::Result<Conversation> {
        self.netns().inside(|| {
            let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let peer = stream.peer_addr()?;
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line)?;
            Ok(Conversation { stream, answer: answer(&line, peer)? })
        })
    }

    /// Asks by TCP.
    fn ask_tcp(&self, to: SocketAddr) -> io::Result<Answer> {
        self.converse(to).map(|conversation| conversation.answer)
    }

    /// Asks by UDP, on a socket that is connected.
    fn ask_udp(&self, to: SocketAddr) -> io::Result<Answer> {
        self.netns().inside(|| {
            let socket = UdpSocket::bind(any(to))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(to)?;
            ask_on(&socket, to)
        })
    }

    /// Asks by UDP, on a socket that is not; the answer must come from where it was sent.
    fn ask_udp_unconnected(&self, to: SocketAddr) -> io::Result<Answer> {
        self.netns().inside(|| {
            let socket = UdpSocket::bind(any(to))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            ask_from(&socket, to)
        })
    }

    /// Connects a UDP socket of the machine. A socket keeps its namespace, whoever uses it.
    fn connect(&self, socket: &UdpSocket, to: SocketAddr) -> io::Result<()> {
        socket.connect(to)
    }

    /// A UDP socket in the machine's namespace.
    fn udp_socket(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        self.netns().inside(|| {
            let socket = UdpSocket::bind(any(to))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(socket)
        })
    }
}

impl<M: Machine> Asking for M {}

fn any(to: SocketAddr) -> SocketAddr {
    let address: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(address, 0)
}

/// Asks on a socket that is connected.
pub fn ask_on(socket: &UdpSocket, _to: SocketAddr) -> io::Result<Answer> {
    socket.send(b"who")?;
    let mut bytes = [0; 4096];
    let length = socket.recv(&mut bytes)?;
    answer(&String::from_utf8_lossy(&bytes[..length]), socket.peer_addr()?)
}

/// Asks on a socket that is not connected.
pub fn ask_from(socket: &UdpSocket, to: SocketAddr) -> io::Result<Answer> {
    socket.send_to(b"who", to)?;
    let mut bytes = [0; 4096];
    let (length, from) = socket.recv_from(&mut bytes)?;
    if from != to {
        return Err(io::Error::other(format!("{from} answered, not {to}")));
    }
    answer(&String::from_utf8_lossy(&bytes[..length]), from)
}

//! A DNS server that answers from a table.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::dns_message::{A, AAAA, Message, NO_SUCH_NAME, Record};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a name is.
#[derive(Clone, Debug, Default)]
pub struct DnsAnswer {
    /// Names that lead to the addresses, one after the other.
    pub aliases: Vec<String>,
    /// The addresses, of both families.
    pub addresses: Vec<IpAddr>,
    /// Seconds.
    pub ttl: u32,
}

type Table = Arc<Mutex<HashMap<String, DnsAnswer>>>;

/// A server that answers over UDP and TCP, until it is dropped.
#[derive(Debug)]
pub struct DnsServer {
    table: Table,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DnsServer {
    /// Listens in the namespace of the calling thread.
    pub(super) fn listen(address: SocketAddr) -> Result<Self> {
        let datagrams = UdpSocket::bind(address).with_context(|| format!("listen on {address}"))?;
        let connections = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        let (table, stop) = (Table::default(), Arc::<AtomicBool>::default());
        let (known, stopped) = (Arc::clone(&table), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stopped.load(Ordering::Relaxed) {
                let mut ready =
                    [datagrams.as_fd(), connections.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                if poll(&mut ready, PollTimeout::from(50_u8)).is_err() {
                    continue;
                }
                let [datagram, connection] = ready.map(|fd| fd.any().unwrap_or(false));
                if datagram
                    && let Ok((length, client)) = datagrams.recv_from(&mut buffer)
                    && let Some(answer) = answer(&known, &buffer[..length])
                {
                    let _ = datagrams.send_to(&answer.bytes(), client);
                }
                if connection && let Ok((stream, _)) = connections.accept() {
                    let _ = serve(&known, stream);
                }
            }
        });
        Ok(Self { table, stop, thread: Some(thread) })
    }

    /// Says what a name is from now on.
    pub fn put(&self, name: &str, answer: DnsAnswer) {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), answer);
    }

    /// The same of a name that has one address.
    pub fn put_address(&self, name: &str, address: IpAddr) {
        self.put(name, DnsAnswer { addresses: vec![address], ttl: 300, ..DnsAnswer::default() });
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Answers the questions of one connection.
fn serve(table: &Table, mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut message = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut message)?;
        if let Some(answer) = answer(table, &message) {
            stream.write_all(&answer.framed())?;
        }
    }
    Ok(())
}

fn answer(table: &Table, question: &[u8]) -> Option<Message> {
    let question = Message::parse_question(question)?;
    let table = table.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(known) = table.get(&question.name.to_ascii_lowercase()) else {
        let nothing = question.answered(Vec::new());
        return Some(Message { flags: nothing.flags | NO_SUCH_NAME, ..nothing });
    };
    let (mut owner, mut records) = (None::<&str>, Vec::new());
    let of = |record: Record, owner: Option<&str>| owner.map_or(record.clone(), |owner| record.of(owner));
    for alias in &known.aliases {
        records.push(of(Record::cname(alias, known.ttl), owner));
        owner = Some(alias);
    }
    let wanted = known.addresses.iter().filter(|address| {
        question.kind == A && address.is_ipv4() || question.kind == AAAA && address.is_ipv6()
    });
    records.extend(wanted.map(|address| of(Record::address(*address, known.ttl), owner)));
    Some(question.answered(records))
}

/// A client of a DNS server.
#[derive(Debug)]
pub struct DnsClient {
    socket: UdpSocket,
    next: u16,
}

impl DnsClient {
    /// Asks that server, from the namespace of the calling thread.
    pub(super) fn of(server: SocketAddr) -> Result<Self> {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(server)?;
        Ok(Self { socket, next: 1 })
    }

    /// Asks for a name's addresses of one family, and waits until an answer has come.
    pub fn look_up(&mut self, name: &str, kind: u16) -> Result<()> {
        let question = Message::question(self.next, name, kind);
        self.next = self.next.wrapping_add(1);
        self.socket.send(&question.bytes())?;
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).with_context(|| format!("no answer about {name}"))?;
        ensure!(length >= 2 && buffer[..2] == question.id.to_be_bytes(), "an answer to another question");
        Ok(())
    }
}

/// Asks by TCP.
pub(super) fn look_up_by_tcp(server: SocketAddr, name: &str, kind: u16) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&Message::question(9, name, kind).framed())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message)?;
    ensure!(message.starts_with(&9_u16.to_be_bytes()), "an answer to another question");
    Ok(())
}

//! Sockets that are connected to a peer are ended, and no others.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Netns, eventually},
};
use ipamd_kernel::netlink::{Found, Outcome, Peer, Protocol, SocketDiag, netns_cookie};
use nix::libc;

/// The port of the backend that is gone, and of the one that stays, at each address.
const GONE: u16 = 7001;
const STAYS: u16 = 7002;

/// An address as the client writes it, and as the server has it.
const ROUTES: [(&str, &str); 3] =
    [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::ffff:127.0.0.1", "127.0.0.1")];

const PATIENCE: Duration = Duration::from_secs(5);

/// What listens at one address and port.
struct Server {
    at: SocketAddr,
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Server {
    /// Listens in the namespace of the calling thread.
    fn listen(address: &str, port: u16) -> io::Result<Self> {
        let at = SocketAddr::new(address.parse::<IpAddr>().map_err(io::Error::other)?, port);
        let udp = UdpSocket::bind(at)?;
        udp.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { at, tcp: TcpListener::bind(at)?, udp })
    }
}

/// A client's socket, and for TCP the server's end of it.
enum Client {
    Tcp(TcpStream, TcpStream),
    Udp(UdpSocket),
}

impl Client {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(near, _) => near.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }

    fn cookie(&self) -> io::Result<u64> {
        let mut cookie = 0_u64;
        let mut length: libc::socklen_t = 8;
        // SAFETY: the kernel writes at most `length` bytes to `cookie`; both live on past the call.
        let result = unsafe {
            libc::getsockopt(
                self.fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        };
        if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
    }

    /// Fails unless the next call says that the connection was ended.
    fn ensure_ended(&mut self) -> Result<()> {
        let said = match self {
            Self::Tcp(near, _) => near.read(&mut [0; 8]),
            Self::Udp(socket) => socket.recv(&mut [0; 8]),
        };
        let said = said.map_err(|error| error.raw_os_error());
        ensure!(said == Err(Some(libc::ECONNABORTED)), "the client was told {said:?}");
        Ok(())
    }

    /// Fails unless what it sends arrives at `server`.
    fn ensure_lives(&mut self, server: &Server) -> Result<()> {
        let mut word = [0; 4];
        match self {
            Self::Tcp(near, far) => {
                near.write_all(b"word")?;
                far.read_exact(&mut word)?;
            }
            Self::Udp(socket) => {
                socket.send(b"word")?;
                server.udp.recv(&mut word)?;
            }
        }
        ensure!(&word == b"word");
        Ok(())
    }
}

/// A namespace with servers, and clients of each sort connected to each.
struct Machine {
    netns: Netns,
    servers: Vec<Server>,
    clients: Vec<(Peer, &'static str, Client)>,
}

impl Machine {
    fn start(label: &str) -> Result<Self> {
        let netns = Netns::new(label)?;
        let (servers, clients) = netns.inside(|| -> Result<_> {
            let mut servers = Vec::new();
            for address in ["127.0.0.1", "::1"] {
                for port in [GONE, STAYS] {
                    servers.push(Server::listen(address, port).context(format!("listen on {address}"))?);
                }
            }
            let mut clients = Vec::new();
            for (written, address) in ROUTES {
                for server in servers.iter().filter(|server| server.at.ip().to_string() == address) {
                    let to = SocketAddr::new(written.parse()?, server.at.port());
                    for protocol in [Protocol::Tcp, Protocol::Udp] {
                        let client = connect(server, to, protocol).context(format!("connect to {to}"))?;
                        let peer = Peer { address: server.at.ip(), port: to.port(), protocol };
                        clients.push((peer, written, client));
                    }
                }
            }
            Ok((servers, clients))
        })?;
        Ok(Self { netns, servers, clients })
    }

    fn diag(&self) -> Result<SocketDiag> {
        let netns = File::open(self.netns.path())?;
        Ok(SocketDiag::open(Some(netns.as_fd()))?)
    }

    /// Fails unless exactly the clients of `ended` were ended.
    fn ensure_only_ended(&mut self, ended: &BTreeSet<Peer>) -> Result<()> {
        for (peer, written, client) in &mut self.clients {
            let server =
                self.servers.iter().find(|server| server.at == SocketAddr::new(peer.address, peer.port));
            if ended.contains(peer) {
                client.ensure_ended()
            } else {
                client.ensure_lives(server.context("a server")?)
            }
            .context(format!("{peer}, written {written}"))?;
        }
        Ok(())
    }
}

fn connect(server: &Server, to: SocketAddr, protocol: Protocol) -> io::Result<Client> {
    match protocol {
        Protocol::Tcp => {
            let near = TcpStream::connect(to)?;
            let far = server.tcp.accept()?.0;
            near.set_read_timeout(Some(PATIENCE))?;
            far.set_read_timeout(Some(PATIENCE))?;
            Ok(Client::Tcp(near, far))
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(to)?;
            Ok(Client::Udp(socket))
        }
    }
}

fn peer(address: &str, protocol: Protocol) -> Result<Peer> {
    Ok(Peer { address: address.parse()?, port: GONE, protocol })
}

/// Those of the gone backend: of both families and both protocols.
fn gone() -> Result<BTreeSet<Peer>> {
    let mut peers = BTreeSet::new();
    for address in ["127.0.0.1", "::1"] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            peers.insert(peer(address, protocol)?);
        }
    }
    Ok(peers)
}

fn cookies(found: &[Found]) -> BTreeSet<u64> {
    found.iter().map(|socket| socket.cookie).collect()
}

#[test]
fn only_what_is_connected_to_the_peers_ends() -> Result<()> {
    needs_root!();
    let mut here = Machine::start("here")?;
    let mut elsewhere = Machine::start("elsewhere")?;
    let peers = gone()?;
    let mut diag = here.diag()?;
    let found = diag.connected_to(&peers)?;
    let mut expected = BTreeSet::new();
    for (_, _, client) in here.clients.iter().filter(|(peer, ..)| peers.contains(peer)) {
        expected.insert(client.cookie()?);
    }
    ensure!(expected.len() == 6, "three ways to write an address, by two protocols: {}", expected.len());
    ensure!(found.len() == 6 && cookies(&found) == expected, "found {found:?}");
    for socket in &found {
        ensure!(diag.end(socket)? == Outcome::Ended, "{socket:?}");
    }
    ensure!(diag.connected_to(&peers)?.is_empty());
    here.ensure_only_ended(&peers)?;
    elsewhere.ensure_only_ended(&BTreeSet::new())
}

#[test]
fn one_family_and_protocol_does_not_stand_for_another() -> Result<()> {
    needs_root!();
    let mut machine = Machine::start("one")?;
    let peers = BTreeSet::from([peer("127.0.0.1", Protocol::Udp)?]);
    let mut diag = machine.diag()?;
    let found = diag.connected_to(&peers)?;
    ensure!(found.len() == 2, "one of IPv4, and one of IPv6 with an IPv4 peer: {found:?}");
    for socket in &found {
        ensure!(diag.end(socket)? == Outcome::Ended, "{socket:?}");
    }
    machine.ensure_only_ended(&peers)
}

#[test]
fn a_socket_that_has_closed_is_gone_and_its_successor_is_spared() -> Result<()> {
    needs_root!();
    let netns = Netns::new("gone")?;
    netns.inside(|| {
        let server = Server::listen("127.0.0.1", GONE)?;
        let mut diag = SocketDiag::open(None)?;
        let peers = BTreeSet::from([peer("127.0.0.1", Protocol::Udp)?]);
        let first = UdpSocket::bind("127.0.0.1:7003")?;
        first.connect(server.at)?;
        let found = diag.connected_to(&peers)?;
        ensure!(found.len() == 1, "{found:?}");
        drop(first);
        // A child that another test starts has it open too, until it runs its program.
        let closed = eventually(PATIENCE, || diag.connected_to(&peers).is_ok_and(|found| found.is_empty()));
        ensure!(closed, "the socket is still open");
        ensure!(diag.end(&found[0])? == Outcome::Gone, "nobody has these ports");
        let second = UdpSocket::bind("127.0.0.1:7003")?;
        second.connect(server.at)?;
        ensure!(diag.end(&found[0])? == Outcome::Gone, "another has these ports");
        Client::Udp(second).ensure_lives(&server)
    })
}

#[test]
fn a_connection_that_nobody_answers_is_ended_while_it_is_made() -> Result<()> {
    needs_root!();
    let netns = Netns::new("void")?;
    netns.ip("link add near type veth peer name far")?;
    netns.ip("address add 192.0.2.1/24 dev near")?;
    netns.ip("link set far up")?;
    netns.ip("link set near up")?;
    netns.ip("neighbour add 192.0.2.9 lladdr 02:00:00:00:00:09 dev near nud permanent")?;
    let peers = BTreeSet::from([peer("192.0.2.9", Protocol::Tcp)?]);
    netns.inside(|| {
        let mut diag = SocketDiag::open(None)?;
        thread::scope(|scope| {
            let void = SocketAddr::new(IpAddr::from([192, 0, 2, 9]), GONE);
            let netns = &netns;
            let client = scope.spawn(move || netns.inside(|| TcpStream::connect_timeout(&void, PATIENCE)));
            let mut found = Vec::new();
            let came = eventually(PATIENCE, || {
                found = diag.connected_to(&peers).unwrap_or_default();
                !found.is_empty()
            });
            ensure!(came && found.len() == 1, "found {found:?}");
            ensure!(diag.end(&found[0])? == Outcome::Ended);
            let told =
                client.join().expect("connecting does not panic").map_err(|error| error.raw_os_error());
            ensure!(matches!(told, Err(Some(libc::ECONNABORTED))), "the client was told {told:?}");
            Ok(())
        })
    })
}

#[test]
fn each_namespace_has_its_own_cookie_and_asking_leaves_the_thread_where_it_was() -> Result<()> {
    needs_root!();
    let own = netns_cookie(None)?;
    let (one, two) = (Netns::new("one")?, Netns::new("two")?);
    let cookie =
        |netns: &Netns| -> Result<u64> { Ok(netns_cookie(Some(File::open(netns.path())?.as_fd()))?) };
    let all = BTreeSet::from([own, cookie(&one)?, cookie(&two)?]);
    ensure!(all.len() == 3, "{all:?}");
    ensure!(one.inside(|| netns_cookie(None))? == cookie(&one)?);
    ensure!(netns_cookie(None)? == own, "the thread has moved");
    Ok(())
}

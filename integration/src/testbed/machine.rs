//! What nodes, pods and neighbours can do.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};

use super::{
    dns_server::{DnsClient, DnsServer, look_up_by_tcp},
    listeners::Listeners,
    netns::Netns,
    service::Service,
    tcp::{TcpEcho, TcpStreamCheck},
    udp::{UdpEcho, echoes},
};

/// Something with a network namespace of its own.
pub trait Machine {
    /// Its namespace.
    fn netns(&self) -> &Netns;

    /// Whether three pings are answered: each, or none. If only some are, this is tried again, because the kernel answers the pings of
    /// all namespaces through one socket for each processor and family, which other tests may fill. Who counts losses uses numbered
    /// datagrams.
    ///
    /// # Errors
    /// `ping` cannot be run, or only some are answered each time.
    fn reaches(&self, to: impl Into<IpAddr>) -> Result<bool> {
        let to = to.into();
        for _ in 0..5 {
            match self.ping(to, &["-c3", "-i0.05", "-W1"])?.received {
                0 => return Ok(false),
                3 => return Ok(true),
                _ => {}
            }
        }
        bail!("{to} answers only some of three pings, five times")
    }

    /// Pings with these flags.
    fn ping(&self, to: impl Into<IpAddr>, flags: &[&str]) -> Result<Pings> {
        let to: IpAddr = to.into();
        let out = self.netns().command("ping")?.arg("-n").args(flags).arg(to.to_string()).output()?;
        Pings::read(&out.stdout, &out.stderr)
    }

    /// Listens on these ports of these addresses, for probes.
    fn serve(&self, addresses: &[IpAddr], services: &[Service]) -> Result<Listeners> {
        self.netns().inside(|| Listeners::open(addresses, services))
    }

    /// Listens for TCP connections on `address` and sends back what comes.
    fn serve_tcp(&self, address: impl Into<SocketAddr>) -> Result<TcpEcho> {
        let address = address.into();
        self.netns().inside(|| TcpEcho::listen(address))
    }

    /// Connects by TCP.
    fn connect(&self, to: impl Into<SocketAddr>) -> Result<TcpStreamCheck> {
        let to = to.into();
        self.netns().inside(|| TcpStreamCheck::connect(to))
    }

    /// Listens for datagrams on `address` and sends them back.
    fn serve_udp(&self, address: impl Into<SocketAddr>) -> Result<UdpEcho> {
        let address = address.into();
        self.netns().inside(|| UdpEcho::listen(address))
    }

    /// Answers DNS questions at `address`.
    fn serve_dns(&self, address: impl Into<SocketAddr>) -> Result<DnsServer> {
        let address = address.into();
        self.netns().inside(|| DnsServer::listen(address))
    }

    /// A client of the DNS server at `server`.
    fn dns_client(&self, server: impl Into<SocketAddr>) -> Result<DnsClient> {
        let server = server.into();
        self.netns().inside(|| DnsClient::of(server))
    }

    /// Asks the DNS server at `server` for a name's addresses of one type, by TCP.
    fn look_up_by_tcp(&self, server: impl Into<SocketAddr>, name: &str, kind: u16) -> Result<()> {
        let server = server.into();
        self.netns().inside(|| look_up_by_tcp(server, name, kind))
    }

    /// Whether a datagram of `size` bytes to an echo server comes back.
    fn echoes_udp(&self, to: impl Into<SocketAddr>, size: usize) -> Result<bool> {
        let to = to.into();
        self.netns().inside(|| echoes(to, size))
    }
}

/// What came of some pings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pings {
    /// How many were sent.
    pub sent: u32,
    /// How many were answered.
    pub received: u32,
    /// All that was printed.
    pub text: String,
}

impl Pings {
    fn read(stdout: &[u8], stderr: &[u8]) -> Result<Self> {
        let text = format!("{}{}", String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
        let line = text.lines().find(|line| line.contains("packets transmitted"));
        let line = line.with_context(|| format!("no summary of ping in {text:?}"))?;
        let mut numbers = line.split(", ").filter_map(|part| part.split_whitespace().next()?.parse().ok());
        let (sent, received) = numbers.next().zip(numbers.next()).context("two numbers")?;
        Ok(Self { sent, received, text })
    }
}

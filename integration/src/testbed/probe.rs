//! Who reaches whom: many probes at a time, each a connection or a datagram that is answered.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, connect, getsockopt, recv, send,
        socket, sockopt::SocketError,
    },
};

use super::{
    machine::Machine,
    neighbour::Neighbour,
    netns::Netns,
    node::{NEIGHBOUR4, NEIGHBOUR6, NODE4, NODE6, Node},
    pod::Pod,
    service::{Protocol, Service},
};

/// How long a probe that should arrive may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long we watch for one that should not.
const WATCH: Duration = Duration::from_millis(150);
/// Probes under way at a time, each with a socket.
const AT_A_TIME: usize = 256;

/// Something with addresses that others know it by.
pub trait Addressed: Machine {
    /// Those addresses.
    fn known_by(&self) -> Vec<IpAddr>;
    /// What people call it.
    fn called(&self) -> String;
}

impl Addressed for Pod<'_> {
    fn known_by(&self) -> Vec<IpAddr> {
        self.addresses().to_vec()
    }

    fn called(&self) -> String {
        self.name().to_owned()
    }
}

impl Addressed for Neighbour {
    fn known_by(&self) -> Vec<IpAddr> {
        vec![NEIGHBOUR4.into(), NEIGHBOUR6.into()]
    }

    fn called(&self) -> String {
        "the neighbour".into()
    }
}

impl Addressed for Node {
    fn known_by(&self) -> Vec<IpAddr> {
        vec![NODE4.into(), NODE6.into()]
    }

    fn called(&self) -> String {
        "the node".into()
    }
}

/// A probe, and whether it should arrive.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    from: &'a Netns,
    to: SocketAddr,
    protocol: Protocol,
    expected: bool,
    words: String,
}

/// Probes of every address of `to`.
pub fn cases<'a>(
    from: &'a impl Addressed,
    to: &impl Addressed,
    service: Service,
    expected: bool,
) -> Vec<Case<'a>> {
    let case = |address| case(from, address, service, expected, &to.called());
    to.known_by().into_iter().map(case).collect()
}

/// A probe of one address.
pub fn case<'a>(
    from: &'a impl Addressed,
    to: IpAddr,
    service: Service,
    expected: bool,
    called: &str,
) -> Case<'a> {
    let words = format!("{} to {called} ({to}) by {service}", from.called());
    Case { from: from.netns(), to: (to, service.port).into(), protocol: service.protocol, expected, words }
}

/// That every address of `to` is reached.
pub fn allowed<'a>(from: &'a impl Addressed, to: &impl Addressed, service: Service) -> Vec<Case<'a>> {
    cases(from, to, service, true)
}

/// That no address of `to` is reached.
pub fn denied<'a>(from: &'a impl Addressed, to: &impl Addressed, service: Service) -> Vec<Case<'a>> {
    cases(from, to, service, false)
}

/// Tries all of them, and fails with those that came out otherwise.
pub fn hold<'a>(cases: impl IntoIterator<Item = Case<'a>>) -> Result<()> {
    let cases: Vec<_> = cases.into_iter().collect();
    let mut wrong = Vec::new();
    for cases in cases.chunks(AT_A_TIME) {
        let reached = outcomes(cases)?;
        let differing = cases.iter().zip(reached).filter(|(case, reached)| case.expected != *reached);
        wrong.extend(differing.map(|(case, reached)| {
            format!("{}: {}", case.words, if reached { "arrived" } else { "did not arrive" })
        }));
    }
    ensure!(wrong.is_empty(), "{} of {} probes:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    Ok(())
}

fn outcomes(cases: &[Case<'_>]) -> Result<Vec<bool>> {
    let mut probes = cases.iter().map(Probe::start).collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    loop {
        let open: Vec<usize> = (0..probes.len()).filter(|&at| probes[at].waits()).collect();
        let all_there = cases.iter().zip(&probes).all(|(case, probe)| probe.reached || !case.expected);
        let elapsed = began.elapsed();
        if open.is_empty() || (all_there && elapsed > WATCH) || elapsed > PATIENCE {
            return Ok(probes.iter().map(|probe| probe.reached).collect());
        }
        let mut waiting = open.iter().map(|&at| probes[at].interest()).collect::<Vec<_>>();
        poll(&mut waiting, PollTimeout::from(20_u8))?;
        let ready: Vec<bool> = waiting.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        for (at, _) in open.into_iter().zip(ready).filter(|(_, ready)| *ready) {
            probes[at].look()?;
        }
    }
}

#[derive(Debug)]
struct Probe {
    socket: Option<OwnedFd>,
    protocol: Protocol,
    reached: bool,
}

impl Probe {
    fn start(case: &Case<'_>) -> Result<Self> {
        let family = if case.to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let kind = match case.protocol {
            Protocol::Tcp => SockType::Stream,
            Protocol::Udp => SockType::Datagram,
        };
        let mut probe = Self { socket: None, protocol: case.protocol, reached: false };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let made = case.from.inside(|| {
            let socket = socket(family, kind, flags, None)?;
            match connect(socket.as_raw_fd(), &SockaddrStorage::from(case.to)) {
                Ok(()) | Err(Errno::EINPROGRESS) => {}
                // Told at once that there is no way.
                Err(Errno::EHOSTUNREACH | Errno::ENETUNREACH) => return Ok(None),
                Err(error) => return Err(error),
            }
            if case.protocol == Protocol::Udp {
                send(socket.as_raw_fd(), b"probe", MsgFlags::empty())?;
            }
            Ok(Some(socket))
        });
        probe.socket = made.with_context(|| format!("probe {}", case.words))?;
        Ok(probe)
    }

    fn waits(&self) -> bool {
        self.socket.is_some() && !self.reached
    }

    fn interest(&self) -> PollFd<'_> {
        let flags = if self.protocol == Protocol::Tcp { PollFlags::POLLOUT } else { PollFlags::POLLIN };
        // Only those that wait are asked.
        PollFd::new(self.socket.as_ref().expect("a socket").as_fd(), flags)
    }

    fn look(&mut self) -> Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let error = Errno::from_raw(getsockopt(socket, SocketError)?);
        let answer = match self.protocol {
            Protocol::Tcp => Ok(0),
            Protocol::Udp => recv(socket.as_raw_fd(), &mut [0; 16], MsgFlags::empty()),
        };
        match (error, answer) {
            (Errno::UnknownErrno, Ok(_)) | (Errno::ECONNREFUSED, _) | (_, Err(Errno::ECONNREFUSED)) => {
                self.reached = true;
            }
            (Errno::UnknownErrno, Err(Errno::EAGAIN)) => {}
            _ => self.socket = None,
        }
        Ok(())
    }
}

//! Probing: one thing is tried until it is as it should be, or until patience is over.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::{
    super::check::{Act, Expect, Finding, Probe},
    dns,
    exchange::{self, Answer, plain},
    icmp,
    options::{self, Larger},
};

/// How long one attempt waits for an answer.
const ATTEMPT: Duration = Duration::from_millis(1500);
/// The pause between attempts: services and policies take a moment to be in force.
const PAUSE: Duration = Duration::from_millis(200);
/// How often a datagram is sent in one attempt: the network may lose one.
const SENDS: u32 = 3;
/// What a stream carries each way.
const STREAM: usize = 256 << 10;
/// Bytes of the headers before a datagram's.
const HEADERS4: usize = 20 + 8;
const HEADERS6: usize = 40 + 8;
/// The most that a datagram carries over IPv4.
const MOST: usize = 65_507;

/// What an attempt has met.
#[derive(Debug)]
enum Met {
    /// An agent's answer; whether it saw the client's own address; and what else is to be told.
    Answer { answer: Answer, own_address: bool, told: String },
    /// What was asked for, and not from an agent.
    Done(String),
}

/// Tries until the outcome is as it should be.
pub(super) fn perform(probe: &Probe, patience: Duration) -> Finding {
    let begun = Instant::now();
    loop {
        let attempt = Instant::now();
        let judged = judge(&probe.expect, attempt_of(&probe.act));
        let milliseconds = u64::try_from(attempt.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (ok, detail) = match judged {
            Ok(told) => (true, told),
            Err(why) => (false, why),
        };
        if ok || begun.elapsed() >= patience {
            return Finding { number: probe.number, ok, milliseconds, detail };
        }
        thread::sleep(PAUSE);
    }
}

/// Whether it is as it should be: what is to be told of it, or what is wrong.
fn judge(expect: &Expect, met: io::Result<Met>) -> Result<String, String> {
    match (expect, met) {
        (Expect::Success, Ok(Met::Done(told) | Met::Answer { told, .. })) => Ok(told),
        (Expect::Silence, Ok(Met::Answer { answer, .. })) => {
            Err(format!("{} answered, though a policy forbids it", answer.name))
        }
        (Expect::Silence, Ok(Met::Done(_))) => Err("it was answered, though a policy forbids it".into()),
        (Expect::Silence, Err(error)) => Ok(why(&error)),
        (Expect::Answer { by, own_address }, Ok(Met::Answer { answer, own_address: seen, told })) => {
            let is_it = match by.strip_suffix('*') {
                Some(beginning) => answer.name.starts_with(beginning),
                None => answer.name == *by,
            };
            if !is_it {
                return Err(format!("{} answered in place of {by}", answer.name));
            }
            if *own_address && !seen {
                return Err(format!("{by} saw {} in place of this pod's own address", answer.client.ip()));
            }
            Ok(told)
        }
        (Expect::Answer { by, .. }, Ok(Met::Done(_))) => Err(format!("somebody else than {by} answered")),
        (_, Err(error)) => Err(why(&error)),
    }
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "no answer".into(),
        ErrorKind::ConnectionRefused => {
            "refused: nothing listens there, or the service has no backend".into()
        }
        _ => error.to_string(),
    }
}

fn attempt_of(act: &Act) -> io::Result<Met> {
    match act {
        Act::Tcp(to) => ask_tcp(*to, 64),
        Act::Stream(to) => ask_tcp(*to, STREAM),
        Act::Udp(to) => ask_udp(*to, Larger::Cut, |_| exchange::LEAST),
        Act::MtuSized(to) => ask_udp(*to, Larger::Refused, |room| room),
        Act::OversizedCut(to) => ask_udp(*to, Larger::Cut, |room| (2 * room + 100).min(MOST)),
        Act::OversizedRefused(to) => oversized(*to),
        Act::Connect(to) => TcpStream::connect_timeout(to, ATTEMPT).map(|_| Met::Done("connected".into())),
        Act::Ping(to) => icmp::ping(*to, ATTEMPT).map(|()| Met::Done("answered".into())),
        Act::Resolve { server, name } => dns::resolve(*server, name, ATTEMPT).map(Met::Done),
    }
}

fn ask_tcp(to: SocketAddr, size: usize) -> io::Result<Met> {
    let mut stream = TcpStream::connect_timeout(&to, ATTEMPT)?;
    // A stream takes several round trips.
    let patience = if size > 1024 { 4 * ATTEMPT } else { ATTEMPT };
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let sent: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap_or(0)).collect();
    exchange::write_block(&mut stream, &sent)?;
    let answer: Answer = serde_json::from_slice(&exchange::read_block(&mut stream)?)?;
    if exchange::read_block(&mut stream)? != sent {
        return Err(io::Error::new(ErrorKind::InvalidData, "what came back is not what was sent"));
    }
    let own_address = plain(stream.local_addr()?) == answer.client;
    let told = format!("{} answered", answer.name);
    Ok(Met::Answer { answer, own_address, told })
}

fn connected(to: SocketAddr, larger: Larger) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    options::set(&socket, to.ip(), larger)?;
    socket.connect(to)?;
    Ok(socket)
}

/// The most that fits into a datagram to the socket's peer.
fn room(socket: &UdpSocket, to: SocketAddr) -> io::Result<usize> {
    let headers = if to.is_ipv4() { HEADERS4 } else { HEADERS6 };
    Ok(options::path_mtu(socket, to.ip())?.saturating_sub(headers).min(MOST))
}

/// Sends a datagram whose size follows from the room that there is.
fn ask_udp(to: SocketAddr, larger: Larger, size: impl Fn(usize) -> usize) -> io::Result<Met> {
    static MARK: AtomicU64 = AtomicU64::new(1);
    let socket = connected(to, larger)?;
    let size = size(room(&socket, to)?);
    let question = exchange::question(size, MARK.fetch_add(1, Ordering::Relaxed));
    let mut bytes = vec![0; question.len() + 1];
    socket.set_read_timeout(Some(ATTEMPT / SENDS))?;
    let mut last = io::Error::from(ErrorKind::TimedOut);
    for _ in 0..SENDS {
        if let Err(error) = socket.send(&question) {
            if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) {
                let text = format!("a datagram of {size} bytes is too large for the path");
                return Err(io::Error::other(text));
            }
            return Err(error);
        }
        match socket.recv(&mut bytes) {
            Ok(length) => {
                let Some(answer) = exchange::answered(&question, &bytes[..length]) else { continue };
                let own_address = plain(socket.local_addr()?) == answer.client;
                let told = format!("{} answered to {size} bytes", answer.name);
                return Ok(Met::Answer { answer, own_address, told });
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A datagram of one byte more than there is room for.
fn oversized(to: SocketAddr) -> io::Result<Met> {
    let socket = connected(to, Larger::Refused)?;
    let size = room(&socket, to)? + 1;
    match socket.send(&exchange::question(size, 0)) {
        Err(error) if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => {
            Ok(Met::Done(format!("{size} bytes were refused")))
        }
        Err(error) => Err(error),
        Ok(_) => {
            Err(io::Error::other(format!("{size} bytes were sent, though the MTU has no room for them")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(name: &str, own_address: bool) -> Met {
        let answer = Answer { name: name.into(), client: ([192, 0, 2, 7], 1).into() };
        Met::Answer { answer, own_address, told: "told".into() }
    }

    fn by(name: &str, own_address: bool) -> Expect {
        Expect::Answer { by: name.into(), own_address }
    }

    #[test]
    fn an_answer_counts_from_whom_it_is_expected() {
        assert_eq!(judge(&by("server-0", false), Ok(met("server-0", false))), Ok("told".into()));
        assert_eq!(judge(&by("server-*", false), Ok(met("server-12", false))), Ok("told".into()));
        let wrong = judge(&by("server-0", false), Ok(met("server-1", false))).unwrap_err();
        assert!(wrong.contains("server-1 answered in place of server-0"));
    }

    #[test]
    fn a_client_must_be_seen_by_its_own_address_where_that_is_promised() {
        assert_eq!(judge(&by("a", true), Ok(met("a", true))), Ok("told".into()));
        let masqueraded = judge(&by("a", true), Ok(met("a", false))).unwrap_err();
        assert!(masqueraded.contains("192.0.2.7"), "{masqueraded}");
    }

    #[test]
    fn silence_is_what_a_policy_wants() {
        let timeout = || Err(ErrorKind::TimedOut.into());
        assert!(judge(&Expect::Silence, timeout()).is_ok());
        assert!(judge(&Expect::Silence, Ok(met("guarded", true))).is_err());
        assert_eq!(judge(&by("a", true), timeout()), Err("no answer".into()));
    }

    #[test]
    fn an_agent_on_this_machine_is_asked_in_every_way() {
        // A port that is free for TCP; nobody else is expected to take it for UDP.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        super::super::serve::start("here", port).unwrap();
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        let acts = [Act::Tcp(to), Act::Udp(to), Act::Stream(to), Act::MtuSized(to), Act::OversizedCut(to)];
        for act in acts {
            let probe = Probe { number: 1, act: act.clone(), expect: by("here", true) };
            let finding = perform(&probe, Duration::ZERO);
            assert!(finding.ok, "{act:?}: {finding:?}");
            let probe = Probe { expect: Expect::Silence, ..probe };
            assert!(!perform(&probe, Duration::ZERO).ok);
        }
    }
}

//! Asking for a name: a query of one question over UDP, for the libraries' resolver does not work in a static binary.

use std::{
    fs,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    process,
    time::Duration,
};

const PORT: u16 = 53;
const A: u16 = 1;
const NS: u16 = 2;
const AAAA: u16 = 28;

/// What a container's `resolv.conf` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::connectivity) struct Resolvers {
    pub servers: Vec<IpAddr>,
    search: Vec<String>,
}

impl Resolvers {
    pub fn load(path: &str) -> io::Result<Self> {
        Ok(Self::read(&fs::read_to_string(path)?))
    }

    fn read(text: &str) -> Self {
        let mut resolvers = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    resolvers.servers.extend(words.next().and_then(|it| it.parse::<IpAddr>().ok()));
                }
                // The last of these lines counts.
                Some("search") => resolvers.search = words.map(ToOwned::to_owned).collect(),
                _ => {}
            }
        }
        resolvers
    }
}

/// Asks a server, of which any answer counts; or the resolvers of this container, which must know the name in one of the
/// domains that are searched. Returns what is to be told.
pub(super) fn resolve(server: Option<IpAddr>, name: &str, patience: Duration) -> io::Result<String> {
    if let Some(server) = server {
        ask(server, name, NS, patience)?;
        return Ok("answered".into());
    }
    let Resolvers { servers, search } = Resolvers::load("/etc/resolv.conf")?;
    let server = servers
        .first()
        .ok_or_else(|| io::Error::new(ErrorKind::NotFound, "/etc/resolv.conf names no server"))?;
    let names = search.iter().map(|domain| format!("{name}.{domain}")).chain([name.to_owned()]);
    for name in names {
        for kind in [A, AAAA] {
            if ask(*server, &name, kind, patience)? > 0 {
                return Ok(format!("{server} knows {name}"));
            }
        }
    }
    Err(io::Error::new(ErrorKind::NotFound, format!("{server} does not know {name}")))
}

/// How many records the answer has; none if there is no such name.
fn ask(server: IpAddr, name: &str, kind: u16, patience: Duration) -> io::Result<u16> {
    let any: IpAddr = match server {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(SocketAddr::new(server, PORT))?;
    socket.set_read_timeout(Some(patience))?;
    let id = u16::try_from(process::id() & 0xffff).unwrap_or(1);
    socket.send(&query(id, name, kind))?;
    let mut bytes = [0; 1500];
    loop {
        let length = socket.recv(&mut bytes)?;
        if let Some(count) = answers(&bytes[..length], id) {
            return Ok(count);
        }
    }
}

fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    // Recursion is desired; one question.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap_or(63));
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// The number of answers in a reply to the query of that id; `None` if it is none.
fn answers(bytes: &[u8], id: u16) -> Option<u16> {
    let [a, b, flags, code, _, _, c, d, ..] = bytes else { return None };
    let is_reply = u16::from_be_bytes([*a, *b]) == id && flags & 0x80 != 0;
    // Of the code's byte the lower half says what went wrong.
    is_reply.then(|| if code.trailing_zeros() >= 4 { u16::from_be_bytes([*c, *d]) } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_resolvers_read_it() {
        let text = "# by hand\nsearch old\nnameserver 10.96.0.10\nnameserver fd00::a\noptions ndots:5\nsearch a.b c\n";
        let servers = vec!["10.96.0.10".parse().unwrap(), "fd00::a".parse().unwrap()];
        assert_eq!(Resolvers::read(text), Resolvers { servers, search: vec!["a.b".into(), "c".into()] });
    }

    #[test]
    fn a_query_has_one_question_and_a_reply_is_known_by_its_id() {
        let asked = query(0x1234, "a.bc", A);
        assert_eq!(asked[12..], [1, b'a', 2, b'b', b'c', 0, 0, 1, 0, 1]);
        let mut reply = asked.clone();
        assert_eq!(answers(&reply, 0x1234), None, "a query is no reply");
        reply[2] |= 0x80;
        reply[7] = 2;
        assert_eq!(answers(&reply, 0x1234), Some(2));
        assert_eq!(answers(&reply, 0x1235), None);
        reply[3] = 3;
        assert_eq!(answers(&reply, 0x1234), Some(0), "there is no such name");
    }
}

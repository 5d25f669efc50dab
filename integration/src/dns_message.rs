//! DNS messages for tests: built field by field, so that they can also be wrong (RFC 1035, section 4).

use std::net::IpAddr;

/// Type of an IPv4 address.
pub const A: u16 = 1;
/// Type of another name.
pub const CNAME: u16 = 5;
/// Type of an IPv6 address.
pub const AAAA: u16 = 28;
/// A pseudo-record: what the sender is able to do (EDNS, RFC 6891).
pub const OPT: u16 = 41;

const INTERNET: u16 = 1;
/// It is an answer to a question that asked for recursion.
const ANSWER: u16 = 0x8180;
/// It is a question that asks for recursion.
const QUESTION: u16 = 0x0100;
/// The answer does not fit.
pub const TRUNCATED: u16 = 0x0200;
/// There is no such name.
pub const NO_SUCH_NAME: u16 = 3;
/// A pointer to the name of the question.
const POINTER: [u8; 2] = [0xc0, 12];

/// A record of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose; `None`: the question's name, as a pointer.
    pub owner: Option<String>,
    /// Its type.
    pub kind: u16,
    /// Its lifetime in seconds.
    pub ttl: u32,
    /// What it says.
    pub data: Vec<u8>,
}

impl Record {
    /// An address of the question's name.
    pub fn address(address: IpAddr, ttl: u32) -> Self {
        let (kind, data) = match address {
            IpAddr::V4(address) => (A, address.octets().to_vec()),
            IpAddr::V6(address) => (AAAA, address.octets().to_vec()),
        };
        Self { owner: None, kind, ttl, data }
    }

    /// Another name for the question's name.
    pub fn cname(to: &str, ttl: u32) -> Self {
        Self { owner: None, kind: CNAME, ttl, data: wire_name(to) }
    }

    /// The same record of another name.
    #[must_use]
    pub fn of(self, owner: &str) -> Self {
        Self { owner: Some(owner.to_owned()), ..self }
    }
}

/// A message with one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its id.
    pub id: u16,
    /// Its flags.
    pub flags: u16,
    /// The name that is asked about.
    pub name: String,
    /// The type that is asked for.
    pub kind: u16,
    /// The answers.
    pub answers: Vec<Record>,
    /// Whether a pseudo-record follows the answers (EDNS).
    pub edns: bool,
}

impl Message {
    /// A question.
    pub fn question(id: u16, name: &str, kind: u16) -> Self {
        Self { id, flags: QUESTION, name: name.to_owned(), kind, answers: Vec::new(), edns: false }
    }

    /// The answer to it.
    #[must_use]
    pub fn answered(&self, answers: Vec<Record>) -> Self {
        Self { flags: ANSWER, answers, ..self.clone() }
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let count = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
        for field in [self.id, self.flags, 1, count(self.answers.len()), 0, u16::from(self.edns)] {
            bytes.extend(field.to_be_bytes());
        }
        bytes.extend(wire_name(&self.name));
        bytes.extend(self.kind.to_be_bytes());
        bytes.extend(INTERNET.to_be_bytes());
        for record in &self.answers {
            match &record.owner {
                Some(name) => bytes.extend(wire_name(name)),
                None => bytes.extend(POINTER),
            }
            bytes.extend(record.kind.to_be_bytes());
            bytes.extend(INTERNET.to_be_bytes());
            bytes.extend(record.ttl.to_be_bytes());
            bytes.extend(count(record.data.len()).to_be_bytes());
            bytes.extend(&record.data);
        }
        if self.edns {
            // The root's name, and 1,232 bytes as the size of datagrams.
            bytes.push(0);
            bytes.extend(OPT.to_be_bytes());
            bytes.extend(1232_u16.to_be_bytes());
            bytes.extend([0; 6]);
        }
        bytes
    }

    /// The same for a TCP connection: with its length before it.
    pub fn framed(&self) -> Vec<u8> {
        let bytes = self.bytes();
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
        [length.as_slice(), &bytes].concat()
    }

    /// The question of a message that somebody has sent; `None`: it has none.
    pub fn parse_question(bytes: &[u8]) -> Option<Self> {
        let short = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let (mut at, mut labels) = (12, Vec::new());
        loop {
            let length = usize::from(*bytes.get(at)?);
            if length == 0 {
                break;
            }
            labels.push(String::from_utf8(bytes.get(at + 1..at + 1 + length)?.to_vec()).ok()?);
            at += 1 + length;
        }
        (short(4)? == 1).then_some(Self {
            id: short(0)?,
            flags: short(2)?,
            name: labels.join("."),
            kind: short(at + 1)?,
            answers: Vec::new(),
            edns: false,
        })
    }
}

/// A name as messages have it, without compression.
pub fn wire_name(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let label = |label: &str| [&[u8::try_from(label.len()).unwrap_or(u8::MAX)], label.as_bytes()].concat();
    labels.flat_map(label).chain([0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_again() {
        let question = Message::question(7, "www.example.com", A);
        assert_eq!(Message::parse_question(&question.bytes()), Some(question.clone()));
        let answer = question.answered(vec![Record::address([192, 0, 2, 1].into(), 60)]);
        assert_eq!(answer.bytes().len(), question.bytes().len() + 2 + 10 + 4);
        assert_eq!(
            Message::parse_question(&answer.bytes()).map(|it| it.name),
            Some("www.example.com".to_owned())
        );
    }
}

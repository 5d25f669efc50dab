//! Netfilter's own netlink: names of nftables' chains and tables, and of sets of ipset; removes tables and sets.

use std::{io, os::fd::AsRawFd, os::fd::BorrowedFd};

use netlink_sys::{Socket as RawSocket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::{
    errno::Errno,
    libc,
    sys::{
        socket::{setsockopt, sockopt::ReceiveTimeout},
        time::TimeVal,
    },
};

/// How long the kernel may keep silent.
const PATIENCE: TimeVal = TimeVal::new(2, 0);
/// Room for what the kernel sends at once, which is 32 KiB at most.
const BUFFER: usize = 64 << 10;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct nfgenmsg`: family, version, and a number in network order.
const FAMILY: usize = 4;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The bits of an attribute's type that are flags: nested, and in network order.
const NLA_TYPE: u16 = 0x3fff;

const IPSET: u16 = 6;
const IPSET_DESTROY: u16 = IPSET << 8 | 3;
const IPSET_LIST: u16 = IPSET << 8 | 7;
const IPSET_ATTR_PROTOCOL: u16 = 1;
const IPSET_ATTR_NAME: u16 = 2;
const IPSET_ATTR_FLAGS: u16 = 6 | 0x4000;
/// Spoken by every kernel since 2.6.39.
const IPSET_PROTOCOL: u8 = 6;
const IPSET_NAMES_ONLY: u32 = 1 << 1;

const NFTABLES: u16 = 10;
const NFT_GETTABLE: u16 = NFTABLES << 8 | 1;
const NFT_DELTABLE: u16 = NFTABLES << 8 | 2;
const NFT_GETCHAIN: u16 = NFTABLES << 8 | 4;
const NFTA_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// IPv4 in netfilter's words.
pub const IPV4: u8 = 2;
/// IPv6 in netfilter's words.
pub const IPV6: u8 = 10;
/// Both families, in tables of nftables.
pub const INET: u8 = 1;

/// Netfilter in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netfilter {
    raw: RawSocket,
    sequence: u32,
}

impl Netfilter {
    /// Opens a socket.
    pub fn open() -> io::Result<Self> {
        let raw = RawSocket::new(NETLINK_NETFILTER)?;
        // Nobody but the kernel can then answer.
        raw.connect(&SocketAddr::new(0, 0))?;
        // SAFETY: the descriptor belongs to `raw`, which lives as long as the borrow.
        let borrowed = unsafe { BorrowedFd::borrow_raw(raw.as_raw_fd()) };
        setsockopt(&borrowed, ReceiveTimeout, &PATIENCE)?;
        Ok(Self { raw, sequence: 0 })
    }

    /// Gives the table's and the chain's name of each chain of nftables in this family to `each`; those of iptables-nft
    /// are among them.
    pub fn chains(&mut self, family: u8, mut each: impl FnMut(&str, &str)) -> io::Result<()> {
        self.request(&[message(NFT_GETCHAIN, NLM_F_DUMP, family, 0, &[])], |attributes| {
            if let (Some(table), Some(chain)) =
                (text(attributes, NFTA_TABLE), text(attributes, NFTA_CHAIN_NAME))
            {
                each(table, chain);
            }
        })
    }

    /// Gives the name of each table of nftables in this family to `each`.
    pub fn tables(&mut self, family: u8, mut each: impl FnMut(&str)) -> io::Result<()> {
        self.request(&[message(NFT_GETTABLE, NLM_F_DUMP, family, 0, &[])], |attributes| {
            if let Some(table) = text(attributes, NFTA_TABLE) {
                each(table);
            }
        })
    }

    /// Removes a table of nftables with all that is in it, in one transaction. False if there was none.
    pub fn remove_table(&mut self, family: u8, name: &str) -> io::Result<bool> {
        let table = attribute(NFTA_TABLE, &terminated(name));
        let messages = [
            message(BATCH_BEGIN, 0, 0, NFTABLES, &[]),
            message(NFT_DELTABLE, NLM_F_ACK, family, 0, &table),
            message(BATCH_END, 0, 0, NFTABLES, &[]),
        ];
        self.remove(&messages)
    }

    /// The names of all sets of ipset.
    pub fn sets(&mut self) -> io::Result<Vec<String>> {
        let flags = attribute(IPSET_ATTR_FLAGS, &IPSET_NAMES_ONLY.to_be_bytes());
        let attributes = [attribute(IPSET_ATTR_PROTOCOL, &[IPSET_PROTOCOL]), flags].concat();
        let mut sets = Vec::new();
        self.request(&[message(IPSET_LIST, NLM_F_DUMP, IPV4, 0, &attributes)], |attributes| {
            sets.extend(text(attributes, IPSET_ATTR_NAME).map(str::to_owned));
        })?;
        Ok(sets)
    }

    /// Removes a set of ipset. False if there was none.
    pub fn remove_set(&mut self, name: &str) -> io::Result<bool> {
        let name = attribute(IPSET_ATTR_NAME, &terminated(name));
        let attributes = [attribute(IPSET_ATTR_PROTOCOL, &[IPSET_PROTOCOL]), name].concat();
        self.remove(&[message(IPSET_DESTROY, NLM_F_ACK, IPV4, 0, &attributes)])
    }

    fn remove(&mut self, messages: &[Vec<u8>]) -> io::Result<bool> {
        match self.request(messages, |_| {}) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends messages at once, and gives the attributes of each answer to `each`, up to an acknowledgement or the end of
    /// a list.
    fn request(&mut self, messages: &[Vec<u8>], mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = messages.concat();
        let mut at = 0;
        for message in messages {
            bytes[at + 8..at + 12].copy_from_slice(&self.sequence.to_ne_bytes());
            at += message.len();
        }
        self.raw.send(&bytes, 0)?;
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            match self.raw.recv(&mut buffer, libc::MSG_TRUNC) {
                Ok(length) if length > buffer.len() => return Err(invalid("it was cut short")),
                Ok(_) => {
                    if read(&buffer, self.sequence, &mut each)? {
                        return Ok(());
                    }
                }
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EINTR) => {}
                    Some(Errno::EAGAIN) => {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel does not answer"));
                    }
                    _ => return Err(error),
                },
            }
        }
    }
}

/// Reads an answer to the request of number 0.
#[cfg(test)]
pub(super) fn fuzzed(bytes: &[u8]) -> io::Result<()> {
    read(bytes, 0, &mut |attributes: &[u8]| drop(text(attributes, NFTA_TABLE).map(ToOwned::to_owned)))
        .map(drop)
}

/// Reads what came at once, and returns whether the answer has ended.
fn read(mut bytes: &[u8], sequence: u32, each: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    while !bytes.is_empty() {
        let header = bytes.get(..HEADER).ok_or_else(|| invalid("a header is cut short"))?;
        let length = u32_at(header, 0) as usize;
        let payload = bytes.get(HEADER..length).ok_or_else(|| invalid("a message has a wrong length"))?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        if u32_at(header, 8) != sequence {
            continue;
        }
        match u16_at(header, 4) {
            NLMSG_ERROR | NLMSG_DONE => {
                let code = payload.get(..4).map_or(0, |code| u32_at(code, 0).cast_signed());
                return if code == 0 {
                    Ok(true)
                } else {
                    Err(io::Error::from_raw_os_error(code.saturating_abs()))
                };
            }
            _ => each(payload.get(FAMILY..).unwrap_or_default()),
        }
    }
    Ok(false)
}

/// A text among attributes.
fn text(mut attributes: &[u8], wanted: u16) -> Option<&str> {
    while let Some(header) = attributes.get(..4) {
        let length = usize::from(u16_at(header, 0));
        let value = attributes.get(4..length)?;
        if u16_at(header, 2) & NLA_TYPE == wanted {
            return std::str::from_utf8(value.split(|byte| *byte == 0).next()?).ok();
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn message(kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + FAMILY + attributes.len());
    let length = u32::try_from(HEADER + FAMILY + attributes.len()).unwrap_or(u32::MAX);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // The sequence number is written when it is sent; the port is the kernel's to say.
    message.extend([0; 8]);
    message.extend([family, 0]);
    message.extend(resource.to_be_bytes());
    message.extend(attributes);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut attribute = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// # Panics
/// If `bytes` is shorter.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

/// # Panics
/// If `bytes` is shorter.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's answer cannot be read: {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(kind: u16, sequence: u32, attributes: &[u8]) -> Vec<u8> {
        let mut message = message(kind, 0, IPV4, 0, attributes);
        message[8..12].copy_from_slice(&sequence.to_ne_bytes());
        message
    }

    #[test]
    fn names_are_read_out_of_an_answer() {
        let first =
            [attribute(NFTA_TABLE, b"nat\0"), attribute(NFTA_CHAIN_NAME, b"KUBE-SERVICES\0")].concat();
        let bytes = [answer(0xa03, 7, &first), answer(0xa03, 6, &first), answer(NLMSG_DONE, 7, &[])].concat();
        let mut chains = Vec::new();
        let ended = read(&bytes, 7, &mut |attributes: &[u8]| {
            chains.push((
                text(attributes, NFTA_TABLE).map(str::to_owned),
                text(attributes, NFTA_CHAIN_NAME).map(str::to_owned),
                text(attributes, 99).is_none(),
            ));
        });
        // Of the answer to an older request nothing is taken. An end's code stands where a family would: it is not 0 here.
        assert_eq!(ended.unwrap_err().raw_os_error(), Some(i32::from(IPV4)));
        assert_eq!(chains, [(Some("nat".into()), Some("KUBE-SERVICES".into()), true)]);
    }

    proptest! {
           #[test]
           fn no_answer_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80), length in 0u32..80) {
               let mut framed = [length.to_ne_bytes().to_vec(), bytes.clone()].concat();
               for bytes in [&bytes, &framed] {
                   let _ = read(bytes, 0, &mut |attributes: &[u8]| {
    let _ = text(attributes, NFTA_TABLE);
    });
               }
               framed.truncate(HEADER);
               let _ = read(&framed, 0, &mut |_: &[u8]| {});
           }
       }
}

//! Netfilter's own netlink: names of nftables' chains and tables, and of sets of ipset; removes tables and sets.

use std::io;

use ipamd_netlink::{Attributes, Batch, Family, NetlinkError, Socket};
use netlink_packet_core::{NLM_F_ACK, NetlinkSerializable};
use nix::errno::Errno;

/// `struct nfgenmsg`: family, version, and a number in network order.
const FAMILY: usize = 4;

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
pub struct Netfilter(Socket);

impl Netfilter {
    /// Opens a socket.
    pub fn open() -> io::Result<Self> {
        Ok(Self(Socket::open(Family::Netfilter)?))
    }

    /// Gives the table's and the chain's name of each chain of nftables in this family to `each`; those of iptables-nft
    /// are among them.
    pub fn chains(&mut self, family: u8, mut each: impl FnMut(&str, &str)) -> io::Result<()> {
        self.list("list the chains of nftables", &Request::new(NFT_GETCHAIN, family), |attributes| {
            if let (Some(table), Some(chain)) =
                (text(attributes, NFTA_TABLE), text(attributes, NFTA_CHAIN_NAME))
            {
                each(table, chain);
            }
        })
    }

    /// Gives the name of each table of nftables in this family to `each`.
    pub fn tables(&mut self, family: u8, mut each: impl FnMut(&str)) -> io::Result<()> {
        self.list("list the tables of nftables", &Request::new(NFT_GETTABLE, family), |attributes| {
            if let Some(table) = text(attributes, NFTA_TABLE) {
                each(table);
            }
        })
    }

    /// Removes a table of nftables with all that is in it, in one transaction. False if there was none.
    pub fn remove_table(&mut self, family: u8, name: &str) -> io::Result<bool> {
        let asked = format!("remove the table {name}");
        let transaction = |kind| Request { resource: NFTABLES, ..Request::new(kind, 0) };
        let removal = Request::new(NFT_DELTABLE, family).with(NFTA_TABLE, &terminated(name));
        let mut batch = Batch::of(&*asked, 0, &transaction(BATCH_BEGIN));
        batch.ask(&*asked, NLM_F_ACK, &removal);
        batch.ask(&*asked, 0, &transaction(BATCH_END));
        removed(self.0.run_as_one(&mut batch))
    }

    /// The names of all sets of ipset.
    pub fn sets(&mut self) -> io::Result<Vec<String>> {
        let query = Request::of_sets(IPSET_LIST).with(IPSET_ATTR_FLAGS, &IPSET_NAMES_ONLY.to_be_bytes());
        let mut sets = Vec::new();
        self.list("list the sets", &query, |attributes| {
            sets.extend(text(attributes, IPSET_ATTR_NAME).map(str::to_owned));
        })?;
        Ok(sets)
    }

    /// Removes a set of ipset. False if there was none.
    pub fn remove_set(&mut self, name: &str) -> io::Result<bool> {
        let removal = Request::of_sets(IPSET_DESTROY).with(IPSET_ATTR_NAME, &terminated(name));
        removed(self.0.run(&mut Batch::of(format!("remove the set {name}"), 0, &removal)))
    }

    /// Gives the attributes of each object to `each`. They are not asked for again if they changed meanwhile: some are given
    /// already.
    fn list(&mut self, what: &str, query: &Request, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.0.list(what, query, &mut |message| {
            each(message.payload.get(FAMILY..).unwrap_or_default());
            Ok(())
        })?;
        Ok(())
    }
}

fn removed(result: Result<(), NetlinkError>) -> io::Result<bool> {
    match result {
        Err(error) if error.errno() == Errno::ENOENT => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

/// A message to netfilter, as it is behind its header.
struct Request {
    kind: u16,
    family: u8,
    resource: u16,
    attributes: Vec<u8>,
}

impl Request {
    fn new(kind: u16, family: u8) -> Self {
        Self { kind, family, resource: 0, attributes: Vec::new() }
    }

    fn of_sets(kind: u16) -> Self {
        Self::new(kind, IPV4).with(IPSET_ATTR_PROTOCOL, &[IPSET_PROTOCOL])
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.attributes.extend([length.to_ne_bytes(), kind.to_ne_bytes()].concat());
        self.attributes.extend(value);
        self.attributes.resize(self.attributes.len().next_multiple_of(4), 0);
        self
    }
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        FAMILY + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (head, attributes) = buffer.split_at_mut(FAMILY);
        let [high, low] = self.resource.to_be_bytes();
        head.copy_from_slice(&[self.family, 0, high, low]);
        attributes.copy_from_slice(&self.attributes);
    }
}

/// A text among attributes.
pub(super) fn text(attributes: &[u8], wanted: u16) -> Option<&str> {
    let (_, value) = Attributes(attributes).find(|(kind, _)| *kind == wanted)?;
    std::str::from_utf8(value.split(|byte| *byte == 0).next()?).ok()
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_has_its_attributes_behind_family_and_number() {
        let request = Request { resource: NFTABLES, ..Request::new(NFT_DELTABLE, INET) };
        let request = request.with(NFTA_TABLE, &terminated("nat"));
        let mut bytes = vec![0xff; request.buffer_len()];
        request.serialize(&mut bytes);
        assert_eq!(bytes, b"\x01\0\0\x0a\x08\0\x01\0nat\0");
        // An attribute is padded to words, which its length does not count.
        let long = Request::new(NFT_DELTABLE, INET).with(NFTA_TABLE, &terminated("filter"));
        assert_eq!(long.attributes, b"\x0b\0\x01\0filter\0\0");
    }

    #[test]
    fn names_are_read_out_of_attributes() {
        let chain = Request::new(0, IPV4)
            .with(NFTA_TABLE, b"nat\0")
            .with(NFTA_CHAIN_NAME | 0x4000, b"KUBE-SERVICES\0")
            .attributes;
        assert_eq!(text(&chain, NFTA_TABLE), Some("nat"));
        assert_eq!(text(&chain, NFTA_CHAIN_NAME), Some("KUBE-SERVICES"));
        assert_eq!(text(&chain, 99), None);
    }

    proptest! {
        #[test]
        fn no_attributes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = text(&bytes, NFTA_TABLE);
        }
    }
}

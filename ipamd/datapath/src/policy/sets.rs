//! Two sets of peers, one of them in force. Each has, for each family, exact addresses in a hash and prefixes in a
//! trie.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bpf::layout::{Ip4, Ip6, Peer as PeerValue, Plain, Prefix4, Prefix6};
use bpf::sizes::PolicySizes;
use ipnetwork::IpNetwork;
use libbpf_rs::{MapHandle, MapType};

use super::inner_map::{Shape, inner as inner_map, put_inner};
use crate::{error::DatapathError, writes};

/// One family's peers of one set.
#[derive(Debug)]
pub(super) struct Peers {
    pub addresses: MapHandle,
    pub prefixes: MapHandle,
}

/// A set of peers; its postures are a half of the array.
#[derive(Debug)]
pub(super) struct Set {
    pub number: u32,
    pub v4: Peers,
    pub v6: Peers,
}

/// The four arrays that hold both sets' peers.
#[derive(Debug)]
pub(super) struct Outer {
    pub peers4: MapHandle,
    pub peers6: MapHandle,
    pub ranges4: MapHandle,
    pub ranges6: MapHandle,
}

fn address_shape(name: &'static str, key: u32, entries: u32) -> Shape {
    Shape { kind: MapType::Hash, name, key, value: bytes::<PeerValue>(), entries }
}

fn prefix_shape(name: &'static str, key: u32, entries: u32) -> Shape {
    Shape { kind: MapType::LpmTrie, name, key, value: bytes::<PeerValue>(), entries }
}

/// The size of a key or a value.
#[allow(clippy::cast_possible_truncation, reason = "the largest has 24 bytes")]
pub(super) const fn bytes<T>() -> u32 {
    size_of::<T>() as u32
}

impl Set {
    pub fn peers(&self, address: IpAddr) -> &Peers {
        if address.is_ipv4() { &self.v4 } else { &self.v6 }
    }

    /// The map that holds a network, its name, and the key there.
    pub fn place(&self, net: IpNetwork) -> (&MapHandle, &'static str, Vec<u8>) {
        let peers = self.peers(net.ip());
        match net {
            IpNetwork::V4(net) if net.prefix() == 32 => {
                (&peers.addresses, "peers4", Ip4::from(net.ip()).as_bytes().to_vec())
            }
            IpNetwork::V6(net) if net.prefix() == 128 => {
                (&peers.addresses, "peers6", Ip6::from(net.ip()).as_bytes().to_vec())
            }
            IpNetwork::V4(net) => {
                (&peers.prefixes, "ranges4", prefix4(net.network(), net.prefix()).as_bytes().to_vec())
            }
            IpNetwork::V6(net) => {
                (&peers.prefixes, "ranges6", prefix6(net.network(), net.prefix()).as_bytes().to_vec())
            }
        }
    }
}

pub(super) fn prefix4(address: Ipv4Addr, length: u8) -> Prefix4 {
    Prefix4 { length: length.into(), address: address.into() }
}

pub(super) fn prefix6(address: Ipv6Addr, length: u8) -> Prefix6 {
    Prefix6 { length: length.into(), address: address.into() }
}

impl Outer {
    /// The set that an earlier daemon left; `None` if it is not whole.
    pub fn adopt(&self, number: u32) -> Result<Option<Set>, DatapathError> {
        let found = (
            inner_map(&self.peers4, "peers4", number)?,
            inner_map(&self.ranges4, "ranges4", number)?,
            inner_map(&self.peers6, "peers6", number)?,
            inner_map(&self.ranges6, "ranges6", number)?,
        );
        let (Some(addresses4), Some(prefixes4), Some(addresses6), Some(prefixes6)) = found else {
            return Ok(None);
        };
        Ok(Some(Set {
            number,
            v4: Peers { addresses: addresses4, prefixes: prefixes4 },
            v6: Peers { addresses: addresses6, prefixes: prefixes6 },
        }))
    }

    /// Makes an empty set in the place of what is there.
    pub fn create(&self, number: u32, sizes: PolicySizes) -> Result<Set, DatapathError> {
        let set = Set {
            number,
            v4: Peers {
                addresses: address_shape("peers4", bytes::<Ip4>(), sizes.addresses).create()?,
                prefixes: prefix_shape("ranges4", bytes::<Prefix4>(), sizes.prefixes).create()?,
            },
            v6: Peers {
                addresses: address_shape("peers6", bytes::<Ip6>(), sizes.addresses).create()?,
                prefixes: prefix_shape("ranges6", bytes::<Prefix6>(), sizes.prefixes).create()?,
            },
        };
        self.put(&set)?;
        Ok(set)
    }

    pub fn put(&self, set: &Set) -> Result<(), DatapathError> {
        for (outer, name, map) in [
            (&self.peers4, "peers4", &set.v4.addresses),
            (&self.ranges4, "ranges4", &set.v4.prefixes),
            (&self.peers6, "peers6", &set.v6.addresses),
            (&self.ranges6, "ranges6", &set.v6.prefixes),
        ] {
            put_inner(outer, name, &[(set.number, map)])?;
        }
        Ok(())
    }

    pub fn clear(&self, number: u32) -> Result<(), DatapathError> {
        for (outer, name) in [
            (&self.peers4, "peers4"),
            (&self.ranges4, "ranges4"),
            (&self.peers6, "peers6"),
            (&self.ranges6, "ranges6"),
        ] {
            writes::remove(outer, name, number.as_bytes())?;
        }
        Ok(())
    }
}

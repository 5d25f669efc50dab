//! Where the programs look for the last change of what a flow follows from: `progs/stamps.h`.

use std::net::{IpAddr, Ipv4Addr};

use super::{Ip4, Ip6};

/// Places of each kind in the map `changes`.
pub const CHANGED_PLACES: u32 = 4096;
/// Key of `changes`: the last change that concerned every flow.
pub const CHANGED_EVERYTHING: u32 = 0;
/// From here on: the last change that concerned an address.
pub const CHANGED_ADDRESSES: u32 = 1;
/// From here on: the last change that concerned a network.
pub const CHANGED_NETWORKS: u32 = 4097;
/// Length of the prefixes that have a place: IPv4.
pub const CHANGED_PREFIX4: u8 = 24;
/// IPv6.
pub const CHANGED_PREFIX6: u8 = 64;

/// Spreads what little differs between two numbers over all their bits: `stir()` in `progs/common.h`.
fn stir(mut bits: u32) -> u32 {
    bits = (bits ^ bits >> 16).wrapping_mul(0x7feb_352d);
    bits = (bits ^ bits >> 15).wrapping_mul(0x846c_a68b);
    bits ^ bits >> 16
}

fn place(words: &[u32]) -> u32 {
    words.iter().fold(0, |mixed, word| stir(mixed ^ word)) % CHANGED_PLACES
}

/// The place of an address.
pub fn address_place(address: IpAddr) -> u32 {
    CHANGED_ADDRESSES
        + match address {
            IpAddr::V4(address) => place(&Ip4::from(address).word),
            IpAddr::V6(address) => place(&Ip6::from(address).word),
        }
}

/// The place of the network of [`CHANGED_PREFIX4`] or [`CHANGED_PREFIX6`] bits that an address is in.
pub fn network_place(address: IpAddr) -> u32 {
    CHANGED_NETWORKS
        + match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX << (32 - CHANGED_PREFIX4);
                place(&Ip4::from(Ipv4Addr::from(u32::from(address) & mask)).word)
            }
            IpAddr::V6(address) => place(&Ip6::from(address).word[..2]),
        }
}

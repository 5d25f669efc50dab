//! Where the programs look for the last change of what a flow follows from: `progs/changes.h`.

use std::net::{IpAddr, Ipv4Addr};

use crate::skeleton::types::{ip4 as Ip4, ip6 as Ip6};

/// Places of addresses in the map `changes`. Every flow of an address that shares its place with one that changes is judged
/// again: with ten changes a second, a pod's flows for nothing once in an hour.
pub const CHANGED_ADDRESS_PLACES: u32 = 32768;
/// Places of networks.
pub const CHANGED_NETWORK_PLACES: u32 = 4096;
/// All keys of `changes`.
pub const CHANGES: u32 = CHANGED_NETWORKS + CHANGED_NETWORK_PLACES;
/// Key of `changes`: the last change that concerned every flow.
pub const CHANGED_EVERYTHING: u32 = 0;
/// From here on: the last change that concerned an address.
pub const CHANGED_ADDRESSES: u32 = 1;
/// From here on: the last change that concerned a network.
pub const CHANGED_NETWORKS: u32 = CHANGED_ADDRESSES + CHANGED_ADDRESS_PLACES;
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

fn mix(words: &[u32]) -> u32 {
    words.iter().fold(0, |mixed, word| stir(mixed ^ word))
}

/// The place of an address.
pub fn address_place(address: IpAddr) -> u32 {
    let mixed = match address {
        IpAddr::V4(address) => mix(&Ip4::from(address).word),
        IpAddr::V6(address) => mix(&Ip6::from(address).word),
    };
    CHANGED_ADDRESSES + mixed % CHANGED_ADDRESS_PLACES
}

/// The place of the network of [`CHANGED_PREFIX4`] or [`CHANGED_PREFIX6`] bits that an address is in.
pub fn network_place(address: IpAddr) -> u32 {
    let mixed = match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX << (32 - CHANGED_PREFIX4);
            mix(&Ip4::from(Ipv4Addr::from(u32::from(address) & mask)).word)
        }
        IpAddr::V6(address) => mix(&Ip6::from(address).word[..2]),
    };
    CHANGED_NETWORKS + mixed % CHANGED_NETWORK_PLACES
}

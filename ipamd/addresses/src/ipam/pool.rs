//! A pool: a prefix that addresses are handed out from, and those of its addresses that never are.

use std::{fmt, net::IpAddr};

use ipnetwork::IpNetwork;

use super::family::{Family, number};

/// Why a prefix cannot be a pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// A pool must have a name.
    #[error("the pool of {cidr} has no name")]
    Unnamed {
        /// Its prefix.
        cidr: IpNetwork,
    },
    /// Two pools have one name.
    #[error("two pools are named {name}: {first} and {second}; give each a name of its own")]
    SameName {
        /// The name.
        name: String,
        /// Prefix of the one.
        first: IpNetwork,
        /// Prefix of the other.
        second: IpNetwork,
    },
    /// The address of the prefix is not its network address.
    #[error("pool {name}: {cidr} has bits set behind its prefix; write {network}")]
    HostBits {
        /// Name of the pool.
        name: String,
        /// As it was given.
        cidr: IpNetwork,
        /// What was probably meant.
        network: IpNetwork,
    },
    /// Nothing would be left to hand out.
    #[error("pool {name}: {cidr} is too small; the longest prefix of an {family} pool is /{longest}")]
    TooSmall {
        /// Name of the pool.
        name: String,
        /// As it was given.
        cidr: IpNetwork,
        /// Its family.
        family: Family,
        /// The longest prefix that can be a pool.
        longest: u8,
    },
    /// Containers cannot have such addresses.
    #[error(
        "pool {name}: {cidr} overlaps {special}, the range of {meaning} addresses, which containers cannot have"
    )]
    Special {
        /// Name of the pool.
        name: String,
        /// As it was given.
        cidr: IpNetwork,
        /// The range.
        special: &'static str,
        /// What it is for.
        meaning: &'static str,
    },
    /// One address would belong to two pools.
    #[error("pool {first} ({first_cidr}) and pool {second} ({second_cidr}) overlap")]
    Overlap {
        /// Name of the one.
        first: String,
        /// Its prefix.
        first_cidr: IpNetwork,
        /// Name of the other.
        second: String,
        /// Its prefix.
        second_cidr: IpNetwork,
    },
}

/// Ranges that no pool may touch: first address, prefix length, as written, meaning.
const SPECIAL_V4: [(u32, u8, &str, &str); 5] = [
    (0x0000_0000, 8, "0.0.0.0/8", "\"this network\""),
    (0x7f00_0000, 8, "127.0.0.0/8", "loopback"),
    (0xa9fe_0000, 16, "169.254.0.0/16", "link-local"),
    (0xe000_0000, 4, "224.0.0.0/4", "multicast"),
    (0xffff_ffff, 32, "255.255.255.255/32", "broadcast"),
];
const SPECIAL_V6: [(u128, u8, &str, &str); 4] = [
    // The unspecified and the loopback address and the old compatible ones.
    (0, 96, "::/96", "loopback and unspecified"),
    (0xffff << 32, 96, "::ffff:0:0/96", "IPv4-mapped"),
    (0xfe80 << 112, 10, "fe80::/10", "link-local"),
    (0xff00 << 112, 8, "ff00::/8", "multicast"),
];

/// What an address that is never handed out is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// IPv4: the prefix itself.
    Network,
    /// IPv6: the anycast address of the subnet's routers.
    RouterAnycast,
    /// The node's own address, the containers' next hop.
    Gateway,
    /// IPv4: all hosts of the prefix.
    Broadcast,
}

impl fmt::Display for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "network",
            Self::RouterAnycast => "subnet-router anycast",
            Self::Gateway => "gateway",
            Self::Broadcast => "broadcast",
        })
    }
}

/// A named prefix that addresses are handed out from. One that exists is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    name: String,
    cidr: IpNetwork,
}

impl Pool {
    /// The pool `name` of `cidr`.
    ///
    /// # Errors
    /// Why `cidr` cannot be a pool.
    pub fn new(name: impl Into<String>, cidr: IpNetwork) -> Result<Self, PoolError> {
        let name = name.into();
        if name.is_empty() {
            return Err(PoolError::Unnamed { cidr });
        }
        if cidr.ip() != cidr.network() {
            let network = IpNetwork::new(cidr.network(), cidr.prefix()).unwrap_or(cidr);
            return Err(PoolError::HostBits { name, cidr, network });
        }
        let pool = Self { name, cidr };
        if let Some((special, meaning)) = pool.special() {
            return Err(PoolError::Special { name: pool.name, cidr, special, meaning });
        }
        let family = pool.family();
        let longest = match family {
            Family::V4 => 30,
            Family::V6 => 126,
        };
        if cidr.prefix() > longest {
            return Err(PoolError::TooSmall { name: pool.name, cidr, family, longest });
        }
        Ok(pool)
    }

    /// The special range that the pool touches.
    fn special(&self) -> Option<(&'static str, &'static str)> {
        let (bottom, top) = self.bounds();
        match self.family() {
            Family::V4 => SPECIAL_V4
                .iter()
                .map(|(base, prefix, text, meaning)| (u128::from(*base), 32 - prefix, *text, *meaning))
                .find(|(base, bits, ..)| overlap((bottom, top), (*base, last_of(*base, *bits))))
                .map(|(.., text, meaning)| (text, meaning)),
            Family::V6 => SPECIAL_V6
                .iter()
                .find(|(base, prefix, ..)| overlap((bottom, top), (*base, last_of(*base, 128 - prefix))))
                .map(|(.., text, meaning)| (*text, *meaning)),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its prefix.
    pub fn cidr(&self) -> IpNetwork {
        self.cidr
    }

    /// Its family.
    pub fn family(&self) -> Family {
        Family::of(self.cidr.ip())
    }

    /// The node's own address in it: the first host address.
    pub fn gateway(&self) -> IpAddr {
        self.family().address(self.bounds().0 + 1)
    }

    /// Whether `address` lies in its prefix.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(address)
    }

    /// What `address` is reserved for in this pool.
    pub fn reserved(&self, address: IpAddr) -> Option<Reserved> {
        let (bottom, top) = self.bounds();
        match (number(address), self.family()) {
            _ if !self.contains(address) => None,
            (at, Family::V4) if at == bottom => Some(Reserved::Network),
            (at, Family::V6) if at == bottom => Some(Reserved::RouterAnycast),
            (at, _) if at == bottom + 1 => Some(Reserved::Gateway),
            (at, Family::V4) if at == top => Some(Reserved::Broadcast),
            _ => None,
        }
    }

    /// How many addresses can be handed out.
    pub fn capacity(&self) -> u128 {
        let (first, last) = self.assignable();
        last - first + 1
    }

    /// First and last address of the prefix.
    fn bounds(&self) -> (u128, u128) {
        let bottom = number(self.cidr.ip());
        let width = match self.family() {
            Family::V4 => 32,
            Family::V6 => 128,
        };
        (bottom, last_of(bottom, width - self.cidr.prefix()))
    }

    /// First and last address that can be handed out.
    pub(super) fn assignable(&self) -> (u128, u128) {
        let (bottom, top) = self.bounds();
        match self.family() {
            Family::V4 => (bottom + 2, top - 1),
            Family::V6 => (bottom + 2, top),
        }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cidr = self.cidr.to_string();
        // One that was given no name has its prefix for one.
        if self.name == cidr { f.write_str(&cidr) } else { write!(f, "{} ({cidr})", self.name) }
    }
}

/// The last of the 2^`bits` numbers that start at `base`.
fn last_of(base: u128, bits: u8) -> u128 {
    base | 1u128.checked_shl(bits.into()).map_or(u128::MAX, |size| size - 1)
}

fn overlap(one: (u128, u128), other: (u128, u128)) -> bool {
    one.0 <= other.1 && other.0 <= one.1
}

/// Checks that no name and no address belongs to two of the pools.
///
/// # Errors
/// The first two that collide.
pub fn check_disjoint(pools: &[Pool]) -> Result<(), PoolError> {
    for (at, second) in pools.iter().enumerate() {
        for first in &pools[..at] {
            if first.name == second.name {
                return Err(PoolError::SameName {
                    name: first.name.clone(),
                    first: first.cidr,
                    second: second.cidr,
                });
            }
            if first.family() == second.family() && overlap(first.bounds(), second.bounds()) {
                return Err(PoolError::Overlap {
                    first: first.name.clone(),
                    first_cidr: first.cidr,
                    second: second.name.clone(),
                    second_cidr: second.cidr,
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cidr: &str) -> Result<Pool, PoolError> {
        Pool::new("p", cidr.parse().unwrap())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_ends_of_a_pool_are_not_handed_out() {
        let v4 = pool("10.88.0.0/24").unwrap();
        assert_eq!(v4.gateway(), ip("10.88.0.1"));
        assert_eq!(v4.reserved(ip("10.88.0.0")), Some(Reserved::Network));
        assert_eq!(v4.reserved(ip("10.88.0.1")), Some(Reserved::Gateway));
        assert_eq!(v4.reserved(ip("10.88.0.2")), None);
        assert_eq!(v4.reserved(ip("10.88.0.255")), Some(Reserved::Broadcast));
        assert_eq!(v4.reserved(ip("10.88.1.0")), None);
        assert_eq!(v4.capacity(), 253);

        let v6 = pool("fd00:88::/64").unwrap();
        assert_eq!(v6.gateway(), ip("fd00:88::1"));
        assert_eq!(v6.reserved(ip("fd00:88::")), Some(Reserved::RouterAnycast));
        assert_eq!(v6.reserved(ip("fd00:88::1")), Some(Reserved::Gateway));
        assert_eq!(v6.reserved(ip("fd00:88::ffff:ffff:ffff:ffff")), None);
        assert_eq!(v6.capacity(), (1 << 64) - 2);
    }

    #[test]
    fn a_pool_without_a_name_of_its_own_is_shown_once() {
        let cidr = "10.88.0.0/24";
        assert_eq!(Pool::new(cidr, cidr.parse().unwrap()).unwrap().to_string(), cidr);
        assert_eq!(pool(cidr).unwrap().to_string(), "p (10.88.0.0/24)");
    }

    #[test]
    fn the_smallest_pools_hold_one_and_two_addresses() {
        assert_eq!(pool("10.0.0.0/30").unwrap().capacity(), 1);
        assert_eq!(pool("fd00::/126").unwrap().capacity(), 2);
        for cidr in ["10.0.0.0/31", "10.0.0.1/32", "fd00::/127", "fd00::1/128"] {
            assert!(matches!(pool(cidr), Err(PoolError::TooSmall { .. })), "{cidr}");
        }
    }

    #[test]
    fn host_bits_are_refused_and_the_prefix_named() {
        assert_eq!(
            pool("10.88.0.1/16").unwrap_err().to_string(),
            "pool p: 10.88.0.1/16 has bits set behind its prefix; write 10.88.0.0/16"
        );
        assert!(matches!(pool("fd00::1/64"), Err(PoolError::HostBits { .. })));
    }

    #[test]
    fn addresses_that_containers_cannot_have_are_refused() {
        for cidr in [
            "0.0.0.0/0",
            "0.0.0.0/24",
            "127.1.0.0/16",
            "169.254.7.0/24",
            "224.0.0.0/24",
            "239.255.0.0/16",
            "255.255.255.0/24",
            "::/0",
            "::/64",
            "::ffff:10.0.0.0/120",
            "fe80::/64",
            "ff02::/64",
        ] {
            assert!(matches!(pool(cidr), Err(PoolError::Special { .. })), "{cidr}");
        }
        assert_eq!(
            pool("126.0.0.0/7").unwrap_err().to_string(),
            "pool p: 126.0.0.0/7 overlaps 127.0.0.0/8, the range of loopback addresses, which containers cannot have"
        );
        for cidr in [
            "10.0.0.0/8",
            "100.64.0.0/10",
            "172.16.0.0/12",
            "192.0.2.0/24",
            "fd00::/8",
            "2001:db8::/32",
            "64:ff9b::/96",
        ] {
            assert!(pool(cidr).is_ok(), "{cidr}");
        }
    }

    #[test]
    fn two_pools_share_neither_name_nor_address() {
        let named = |name: &str, cidr: &str| Pool::new(name, cidr.parse().unwrap()).unwrap();
        let check = |one: Pool, other: Pool| check_disjoint(&[one, other]);
        assert_eq!(check(named("a", "10.0.0.0/24"), named("b", "10.0.1.0/24")), Ok(()));
        assert_eq!(check(named("a", "10.0.0.0/24"), named("b", "fd00::/64")), Ok(()));
        assert_eq!(
            check(named("a", "10.0.0.0/16"), named("b", "10.0.1.0/24")).unwrap_err().to_string(),
            "pool a (10.0.0.0/16) and pool b (10.0.1.0/24) overlap"
        );
        assert!(matches!(
            check(named("a", "fd00::/64"), named("b", "fd00::/56")),
            Err(PoolError::Overlap { .. })
        ));
        assert_eq!(
            check(named("a", "10.0.0.0/24"), named("a", "10.0.1.0/24")).unwrap_err().to_string(),
            "two pools are named a: 10.0.0.0/24 and 10.0.1.0/24; give each a name of its own"
        );
        assert!(matches!(Pool::new("", "10.0.0.0/24".parse().unwrap()), Err(PoolError::Unnamed { .. })));
    }
}

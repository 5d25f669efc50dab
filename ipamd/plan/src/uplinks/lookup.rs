//! Which interfaces the kernel would route an address to: the longest prefix of the main table, then the lowest metric.
//! Policy routing (`ip rule`) is not followed.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipamd_kernel::netlink::{Route, RouteKind};

/// The main table, for look-ups.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    ipv4: Prefixes,
    ipv6: Prefixes,
}

/// By the prefixes' lengths, then by their bits.
type Prefixes = BTreeMap<u8, HashMap<u128, Best>>;

/// What the routes to one prefix come to.
#[derive(Debug)]
struct Best {
    metric: u32,
    /// Several by a multipath route; none if there is no way.
    ifindexes: Vec<u32>,
}

impl Lookup {
    /// Of these routes, but for Cambric's own: those lead to endpoints.
    pub(super) fn new(routes: &[Route]) -> Self {
        let mut lookup = Self::default();
        for route in routes.iter().filter(|route| !route.ours) {
            lookup.insert(route);
        }
        lookup
    }

    fn insert(&mut self, route: &Route) {
        let (address, length) = (route.destination.ip(), route.destination.prefix());
        let ifindexes = match &route.kind {
            RouteKind::Unicast { ifindexes, .. } => ifindexes.as_slice(),
            RouteKind::Unreachable | RouteKind::Blackhole | RouteKind::Other => &[],
        };
        let of_length = self.family_mut(address).entry(length).or_default();
        let best = of_length
            .entry(masked(bits(address), length))
            .or_insert_with(|| Best { metric: route.metric, ifindexes: Vec::new() });
        if route.metric < best.metric {
            *best = Best { metric: route.metric, ifindexes: Vec::new() };
        }
        if route.metric == best.metric {
            // The kernel tells the legs of an IPv6 route one by one.
            best.ifindexes.extend(ifindexes);
        }
    }

    /// The interfaces that packets to an address leave by; none if there is no way.
    pub(super) fn interfaces(&self, address: IpAddr) -> &[u32] {
        let (family, bits) = (if address.is_ipv4() { &self.ipv4 } else { &self.ipv6 }, bits(address));
        let longest = family.iter().rev().find_map(|(length, prefixes)| prefixes.get(&masked(bits, *length)));
        longest.map_or(&[], |best| &best.ifindexes)
    }

    fn family_mut(&mut self, address: IpAddr) -> &mut Prefixes {
        if address.is_ipv4() { &mut self.ipv4 } else { &mut self.ipv6 }
    }
}

/// An address from the highest bit on.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
        IpAddr::V6(ip) => ip.into(),
    }
}

fn masked(bits: u128, length: u8) -> u128 {
    bits & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplinks::tests::{route, unreachable};

    fn looked_up(routes: &[Route], address: &str) -> Vec<u32> {
        Lookup::new(routes).interfaces(address.parse().unwrap()).to_vec()
    }

    #[test]
    fn the_longest_prefix_counts_then_the_metric() {
        let routes = [
            route("0.0.0.0/0", &[2]),
            route("10.0.0.0/8", &[3]),
            Route { metric: 200, ..route("10.1.0.0/16", &[4]) },
            Route { metric: 100, ..route("10.1.0.0/16", &[5, 6]) },
            unreachable("10.1.2.0/24"),
            route("::/0", &[7]),
            route("2001:db8::/64", &[8]),
            route("2001:db8::/64", &[9]),
        ];
        for (address, expected) in [
            ("192.0.2.1", vec![2]),
            ("10.9.9.9", vec![3]),
            ("10.1.9.9", vec![5, 6]),
            ("10.1.2.3", vec![]),
            ("2001:db8::5", vec![8, 9]),
            ("2001:db8:1::5", vec![7]),
        ] {
            assert_eq!(looked_up(&routes, address), expected, "{address}");
        }
        assert_eq!(looked_up(&routes[1..2], "192.0.2.1"), Vec::<u32>::new());
        assert_eq!(
            looked_up(&[Route { ours: true, ..route("0.0.0.0/0", &[2]) }], "192.0.2.1"),
            Vec::<u32>::new()
        );
    }
}

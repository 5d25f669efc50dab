//! A map by addresses and prefixes. A cluster may have two hundred thousand of them, so IPv4 has a map of its own: in a common map each
//! IPv4 address would take as much memory as an IPv6 address.

use std::collections::BTreeMap;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

/// Values by address or prefix, in their order: IPv4 first.
#[derive(Debug)]
pub struct NetMap<V> {
    v4: BTreeMap<Ipv4Network, V>,
    v6: BTreeMap<Ipv6Network, V>,
}

impl<V> Default for NetMap<V> {
    fn default() -> Self {
        Self { v4: BTreeMap::new(), v6: BTreeMap::new() }
    }
}

impl<V> NetMap<V> {
    /// The value of exactly this address or prefix.
    pub fn get(&self, net: IpNetwork) -> Option<&V> {
        match net {
            IpNetwork::V4(net) => self.v4.get(&net),
            IpNetwork::V6(net) => self.v6.get(&net),
        }
    }

    /// The value of exactly this address or prefix, to change it.
    pub fn get_mut(&mut self, net: IpNetwork) -> Option<&mut V> {
        match net {
            IpNetwork::V4(net) => self.v4.get_mut(&net),
            IpNetwork::V6(net) => self.v6.get_mut(&net),
        }
    }

    /// The value of exactly this address or prefix, to change it. If there is none, `make` makes one.
    pub fn get_or_insert_with(&mut self, net: IpNetwork, make: impl FnOnce() -> V) -> &mut V {
        match net {
            IpNetwork::V4(net) => self.v4.entry(net).or_insert_with(make),
            IpNetwork::V6(net) => self.v6.entry(net).or_insert_with(make),
        }
    }

    /// Sets a value, and returns the one that was there.
    pub fn insert(&mut self, net: IpNetwork, value: V) -> Option<V> {
        match net {
            IpNetwork::V4(net) => self.v4.insert(net, value),
            IpNetwork::V6(net) => self.v6.insert(net, value),
        }
    }

    /// Removes a value, and returns it.
    pub fn remove(&mut self, net: IpNetwork) -> Option<V> {
        match net {
            IpNetwork::V4(net) => self.v4.remove(&net),
            IpNetwork::V6(net) => self.v6.remove(&net),
        }
    }

    /// All addresses and prefixes with their values.
    pub fn iter(&self) -> impl Iterator<Item = (IpNetwork, &V)> {
        let v4 = self.v4.iter().map(|(net, value)| (IpNetwork::V4(*net), value));
        v4.chain(self.v6.iter().map(|(net, value)| (IpNetwork::V6(*net), value)))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// The addresses and prefixes that lie in a prefix, including itself.
    pub fn within(&self, net: IpNetwork) -> Vec<IpNetwork> {
        // Among prefixes of one address, the length 0 is the first in order and the full length the last.
        match net {
            IpNetwork::V4(net) => {
                let (first, last) =
                    (Ipv4Network::new(net.network(), 0), Ipv4Network::new(net.broadcast(), 32));
                let (first, last) = (first.unwrap_or(net), last.unwrap_or(net));
                let within = self.v4.range(first..=last).map(|(known, _)| *known);
                within.filter(|known| known.prefix() >= net.prefix()).map(IpNetwork::V4).collect()
            }
            IpNetwork::V6(net) => {
                let (first, last) =
                    (Ipv6Network::new(net.network(), 0), Ipv6Network::new(net.broadcast(), 128));
                let (first, last) = (first.unwrap_or(net), last.unwrap_or(net));
                let within = self.v6.range(first..=last).map(|(known, _)| *known);
                within.filter(|known| known.prefix() >= net.prefix()).map(IpNetwork::V6).collect()
            }
        }
    }

    /// The same content in new trees without empty space. A tree that is filled one by one in order is half empty.
    #[must_use]
    pub fn packed(self) -> Self {
        Self { v4: self.v4.into_iter().collect(), v6: self.v6.into_iter().collect() }
    }
}

impl<V> FromIterator<(IpNetwork, V)> for NetMap<V> {
    fn from_iter<I: IntoIterator<Item = (IpNetwork, V)>>(values: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (net, value) in values {
            match net {
                IpNetwork::V4(net) => v4.push((net, value)),
                IpNetwork::V6(net) => v6.push((net, value)),
            }
        }
        Self { v4: v4.into_iter().collect(), v6: v6.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[test]
    fn it_does_what_a_map_of_both_families_does() {
        let texts =
            ["fd00::1/128", "10.0.0.1/32", "10.0.0.0/24", "fd00::/64", "10.0.0.2/32", "::/0", "0.0.0.0/0"];
        let numbered = || texts.iter().zip(0..).map(|(text, number)| (net(text), number));
        let plain: BTreeMap<IpNetwork, i32> = numbered().collect();
        let mut one_by_one = NetMap::default();
        for (net, number) in numbered() {
            assert_eq!(*one_by_one.get_or_insert_with(net, || number), number);
        }
        for mut map in [numbered().collect::<NetMap<_>>(), one_by_one.packed()] {
            let all = |map: &NetMap<i32>| map.iter().map(|(net, number)| (net, *number)).collect::<Vec<_>>();
            assert_eq!(all(&map), plain.iter().map(|(net, number)| (*net, *number)).collect::<Vec<_>>());
            assert_eq!(map.count(), plain.len());
            assert_eq!((map.get(net("10.0.0.0/24")), map.get(net("10.0.0.0/25"))), (Some(&2), None));
            for around in texts.iter().copied().chain(["10.0.0.0/31", "fd00::/127", "10.0.1.0/24"]).map(net) {
                let is_within = |it: &&IpNetwork| {
                    it.is_ipv4() == around.is_ipv4()
                        && around.contains(it.ip())
                        && it.prefix() >= around.prefix()
                };
                let expected: Vec<_> = plain.keys().filter(is_within).copied().collect();
                assert_eq!(map.within(around), expected, "{around}");
            }
            *map.get_mut(net("::/0")).unwrap() = 9;
            assert_eq!(
                (map.insert(net("::/0"), 8), map.remove(net("::/0")), map.remove(net("::/0"))),
                (Some(9), Some(8), None)
            );
        }
    }
}

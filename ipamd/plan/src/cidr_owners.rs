//! Which node owns a pod CIDR when several nodes claim it.

use std::{collections::BTreeMap, net::IpAddr};

use ipnetwork::IpNetwork;

/// Prefixes, none of which overlaps another, and whose they are.
#[derive(Debug, Default)]
pub(super) struct CidrOwners<'a> {
    held: BTreeMap<IpNetwork, &'a str>,
}

impl<'a> CidrOwners<'a> {
    /// Gives a prefix to `owner`, unless it overlaps one that was given before: that one and whose it is.
    pub fn claim(&mut self, cidr: IpNetwork, owner: &'a str) -> Result<(), (IpNetwork, &'a str)> {
        // What is held is disjoint, so what overlaps is next to it in their order: what contains it begins before it.
        let before = self.held.range(..=cidr).next_back();
        let behind = self.held.range(cidr..).next();
        let overlap = before.into_iter().chain(behind).find(|(held, _)| overlaps(**held, cidr));
        if let Some((held, owner)) = overlap {
            return Err((*held, owner));
        }
        self.held.insert(cidr, owner);
        Ok(())
    }
}

fn overlaps(a: IpNetwork, b: IpNetwork) -> bool {
    let holds = |net: IpNetwork, ip: IpAddr| net.contains(ip);
    holds(a, b.network()) || holds(b, a.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_one_has_it_and_whatever_overlaps_is_refused() {
        let mut owners = CidrOwners::default();
        let net = |text: &str| text.parse::<IpNetwork>().unwrap();
        for (cidr, owner, refused) in [
            ("10.1.0.0/24", "a", None),
            ("10.1.2.0/23", "b", None),
            ("10.1.0.0/24", "c", Some("a")),
            ("10.1.0.128/25", "c", Some("a")),
            ("10.1.3.0/24", "c", Some("b")),
            ("10.1.0.0/22", "c", Some("a")),
            ("10.0.0.0/8", "c", Some("a")),
            ("0.0.0.0/0", "c", Some("a")),
            ("10.1.1.0/24", "c", None),
            ("fd00::/64", "c", None),
            ("fd00::/56", "d", Some("c")),
            ("fd00:0:0:1::/64", "d", None),
        ] {
            assert_eq!(owners.claim(net(cidr), owner).err().map(|(_, owner)| owner), refused, "{cidr}");
        }
    }
}

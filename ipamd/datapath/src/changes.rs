//! Change stamps: tell the programs which flows to look at again. `bpf/progs/changes.h` is the other half.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        PoisonError,
        atomic::{Ordering, fence},
    },
};

use bpf::layout::{
    CHANGED_EVERYTHING, CHANGED_PREFIX4, CHANGED_PREFIX6, CHANGES, address_place, network_place,
};
use ipnetwork::IpNetwork;

use super::{datapath::Datapath, error::DatapathError};
use ipamd_model::concerned::Concerned;

/// So many networks of the size that has a place are written down one by one: those of a /16, or of a /56 of IPv6. A larger
/// network concerns everything.
const NETWORKS_MOST: u32 = 256;

impl Datapath {
    /// Raises the epoch for the flows that a change concerns: they take the slow path with their next packet. Called
    /// after the tables are written, because a verdict by the old tables must not carry the new epoch.
    pub fn raise_epoch(&self, concerned: &Concerned) -> Result<(), DatapathError> {
        if concerned.is_nothing() {
            return Ok(());
        }
        self.raise_at(places(concerned))
    }

    /// Raises the epoch of every flow. The last daemon may have died between a write and its epoch. It also renews old
    /// stamps, which would otherwise look like future ones when the number wraps.
    pub(super) fn raise_every_place(&self) -> Result<(), DatapathError> {
        self.raise_at((0..CHANGES).collect())
    }

    fn raise_at(&self, places: BTreeSet<u32>) -> Result<(), DatapathError> {
        let _alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let mut node = self.node.get(&0)?.unwrap_or_default();
        node.epoch = node.epoch.wrapping_add(1);
        // On arm64 a processor may show stores in another order than they were made in, also those of two system calls.
        fence(Ordering::SeqCst);
        self.changes.put_all(places.into_iter().map(|place| (place, node.epoch)))?;
        fence(Ordering::SeqCst);
        self.node.put(&0, &node)
    }
}

/// Where a change is written down.
fn places(concerned: &Concerned) -> BTreeSet<u32> {
    let everything = BTreeSet::from([CHANGED_EVERYTHING]);
    if concerned.is_everything() {
        return everything;
    }
    let mut places = BTreeSet::new();
    for network in concerned.networks() {
        if !add_places(network, &mut places) {
            return everything;
        }
    }
    places
}

/// Adds the places of a network; false if it is too large for that.
fn add_places(network: IpNetwork, places: &mut BTreeSet<u32>) -> bool {
    let (whole, grouped) = match network {
        IpNetwork::V4(_) => (32, CHANGED_PREFIX4),
        IpNetwork::V6(_) => (128, CHANGED_PREFIX6),
    };
    if network.prefix() == whole {
        places.insert(address_place(network.ip()));
        return true;
    }
    let count = 1_u32.checked_shl(grouped.saturating_sub(network.prefix()).into()).unwrap_or(u32::MAX);
    if count > NETWORKS_MOST {
        return false;
    }
    places.extend((0..count).map(|at| {
        network_place(match network.network() {
            IpAddr::V4(first) => {
                Ipv4Addr::from(u32::from(first).wrapping_add(at << (32 - CHANGED_PREFIX4))).into()
            }
            IpAddr::V6(first) => {
                Ipv6Addr::from(u128::from(first).wrapping_add(u128::from(at) << (128 - CHANGED_PREFIX6)))
                    .into()
            }
        })
    }));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn concerned(networks: &[&str]) -> Concerned {
        networks.iter().map(|it| it.parse::<IpNetwork>().unwrap()).collect()
    }

    /// Whether a change is seen by who has that address.
    fn sees(networks: &[&str], address: &str) -> bool {
        let (places, address) = (places(&concerned(networks)), address.parse().unwrap());
        [CHANGED_EVERYTHING, address_place(address), network_place(address)]
            .iter()
            .any(|place| places.contains(place))
    }

    #[test]
    fn who_is_in_a_network_sees_its_change_and_hardly_anybody_else() {
        for (network, inside) in [
            ("10.1.2.3/32", "10.1.2.3"),
            ("10.1.2.64/26", "10.1.2.70"),
            ("10.1.2.0/24", "10.1.2.255"),
            ("10.1.0.0/16", "10.1.0.1"),
            ("10.1.0.0/16", "10.1.255.1"),
            ("10.0.0.0/8", "10.200.1.1"),
            ("0.0.0.0/0", "203.0.113.9"),
            ("fd00::5/128", "fd00::5"),
            ("fd00:0:0:7::/122", "fd00:0:0:7::9"),
            ("fd00:0:0:700::/56", "fd00:0:0:7ff::1"),
            ("fd00::/48", "fd00::ffff:1:2:3:4"),
            ("::/0", "2001:db8::1"),
        ] {
            assert!(sees(&[network], inside), "{inside} is in {network}");
        }
        assert!(!sees(&["10.1.2.3/32"], "10.1.2.4"));
        assert!(!sees(&["10.1.2.64/26"], "10.1.3.70"));
        assert!(!sees(&["fd00:0:0:7::/122"], "fd00:0:0:8::9"));
        assert!(!sees(&[], "10.1.2.3"));
        let strangers =
            (0..=u8::MAX).filter(|last| sees(&["10.1.2.3/32"], &format!("10.7.7.{last}"))).count();
        assert!(strangers < 4, "{strangers} of 256 share the place");
    }

    #[test]
    fn a_large_network_is_one_place_and_no_thousands() {
        for (networks, count) in [
            (&["10.1.0.0/16"][..], 230..=256),
            (&["10.0.0.0/15"], 1..=1),
            (&["10.1.2.3/32", "10.0.0.0/8"], 1..=1),
            (&["10.1.2.3/32", "10.1.2.4/32"], 2..=2),
        ] {
            let places = places(&concerned(networks)).len();
            assert!(count.contains(&places), "{networks:?}: {places}");
        }
    }
}

//! The addresses and prefixes that are in the tables.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use super::tables::Peer;
use crate::compile::classes::is_host;

/// Addresses and prefixes with what is known of them, and how many there are.
#[derive(Debug, Default)]
pub(super) struct Peers {
    known: BTreeMap<IpNetwork, Peer>,
    counts: Counts,
}

/// How many there are of each family: addresses and prefixes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts([(usize, usize); 2]);

impl Counts {
    /// Counts a change of whether something is known.
    pub fn change(&mut self, net: IpNetwork, before: bool, after: bool) {
        let (addresses, prefixes) = &mut self.0[usize::from(net.is_ipv6())];
        let place = if is_host(net) { addresses } else { prefixes };
        match (before, after) {
            (false, true) => *place += 1,
            (true, false) => *place = place.saturating_sub(1),
            _ => {}
        }
    }

    /// Addresses and prefixes, of IPv4, then of IPv6.
    pub fn by_family(self) -> [(usize, usize); 2] {
        self.0
    }
}

impl Peers {
    pub fn get(&self, net: IpNetwork) -> Option<Peer> {
        self.known.get(&net).copied()
    }

    pub fn insert(&mut self, net: IpNetwork, peer: Peer) {
        let before = self.known.insert(net, peer).is_some();
        self.counts.change(net, before, true);
    }

    pub fn remove(&mut self, net: IpNetwork) {
        let before = self.known.remove(&net).is_some();
        self.counts.change(net, before, false);
    }

    /// Takes no more room than is needed.
    pub fn pack(&mut self) {
        self.known = std::mem::take(&mut self.known).into_iter().collect();
    }

    pub fn iter(&self) -> impl Iterator<Item = (IpNetwork, Peer)> {
        self.known.iter().map(|(net, peer)| (*net, *peer))
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }
}

//! The addresses and prefixes that are in the tables.

use ipnetwork::IpNetwork;

use crate::compile::{net_map::NetMap, nets::is_host};
use crate::tables::{ClassId, Peer};

/// Addresses and prefixes with what is known of them, and how many there are.
#[derive(Debug, Default)]
pub(super) struct Peers {
    known: NetMap<Packed>,
    counts: Counts,
}

/// A peer in one word: classes have thirty bits.
#[derive(Clone, Copy, Debug)]
struct Packed(u32);

const NODE: u32 = 1 << 31;

impl From<Peer> for Packed {
    fn from(Peer { class, node }: Peer) -> Self {
        Self(class.0 & !NODE | if node { NODE } else { 0 })
    }
}

impl From<Packed> for Peer {
    fn from(Packed(word): Packed) -> Self {
        Self { class: ClassId(word & !NODE), node: word & NODE != 0 }
    }
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
        self.known.get(net).copied().map(Peer::from)
    }

    pub fn insert(&mut self, net: IpNetwork, peer: Peer) {
        let before = self.known.insert(net, peer.into()).is_some();
        self.counts.change(net, before, true);
    }

    pub fn remove(&mut self, net: IpNetwork) {
        let before = self.known.remove(net).is_some();
        self.counts.change(net, before, false);
    }

    /// Takes no more room than is needed.
    pub fn pack(&mut self) {
        self.known = std::mem::take(&mut self.known).packed();
    }

    pub fn iter(&self) -> impl Iterator<Item = (IpNetwork, Peer)> {
        self.known.iter().map(|(net, peer)| (net, (*peer).into()))
    }

    pub fn len(&self) -> usize {
        self.known.count()
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }
}

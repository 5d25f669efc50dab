//! The flows that a change concerns: they take the slow path again. The others keep their verdicts.

use std::{collections::BTreeSet, net::IpAddr};

use ipnetwork::IpNetwork;

/// The addresses whose flows a change concerns. A flow has up to four: those of both its sides, before and after a
/// translation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Concerned {
    everything: bool,
    networks: BTreeSet<IpNetwork>,
}

impl Concerned {
    /// Every flow.
    pub fn everything() -> Self {
        Self { everything: true, networks: BTreeSet::new() }
    }

    /// No flow.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// The flows of one address.
    pub fn address(address: IpAddr) -> Self {
        Self::network(address.into())
    }

    /// The flows of the addresses of a network.
    pub fn network(network: IpNetwork) -> Self {
        Self { everything: false, networks: BTreeSet::from([network]) }
    }

    /// Whether no flow is concerned.
    pub fn is_nothing(&self) -> bool {
        !self.everything && self.networks.is_empty()
    }

    /// Whether every flow is concerned.
    pub fn is_everything(&self) -> bool {
        self.everything
    }

    /// The networks, unless every flow is concerned.
    pub fn networks(&self) -> impl Iterator<Item = IpNetwork> + '_ {
        self.networks.iter().copied()
    }

    /// Adds what another change concerns.
    pub fn add(&mut self, more: Self) {
        self.everything |= more.everything;
        self.networks.extend(more.networks);
        if self.everything {
            self.networks.clear();
        }
    }
}

impl FromIterator<IpAddr> for Concerned {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        Self { everything: false, networks: addresses.into_iter().map(IpNetwork::from).collect() }
    }
}

impl FromIterator<IpNetwork> for Concerned {
    fn from_iter<I: IntoIterator<Item = IpNetwork>>(networks: I) -> Self {
        Self { everything: false, networks: networks.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_takes_in_what_else_is_concerned() {
        let address: IpAddr = "10.88.0.5".parse().unwrap();
        let mut concerned = Concerned::nothing();
        assert!(concerned.is_nothing());
        concerned.add(Concerned::address(address));
        concerned.add(Concerned::nothing());
        assert_eq!(concerned, Concerned::from_iter([address]));
        concerned.add(Concerned::everything());
        concerned.add(Concerned::address(address));
        assert_eq!(concerned, Concerned::everything());
    }
}

//! The addresses and prefixes of one item. What nearly every pod has takes little memory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// Whether a prefix is one address.
pub fn is_host(net: IpNetwork) -> bool {
    net.prefix() == if net.is_ipv4() { 32 } else { 128 }
}

/// Addresses and prefixes, in their order. A cluster may have a hundred thousand of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nets {
    /// One address of each family at most.
    Hosts(Option<Ipv4Addr>, Option<Ipv6Addr>),
    /// Any others.
    Any(Box<[IpNetwork]>),
}

impl Nets {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = IpNetwork> {
        let (v4, v6, any) = match self {
            Self::Hosts(v4, v6) => (*v4, *v6, &[][..]),
            Self::Any(nets) => (None, None, &**nets),
        };
        let hosts = v4.map(IpAddr::from).into_iter().chain(v6.map(IpAddr::from));
        hosts.map(IpNetwork::from).chain(any.iter().copied())
    }

    /// Whether an address or prefix is among them.
    pub fn contains(&self, net: IpNetwork) -> bool {
        self.iter().any(|it| it == net)
    }
}

impl FromIterator<IpNetwork> for Nets {
    fn from_iter<I: IntoIterator<Item = IpNetwork>>(nets: I) -> Self {
        let nets: Vec<_> = nets.into_iter().collect();
        let host = |net: &IpNetwork| is_host(*net).then(|| net.ip());
        match nets.iter().map(host).collect::<Vec<_>>().as_slice() {
            [] => Self::Hosts(None, None),
            [Some(IpAddr::V4(v4))] => Self::Hosts(Some(*v4), None),
            [Some(IpAddr::V6(v6))] => Self::Hosts(None, Some(*v6)),
            [Some(IpAddr::V4(v4)), Some(IpAddr::V6(v6))] => Self::Hosts(Some(*v4), Some(*v6)),
            _ => Self::Any(nets.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_put_in_comes_out_in_its_order() {
        let nets = |texts: &[&str]| texts.iter().map(|it| it.parse().unwrap()).collect::<Vec<IpNetwork>>();
        for (texts, is_short) in [
            (&[][..], true),
            (&["10.0.0.1/32"], true),
            (&["fd00::1/128"], true),
            (&["10.0.0.1/32", "fd00::1/128"], true),
            (&["fd00::1/128", "10.0.0.1/32"], false),
            (&["10.0.0.1/32", "10.0.0.2/32"], false),
            (&["10.0.0.1/32", "10.0.0.2/32", "fd00::1/128"], false),
            (&["10.0.0.0/24"], false),
            (&["10.0.0.1/32", "fd00::/64"], false),
        ] {
            let nets = nets(texts);
            let held: Nets = nets.iter().copied().collect();
            assert_eq!(held.iter().collect::<Vec<_>>(), nets);
            assert_eq!(matches!(held, Nets::Hosts(..)), is_short, "{nets:?}");
            assert!(
                nets.iter().all(|net| held.contains(*net)) && !held.contains("10.9.9.9/32".parse().unwrap())
            );
        }
        assert_eq!(size_of::<Nets>(), 24, "there is one of these for each pod, twice");
    }
}

//! Services and their endpoints, by number.

use std::net::Ipv4Addr;

/// The port of each service.
pub const SERVICE_PORT: u16 = 80;
/// The port of each endpoint.
pub const PORT: u16 = 8080;
/// Endpoints of each service.
const ENDPOINTS: u32 = 10;
/// Namespaces that the services are in.
const NAMESPACES: u32 = 20;

/// Services `svc-0`, `svc-1`, ... of ten endpoints each. That in the middle is the one that is measured: its endpoints
/// exist.
#[derive(Clone, Debug)]
pub struct Population {
    /// How many services there are.
    pub services: u32,
    /// The endpoints of the one that is measured.
    pub backends: Vec<Ipv4Addr>,
    /// The node that they are on.
    pub node: String,
}

/// An endpoint of a service of a population.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The number of its service.
    pub service: u32,
    /// Its number among the endpoints of the service.
    pub number: u32,
    /// Where it is.
    pub address: Ipv4Addr,
}

impl Population {
    /// The service that is measured: half of the others are before it in any list.
    pub fn measured(&self) -> u32 {
        self.services / 2
    }

    /// Where a service is reached.
    pub fn cluster_ip(service: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + service)
    }

    /// Its namespace.
    pub fn namespace(service: u32) -> String {
        format!("ns-{}", service % NAMESPACES)
    }

    /// Its name.
    pub fn name(service: u32) -> String {
        format!("svc-{service}")
    }

    /// Its endpoints.
    pub fn endpoints(&self, service: u32) -> Vec<Backend> {
        let addresses: Vec<Ipv4Addr> = if service == self.measured() {
            self.backends.clone()
        } else {
            let first = u32::from(Ipv4Addr::new(10, 128, 0, 0)) + service * ENDPOINTS;
            (first..first + ENDPOINTS).map(Ipv4Addr::from).collect()
        };
        let numbered = addresses.into_iter().zip(0..);
        numbered.map(|(address, number)| Backend { service, number, address }).collect()
    }
}

/// Sixteen hexadecimal digits that look random but follow from the number: what others take from a hash of the name.
pub(super) fn digest(number: u64) -> String {
    // The finalizer of SplitMix64, which maps no two numbers to one.
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    format!("{:016X}", mixed ^ (mixed >> 31))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn services_and_endpoints_have_addresses_of_their_own() {
        let real = vec![Ipv4Addr::new(10, 88, 0, 2), Ipv4Addr::new(10, 88, 0, 3)];
        let population = Population { services: 1_000, backends: real.clone(), node: "node".into() };
        let mut seen = BTreeSet::new();
        for service in 0..population.services {
            assert!(seen.insert(Population::cluster_ip(service)));
            for endpoint in population.endpoints(service) {
                assert!(seen.insert(endpoint.address), "{endpoint:?}");
            }
        }
        assert_eq!(seen.len(), 1_000 + 999 * 10 + 2);
        let measured: Vec<_> = population.endpoints(500).into_iter().map(|one| one.address).collect();
        assert_eq!(measured, real);
    }

    #[test]
    fn digests_differ() {
        let digests: BTreeSet<String> = (0..10_000).map(digest).collect();
        assert_eq!(digests.len(), 10_000);
        assert!(digests.iter().all(|digest| digest.len() == 16));
    }
}

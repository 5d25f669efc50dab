//! Where services want to be reached: a port of the node that leads to a container is never in their way, whoever came first.
//! Whoever may make pods may ask for such a port, at any address; it must not get what is meant for a service.

use std::{collections::HashMap, net::IpAddr};

use ipamd_api::PortMapping;

use super::{
    plan::{Front, Reach},
    tables::{Family, FrontendKey},
};

/// How many services claim each place. With port and protocol zero it is the address, whole.
#[derive(Debug, Default)]
pub(super) struct Claimed(HashMap<FrontendKey, u32>);

impl Claimed {
    /// Counts what a service claims now in place of what it did; whether there is something that nobody claimed before.
    pub fn replace<'a>(&mut self, before: impl IntoIterator<Item = &'a Front>, now: &[&Front]) -> bool {
        let mut more = false;
        for key in now.iter().flat_map(|front| places(front)) {
            let count = self.0.entry(key).or_default();
            *count += 1;
            more |= *count == 1;
        }
        for key in before.into_iter().flat_map(places) {
            if let Some(count) = self.0.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(&key);
                }
            }
        }
        more
    }

    /// Whether a service is to be reached there.
    pub fn has(&self, address: IpAddr, port: u16, protocol: u8) -> bool {
        let any = Family::of(address).unspecified();
        let keys = [
            FrontendKey { address, port, protocol },
            FrontendKey { address: any, port, protocol },
            FrontendKey { address, port: 0, protocol: 0 },
        ];
        keys.iter().any(|key| self.0.contains_key(key))
    }
}

fn places(front: &Front) -> impl Iterator<Item = FrontendKey> + use<> {
    let whole = FrontendKey { port: 0, protocol: 0, ..front.key };
    [front.key].into_iter().chain((front.reach == Reach::ClusterIp).then_some(whole))
}

/// Whether a port of the node that leads to a container may be where a service is to be reached.
pub(super) fn meet(front: &Front, mapping: &PortMapping) -> bool {
    let same_port = front.key.port == mapping.host_port && front.key.protocol == mapping.protocol;
    same_port || (front.reach == Reach::ClusterIp && mapping.host_ip == Some(front.key.address))
}

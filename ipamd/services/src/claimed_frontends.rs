//! The frontends that services claim. A service always wins over a host port of a container, whichever came first:
//! whoever may create pods may ask for a host port at any address, and must not get traffic that is meant for a
//! service.

use std::{collections::HashMap, net::IpAddr};

use ipamd_api::PortMapping;

use super::{
    plan::{Frontend, FrontendKind},
    tables::{Family, FrontendKey},
};

/// The number of services that claim each frontend. A key with port and protocol zero stands for the whole address.
#[derive(Debug, Default)]
pub(super) struct ClaimedFrontends(HashMap<FrontendKey, u32>);

impl ClaimedFrontends {
    /// Replaces a service's claims. Returns whether it claims something that was not claimed before.
    pub fn replace<'a>(&mut self, before: impl IntoIterator<Item = &'a Frontend>, now: &[&Frontend]) -> bool {
        let mut more = false;
        for key in now.iter().flat_map(|frontend| places(frontend)) {
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

    /// Whether a service claims this address and port.
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

fn places(frontend: &Frontend) -> impl Iterator<Item = FrontendKey> + use<> {
    let whole = FrontendKey { port: 0, protocol: 0, ..frontend.key };
    [frontend.key].into_iter().chain((frontend.kind == FrontendKind::ClusterIp).then_some(whole))
}

/// Whether a host port of a container conflicts with a service's frontend.
pub(super) fn conflicts(frontend: &Frontend, mapping: &PortMapping) -> bool {
    let same_port = frontend.key.port == mapping.host_port && frontend.key.protocol == mapping.protocol;
    same_port || (frontend.kind == FrontendKind::ClusterIp && mapping.host_ip == Some(frontend.key.address))
}

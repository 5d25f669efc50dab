//! Where packets are not masqueraded.

use std::sync::PoisonError;

use bpf::layout::{Prefix4, Prefix6};
use ipamd_model::concerned::Concerned;
use ipnetwork::IpNetwork;

use super::{datapath::Datapath, error::DatapathError, sync::sync_keys};

impl Datapath {
    /// Destinations that are not masqueraded: the pools, and `--no-masquerade`. Raises the epoch on a change.
    pub fn set_no_masquerade(&self, networks: &[IpNetwork]) -> Result<(), DatapathError> {
        let mut known = self.not_masqueraded.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() == Some(networks) {
            return Ok(());
        }
        *known = None;
        let mut wanted4 = Vec::new();
        let mut wanted6 = Vec::new();
        for network in networks {
            match network {
                IpNetwork::V4(n) => {
                    wanted4.push(Prefix4 { length: n.prefix().into(), address: n.network().into() });
                }
                IpNetwork::V6(n) => {
                    wanted6.push(Prefix6 { length: n.prefix().into(), address: n.network().into() });
                }
            }
        }
        let changed4 = sync_keys(&self.no_masquerade4, &wanted4)?;
        let changed6 = sync_keys(&self.no_masquerade6, &wanted6)?;
        if changed4 || changed6 {
            self.raise_epoch(&Concerned::everything())?;
        }
        *known = Some(networks.into());
        Ok(())
    }
}

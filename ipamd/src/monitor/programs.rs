//! What the monitor asks of the programs.

use std::{fmt::Debug, net::IpAddr};

use ipamd_datapath::{Datapath, DatapathError};

/// The programs, as far as events need them.
pub trait Programs: Debug + Send + Sync {
    /// Turns events on and off (denials by policy are always on), and sets of how many flows one is reported.
    fn set_events(&self, flows: bool, drops: bool, sample: u32) -> Result<(), DatapathError>;
    /// The DNS names that an endpoint was told for an address. The endpoint is given by an address of its own.
    fn dns_names_of(&self, endpoint: IpAddr, address: IpAddr) -> Result<Vec<String>, DatapathError>;
    /// How many events the ring had no room for, and how many were beyond the rate.
    fn events_missed(&self) -> Result<(u64, u64), DatapathError>;
}

impl Programs for Datapath {
    fn set_events(&self, flows: bool, drops: bool, sample: u32) -> Result<(), DatapathError> {
        Self::set_events(self, flows, drops, sample)
    }

    fn dns_names_of(&self, endpoint: IpAddr, address: IpAddr) -> Result<Vec<String>, DatapathError> {
        Self::dns_names_of(self, endpoint, address)
    }

    fn events_missed(&self) -> Result<(u64, u64), DatapathError> {
        Self::events_missed(self)
    }
}

//! What the datapath is to be.

use std::ops::RangeInclusive;

use bpf::{attach::Pins, layout::Lifetimes, sizes::MapSizes};
use ipamd_api::wire::AttachMode;
use ipamd_model::{deny::DenyMode, domain::DomainPattern};

/// What the datapath is to be.
#[derive(Clone, Debug)]
pub struct DatapathConfig {
    /// Where everything is pinned.
    pub pins: Pins,
    /// How programs are attached; `None` takes tcx where the kernel has it, and leaves clsact filters that endpoints have.
    pub attach_mode: Option<AttachMode>,
    /// Entries of the maps that all endpoints share.
    pub sizes: MapSizes,
    /// Whether what leaves the cluster is masqueraded.
    pub masquerade: bool,
    /// The ports (and ICMP identifiers) that masqueraded flows leave from.
    pub masquerade_ports: RangeInclusive<u16>,
    /// How long flows are remembered.
    pub lifetimes: Lifetimes,
    /// Rules that are counted apart.
    pub policy_rules: u32,
    /// Names that every endpoint with domain rules may ask the resolvers about.
    pub dns_search: Vec<DomainPattern>,
    /// An address counts as a name for at least so many seconds after an endpoint was told it.
    pub dns_least_lifetime: u32,
    /// Where the program of the deny sets runs.
    pub deny_mode: DenyMode,
    /// The overlay's UDP port and the number of its network, where there may be one.
    pub overlay: Option<(u16, u32)>,
}

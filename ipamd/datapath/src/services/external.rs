//! What services need of the node for clients outside of it.

use bpf::layout::EXTERNAL_DSR;

use crate::{datapath::Datapath, error::DatapathError};

/// How services treat what comes from outside, and which addresses they need of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExternalSettings {
    /// A backend on another node answers the client directly.
    pub dsr: bool,
    /// What an endpoint sees as the client when it is its own service's backend.
    pub hairpin4: Option<std::net::Ipv4Addr>,
    /// As `hairpin4`.
    pub hairpin6: Option<std::net::Ipv6Addr>,
}

impl Datapath {
    /// Sets how services treat what comes from outside.
    pub fn set_external(&self, settings: ExternalSettings) -> Result<(), DatapathError> {
        self.change_node(|node| {
            node.external &= !EXTERNAL_DSR;
            node.external |= if settings.dsr { EXTERNAL_DSR } else { 0 };
            node.hairpin4 = settings.hairpin4.map(Into::into).unwrap_or_default();
            node.hairpin6 = settings.hairpin6.map(Into::into).unwrap_or_default();
        })
    }
}

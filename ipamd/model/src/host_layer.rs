//! What the policies of a host endpoint are asked about.

use std::fmt;

use serde::Serialize;

/// What policies of a host endpoint are asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum HostLayer {
    /// What the node itself sends and gets.
    #[default]
    Local,
    /// What passes through the node. A policy that is asked here is also asked about what is [local](Self::Local).
    Forwarded,
    /// All that comes by the interface, before its destination is translated.
    PreDnat,
    /// All that passes the interface, packet by packet.
    Untracked,
}

impl HostLayer {
    /// All, in the order of the programs' table.
    pub const ALL: [Self; 4] = [Self::Local, Self::Forwarded, Self::PreDnat, Self::Untracked];

    /// Whether what no policy decides goes on to be asked elsewhere.
    pub fn goes_on(self) -> bool {
        matches!(self, Self::PreDnat | Self::Untracked)
    }
}

impl fmt::Display for HostLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Forwarded => "forwarded",
            Self::PreDnat => "pre-dnat",
            Self::Untracked => "untracked",
        })
    }
}

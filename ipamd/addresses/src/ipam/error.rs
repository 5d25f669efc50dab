//! Why no address could be had.

use std::{fmt, net::IpAddr};

use ipamd_api::{AttachmentKey, ErrorKind};

use super::{family::Family, pool::Reserved};

/// How full one pool is, as a phrase of [`AllocationError::Exhausted`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolUse {
    /// The pool's name and prefix.
    pub pool: String,
    /// Addresses handed out.
    pub used: u128,
    /// Addresses that can be.
    pub capacity: u128,
}

impl fmt::Display for PoolUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {} has {} of {} addresses in use", self.pool, self.used, self.capacity)
    }
}

/// Why no address could be had. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AllocationError {
    /// No pools are configured at all.
    #[error("no address pool is configured; start the daemon with --pool CIDR")]
    NoPools,
    /// Every pool of the family is full.
    #[error("no {family} address is left: {}", join(pools))]
    Exhausted {
        /// The family.
        family: Family,
        /// Each of its pools.
        pools: Vec<PoolUse>,
    },
    /// One attachment has at most one address of each family.
    #[error(
        "the requested addresses {first} and {second} are both {family}; an interface gets one of each family"
    )]
    TwoOfOneFamily {
        /// The one.
        first: IpAddr,
        /// The other.
        second: IpAddr,
        /// Their family.
        family: Family,
    },
    /// The requested address is not ours to give.
    #[error("the requested address {address} lies in no pool of this node ({pools})")]
    NotInAnyPool {
        /// The address.
        address: IpAddr,
        /// The pools there are.
        pools: String,
    },
    /// The requested address is never handed out.
    #[error("the requested address {address} is the {reserved} address of pool {pool}")]
    Reserved {
        /// The address.
        address: IpAddr,
        /// What it is for.
        reserved: Reserved,
        /// The pool's name and prefix.
        pool: String,
    },
    /// The requested address belongs to another attachment.
    #[error("the requested address {address} is in use by {holder} (network/container/interface)")]
    InUse {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: AttachmentKey,
    },
}

impl AllocationError {
    /// How the socket's clients are told.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoPools | Self::Exhausted { .. } => ErrorKind::PoolExhausted,
            Self::TwoOfOneFamily { .. } => ErrorKind::InvalidRequest,
            Self::NotInAnyPool { .. } | Self::Reserved { .. } => ErrorKind::AddressUnavailable,
            Self::InUse { .. } => ErrorKind::InUse,
        }
    }
}

fn join(pools: &[PoolUse]) -> String {
    pools.iter().map(PoolUse::to_string).collect::<Vec<_>>().join(", ")
}

//! Why there is no valid configuration.

use std::{io, path::PathBuf};

use ipnetwork::IpNetwork;

use crate::timeouts::TwoTimes;
use ipamd_addresses::ipam::PoolError;

/// Why there is no valid configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is not TOML, has an unknown key, or a value that its key does not take.
    #[error("the configuration {} is not valid: {detail}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What and where.
        detail: String,
    },
    /// A pool cannot be.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// There is nothing to hand out.
    #[error(
        "no address pool is configured; name at least one, such as --pool 10.88.0.0/16 or pool = [\"10.88.0.0/16\"]"
    )]
    NoPools,
    /// There is something to hand out, and nobody to hand it to.
    #[error(
        "chained is true, and there is the pool {pool}: other plugins assign the addresses then; remove the pools, or chained"
    )]
    ChainedPools {
        /// The first of the pools.
        pool: IpNetwork,
    },
    /// A directory depends on where the daemon was started.
    #[error("{key} is {:?}, which depends on where the daemon is started; give the whole path, from / on", path.display())]
    Relative {
        /// The key.
        key: &'static str,
        /// What it is.
        path: PathBuf,
    },
    /// Flows would be told to anybody, or nobody could be told.
    #[error(
        "hubble-listen is set and {missing} is not: beyond the node, flows are told by TLS, to clients with a certificate; name the file, or serve the node alone by hubble-socket"
    )]
    HubbleWithoutTls {
        /// The first key that is missing.
        missing: &'static str,
    },
    /// An interface that leads nowhere.
    #[error(
        "uplink names lo, which leads to nobody but the node itself; name the interfaces that lead out of the node"
    )]
    UplinkLo,
    /// No socket can have it.
    #[error("vxlan-port is 0, but must be from 1 to 65535")]
    VxlanPort,
    /// What are uplinks is said twice.
    #[error(
        "uplink names the uplinks, so uplink-exclude leaves none out: give one of the two (in the file or by flags)"
    )]
    UplinksNamedAndExcluded,
    /// A state of connections has two times.
    #[error("{0}")]
    TwoTimes(TwoTimes),
}

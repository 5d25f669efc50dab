//! Where the daemon's things are, for commands that need no pools.

use std::path::{Path, PathBuf};

use ipamd_api::{DEFAULT_SOCKET, wire::AttachMode};

use super::{ConfigError, DEFAULT_BPFFS, DEFAULT_MASQUERADE_PORTS, DEFAULT_STATE_DIR, read_or_default};

/// The part of the configuration that says where things are, and what the preflight checks depend on.
#[derive(Clone, Debug, PartialEq)]
pub struct Locations {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// Its records.
    pub state_dir: PathBuf,
    /// Where programs, maps and links are pinned.
    pub bpffs: PathBuf,
    /// Root of the cgroup v2 hierarchy, if it is configured.
    pub cgroup: Option<PathBuf>,
    /// How programs are to be attached, if it is configured.
    pub attach: Option<AttachMode>,
    /// Ports of masqueraded flows, if there is masquerading.
    pub masquerade_ports: Option<std::ops::RangeInclusive<u16>>,
}

impl Locations {
    /// Those of a configuration file, or of the default one if it exists.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn load(config: Option<&Path>) -> Result<Self, ConfigError> {
        let options = read_or_default(config)?;
        let ports = options.masquerade_ports.map_or(DEFAULT_MASQUERADE_PORTS, |ports| ports.0);
        Ok(Self {
            socket: options.socket.unwrap_or_else(|| DEFAULT_SOCKET.into()),
            state_dir: options.state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            bpffs: options.bpffs.unwrap_or_else(|| DEFAULT_BPFFS.into()),
            cgroup: options.cgroup,
            attach: options.attach.and_then(|attach| attach.0),
            masquerade_ports: options.masquerade.unwrap_or(true).then_some(ports),
        })
    }
}

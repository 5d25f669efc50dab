//! Where the daemon's things are, for commands that need no pools.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use ipamd_api::{DEFAULT_SOCKET, wire::AttachMode};

use crate::{
    cni_files::CniFiles,
    defaults::{
        DEFAULT_BPFFS, DEFAULT_MASQUERADE_PORTS, DEFAULT_STATE_DIR, DEFAULT_VXLAN_ID, DEFAULT_VXLAN_PORT,
    },
    error::ConfigError,
    file::read_or_default,
    options::Options,
    source::Cluster,
    uplinks::UplinkRule,
    values::RoutingMode,
};

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
    /// Where policies, services and nodes come from.
    pub cluster: Cluster,
    /// Below which the node's `/proc/sys` and `/sys` are.
    pub host_root: PathBuf,
    /// What runtimes find of Cambric.
    pub cni: CniFiles,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// How programs are to be attached, if it is configured.
    pub attach: Option<AttachMode>,
    /// Ports of masqueraded flows, if there is masquerading.
    pub masquerade_ports: Option<std::ops::RangeInclusive<u16>>,
    /// Whether some destinations outside of the cluster see containers by their own addresses.
    pub keeps_sources: bool,
    /// Which interfaces are uplinks.
    pub uplinks: UplinkRule,
    /// How other nodes' endpoints are reached.
    pub routing: RoutingMode,
    /// UDP port of the overlay.
    pub vxlan_port: u16,
    /// Number of the overlay's network.
    pub vxlan_id: u32,
}

impl Default for Locations {
    /// Those without a configuration.
    fn default() -> Self {
        Self::of(&Options::default())
    }
}

impl Locations {
    /// Those of a configuration file, or of the default one if it exists.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn load(config: Option<&Path>) -> Result<Self, ConfigError> {
        Ok(Self::of(&read_or_default(config)?))
    }

    pub(super) fn of(options: &Options) -> Self {
        let Options { socket, state_dir, bpffs, cgroup, host_root, cni_conf_dir, .. } = options.clone();
        let socket = socket.unwrap_or_else(|| DEFAULT_SOCKET.into());
        let host_root = host_root.unwrap_or_else(|| "/".into());
        let ports = options.masquerade_ports.clone().map_or(DEFAULT_MASQUERADE_PORTS, |ports| ports.0);
        Self {
            state_dir: state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            bpffs: bpffs.unwrap_or_else(|| host_root.join(DEFAULT_BPFFS)),
            cgroup,
            cluster: options.cluster.clone().unwrap_or(Cluster::None),
            host_root,
            cni: CniFiles {
                conf_dir: cni_conf_dir,
                bin_dir: options.cni_bin_dir.clone(),
                conflist: options.cni_conflist.clone(),
                socket: socket.clone(),
            },
            socket,
            metrics: options.metrics,
            attach: options.attach.as_ref().and_then(|attach| attach.0),
            masquerade_ports: options.masquerade.unwrap_or(true).then_some(ports),
            keeps_sources: !options.masquerade.unwrap_or(true) || !options.no_masquerade.is_empty(),
            uplinks: UplinkRule { named: options.uplink.clone(), excluded: options.uplink_exclude.clone() },
            routing: options.routing.unwrap_or_default(),
            vxlan_port: options.vxlan_port.unwrap_or(DEFAULT_VXLAN_PORT),
            vxlan_id: options.vxlan_id.as_ref().map_or(DEFAULT_VXLAN_ID, |id| id.0),
        }
    }
}

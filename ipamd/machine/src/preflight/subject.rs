//! What of the configuration the checks depend on.

use std::{ops::RangeInclusive, path::PathBuf};

use ipamd_api::wire::AttachMode;
use ipamd_config::{Config, Locations, RoutingMode, UplinkRule};

/// Where the overlay takes packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayPort {
    /// `vxlan-port`.
    pub port: u16,
    /// `vxlan-id`.
    pub id: u32,
}

impl OverlayPort {
    fn of(routing: RoutingMode, port: u16, id: u32) -> Option<Self> {
        matches!(routing, RoutingMode::Vxlan | RoutingMode::Auto).then_some(Self { port, id })
    }
}

/// What of the configuration the checks depend on.
#[derive(Clone, Debug)]
pub struct Subject {
    /// `bpffs`.
    pub bpffs: PathBuf,
    /// `cgroup`.
    pub cgroup: Option<PathBuf>,
    /// `attach`.
    pub attach: Option<AttachMode>,
    /// `masquerade-ports`, if there is masquerading.
    pub masquerade_ports: Option<RangeInclusive<u16>>,
    /// Whether some destinations outside of the cluster see containers by their own addresses: `masquerade`,
    /// `no-masquerade`.
    pub keeps_sources: bool,
    /// `cni-conf-dir`, or the customary one.
    pub cni_conf_dir: PathBuf,
    /// `cni-conflist`.
    pub cni_conflist: Option<PathBuf>,
    /// `uplink`, `uplink-exclude`.
    pub uplinks: UplinkRule,
    /// The overlay, if routing may need it.
    pub overlay: Option<OverlayPort>,
}

/// Where runtimes look for network configurations by custom.
const CNI_CONF_DIR: &str = "/etc/cni/net.d";

impl From<&Config> for Subject {
    fn from(config: &Config) -> Self {
        Self {
            bpffs: config.bpffs.clone(),
            cgroup: config.cgroup.clone(),
            attach: config.attach,
            masquerade_ports: config.masquerade.then(|| config.masquerade_ports.clone()),
            keeps_sources: !config.masquerade || !config.no_masquerade.is_empty(),
            cni_conf_dir: config.cni.conf_dir.clone().unwrap_or_else(|| CNI_CONF_DIR.into()),
            cni_conflist: config.cni.conflist.clone(),
            uplinks: config.uplinks.clone(),
            overlay: OverlayPort::of(config.routing, config.vxlan_port, config.vxlan_id),
        }
    }
}

impl From<&Locations> for Subject {
    fn from(locations: &Locations) -> Self {
        let Locations { bpffs, cgroup, attach, masquerade_ports, keeps_sources, cni, uplinks, .. } =
            locations.clone();
        Self {
            bpffs,
            cgroup,
            attach,
            masquerade_ports,
            keeps_sources,
            cni_conf_dir: cni.conf_dir.unwrap_or_else(|| CNI_CONF_DIR.into()),
            cni_conflist: cni.conflist,
            uplinks,
            overlay: OverlayPort::of(locations.routing, locations.vxlan_port, locations.vxlan_id),
        }
    }
}

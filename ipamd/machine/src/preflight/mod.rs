//! Preflight: what a machine must have before Cambric can work on it, and what it should have. It changes nothing.

mod bpffs;
mod checks;
mod kube_proxy;
mod other_plugins;

use std::{fmt, ops::RangeInclusive, path::PathBuf};

use ipamd_api::wire::AttachMode;
use serde::Serialize;

pub use bpffs::{MountError, mount_bpffs, mount_bpffs_of_node, unmount_bpffs_of_node};
pub use checks::cgroup_root;

use ipamd_config::{Config, Locations, RoutingMode, UplinkRule};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Cambric works, but something is worth a look.
    Warning,
    /// Cambric cannot work.
    Failure,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a word.
    pub name: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// What was found.
    pub detail: String,
    /// How to mend it; empty where there is nothing to mend.
    pub remedy: String,
}

impl Finding {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Ok, detail: detail.into(), remedy: String::new() }
    }

    fn warning(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Warning, detail: detail.into(), remedy: remedy.into() }
    }

    fn failure(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Failure, detail: detail.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.detail)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "; {}", self.remedy) }
    }
}

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

/// Looks at everything.
pub fn check(subject: &Subject) -> Vec<Finding> {
    let mut findings = vec![
        checks::kernel(),
        checks::btf(),
        checks::capabilities(),
        checks::bpf(subject.attach),
        checks::jit(),
        bpffs::check(&subject.bpffs),
        checks::cgroup(subject.cgroup.as_deref()),
        checks::forwarding(),
        kube_proxy::check(),
    ];
    findings.extend(subject.masquerade_ports.as_ref().map(checks::masquerade_ports));
    findings.extend(other_plugins::check(subject));
    findings
}

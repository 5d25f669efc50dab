//! The datapath that is measured, with pins of its own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use bpf::sizes::{Machine, MapSizes, PolicySizes, RequestedSizes};
use ipamd_datapath::DatapathConfig;
use ipamd_model::deny::DenyMode;

/// A folder on a bpffs; removed with all pins in it.
pub struct PinFolder(PathBuf);

impl PinFolder {
    /// Makes one.
    pub fn new(bpffs: &Path, name: &str) -> Result<Self> {
        let folder = bpffs.join(format!("cambric-bench-{name}-{}", std::process::id()));
        fs::create_dir(&folder)
            .with_context(|| format!("make {} (is a bpffs mounted there?)", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for PinFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The configuration of a datapath that is pinned there.
pub fn datapath_config(pins: &PinFolder) -> DatapathConfig {
    DatapathConfig {
        pins: bpf::attach::Pins::new(&pins.0),
        attach_mode: None,
        sizes: MapSizes::new(
            &RequestedSizes { conntrack: Some(131_072), ..RequestedSizes::default() },
            Machine { memory: 0, processors: 1 },
        ),
        masquerade: true,
        masquerade_ports: 20_000..=39_999,
        lifetimes: bpf::layout::LIFETIMES,
        policy_rules: PolicySizes::default().rules,
        dns_search: Vec::new(),
        deny_mode: DenyMode::Auto,
        dns_least_lifetime: 60,
        overlay: None,
    }
}

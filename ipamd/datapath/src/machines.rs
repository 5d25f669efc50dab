//! The addresses of the cluster's nodes.

use std::{collections::HashMap, net::IpAddr};

use bpf::layout::{MACHINE_EXTERNAL, MACHINE_SENDS_FRAMES};

use super::{datapath::Datapath, error::DatapathError, sync::sync_entries};

impl Datapath {
    /// Sets the addresses of the cluster's nodes, each with whether frames of the overlay are taken from it.
    pub fn set_machines(&self, machines: impl Iterator<Item = (IpAddr, bool)>) -> Result<(), DatapathError> {
        let mut wanted: HashMap<_, u8> = HashMap::new();
        for (machine, sends_frames) in machines {
            *wanted.entry(machine).or_default() |=
                if sends_frames { MACHINE_SENDS_FRAMES } else { MACHINE_EXTERNAL };
        }
        let (mut wanted4, mut wanted6) = (Vec::new(), Vec::new());
        for (machine, value) in wanted {
            match machine {
                IpAddr::V4(ip) => wanted4.push((ip.into(), value)),
                IpAddr::V6(ip) => wanted6.push((ip.into(), value)),
            }
        }
        sync_entries(&self.machines4, &wanted4)?;
        sync_entries(&self.machines6, &wanted6)
    }
}

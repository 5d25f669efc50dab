//! The programs and maps in the kernel, as the daemon sees them.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive, path::PathBuf};

use bpf::attach::Pins;
use ipamd_api::{
    MacAddr,
    wire::{AttachMode, Connection, ConntrackFilter, MapUse},
};
use ipnetwork::IpNetwork;

/// What the datapath is to be.
#[derive(Clone, Debug)]
pub struct DatapathConfig {
    /// Where everything is pinned.
    pub pins: Pins,
    /// How programs are attached; `None` takes tcx where the kernel has it.
    pub attach_mode: Option<AttachMode>,
    /// Entries of each family's conntrack map.
    pub conntrack_size: u32,
    /// The ports (and ICMP identifiers) that masqueraded flows leave from.
    pub masquerade_ports: RangeInclusive<u16>,
}

/// Why the datapath could not be made or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatapathError {
    /// x
    #[error("x")]
    X,
}

/// What the programs know of an endpoint's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointEntry {
    /// Index of its host end.
    pub ifindex: u32,
    /// Ethernet address of its container end.
    pub container_mac: MacAddr,
    /// Ethernet address of its host end.
    pub host_mac: MacAddr,
    /// Bytes, of the container end.
    pub mtu: u16,
    /// A queueing discipline sits on the host end (the `bandwidth` plugin): packets must pass through it rather than
    /// be handed straight into the container's namespace.
    pub shaped: bool,
}

/// What the programs know of an uplink: the addresses that masqueraded packets leave with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uplink {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub ifname: String,
    /// IPv4 source of masqueraded packets.
    pub ipv4: Option<std::net::Ipv4Addr>,
    /// IPv6 source of masqueraded packets.
    pub ipv6: Option<std::net::Ipv6Addr>,
}

/// What a [`Datapath::heal_attachments`] put back, a sentence each.
pub type Repairs = Vec<String>;

/// The loaded programs and their maps. All methods act in the namespace of the calling thread.
#[derive(Debug)]
pub struct Datapath {}

impl Datapath {
    /// Loads the programs, adopting the maps that are pinned, and puts them into every pinned link (or clsact
    /// filter) that an earlier daemon left, without a gap.
    pub fn open(_config: &DatapathConfig) -> Result<Self, DatapathError> {
        todo!()
    }
    /// How programs are attached.
    pub fn attach_mode(&self) -> AttachMode {
        todo!()
    }
    /// Path of a pinned program (`from_endpoint`, `to_endpoint`).
    pub fn program_path(&self, _name: &str) -> PathBuf {
        todo!()
    }
    /// Makes an address forwardable, or changes what is known of it.
    pub fn put_endpoint(&self, _address: IpAddr, _entry: &EndpointEntry) -> Result<(), DatapathError> {
        todo!()
    }
    /// Cuts an address off. Unknown addresses are fine.
    pub fn remove_endpoint(&self, _address: IpAddr) -> Result<(), DatapathError> {
        todo!()
    }
    /// All addresses that the programs know, read from the kernel.
    pub fn endpoints(&self) -> Result<BTreeMap<IpAddr, EndpointEntry>, DatapathError> {
        todo!()
    }
    /// Makes every flow be judged anew on its next packet. Called after any change of endpoints, routes or uplinks
    /// that could send an established flow elsewhere.
    pub fn bump_epoch(&self) -> Result<(), DatapathError> {
        todo!()
    }
    /// Attaches the uplinks' programs and tells the programs their addresses; detaches from those no longer listed.
    /// Changes nothing where all is as wished, so it is called from every reconciliation. Bumps the epoch itself
    /// when something changed.
    pub fn set_uplinks(&self, _uplinks: &[Uplink]) -> Result<Repairs, DatapathError> {
        todo!()
    }
    /// Destinations that are not masqueraded: the pools, and `--no-masquerade`. Bumps the epoch itself on a change.
    pub fn set_no_masquerade(&self, _networks: &[IpNetwork]) -> Result<(), DatapathError> {
        todo!()
    }
    /// Checks and puts back the programs and link pins of the host ends named (name, index), and the pins of maps
    /// and programs.
    pub fn heal_attachments(&self, _host_ends: &[(String, u32)]) -> Result<Repairs, DatapathError> {
        todo!()
    }
    /// What is wrong with the programs of one host end, a sentence each (for CHECK).
    pub fn attachment_faults(&self, _ifname: &str, _ifindex: u32) -> Vec<String> {
        todo!()
    }
    /// Removes the link pins of a host end that is gone or going.
    pub fn unpin_links(&self, _ifname: &str) {
        todo!()
    }
    /// Names of the interfaces that have pinned links.
    pub fn pinned_interfaces(&self) -> Vec<String> {
        todo!()
    }
    /// Packets dropped, by reason.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>, DatapathError> {
        todo!()
    }
    /// Removes expired conntrack entries, returns what is left by family (`ipv4`, `ipv6`). Takes milliseconds.
    pub fn sweep_conntrack(&self) -> Result<BTreeMap<String, MapUse>, DatapathError> {
        todo!()
    }
    /// Calls `page` with the matching conntrack entries, at most 500 at a time, until it returns false.
    pub fn conntrack(
        &self,
        _filter: &ConntrackFilter,
        _page: &mut dyn FnMut(Vec<Connection>) -> bool,
    ) -> Result<(), DatapathError> {
        todo!()
    }
    /// Removes every pin below the bpffs directory, and the clsact filters; the uninstaller's last step.
    pub fn remove_all(_pins: &Pins) -> Result<(), DatapathError> {
        todo!()
    }
}

//! The part of the kernel that the node uses: programs, their maps, and interfaces.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipamd_api::wire::{AttachMode, Connection, ConntrackFilter, DenyStatus, NetnsId};

use ipamd_datapath::{DatapathError, DnsName};
use ipamd_kernel::netlink::{Listener, SocketDiagError};
use ipamd_model::{concerned::Concerned, endpoint::EndpointEntry};

/// The kernel, as the node uses it. Every call is short; none waits for the kernel's network lock.
pub trait Kernel: Debug + Send + Sync {
    /// How programs are attached.
    fn attach_mode(&self) -> AttachMode;
    /// How programs are to be attached to the interfaces that Cambric makes in a network. This one reads files.
    fn attach_mode_in(&self, network: &str) -> AttachMode;
    /// Path of a pinned program.
    fn program_path(&self, name: &str) -> PathBuf;
    /// Whether a program is pinned, for the plugin to attach.
    fn has_program(&self, name: &str) -> bool;
    /// Where the links of an interface are pinned: ingress, egress.
    fn link_pins(&self, ifname: &str) -> [PathBuf; 2];
    /// Makes an address forwardable, or changes what the programs know of it.
    fn put_endpoint(&self, address: IpAddr, entry: &EndpointEntry) -> Result<(), DatapathError>;
    /// Removes an address, so that its packets are dropped.
    fn remove_endpoint(&self, address: IpAddr) -> Result<(), DatapathError>;
    /// All addresses that the programs know.
    fn endpoints(&self) -> Result<BTreeMap<IpAddr, EndpointEntry>, DatapathError>;
    /// Raises the epoch of the flows that a change concerns.
    fn raise_epoch(&self, concerned: &Concerned) -> Result<(), DatapathError>;
    /// Faults of the programs of a host end, a sentence each.
    fn attachment_faults(&self, ifname: &str, ifindex: u32) -> Vec<String>;
    /// Makes a host end run this daemon's programs. It takes the kernel's network lock, so it may block.
    ///
    /// # Errors
    /// Why it does not run them.
    fn heal_programs(&self, ifname: &str, ifindex: u32) -> Result<Vec<String>, DatapathError>;
    /// Removes the link pins of a host end.
    fn unpin_links(&self, ifname: &str);
    /// Packets dropped, by reason.
    fn drops(&self) -> Result<BTreeMap<String, u64>, DatapathError>;
    /// Flows that passed although conntrack could not take them.
    fn untracked(&self) -> Result<u64, DatapathError>;
    /// Events that the ring had no room for, and that were beyond the rate.
    fn events_missed(&self) -> Result<(u64, u64), DatapathError>;
    /// Errors and resets of the programs that were beyond the rate.
    fn answers_suppressed(&self) -> Result<u64, DatapathError>;
    /// The deny sets and what they have dropped.
    fn deny(&self) -> Result<DenyStatus, DatapathError>;
    /// Lists the matching conntrack entries page by page until `page` returns false. This may take long.
    fn conntrack(
        &self,
        filter: &ConntrackFilter,
        page: &mut dyn FnMut(Vec<Connection>) -> bool,
    ) -> Result<(), DatapathError>;
    /// The DNS names that an endpoint was told for an address. The endpoint is given by an address of its own.
    fn dns_names_of(&self, endpoint: IpAddr, address: IpAddr) -> Result<Vec<String>, DatapathError>;
    /// All DNS names that endpoints were told.
    fn dns_names(&self) -> Result<Vec<DnsName>, DatapathError>;
    /// Index of the interface with this name or alternative name.
    fn link_index(&self, ifname: &str) -> Option<u32>;
    /// Index of the interface with this name as its own: one of Cambric's, not of another plugin.
    fn own_link_index(&self, ifname: &str) -> Option<u32>;
    /// Queues the removal of a host end; returns at once.
    fn remove_link(&self, ifname: &str, ifindex: u32);
    /// Starts translating the sockets of a namespace to services' backends.
    fn put_namespace(&self, cookie: u64) -> Result<(), DatapathError>;
    /// Stops translating the sockets of a namespace.
    fn remove_namespace(&self, cookie: u64) -> Result<(), DatapathError>;
    /// The listening sockets of the node's own processes.
    fn listeners(&self) -> Result<Vec<Listener>, SocketDiagError>;
    /// Which network namespace is at a path.
    fn netns_at(&self, path: &Path) -> Option<NetnsId>;
    /// Cookie of the network namespace at a path, if it is that one. This one waits for a thread.
    fn netns_cookie_at(&self, path: &Path, id: NetnsId) -> Option<u64>;
}

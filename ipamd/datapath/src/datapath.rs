//! The loaded programs and their maps: what all parts of the datapath hold in common.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{Ordering, fence},
    },
};

use bpf::{
    attach::{Direction, Pins},
    layout::{
        CtEntry4, CtEntry6, CtKey4, CtKey6, DnsRecord, DnsRecordKey, DnsSettings, Domain, DomainKey,
        Endpoint, EthernetAddress, HostPolicy, Ip4, Ip6, Lifetimes, Node, PlainRoutes, Prefix4, Prefix6,
        ResolverKey, Uplink,
    },
};
use ipamd_api::wire::AttachMode;
use ipnetwork::IpNetwork;
use libbpf_rs::MapHandle;

use super::{
    deny::DenyList,
    error::DatapathError,
    load::{Programs, Renewed},
    maps::TypedMap,
};
use ipamd_model::{domain::DomainPattern, origins::Origins};

/// Both hooks of an interface.
pub(super) const HOOKS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// The loaded programs and their maps. All methods act in the namespace of the calling thread.
#[derive(Debug)]
pub struct Datapath {
    pub(super) pins: Pins,
    pub(super) attach_mode: AttachMode,
    /// Whether endpoints may have clsact filters although the kernel has tcx.
    pub(super) takes_filters: bool,
    pub(super) programs: Programs,
    pub(super) program_ids: BTreeMap<String, u32>,
    pub(super) node: TypedMap<u32, Node>,
    pub(super) changes: TypedMap<u32, u32>,
    pub(super) wall_clock: TypedMap<u32, u32>,
    pub(super) uplinks: TypedMap<u32, Uplink>,
    pub(super) host_policies: TypedMap<u32, HostPolicy>,
    /// The interfaces that have policies and are no uplinks, by name.
    pub(super) host_links: Mutex<BTreeSet<String>>,
    pub(super) endpoints4: TypedMap<Ip4, Endpoint>,
    pub(super) endpoints6: TypedMap<Ip6, Endpoint>,
    pub(super) no_masquerade4: TypedMap<Prefix4, u8>,
    pub(super) no_masquerade6: TypedMap<Prefix6, u8>,
    pub(super) machines4: TypedMap<Ip4, u8>,
    pub(super) machines6: TypedMap<Ip6, u8>,
    pub(super) node_prefixes4: TypedMap<Prefix4, Ip4>,
    pub(super) node_prefixes6: TypedMap<Prefix6, Ip6>,
    pub(super) node_macs4: TypedMap<Ip4, EthernetAddress>,
    pub(super) node_macs6: TypedMap<Ip6, EthernetAddress>,
    pub(super) host_ends: TypedMap<u32, EthernetAddress>,
    pub(super) domains: TypedMap<DomainKey, Domain>,
    pub(super) resolvers: TypedMap<ResolverKey, u8>,
    pub(super) dns_records: TypedMap<DnsRecordKey, DnsRecord>,
    pub(super) dns_settings: TypedMap<u32, DnsSettings>,
    /// Names that every endpoint with domain rules may ask about.
    pub(super) asked_by_all: Vec<DomainPattern>,
    pub(super) plain_routes: TypedMap<u32, PlainRoutes>,
    /// The content of `no_masquerade4` and `no_masquerade6`. It is known once this daemon has written them, since nobody else writes there.
    pub(super) not_masqueraded: Mutex<Option<Box<[IpNetwork]>>>,
    /// The content of `node_prefixes4` and `node_prefixes6`, likewise.
    pub(super) origins: Mutex<Option<Origins>>,
    pub(super) conntrack4: TypedMap<CtKey4, CtEntry4>,
    pub(super) conntrack6: TypedMap<CtKey6, CtEntry6>,
    pub(super) lifetimes: Lifetimes,
    pub(super) held_ports: MapHandle,
    pub(super) drops: MapHandle,
    pub(super) counters: MapHandle,
    /// The maps that only the programs use. They are kept so that their pins can be put back.
    pub(super) others: BTreeMap<String, MapHandle>,
    /// The tcx links by (interface, hook). They are held open, so a link goes on if somebody deletes its pin.
    pub(super) links: Mutex<BTreeMap<(String, &'static str), OwnedFd>>,
    /// The maps that the programs of an earlier daemon still write into. `None` once the programs of this one have taken over.
    pub(super) to_take_over: Mutex<Option<Vec<Renewed>>>,
    /// What is dropped at the uplinks before the programs see it.
    pub(super) deny: DenyList,
    /// Held while programs are attached to an interface.
    pub(super) attaching: Mutex<()>,
    /// Held while `node` is changed, which takes a read and a write.
    pub(super) alone: Mutex<()>,
}

impl Datapath {
    /// How programs are attached.
    pub fn attach_mode(&self) -> AttachMode {
        self.attach_mode
    }

    /// How an endpoint's programs are attached if nobody else needs the qdisc of filters.
    pub fn quick_mode(&self) -> AttachMode {
        if self.takes_filters { AttachMode::Clsact } else { self.attach_mode }
    }

    /// The deny sets.
    pub fn deny(&self) -> &DenyList {
        &self.deny
    }

    /// Path of a pinned program (`from_endpoint`, `to_endpoint`).
    pub fn program_path(&self, name: &str) -> PathBuf {
        self.pins.program(name)
    }

    /// Which set of peers and postures is in force: 0 or 1.
    pub(super) fn peer_set(&self) -> Result<u32, DatapathError> {
        Ok(self.node.get(&0)?.unwrap_or_default().set & 1)
    }

    /// Puts the other set in force, by one write. The epoch is to be raised behind it.
    pub(super) fn put_peer_set(&self, set: u32) -> Result<(), DatapathError> {
        self.change_node(|node| node.set = set)
    }

    pub(super) fn change_node(&self, change: impl FnOnce(&mut Node)) -> Result<(), DatapathError> {
        let _alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let mut node = self.node.get(&0)?.unwrap_or_default();
        change(&mut node);
        // The programs read the epoch first, so a program that sees this write also sees all that was written before it.
        fence(Ordering::SeqCst);
        self.node.put(&0, &node)
    }

    pub(super) fn links(&self) -> MutexGuard<'_, BTreeMap<(String, &'static str), OwnedFd>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A loaded program.
    ///
    /// # Errors
    /// [`DatapathError::Layout`] if there is none of that name.
    pub(super) fn program(&self, name: &str) -> Result<&OwnedFd, DatapathError> {
        self.programs.get(name).ok_or_else(|| DatapathError::Layout { map: name.to_owned() })
    }
}

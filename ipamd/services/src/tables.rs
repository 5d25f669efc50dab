//! The tables of services, as a trait: the contents of the maps without their layout.

use std::{fmt, net::IpAddr};

use ipnetwork::IpNetwork;

pub use ipamd_addresses::ipam::Family;
use ipamd_model::concerned::Concerned;

/// The number of a service's port in one family, from 1. Flows, affinities and members refer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceNumber(pub u32);

/// Number of a set of backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetNumber(pub u32);

/// A backend: an address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// Where a service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// The address; the unspecified address stands for every address of the node that serves node ports.
    pub address: IpAddr,
    /// The port. With port and protocol zero the entry says what the address itself is.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

/// The value of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontendValue {
    /// The service.
    pub service: ServiceNumber,
    /// The set for connections of endpoints and of the node itself.
    pub inside: SetNumber,
    /// The set for connections from outside.
    pub outside: SetNumber,
    /// `FRONTEND_*`, `ADDRESS_*`.
    pub flags: u32,
    /// Seconds of affinity; 0: none.
    pub affinity: u32,
}

/// How one backend of a set is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Round robin.
    #[default]
    RoundRobin,
    /// The highest score of the client with each backend (rendezvous hashing).
    Rendezvous,
    /// A Maglev table: the set's places are in the look-up tables.
    Maglev,
}

/// A set of backends: the range of slots that it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetValue {
    /// The first slot: among the backends, or in the look-up tables.
    pub first: u32,
    /// The number of slots.
    pub count: u16,
    /// How one is chosen.
    pub choice: Choice,
    /// This node has no backends, but other nodes do.
    pub elsewhere: bool,
}

/// An endpoint of a service, in any state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Its address and port.
    pub backend: Backend,
    /// It takes new connections that may go to any node.
    pub in_cluster: bool,
    /// It takes new connections that must stay on this node.
    pub in_local: bool,
}

/// The capacity of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sets.
    pub sets: u32,
    /// Slots of backends, of each family.
    pub backends: u32,
    /// Slots of look-up tables.
    pub lookups: u32,
    /// Frontends, of each family.
    pub frontends: u32,
    /// Members, of each family.
    pub members: u32,
    /// Source ranges, of each family.
    pub source_ranges: u32,
}

/// A row of port marks. The programs look up packets of marked ports only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortRow {
    /// A service is reached at the port from outside.
    Served,
    /// A process of the node is a backend at the port.
    OfBackends,
}

/// The maps cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the tables of services: {0}")]
pub struct TableError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// The maps. Each write is in force at once, so the caller must write in an order in which no packet sees half of a
/// change.
pub trait Tables: Send + fmt::Debug {
    /// The capacity.
    fn limits(&self) -> Limits;
    /// Writes backends into slots that no set in force has, with the number of times that each was chosen before.
    fn put_backends(
        &mut self,
        family: Family,
        first: u32,
        backends: &[(Backend, u32)],
    ) -> Result<(), TableError>;
    /// Reads backends, and how often each was chosen.
    fn backends(&self, family: Family, first: u32, count: u32) -> Result<Vec<(Backend, u32)>, TableError>;
    /// Writes slots of look-up tables that no set in force has.
    fn put_lookups(&mut self, first: u32, places: &[u32]) -> Result<(), TableError>;
    /// Reads slots of look-up tables.
    fn lookups(&self, first: u32, count: u32) -> Result<Vec<u32>, TableError>;
    /// Puts a set in force, with one write of a word.
    fn put_set(&mut self, set: SetNumber, value: SetValue);
    /// A set as it is in force.
    fn set(&self, set: SetNumber) -> SetValue;
    /// Adds or changes frontends.
    fn put_frontends(&mut self, frontends: &[(FrontendKey, FrontendValue)]) -> Result<(), TableError>;
    /// Removes frontends, which may be gone.
    fn remove_frontends(&mut self, keys: &[FrontendKey]) -> Result<(), TableError>;
    /// Every frontend of a family.
    fn frontends(&self, family: Family) -> Result<Vec<(FrontendKey, FrontendValue)>, TableError>;
    /// Adds or changes members.
    fn put_members(&mut self, members: &[(ServiceNumber, Member)]) -> Result<(), TableError>;
    /// Removes members, which may be gone.
    fn remove_members(&mut self, members: &[(ServiceNumber, Backend)]) -> Result<(), TableError>;
    /// Every member of a family.
    fn members(&self, family: Family) -> Result<Vec<(ServiceNumber, Member)>, TableError>;
    /// Replaces the source ranges `old` of a service.
    fn put_source_ranges(
        &mut self,
        service: ServiceNumber,
        old: &[IpNetwork],
        new: &[IpNetwork],
    ) -> Result<(), TableError>;
    /// The source ranges of all services.
    fn source_ranges(&self) -> Result<Vec<(ServiceNumber, IpNetwork)>, TableError>;
    /// Marks a port, or takes the mark away.
    fn mark_port(&mut self, row: PortRow, port: u16, marked: bool);
    /// Removes all marks but those for which `marked` is true.
    fn keep_ports(&mut self, row: PortRow, marked: &dyn Fn(u16) -> bool);
    /// Sets whether any process of the node is a backend.
    fn set_host_backends(&mut self, any: bool) -> Result<(), TableError>;
    /// Raises the epoch of the flows that a change concerns.
    fn raise_epoch(&mut self, concerned: &Concerned) -> Result<(), TableError>;
}

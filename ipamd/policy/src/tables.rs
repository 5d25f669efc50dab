//! The policy tables that the programs look up, as a trait. `bpf/progs/intf.h` has the layouts, `bpf/progs/policy.h`
//! the look-up.
//!
//! The programs judge a flow so: they read the *posture* of the local endpoint's slot; if it says that the direction is
//! policed, they find the *class* of the other side's address among the *peers* (the address itself, else the longest
//! prefix, else [`ClassId::WORLD`]), and look for the longest matching key of that class in the endpoint's *policy map*; if
//! there is none, of [`ClassId::ANY`]. An entry that says [`Outcome::BySource`] sends them to a second look-up by the port of
//! the side that opened the flow. What finds nothing is dropped.

use std::{fmt::Debug, net::IpAddr};

use ipnetwork::IpNetwork;

use ipamd_model::{
    concerned::Concerned,
    domain::{DomainId, DomainPattern},
    endpoint::Slot,
    policy::Direction,
};

/// A class of addresses: those that the policies in force say the same about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub u32);

impl ClassId {
    /// The class of addresses that nothing is said about.
    pub const WORLD: Self = Self(0);
    /// Stands for every class that a policy map has no entries of.
    pub const ANY: Self = Self(0x3fff_ffff);
}

/// The number of a rule in hit counters and events; 0: no policy speaks of the direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u32);

/// A policy map: its index in the programs' array of maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyMap(pub u32);

/// What the programs know of an address or a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its class.
    pub class: ClassId,
    /// It is the node itself, which always reaches its endpoints.
    pub node: bool,
}

/// How an endpoint is policed. The direction that is not policed passes without a look-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Posture {
    /// Where its rules are; needed if any direction is policed.
    pub map: Option<PolicyMap>,
    /// What reaches it is policed.
    pub ingress: bool,
    /// What it sends is policed.
    pub egress: bool,
}

/// Whose entry it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryOf {
    /// Of a class of peers, for a direction.
    Class(Direction, ClassId),
    /// Of a branch by source port, see [`Outcome::BySource`]. Branches are numbered within a map.
    Branch(u32),
    /// Of a domain, for flows that were denied by an entry with that list. The key has no protocol, and its port is 0.
    Domain(DomainList, DomainId),
}

/// A list of the rules that would have allowed a flow, had its destination one of their DNS names: those that come before the rule that
/// denies it. Lists are numbered within a map, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainList(pub u16);

impl DomainList {
    /// The list of all domains that the map speaks of: for these names an endpoint may ask the resolvers.
    pub const ALL: Self = Self(0xffff);
    /// The last that has a number of its own.
    pub const LAST: Self = Self(0xfffe);
}

/// The key of an entry: a prefix, of which the longest that matches counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// Whose.
    pub of: EntryOf,
    /// IP protocol number; `None`: any, and then any port.
    pub protocol: Option<u8>,
    /// The destination port (the source port for [`EntryOf::Branch`]); for ICMP `type << 8 | code`; 0 for other protocols.
    pub port: u16,
    /// How many of its upper bits count: 0 to 16.
    pub port_bits: u8,
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The flow passes.
    Allow,
    /// It is dropped.
    Deny,
    /// It is dropped, and the sender is told.
    Reject,
    /// The entries of that branch say.
    BySource(u32),
}

/// The value of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryValue {
    /// What becomes of the flow.
    pub outcome: Outcome,
    /// Which rule says so.
    pub rule: RuleId,
    /// A rule of the action Log that matched before.
    pub log: Option<RuleId>,
    /// Of an entry that denies what the endpoint sends: a flow is allowed nevertheless if its destination has a DNS name of this list, as
    /// the endpoint was told. An empty list has no entries, and says that the map has entries of [`DomainList::ALL`].
    pub domains: Option<DomainList>,
}

/// How much fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Endpoints: slots are 1 to this.
    pub slots: u32,
    /// Policy maps at a time.
    pub maps: u32,
    /// Entries of one policy map.
    pub entries: u32,
    /// Addresses of each family among the peers.
    pub addresses: u32,
    /// Prefixes of each family among the peers.
    pub prefixes: u32,
    /// Rules that can be told apart: ids are 1 to this minus 1.
    pub rules: u32,
    /// Patterns of DNS names.
    pub domains: u32,
    /// Patterns that one DNS name may belong to.
    pub domains_of_name: u32,
}

/// Why a table could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the policy tables: {0}")]
pub struct TableError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// What a switch to a new set came to. There is no third: an error alone would not say which set is in force.
#[derive(Debug)]
#[must_use]
pub enum Switch {
    /// The old set is in force, as if nothing had been asked. The new one is still begun.
    Not(TableError),
    /// The new set is in force.
    Done,
    /// The new set is in force, but something that belongs to it failed, such as raising the epoch: it is to be filled and
    /// switched to once more.
    Unfinished(TableError),
}

/// The programs' tables. Single writes are atomic; the programs see them at once, in the order they were made.
///
/// Peers and postures come in sets, of which one is in force. Writes go to the set in force, but between
/// [`begin`](Self::begin) and [`switch`](Self::switch) to the new one, which nobody sees yet.
pub trait Tables: Debug + Send {
    /// How much fits.
    fn limits(&self) -> Limits;
    /// Starts a new, empty set of peers and postures beside the one in force. One begun before is thrown away.
    fn begin(&mut self) -> Result<(), TableError>;
    /// Puts the new set in force, whole and at once, raises the epoch of every flow, and drops the old one.
    fn switch(&mut self) -> Switch;
    /// Throws a set away that was begun. Its maps are retired by whoever made them.
    fn abandon(&mut self);
    /// Sets what is known of an address (a prefix of full length) or a prefix.
    fn put_peer(&mut self, net: IpNetwork, peer: Peer) -> Result<(), TableError>;
    /// Forgets an address or a prefix, which may not be there.
    fn remove_peer(&mut self, net: IpNetwork) -> Result<(), TableError>;
    /// Sets how a slot is policed.
    fn put_posture(&mut self, slot: Slot, posture: Posture) -> Result<(), TableError>;
    /// Forgets a slot: what its endpoint sends and gets is dropped.
    fn clear_posture(&mut self, slot: Slot) -> Result<(), TableError>;
    /// Makes a policy map of these entries, which no posture names yet. If that fails there is none.
    fn add_map(&mut self, entries: &[(EntryKey, EntryValue)]) -> Result<PolicyMap, TableError>;
    /// Adds entries to a map that may be in force. No peer in force is of a class that these are of.
    fn extend_map(&mut self, map: PolicyMap, entries: &[(EntryKey, EntryValue)]) -> Result<(), TableError>;
    /// Gives a map up that no posture names any more. The programs that are looking at it may finish.
    fn retire_map(&mut self, map: PolicyMap);
    /// Sets all patterns of DNS names, with their numbers. The names that endpoints were told belong to these from now on. A pattern is
    /// here before a posture names a map that has it, and goes when no map in force has it any more.
    fn put_domains(&mut self, domains: &[(DomainPattern, DomainId)]) -> Result<(), TableError>;
    /// The patterns that are set, in any order.
    fn domains(&self) -> Result<Vec<(DomainPattern, DomainId)>, TableError>;
    /// Has the flows that are concerned be judged again on their next packets.
    fn raise_epoch(&mut self, concerned: &Concerned) -> Result<(), TableError>;
    /// How often a rule has decided or noted, since [`clear_hits`](Self::clear_hits).
    fn hits(&self, rule: RuleId) -> Result<u64, TableError>;
    /// Starts the counter of a rule anew.
    fn clear_hits(&mut self, rule: RuleId) -> Result<(), TableError>;

    /// Bytes that the policy maps and the peers in force take in the kernel.
    fn memory(&self) -> u64;
    /// What the programs know of an address, by the longest prefix; `None`: nothing.
    fn peer(&self, address: IpAddr) -> Result<Option<Peer>, TableError>;
    /// How a slot is policed; `None`: the slot is not known.
    fn posture(&self, slot: Slot) -> Result<Option<Posture>, TableError>;
    /// The entry that the programs find for a key of full length (`port_bits` 16), by the longest prefix.
    fn find(&self, map: PolicyMap, key: EntryKey) -> Result<Option<EntryValue>, TableError>;
}

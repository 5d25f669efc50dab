//! The requests and replies of the daemon's socket.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    host::HostEndpoint,
    key::AttachmentKey,
    mac::MacAddr,
    policy::{
        DiffPage, Event, ManifestText, MonitorFilter, PolicyDetail, PolicyPage, PolicyQuery, PolicyStatus,
        Trace, TraceQuery,
    },
    port_mapping::PortMapping,
    services::{BackendPage, ServiceDetail, ServicePage, ServiceQuery},
};

/// The version of the protocol that this crate speaks; a daemon refuses any other.
pub const PROTOCOL_VERSION: u32 = 1;
/// What every request is wrapped in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Envelope<R = Request> {
    /// [`PROTOCOL_VERSION`] of the client.
    pub version: u32,
    /// What is asked for.
    pub request: R,
}

impl From<Request> for Envelope {
    fn from(request: Request) -> Self {
        Self { version: PROTOCOL_VERSION, request }
    }
}

/// What can be asked of the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Request {
    /// The first half of ADD: addresses and names for an attachment. Until the connection has asked for something else or
    /// ends, others who ask for the same key wait. For an attachment that stands it gives the same answer again, with
    /// `committed` set, or is refused with [`ErrorKind::Exists`] if something else is asked for. Reply:
    /// [`Reply::Reservation`].
    Reserve(Box<Reserve>),
    /// The second half of ADD: the interface stands; enforce and forward. Returns when the record is durable and
    /// the programs know the endpoint. Reply: [`Reply::Done`].
    Commit(Commit),
    /// DEL, and the undoing of a failed ADD: cuts the endpoint off, frees its addresses, and removes its links.
    /// Succeeds for a key that is not known. Reply: [`Reply::Done`].
    Release {
        /// Which attachment.
        key: AttachmentKey,
    },
    /// CHECK: what the daemon has recorded, and what of its own part is not as it should be. Reply:
    /// [`Reply::Checked`].
    Check {
        /// Which attachment.
        key: AttachmentKey,
    },
    /// GC: releases every attachment of `network` that is not in `valid`. Reply: [`Reply::Collected`].
    Gc {
        /// The network whose attachments are meant; others are left alone.
        network: String,
        /// Each attachment that stays.
        valid: Vec<ValidAttachment>,
    },
    /// The daemon's state, for STATUS and for `cambricctl status`. Reply: [`Reply::Status`].
    Status,
    /// All endpoints. Reply: [`Reply::Endpoints`].
    Endpoints,
    /// All pools. Reply: [`Reply::Pools`].
    Pools,
    /// The record of one address. Reply: [`Reply::Endpoints`] with one or no entry.
    Address {
        /// The address.
        address: IpAddr,
    },
    /// Frees the attachment that holds an address, as DEL would. Refused with [`ErrorKind::InUse`] while its
    /// interface exists, unless `force`. Reply: [`Reply::Done`].
    ReleaseAddress {
        /// The address.
        address: IpAddr,
        /// Also while the interface exists.
        force: bool,
    },
    /// The DNS names that endpoints were told. Reply: any number of [`Reply::DnsNames`], the last with `last` set.
    DnsNames(DnsFilter),
    /// The conntrack entries that match. Reply: any number of [`Reply::Conntrack`], the last with `last` set.
    Conntrack(ConntrackFilter),
    /// The policies in force, and what is refused. Reply: any number of [`Reply::Policies`], the last with `last` set.
    Policies,
    /// Everything of the policies that are meant. Reply: any number of [`Reply::Policy`], then [`Reply::Done`].
    Policy(PolicyQuery),
    /// What would become of a flow, and why. Reply: [`Reply::Trace`].
    PolicyTrace(TraceQuery),
    /// A file for the next [`Self::PolicyDiff`] of this connection. Reply: [`Reply::Done`].
    PolicyDiffFile(ManifestText),
    /// Which flows seen lately would be judged otherwise if the files' objects were applied. Reply: any number of
    /// [`Reply::PolicyDiff`], the last with `last` set.
    PolicyDiff,
    /// The same, if all staged policies were in force, too: those of the files and of the cluster.
    PolicyDiffStaged,
    /// What happens from now on. Reply: [`Reply::Events`] until the client leaves; the first at once, and empty ones as
    /// signs of life while nothing happens.
    Monitor(MonitorFilter),
    /// The services. Reply: any number of [`Reply::Services`], the last with `last` set.
    Services,
    /// Everything of a service. Reply: if there is such a service, [`Reply::Service`] without its backends and any number of
    /// [`Reply::ServiceBackends`]; then [`Reply::Done`].
    Service(ServiceQuery),
}

/// See [`Request::Reserve`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reserve {
    /// Which attachment.
    pub key: AttachmentKey,
    /// `CNI_NETNS`: the path of the container's network namespace.
    pub netns: PathBuf,
    /// Device and inode of that namespace, by which it is known again when the path is used for another.
    pub netns_id: NetnsId,
    /// The addresses that the `ips` capability asks for; a family without one gets one from its pools.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The `mac` capability.
    #[serde(default)]
    pub mac: Option<MacAddr>,
    /// `mtu` of the network configuration, in bytes; the daemon's own otherwise.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// The pod, when the runtime says so in `CNI_ARGS`.
    #[serde(default)]
    pub pod: Option<Pod>,
    /// `args.cni.labels`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The `portMappings` capability. Refused with [`ErrorKind::PortInUse`] if another attachment has one of them.
    #[serde(default)]
    pub port_mappings: Vec<PortMapping>,
    /// The interface, where a plugin before Cambric in the chain has made it. Then there is nothing to assign, and
    /// `addresses`, `mac` and `mtu` are left out. Only a daemon that is configured so takes it, and takes nothing else.
    #[serde(default)]
    pub chained: Option<Chained>,
}

/// An interface that a plugin before Cambric in the chain has made: a veth pair with one end on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chained {
    /// The container's addresses on it.
    pub addresses: Vec<IpAddr>,
    /// Ethernet address of the container end.
    pub container_mac: MacAddr,
    /// Ethernet address of the host end.
    pub host_mac: MacAddr,
    /// Bytes, of the container end.
    pub mtu: u32,
}

/// A network namespace's identity while it lives: the device and inode of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsId {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// `K8S_POD_NAMESPACE`, `K8S_POD_NAME` and `K8S_POD_UID` of `CNI_ARGS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, empty where the runtime gives none.
    #[serde(default)]
    pub uid: String,
}

/// See [`Request::Commit`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// Which attachment.
    pub key: AttachmentKey,
    /// Index of the interface's end on the host.
    pub host_ifindex: u32,
    /// Cookie of the container's namespace (`SO_NETNS_COOKIE`); `None` where the kernel tells none.
    #[serde(default)]
    pub netns_cookie: Option<u64>,
}

/// One entry of `cni.dev/valid-attachments`. A part that could not be read is left out, and every attachment that agrees in
/// the other stays.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ValidAttachment {
    /// `containerID`.
    pub container_id: Option<String>,
    /// `ifname`.
    pub ifname: Option<String>,
}

impl ValidAttachment {
    /// Whether it may mean the attachment.
    pub fn may_be(&self, key: &AttachmentKey) -> bool {
        let agrees = |part: &Option<String>, other: &str| part.as_deref().is_none_or(|part| part == other);
        agrees(&self.container_id, &key.container_id) && agrees(&self.ifname, &key.ifname)
    }
}

/// How programs are attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachMode {
    /// tcx links (Linux 6.6 and newer), pinned.
    Tcx,
    /// Direct-action filters on a clsact qdisc.
    Clsact,
}

/// What an attachment is to be made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reservation {
    /// Addresses, at most one of each family, IPv4 first.
    pub addresses: Vec<Assigned>,
    /// Name of the host end.
    pub host_ifname: String,
    /// Ethernet address of the host end.
    pub host_mac: MacAddr,
    /// Ethernet address of the container end.
    pub container_mac: MacAddr,
    /// Bytes, for both ends.
    pub mtu: u32,
    /// How to attach.
    pub attach_mode: AttachMode,
    /// Path of the pinned program for what the container sends (ingress of the host end).
    pub from_endpoint: PathBuf,
    /// Path of the pinned program for what reaches the container from the host's stack (egress of the host end).
    pub to_endpoint: PathBuf,
    /// Where the link of `from_endpoint` is pinned (tcx by a link only).
    pub from_endpoint_link: PathBuf,
    /// Where the link of `to_endpoint` is pinned (tcx by a link only).
    pub to_endpoint_link: PathBuf,
    /// Whether the attachment was committed before this request: its interface should stand already.
    pub committed: bool,
    /// The node's ports that lead to it.
    #[serde(default)]
    pub port_mappings: Vec<PortMapping>,
    /// Whether another plugin makes the interface: `host_ifname` is a second name of its host end then.
    #[serde(default)]
    pub chained: bool,
    /// Whether tcx is to attach without a link. A daemon of an earlier release, which does not say so, looks for links only.
    #[serde(default)]
    pub without_link: bool,
}

/// An address of an attachment and the gateway it is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// The container's own: a host address (/32 or /128).
    pub address: IpAddr,
    /// The node's address in the same pool: the next hop of the container's default route. The address itself where another
    /// plugin assigned it.
    pub gateway: IpAddr,
}

/// See [`Request::Check`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// What is recorded; `None` if nothing is.
    pub reservation: Option<Reservation>,
    /// What is wrong on the daemon's side, a sentence each.
    pub faults: Vec<String>,
}

/// See [`Request::Status`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// `--node-name`.
    pub node_name: String,
    /// Whether the daemon serves.
    pub ready: bool,
    /// Why ADD would fail now though the daemon serves, a sentence each.
    #[serde(default)]
    pub cannot_add: Vec<String>,
    /// What keeps containers that run from being reached, or from reaching others, a sentence each.
    #[serde(default)]
    pub limited: Vec<String>,
    /// Why not, and whatever else needs a person: a sentence each.
    pub problems: Vec<String>,
    /// Number of committed endpoints.
    pub endpoints: u64,
    /// How programs are attached.
    pub attach_mode: AttachMode,
    /// The uplinks.
    pub uplinks: Vec<Uplink>,
    /// Seconds since the daemon started.
    pub uptime_seconds: u64,
    /// Entries in the conntrack maps and their capacity, by family (`ipv4`, `ipv6`).
    pub conntrack: BTreeMap<String, MapUse>,
    /// How full each map is, as of a minute ago at most, by its name.
    #[serde(default)]
    pub maps: BTreeMap<String, MapUse>,
    /// Packets dropped since the programs' maps were made, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Flows that passed although conntrack could not take them, since then.
    #[serde(default)]
    pub untracked: u64,
    /// What is enforced.
    #[serde(default)]
    pub policy: PolicyStatus,
    /// Events that the programs had no room for, since then.
    #[serde(default)]
    pub events_lost: u64,
    /// Events that were beyond the programs' rate, since then.
    #[serde(default)]
    pub events_suppressed: u64,
    /// Errors and resets that were beyond the programs' rate, since then.
    #[serde(default)]
    pub answers_suppressed: u64,
    /// The deny sets.
    #[serde(default)]
    pub deny: DenyStatus,
    /// The host endpoints of the node.
    #[serde(default)]
    pub host_endpoints: Vec<HostEndpoint>,
    /// Where policies and services come from; `None` without a cluster.
    #[serde(default)]
    pub cluster: Option<ClusterStatus>,
    /// Threads of the daemon that are at something that takes long.
    #[serde(default)]
    pub busy: Vec<Thread>,
}

/// The deny sets in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenyStatus {
    /// By name.
    pub sets: Vec<DenySet>,
    /// Where they are looked up, by uplink: `native` or `generic`.
    pub uplinks: BTreeMap<String, String>,
}

/// Prefixes whose packets are dropped at the uplinks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenySet {
    /// The object or the file that it comes from.
    pub name: String,
    /// How many prefixes it has.
    pub prefixes: u64,
    /// Packets that were dropped because of it since the daemon began to count.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A thread that works. The daemon ends when one has not got on until its deadline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Its name.
    pub name: String,
    /// For how long it has not got on.
    pub busy_seconds: u64,
    /// For how long that may be.
    pub deadline_seconds: u64,
}

/// An interface that leads out of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Why it is one, a phrase each.
    pub reasons: Vec<String>,
    /// The addresses that masqueraded packets leave it with, IPv4 first.
    pub addresses: Vec<IpAddr>,
}

/// How up to date a node's knowledge of its cluster is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The source.
    pub source: String,
    /// Whether the source tells of every change now.
    pub live: bool,
    /// How many seconds ago what is known was known to be all; `None` if it never was.
    pub age_seconds: Option<u64>,
    /// Resources that were not listed as a whole since the daemon started.
    pub unlisted: Vec<String>,
    /// Why the source is not up to date.
    pub trouble: Option<String>,
    /// Changes that the source has told and that are not in force yet.
    #[serde(default)]
    pub pending: u64,
    /// Policies among them.
    #[serde(default)]
    pub pending_policies: u64,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapUse {
    /// Entries now, as of the last sweep.
    pub entries: u64,
    /// Entries at most.
    pub capacity: u64,
}

/// One endpoint's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Which attachment.
    pub key: AttachmentKey,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<Assigned>,
    /// Name of the host end.
    pub host_ifname: String,
    /// Index of the host end; `None` before the commit and when the interface is gone.
    pub host_ifindex: Option<u32>,
    /// Ethernet address of the container end.
    pub container_mac: MacAddr,
    /// Ethernet address of the host end.
    pub host_mac: MacAddr,
    /// Bytes.
    pub mtu: u32,
    /// The container's namespace.
    pub netns: PathBuf,
    /// The pod, where known.
    pub pod: Option<Pod>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The node's ports that lead to it.
    #[serde(default)]
    pub port_mappings: Vec<PortMapping>,
    /// Whether another plugin made its interface and assigned its addresses.
    #[serde(default)]
    pub chained: bool,
    /// `reserved` (ADD under way), `ready`, or `broken` (the interface is gone).
    pub state: EndpointState,
    /// When it was reserved, in seconds since the Unix epoch.
    pub created: u64,
}

/// Where an endpoint is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// Its addresses are taken; ADD is under way.
    Reserved,
    /// Its traffic is forwarded.
    Ready,
    /// Its record stands and its namespace may, but its interface is gone.
    Broken,
}

/// One pool and how full it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its prefix, such as `10.88.0.0/16`.
    pub cidr: String,
    /// The node's own address in it.
    pub gateway: IpAddr,
    /// How many addresses can be given out; `u64::MAX` stands for that many or more.
    pub capacity: u64,
    /// How many are.
    pub used: u64,
}

/// Which conntrack entries are wanted; each field that is set must match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConntrackFilter {
    /// Either side's address, before or after masquerade.
    pub address: Option<IpAddr>,
    /// Either side's port, before or after masquerade.
    pub port: Option<u16>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// At most so many entries.
    pub limit: Option<u64>,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// IP protocol number.
    pub protocol: u8,
    /// Who opened it.
    pub source: IpAddr,
    /// Its port, or the identifier of an ICMP message.
    pub source_port: u16,
    /// Whom it was opened to.
    pub destination: IpAddr,
    /// Its port; for ICMP type << 8 | code of what opened it.
    pub destination_port: u16,
    /// The source as the destination sees it, where it is masqueraded.
    pub masquerade: Option<(IpAddr, u16)>,
    /// The backend that a service's destination is translated to per packet.
    #[serde(default)]
    pub backend: Option<(IpAddr, u16)>,
    /// `new`, `answered`, `established`, `closing`, `reset` or `closed`.
    pub state: String,
    /// Seconds until it is forgotten.
    pub expires_in: u64,
}

/// A page of connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConntrackPage {
    /// The entries.
    pub connections: Vec<Connection>,
    /// No page follows.
    pub last: bool,
}

/// Which DNS names are wanted; each field that is set must match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsFilter {
    /// The name, in small letters.
    pub name: Option<String>,
    /// The address.
    pub address: Option<IpAddr>,
    /// The pod that was told, as NAMESPACE/NAME.
    pub pod: Option<String>,
}

/// What an endpoint was told: a name of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsEntry {
    /// The pod as NAMESPACE/NAME, else the attachment; empty: the endpoint is just gone.
    pub endpoint: String,
    /// The name that it asked about.
    pub name: String,
    /// The address that it was told.
    pub address: IpAddr,
    /// For so many seconds new flows may be allowed by the name; 0: only those that live.
    pub expires_in: u64,
    /// Whether a policy of this node speaks of the name.
    pub in_policy: bool,
}

/// A page of names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DnsPage {
    /// The names.
    pub names: Vec<DnsEntry>,
    /// No page follows.
    pub last: bool,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reply {
    /// It is done.
    Done,
    /// See [`Request::Reserve`].
    Reservation(Box<Reservation>),
    /// See [`Request::Check`].
    Checked(Box<Checked>),
    /// See [`Request::Gc`]: how many attachments were released.
    Collected {
        /// How many.
        released: u64,
    },
    /// See [`Request::Status`].
    Status(Box<Status>),
    /// See [`Request::Endpoints`].
    Endpoints(Vec<Endpoint>),
    /// See [`Request::Pools`].
    Pools(Vec<Pool>),
    /// See [`Request::DnsNames`].
    DnsNames(DnsPage),
    /// See [`Request::Conntrack`].
    Conntrack(ConntrackPage),
    /// See [`Request::Policies`].
    Policies(PolicyPage),
    /// See [`Request::Policy`].
    Policy(Box<PolicyDetail>),
    /// See [`Request::PolicyTrace`].
    Trace(Box<Trace>),
    /// See [`Request::PolicyDiff`].
    PolicyDiff(DiffPage),
    /// See [`Request::Monitor`].
    Events(Vec<Event>),
    /// See [`Request::Services`].
    Services(ServicePage),
    /// See [`Request::Service`].
    Service(Box<ServiceDetail>),
    /// See [`Request::Service`].
    ServiceBackends(BackendPage),
    /// The request failed.
    Error(ApiError),
}

/// Why a request failed: a kind for programs, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What sort of failure.
    pub kind: ErrorKind,
    /// One sentence that names the field and the value.
    pub message: String,
}

/// The sorts of failure a caller may act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The client speaks another version of the protocol.
    UnsupportedVersion,
    /// The request is not known or not well formed.
    InvalidRequest,
    /// No pool of a family has an address left.
    PoolExhausted,
    /// Cambric stands at another place of its chain than the daemon is configured for.
    WrongPlace,
    /// The requested address lies in no pool, or is reserved in it.
    AddressUnavailable,
    /// The requested address belongs to another attachment, or what was to be released is in use.
    InUse,
    /// The requested port of the node leads to another attachment.
    PortInUse,
    /// The attachment stands, and is not what is asked for.
    Exists,
    /// There is no such attachment or address.
    NotFound,
    /// The daemon cannot serve this now; the same request may succeed later.
    TryAgainLater,
    /// The daemon failed in a way that needs a person.
    Internal,
    /// A kind from a newer daemon.
    #[serde(other)]
    Other,
}

impl ApiError {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

//! The daemon's configuration: a file and flags, one key each, made into one checked [`Config`].

pub mod cni_chain;
pub mod cni_files;
mod defaults;
mod error;
mod file;
mod hubble;
mod locations;
mod options;
mod resolvers;
mod source;
mod timeouts;
mod uplinks;
mod values;

use std::{fs, net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use bpf::layout::Lifetimes;
use clap::Parser;
use ipamd_api::wire::AttachMode;
use ipnetwork::IpNetwork;

use crate::{
    cni_files::CniFiles,
    defaults::{
        ADDRESS_REST, CLUSTER_DOMAIN, DEFAULT_MASQUERADE_PORTS, DEFAULT_VXLAN_ID, DEFAULT_VXLAN_PORT,
        DNS_LEAST_TTL,
    },
    file::read_or_default,
    options::Options,
};
use bpf::sizes::{PolicySizes, RequestedSizes};
pub use defaults::{DEFAULT_BPFFS, DEFAULT_CONFIG, DEFAULT_STATE_DIR};
pub use error::ConfigError;
pub use hubble::{Beyond, Hubble};
use ipamd_addresses::ipam::{Pool, PoolError, check_disjoint};
use ipamd_model::{deny::DenyMode, domain::DomainPattern, host::Failsafe, objects, policy::Denied};
use ipamd_runtime::supervisor;
pub use locations::Locations;
pub use resolvers::ResolverName;
pub use source::Cluster;
pub use uplinks::{IfnamePattern, UplinkRule};
pub use values::{ExternalServiceMode, InterfaceOwner, LogFormat, LogLevel, RoutingMode};

/// The daemon's command line.
#[derive(Debug, Parser)]
#[command(name = "cambric-ipamd", version, about = "Cambric's node daemon", max_term_width = 110)]
pub struct CommandLine {
    /// Configuration in TOML; every key but this one is also a flag, which overrides the file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// A valid configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The socket it serves.
    pub socket: PathBuf,
    /// Its records.
    pub state_dir: PathBuf,
    /// Where programs, maps and links are pinned.
    pub bpffs: PathBuf,
    /// Root of the cgroup v2 hierarchy; looked for if `None`.
    pub cgroup: Option<PathBuf>,
    /// Below which the node's `/proc/sys` and `/sys` are.
    pub host_root: PathBuf,
    /// What runtimes find of Cambric.
    pub cni: CniFiles,
    /// The node's name.
    pub node_name: String,
    /// Which interfaces are uplinks.
    pub uplinks: UplinkRule,
    /// What addresses are handed out from, disjoint. If there is none, the cluster's source says it: the pod CIDRs of this
    /// node's Node.
    pub pools: Vec<Pool>,
    /// Who makes the containers' interfaces and assigns their addresses.
    pub interface_owner: InterfaceOwner,
    /// Where policies and services come from.
    pub cluster: Cluster,
    /// URL of the Kubernetes API server, in place of the one that the credentials come with.
    pub kube_api_server: Option<String>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Who may see flows, and how many.
    pub hubble: Hubble,
    /// Whether what leaves the node by an uplink gets the uplink's address.
    pub masquerade: bool,
    /// Destinations that are not masqueraded, besides the pools.
    pub no_masquerade: Vec<IpNetwork>,
    /// Ports of masqueraded flows.
    pub masquerade_ports: RangeInclusive<u16>,
    /// How long connections are remembered.
    pub conntrack_timeouts: Lifetimes,
    /// How large the maps are to be that all endpoints share.
    pub sizes: RequestedSizes,
    /// How much the policy tables hold.
    pub policy: PolicySizes,
    /// What becomes of packets that policy denies, where neither the policy nor the endpoint's namespace says it.
    pub denied: Denied,
    /// The ports that no policy of a host endpoint closes.
    pub failsafe: Failsafe,
    /// The resolvers by whose answers policies know the addresses of DNS names.
    pub dns_resolvers: Vec<ResolverName>,
    /// Names that every endpoint with domain rules may ask the resolvers about.
    pub dns_search: Vec<DomainPattern>,
    /// For how many seconds at least an address counts as a name after an endpoint was told it.
    pub dns_least_ttl: u32,
    /// The directory of deny sets.
    pub deny_directory: Option<PathBuf>,
    /// Prefixes that no deny set may deny.
    pub deny_exempt: Vec<IpNetwork>,
    /// Where deny sets are looked up.
    pub deny_mode: DenyMode,
    /// Whether sockets of endpoints are led to a service's backend when they connect, as the node's own always are.
    pub socket_lb: bool,
    /// How connections from outside reach a service's backend on another node.
    pub external_services: ExternalServiceMode,
    /// Whether services are reached at their cluster IPs from beyond the node.
    pub cluster_ip_external: bool,
    /// Prefixes of the node's addresses that serve node ports; if empty, all do.
    pub node_port_addresses: Vec<IpNetwork>,
    /// How endpoints of other nodes are reached.
    pub routing: RoutingMode,
    /// UDP port of the overlay.
    pub vxlan_port: u16,
    /// Number of the overlay's network.
    pub vxlan_id: u32,
    /// How programs are attached. If `None`, by tcx where the kernel has it, and to endpoints by clsact filters where it is
    /// known that nobody else needs their qdisc.
    pub attach: Option<AttachMode>,
    /// How long the cluster's source may not tell of every change before that is a problem.
    pub cluster_stale_after: Duration,
    /// How long an address rests before another attachment gets it.
    pub address_rest: Duration,
    /// How long a thread may take for one step.
    pub thread_deadline: Duration,
    /// Bytes; the smallest of the uplinks' if `None`.
    pub mtu: Option<u32>,
    /// From which level on is logged.
    pub log_level: LogLevel,
    /// How.
    pub log_format: LogFormat,
}

impl Config {
    /// The configuration that a command line asks for.
    ///
    /// # Errors
    /// What is wrong with it, by name.
    pub fn load(command_line: CommandLine) -> Result<Self, ConfigError> {
        let CommandLine { config, options } = command_line;
        Self::check(options.or(read_or_default(config.as_deref())?))
    }

    fn check(mut options: Options) -> Result<Self, ConfigError> {
        let hubble = Hubble::take(&mut options)?;
        let Locations { socket, state_dir, bpffs, cgroup, host_root, cni, attach, uplinks, .. } =
            Locations::of(&options);
        for (key, path) in [("socket", &socket), ("state-dir", &state_dir), ("bpffs", &bpffs)] {
            if path.is_relative() {
                return Err(ConfigError::Relative { key, path: path.clone() });
            }
        }
        if uplinks.named.iter().any(|name| name == "lo") {
            return Err(ConfigError::UplinkLo);
        }
        if options.vxlan_port == Some(0) {
            return Err(ConfigError::VxlanPort);
        }
        if !uplinks.named.is_empty() && !uplinks.excluded.is_empty() {
            return Err(ConfigError::UplinksNamedAndExcluded);
        }
        let pools = options.pool.iter().map(options::PoolEntry::pool).collect::<Result<Vec<_>, _>>()?;
        check_disjoint(&pools)?;
        let cluster = options.cluster.unwrap_or(Cluster::None);
        let chained = options.chained.unwrap_or(false);
        match pools.first() {
            Some(pool) if chained => return Err(ConfigError::ChainedPools { pool: pool.cidr() }),
            None if !chained && cluster == Cluster::None => return Err(ConfigError::NoPools),
            _ => {}
        }
        let sizes = PolicySizes::default();
        Ok(Self {
            socket,
            state_dir,
            bpffs,
            cgroup,
            host_root,
            cni,
            node_name: options.node_name.map_or_else(hostname, |name| name.0),
            uplinks,
            pools,
            interface_owner: if chained { InterfaceOwner::ChainedPlugin } else { InterfaceOwner::Cambric },
            cluster,
            kube_api_server: options.kube_api_server,
            metrics: options.metrics,
            hubble,
            masquerade: options.masquerade.unwrap_or(true) && !chained,
            no_masquerade: options.no_masquerade,
            masquerade_ports: options.masquerade_ports.map_or(DEFAULT_MASQUERADE_PORTS, |ports| ports.0),
            conntrack_timeouts: timeouts::lifetimes(&options.conntrack_timeout)
                .map_err(ConfigError::TwoTimes)?,
            sizes: RequestedSizes {
                conntrack: options.conntrack_size.map(|size| size.0),
                sockets: options.socket_size.map(|size| size.0),
                affinities: options.affinity_size.map(|size| size.0),
                fragments: options.fragment_size.map(|size| size.0),
                prefixes: options.prefix_size.map(|size| size.0),
            },
            policy: PolicySizes {
                entries: options.policy_entries.map_or(sizes.entries, |entries| entries.0),
                addresses: options.policy_addresses.map_or(sizes.addresses, |entries| entries.0),
                prefixes: options.policy_prefixes.map_or(sizes.prefixes, |entries| entries.0),
                rules: options.policy_rules.map_or(sizes.rules, |entries| entries.0),
            },
            denied: options.denied.unwrap_or_default(),
            failsafe: {
                let usual = Failsafe::default();
                Failsafe {
                    inbound: options.failsafe_inbound.unwrap_or(usual.inbound),
                    outbound: options.failsafe_outbound.unwrap_or(usual.outbound),
                }
            },
            dns_resolvers: options.dns_resolvers.unwrap_or_else(|| vec![ResolverName::of_cluster()]),
            dns_search: match options.dns_search {
                Some(names) => names.into_iter().map(|name| name.0).collect(),
                None => CLUSTER_DOMAIN.parse().into_iter().collect(),
            },
            dns_least_ttl: options.dns_least_ttl.unwrap_or(DNS_LEAST_TTL),
            deny_directory: options.deny_directory,
            deny_exempt: options.deny_exempt,
            deny_mode: options.deny_mode.unwrap_or_default(),
            socket_lb: options.socket_lb.is_none_or(|switch| switch.0),
            external_services: options.external_service_mode.unwrap_or_default(),
            cluster_ip_external: options.cluster_ip_external.unwrap_or(false),
            node_port_addresses: options.nodeport_addresses,
            routing: if chained { RoutingMode::None } else { options.routing.unwrap_or_default() },
            vxlan_port: options.vxlan_port.unwrap_or(DEFAULT_VXLAN_PORT),
            vxlan_id: options.vxlan_id.map_or(DEFAULT_VXLAN_ID, |id| id.0),
            attach,
            cluster_stale_after: Duration::from_secs(options.cluster_stale_after.unwrap_or(0).into()),
            address_rest: options
                .address_rest
                .map_or(ADDRESS_REST, |seconds| Duration::from_secs(seconds.into())),
            thread_deadline: options
                .thread_deadline
                .map_or(supervisor::DEADLINE, |seconds| Duration::from_secs(seconds.get().into())),
            mtu: options.mtu.map(|mtu| mtu.0),
            log_level: options.log_level.unwrap_or_default(),
            log_format: options.log_format.unwrap_or_default(),
        })
    }
}

impl Config {
    /// Whether the cluster's source must say what addresses are handed out from.
    pub fn needs_pools(&self) -> bool {
        self.pools.is_empty() && self.interface_owner == InterfaceOwner::Cambric
    }

    /// Takes the prefixes of this node's Node for its pools, unless some are configured.
    ///
    /// # Errors
    /// Why one of them cannot be a pool.
    pub fn take_pools(&mut self, own: &objects::Node) -> Result<(), PoolError> {
        if self.needs_pools() {
            let pools = own.pod_cidrs.iter().map(|cidr| Pool::new(cidr.to_string(), *cidr));
            self.pools = pools.collect::<Result<_, _>>()?;
            check_disjoint(&self.pools)?;
        }
        Ok(())
    }
}

/// The machine's name, as `uname -n` gives it.
fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests;

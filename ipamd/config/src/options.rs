//! Every key of the configuration, once: the same definition reads the file and the flags.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, str::FromStr};

use clap::{ArgAction, Args};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, de};

use crate::{
    resolvers::{Below, ResolverName},
    source::Cluster,
    timeouts::ConntrackTimeout,
    uplinks::IfnamePattern,
    values::{
        AffinitySize, Attach, ConntrackSize, ExternalServiceMode, FragmentSize, HubbleFlows, LogFormat,
        LogLevel, Mtu, NodeName, PolicyAddresses, PolicyEntries, PolicyPrefixes, PolicyRules, PortRange,
        PrefixSize, RoutingMode, SocketSize, Switch, VxlanId,
    },
};
use ipamd_addresses::ipam::{Pool, PoolError};
use ipamd_model::{deny::DenyMode, host::FailsafePort, policy::Denied};

/// The keys that are set.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Options {
    /// Socket that the CNI plugin and cambricctl connect to [default: /run/cambric/ipamd.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Directory of the records [default: /var/lib/cambric]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Directory on a bpffs where programs, maps and links are pinned [default: sys/fs/bpf/cambric below host-root]
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// Root of the cgroup v2 hierarchy [default: looked for]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Directory below which the node's /proc/sys and /sys are, as in a container [default: /]
    #[arg(long, value_name = "DIR")]
    pub host_root: Option<PathBuf>,
    /// Directory that the network configuration is written to when the daemon can serve [default: not written]
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Directory that the CNI plugin is put in before that [default: not put anywhere]
    #[arg(long, value_name = "DIR")]
    pub cni_bin_dir: Option<PathBuf>,
    /// Network configuration to write there [default: that of Cambric alone]
    #[arg(long, value_name = "FILE")]
    pub cni_conflist: Option<PathBuf>,
    /// Name of this node [default: the machine's name]
    #[arg(long, value_name = "NAME")]
    #[serde(deserialize_with = "text")]
    pub node_name: Option<NodeName>,
    /// Interface that leads out of the node; repeatable [default: those that carry an address of this node's Node, a
    /// default route, or the way to another node]
    #[arg(long, value_name = "IFNAME")]
    pub uplink: Vec<String>,
    /// Interface that is no uplink by the default rule, or how the names of several begin, as docker*; repeatable
    #[arg(long, value_name = "IFNAME")]
    pub uplink_exclude: Vec<IfnamePattern>,
    /// Prefix that addresses are handed out from, or NAME=CIDR; repeatable [default: the pod CIDRs of this node's Node]
    #[arg(long, value_name = "CIDR")]
    pub pool: Vec<PoolEntry>,
    /// Seconds that the address of a deleted pod rests before another gets it, while there are others [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub address_rest: Option<u32>,
    /// Whether other plugins, before Cambric in the chain, make the interfaces and assign the addresses [default: false]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    pub chained: Option<bool>,
    /// Where policies, services and nodes come from: none, dir:PATH, kube (as a pod) or kube:KUBECONFIG [default: none]
    #[arg(long, value_name = "SOURCE")]
    #[serde(deserialize_with = "text")]
    pub cluster: Option<Cluster>,
    /// Seconds that the cluster's source may not tell of every change before that is a problem in status and metrics [default: 0]
    #[arg(long, value_name = "SECONDS")]
    pub cluster_stale_after: Option<u32>,
    /// URL of the Kubernetes API server, instead of the one that the pod's environment or the kubeconfig names
    #[arg(long, value_name = "URL")]
    pub kube_api_server: Option<String>,
    /// Address and port that Prometheus metrics are served on [default: not served]
    #[arg(long, value_name = "ADDR")]
    #[serde(deserialize_with = "text")]
    pub metrics: Option<SocketAddr>,
    /// Socket that Hubble's API is served on: flows for the program hubble [default: not served]
    #[arg(long, value_name = "PATH")]
    pub hubble_socket: Option<PathBuf>,
    /// Address and port that Hubble's API is served on by TLS, to clients with a certificate [default: not served]
    #[arg(long, value_name = "ADDR")]
    #[serde(deserialize_with = "text")]
    pub hubble_listen: Option<SocketAddr>,
    /// Certificate of Hubble's API in PEM, and those between it and its authority
    #[arg(long, value_name = "FILE")]
    pub hubble_tls_certificate: Option<PathBuf>,
    /// The key of that certificate in PEM
    #[arg(long, value_name = "FILE")]
    pub hubble_tls_key: Option<PathBuf>,
    /// Authorities in PEM whose certificates let clients read flows
    #[arg(long, value_name = "FILE")]
    pub hubble_tls_client_ca: Option<PathBuf>,
    /// How many of the last flows Hubble's API keeps [default: 4096]
    #[arg(long, value_name = "FLOWS")]
    pub hubble_flows: Option<HubbleFlows>,
    /// Whether what leaves by an uplink gets the uplink's address [default: true]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    pub masquerade: Option<bool>,
    /// Destination that is not masqueraded, besides the pools; repeatable
    #[arg(long, value_name = "CIDR")]
    pub no_masquerade: Vec<IpNetwork>,
    /// Ports that masqueraded flows leave from [default: 10000-29999]
    #[arg(long, value_name = "FIRST-LAST")]
    #[serde(deserialize_with = "text")]
    pub masquerade_ports: Option<PortRange>,
    /// Entries of each family's conntrack map [default: by the memory; 131072 for 8 GiB]
    #[arg(long, value_name = "ENTRIES")]
    pub conntrack_size: Option<ConntrackSize>,
    /// How long connections in a state are remembered after their last packet, such as tcp-established=7200; repeatable
    #[arg(long, value_name = "STATE=SECONDS")]
    pub conntrack_timeout: Vec<ConntrackTimeout>,
    /// Sockets of each family that are led to a backend [default: half of --conntrack-size]
    #[arg(long, value_name = "ENTRIES")]
    pub socket_size: Option<SocketSize>,
    /// Clients of each family with an affinity [default: half of --conntrack-size]
    #[arg(long, value_name = "ENTRIES")]
    pub affinity_size: Option<AffinitySize>,
    /// Datagrams of each family that are under way in pieces [default: a quarter of --conntrack-size, at least 8192]
    #[arg(long, value_name = "ENTRIES")]
    pub fragment_size: Option<FragmentSize>,
    /// Nodes' addresses and prefixes of each family [default: as --conntrack-size, at least 65536]
    #[arg(long, value_name = "ENTRIES")]
    pub prefix_size: Option<PrefixSize>,
    /// Entries of one endpoint's policy map [default: 16384]
    #[arg(long, value_name = "ENTRIES")]
    pub policy_entries: Option<PolicyEntries>,
    /// Addresses of each family that policies can tell apart [default: 131072]
    #[arg(long, value_name = "ENTRIES")]
    pub policy_addresses: Option<PolicyAddresses>,
    /// Prefixes of each family that policies can tell apart [default: 65536]
    #[arg(long, value_name = "ENTRIES")]
    pub policy_prefixes: Option<PolicyPrefixes>,
    /// Rules that are counted, of those that concern this node's endpoints [default: 16384]
    #[arg(long, value_name = "ENTRIES")]
    pub policy_rules: Option<PolicyRules>,
    /// What becomes of packets that policy denies: drop, or reject, which tells the sender [default: drop]
    #[arg(long, value_name = "WHAT")]
    #[serde(deserialize_with = "text")]
    pub denied: Option<Denied>,
    /// Port of the node that no policy of a HostEndpoint closes for others, as PROTOCOL:PORT or PROTOCOL:PREFIX:PORT; repeatable
    /// [default: SSH, DHCP, BGP, etcd, Typha and the API server, as Calico has them]
    #[arg(long, value_name = "PORT")]
    pub failsafe_inbound: Option<Vec<FailsafePort>>,
    /// Port of others that no policy of a HostEndpoint closes for the node, likewise; repeatable [default: DNS, DHCP, BGP, etcd,
    /// Typha and the API server, as Calico has them]
    #[arg(long, value_name = "PORT")]
    pub failsafe_outbound: Option<Vec<FailsafePort>>,
    /// Resolver whose answers tell policies the addresses of DNS names: a Service as NAMESPACE/NAME, or ADDRESS[:PORT]; repeatable
    /// [default: kube-system/kube-dns]
    #[arg(long, value_name = "RESOLVER")]
    pub dns_resolvers: Option<Vec<ResolverName>>,
    /// Name below which every pod with rules by DNS names may ask these resolvers; repeatable [default: cluster.local]
    #[arg(long, value_name = "NAME")]
    pub dns_search: Option<Vec<Below>>,
    /// Seconds that an address counts as a DNS name at least, after a pod was told it [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub dns_least_ttl: Option<u32>,
    /// Directory of text files with prefixes whose packets are dropped at the uplinks before all else [default: none]
    #[arg(long, value_name = "DIR")]
    pub deny_directory: Option<PathBuf>,
    /// Prefix that no deny set may deny, besides the cluster's nodes and pods; repeatable
    #[arg(long, value_name = "CIDR")]
    pub deny_exempt: Vec<IpNetwork>,
    /// Where deny sets are looked up: auto, native (in the driver) or generic [default: auto]
    #[arg(long, value_name = "MODE")]
    #[serde(deserialize_with = "text")]
    pub deny_mode: Option<DenyMode>,
    /// Whether pods' sockets are led to a service's backend when they connect, or their packets translated: on or off [default: on]
    #[arg(long, value_name = "SWITCH")]
    #[serde(deserialize_with = "text")]
    pub socket_lb: Option<Switch>,
    /// How connections from outside reach a service's backend on another node: snat or dsr [default: snat]
    #[arg(long, value_name = "MODE")]
    #[serde(deserialize_with = "text")]
    pub external_service_mode: Option<ExternalServiceMode>,
    /// Whether services are reached at their cluster IPs from beyond the node [default: false]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    pub cluster_ip_external: Option<bool>,
    /// Prefix of the node's addresses that serve node ports; repeatable [default: all]
    #[arg(long, value_name = "CIDR")]
    pub nodeport_addresses: Vec<IpNetwork>,
    /// How pods of other nodes are reached: none, direct, vxlan or auto (directly in the subnet, by VXLAN beyond) [default: auto]
    #[arg(long, value_name = "MODE")]
    #[serde(deserialize_with = "text")]
    pub routing: Option<RoutingMode>,
    /// UDP port of the overlay, the same on all nodes [default: 4789]
    #[arg(long, value_name = "PORT")]
    pub vxlan_port: Option<u16>,
    /// Number of the overlay's VXLAN network, the same on all nodes [default: 51770]
    #[arg(long, value_name = "NUMBER")]
    pub vxlan_id: Option<VxlanId>,
    /// How programs are attached: auto, tcx or clsact; auto takes filters for pods that no bandwidth plugin can limit [default: auto]
    #[arg(long, value_name = "MODE")]
    #[serde(deserialize_with = "text")]
    pub attach: Option<Attach>,
    /// Seconds that a thread of the daemon may take for one step before the daemon ends, to be started anew [default: 120]
    #[arg(long, value_name = "SECONDS")]
    pub thread_deadline: Option<NonZeroU32>,
    /// MTU of the containers' interfaces, in bytes [default: the smallest of the uplinks', else 1500]
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<Mtu>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    #[serde(deserialize_with = "text")]
    pub log_level: Option<LogLevel>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    #[serde(deserialize_with = "text")]
    pub log_format: Option<LogFormat>,
}

impl Options {
    /// The keys that are set here, and of `other` those that are not.
    pub fn or(self, other: Self) -> Self {
        fn either<T>(these: Vec<T>, others: Vec<T>) -> Vec<T> {
            if these.is_empty() { others } else { these }
        }
        Self {
            socket: self.socket.or(other.socket),
            state_dir: self.state_dir.or(other.state_dir),
            bpffs: self.bpffs.or(other.bpffs),
            cgroup: self.cgroup.or(other.cgroup),
            host_root: self.host_root.or(other.host_root),
            cni_conf_dir: self.cni_conf_dir.or(other.cni_conf_dir),
            cni_bin_dir: self.cni_bin_dir.or(other.cni_bin_dir),
            cni_conflist: self.cni_conflist.or(other.cni_conflist),
            node_name: self.node_name.or(other.node_name),
            uplink: either(self.uplink, other.uplink),
            uplink_exclude: either(self.uplink_exclude, other.uplink_exclude),
            pool: either(self.pool, other.pool),
            address_rest: self.address_rest.or(other.address_rest),
            chained: self.chained.or(other.chained),
            cluster: self.cluster.or(other.cluster),
            cluster_stale_after: self.cluster_stale_after.or(other.cluster_stale_after),
            kube_api_server: self.kube_api_server.or(other.kube_api_server),
            metrics: self.metrics.or(other.metrics),
            hubble_socket: self.hubble_socket.or(other.hubble_socket),
            hubble_listen: self.hubble_listen.or(other.hubble_listen),
            hubble_tls_certificate: self.hubble_tls_certificate.or(other.hubble_tls_certificate),
            hubble_tls_key: self.hubble_tls_key.or(other.hubble_tls_key),
            hubble_tls_client_ca: self.hubble_tls_client_ca.or(other.hubble_tls_client_ca),
            hubble_flows: self.hubble_flows.or(other.hubble_flows),
            masquerade: self.masquerade.or(other.masquerade),
            no_masquerade: either(self.no_masquerade, other.no_masquerade),
            masquerade_ports: self.masquerade_ports.or(other.masquerade_ports),
            conntrack_size: self.conntrack_size.or(other.conntrack_size),
            conntrack_timeout: either(self.conntrack_timeout, other.conntrack_timeout),
            socket_size: self.socket_size.or(other.socket_size),
            affinity_size: self.affinity_size.or(other.affinity_size),
            fragment_size: self.fragment_size.or(other.fragment_size),
            prefix_size: self.prefix_size.or(other.prefix_size),
            routing: self.routing.or(other.routing),
            vxlan_port: self.vxlan_port.or(other.vxlan_port),
            vxlan_id: self.vxlan_id.or(other.vxlan_id),
            policy_entries: self.policy_entries.or(other.policy_entries),
            policy_addresses: self.policy_addresses.or(other.policy_addresses),
            policy_prefixes: self.policy_prefixes.or(other.policy_prefixes),
            policy_rules: self.policy_rules.or(other.policy_rules),
            denied: self.denied.or(other.denied),
            failsafe_inbound: self.failsafe_inbound.or(other.failsafe_inbound),
            failsafe_outbound: self.failsafe_outbound.or(other.failsafe_outbound),
            dns_resolvers: self.dns_resolvers.or(other.dns_resolvers),
            dns_search: self.dns_search.or(other.dns_search),
            dns_least_ttl: self.dns_least_ttl.or(other.dns_least_ttl),
            deny_directory: self.deny_directory.or(other.deny_directory),
            deny_exempt: either(self.deny_exempt, other.deny_exempt),
            deny_mode: self.deny_mode.or(other.deny_mode),
            socket_lb: self.socket_lb.or(other.socket_lb),
            external_service_mode: self.external_service_mode.or(other.external_service_mode),
            cluster_ip_external: self.cluster_ip_external.or(other.cluster_ip_external),
            nodeport_addresses: either(self.nodeport_addresses, other.nodeport_addresses),
            attach: self.attach.or(other.attach),
            thread_deadline: self.thread_deadline.or(other.thread_deadline),
            mtu: self.mtu.or(other.mtu),
            log_level: self.log_level.or(other.log_level),
            log_format: self.log_format.or(other.log_format),
        }
    }
}

/// A pool as it is written: a prefix, or a name and a prefix.
#[derive(Clone, Debug)]
pub(super) struct PoolEntry {
    name: Option<String>,
    cidr: IpNetwork,
}

impl PoolEntry {
    /// The pool; named by its prefix if it has no name.
    pub fn pool(&self) -> Result<Pool, PoolError> {
        Pool::new(self.name.clone().unwrap_or_else(|| self.cidr.to_string()), self.cidr)
    }
}

impl FromStr for PoolEntry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, cidr) = match text.split_once('=') {
            Some((name, cidr)) => (Some(name.to_owned()), cidr),
            None => (None, text),
        };
        // Without its length a prefix would be one address, which nobody means.
        let parsed = cidr.contains('/').then(|| cidr.parse().ok()).flatten();
        match parsed {
            Some(cidr) => Ok(Self { name, cidr }),
            None => Err(format!("pool {cidr:?} is not a prefix such as 10.88.0.0/16 or fd00:88::/64")),
        }
    }
}

impl<'de> Deserialize<'de> for PoolEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entry;
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Named {
            name: String,
            cidr: String,
        }
        impl<'de> de::Visitor<'de> for Entry {
            type Value = PoolEntry;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a prefix such as \"10.88.0.0/16\", or a table of name and cidr")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PoolEntry, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<M: de::MapAccess<'de>>(self, map: M) -> Result<PoolEntry, M::Error> {
                let Named { name, cidr } = Named::deserialize(de::value::MapAccessDeserializer::new(map))?;
                let entry: PoolEntry = cidr.parse().map_err(de::Error::custom)?;
                Ok(PoolEntry { name: Some(name), ..entry })
            }
        }
        deserializer.deserialize_any(Entry)
    }
}

/// Reads a value from the text that the flag of the same key would take.
fn text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: std::fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(|error| de::Error::custom(format_args!("{text:?}: {error}")))
}

//! What is reconciled with what, and what is remembered from one pass to the next.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnetwork::IpNetwork;

use super::scan_throttle::ScanThrottle;
use crate::{
    deny_sets::DenyPrefixes, host_endpoints::HostEndpoints, metrics::Metrics, monitor::Monitor, node::Node,
    remote_nodes::RemoteNodes,
};
use ipamd_addresses::ipam::Pool;
use ipamd_config::{Config, UplinkRule};
use ipamd_datapath::{Datapath, RouteCounts};
use ipamd_kernel::netlink::{Address, Link, NetlinkError, Socket};
use ipamd_machine::{footprint::FootprintFile, preflight::cgroup_root};
use ipamd_model::{origins::NearNode, uplink::Uplink};
use ipamd_plan::Routing;
use ipamd_services::Balancer;

/// This node's uplinks, addresses and overlay interface. When they change, the routes to other nodes are scanned at
/// once.
pub(super) type NodeTopology = (Vec<Uplink>, Vec<Address>, Option<Link>);

/// What is to be reconciled with what.
#[derive(Debug)]
pub struct Reconciler {
    pub(super) node: Arc<Node>,
    pub(super) datapath: Arc<Datapath>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) monitor: Option<Arc<Monitor>>,
    pub(super) services: Option<Arc<Balancer>>,
    pub(super) deny_prefixes: Option<Arc<DenyPrefixes>>,
    pub(super) hosts: Option<Arc<HostEndpoints>>,
    /// What is wrong with host endpoints.
    pub(super) host_problems: Vec<String>,
    /// Where sockets are led to services' backends; `None`: nowhere.
    pub(super) cgroup: Option<PathBuf>,
    pub(super) node_port_addresses: Vec<IpNetwork>,
    pub(super) socket: Socket,
    pub(super) bpffs: PathBuf,
    pub(super) footprint: FootprintFile,
    pub(super) pools: Vec<Pool>,
    pub(super) remote_nodes: Arc<RemoteNodes>,
    pub(super) routing: Routing,
    pub(super) uplink_rule: UplinkRule,
    /// The uplinks of the last pass by name, so that changes are told.
    pub(super) known_uplinks: BTreeSet<String>,
    pub(super) no_masquerade: Vec<IpNetwork>,
    pub(super) mtu: Option<u32>,
    /// When to scan the routes to other nodes.
    pub(super) throttle: ScanThrottle,
    /// The topology at the last scan.
    pub(super) topology: Option<NodeTopology>,
    /// Problems of the routes to other nodes.
    pub(super) route_problems: Vec<String>,
    /// The nodes whose Ethernet addresses the kernel watches.
    pub(super) near_nodes: BTreeSet<NearNode>,
    /// The kernel's counters of route changes when it was last checked whether routes are plain.
    pub(super) routes_seen: Option<RouteCounts>,
    /// Sentences about processes of the node whose ports are shadowed by services.
    pub(super) port_problems: Vec<String>,
    /// The failures of the last pass, so that each is logged once and not every few seconds.
    pub(super) failing: BTreeSet<String>,
    /// The endpoints that have lost their interfaces, so that each is logged once.
    pub(super) broken: Vec<String>,
    /// Whether the first pass is done. What the first pass adds is not counted as a repair.
    pub(super) first_pass_done: bool,
}

impl Reconciler {
    /// A reconciler of the calling thread's network namespace.
    ///
    /// # Errors
    /// Why there is no netlink socket.
    pub fn new(
        config: &Config,
        node: Arc<Node>,
        datapath: Arc<Datapath>,
        metrics: Arc<Metrics>,
        footprint: FootprintFile,
        remote_nodes: Arc<RemoteNodes>,
    ) -> Result<Self, NetlinkError> {
        let mut no_masquerade = config.pools.iter().map(Pool::cidr).collect::<Vec<_>>();
        no_masquerade.extend(&config.no_masquerade);
        Ok(Self {
            node,
            datapath,
            metrics,
            monitor: None,
            services: None,
            deny_prefixes: None,
            hosts: None,
            host_problems: Vec::new(),
            cgroup: cgroup_root(config.cgroup.as_deref()),
            node_port_addresses: config.node_port_addresses.clone(),
            socket: Socket::open()?,
            bpffs: config.bpffs.clone(),
            footprint,
            pools: config.pools.clone(),
            remote_nodes,
            routing: Routing {
                mode: config.routing,
                own: config.node_name.clone(),
                vxlan_id: config.vxlan_id,
                vxlan_port: config.vxlan_port,
                keeps_sources: !config.masquerade || !config.no_masquerade.is_empty(),
            },
            uplink_rule: config.uplinks.clone(),
            known_uplinks: BTreeSet::new(),
            no_masquerade,
            mtu: config.mtu,
            throttle: ScanThrottle::new(Instant::now()),
            topology: None,
            route_problems: Vec::new(),
            near_nodes: BTreeSet::new(),
            routes_seen: None,
            port_problems: Vec::new(),
            failing: BTreeSet::new(),
            broken: Vec::new(),
            first_pass_done: false,
        })
    }

    /// Sends end events to `monitor` for connections that the sweep of conntrack removes.
    #[must_use]
    pub fn with_monitor(self, monitor: Arc<Monitor>) -> Self {
        Self { monitor: Some(monitor), ..self }
    }

    /// Keeps `services` informed of the node's addresses.
    #[must_use]
    pub fn with_services(self, services: Arc<Balancer>) -> Self {
        Self { services: Some(services), ..self }
    }

    /// Shows what is wrong with the deny sets.
    #[must_use]
    pub fn with_deny_prefixes(self, deny_prefixes: Arc<DenyPrefixes>) -> Self {
        Self { deny_prefixes: Some(deny_prefixes), ..self }
    }

    /// Has the programs ask the policies of host endpoints.
    #[must_use]
    pub fn with_hosts(self, hosts: Arc<HostEndpoints>) -> Self {
        Self { hosts: Some(hosts), ..self }
    }

    /// Nodes of the cluster have changed.
    pub fn nodes_changed(&mut self) {
        self.throttle.nodes_changed(Instant::now());
    }

    /// Whether there is nothing to be done about that yet.
    pub(super) fn is_idle(&self) -> bool {
        self.throttle.is_idle(Instant::now())
    }

    /// Passes took the processor so long.
    pub(super) fn charge(&mut self, cpu: Duration) {
        self.throttle.charge(Instant::now(), cpu);
    }

    /// How long no pass is to be made because the kernel tells of changes.
    pub(super) fn cooldown(&self) -> Duration {
        self.throttle.cooldown(Instant::now())
    }

    /// How long there is nothing to do, if nothing is heard.
    pub(super) fn idle_time(&self) -> Duration {
        self.throttle.idle_time(Instant::now())
    }
}

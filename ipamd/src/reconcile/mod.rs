//! Makes the kernel what the records and the configuration say: at start, when something changes, and every few
//! seconds. It observes, has [`ipamd_plan`] decide, and performs.
//!
//! This runs on a thread of its own, for its netlink requests wait while the kernel removes interfaces.

mod observe;
mod pace;
mod perform;
mod thread;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use ipamd_api::wire;
use ipnetwork::IpNetwork;

use self::pace::Pace;
pub use self::thread::Reconciliation;

use crate::{
    metrics::Metrics,
    monitor::Monitor,
    node::{Findings, Node},
    peers::Peers,
};
use ipamd_addresses::ipam::Pool;
use ipamd_config::{Config, UplinkRule};
use ipamd_datapath::{Datapath, RouteCounts};
use ipamd_kernel::netlink::{Address, Link, NetlinkError, Socket, SocketDiag};
use ipamd_machine::{
    footprint::FootprintFile,
    preflight::{cgroup_root, mount_bpffs},
};
use ipamd_model::{
    endpoint::FALLBACK_MTU,
    objects::Nodes,
    origins::{NearNode, Origin, Origins},
    uplink::Uplink,
};
use ipamd_plan as plan;
use ipamd_plan::{
    Observed, Plan, Routing, Step, Uplinks,
    overlay::{self, overlay_link},
};
use ipamd_runtime::supervisor;
use ipamd_services::{Balancer, NodeAddresses};

/// What the ways to other nodes follow from besides these.
type Place = (Vec<Uplink>, Vec<Address>, Option<Link>);

/// What is to be reconciled with what.
#[derive(Debug)]
pub struct Reconciler {
    node: Arc<Node>,
    datapath: Arc<Datapath>,
    metrics: Arc<Metrics>,
    monitor: Option<Arc<Monitor>>,
    services: Option<Arc<Balancer>>,
    /// Where sockets are led to services' backends; `None`: nowhere.
    cgroup: Option<PathBuf>,
    node_port_addresses: Vec<IpNetwork>,
    socket: Socket,
    bpffs: PathBuf,
    footprint: FootprintFile,
    pools: Vec<Pool>,
    peers: Arc<Peers>,
    routing: Routing,
    uplink_rule: UplinkRule,
    /// The uplinks of the last pass by name, so that changes are told.
    known_uplinks: BTreeSet<String>,
    no_masquerade: Vec<IpNetwork>,
    mtu: Option<u32>,
    /// When to look at the ways to other nodes.
    pace: Pace,
    /// Where this node was when they were looked at last: its uplinks, its addresses and its overlay.
    place: Option<Place>,
    /// What is wrong with them.
    problems_of_ways: Vec<String>,
    /// The nodes whose Ethernet addresses the kernel watches.
    near_nodes: BTreeSet<NearNode>,
    /// How often the kernel had changed its routes when they were looked at for whether they are plain.
    routes_seen: Option<RouteCounts>,
    /// Ports that processes of the node listen at in vain, a sentence each.
    problems_of_ports: Vec<String>,
    /// What failed in the last pass, so that it is said once and not every few seconds.
    failing: BTreeSet<String>,
    /// The endpoints that have lost their interfaces, so that each is told of once.
    broken: Vec<String>,
    /// Whether a pass has been made: what the first one does is no repair.
    settled: bool,
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
        peers: Arc<Peers>,
    ) -> Result<Self, NetlinkError> {
        let mut no_masquerade = config.pools.iter().map(Pool::cidr).collect::<Vec<_>>();
        no_masquerade.extend(&config.no_masquerade);
        Ok(Self {
            node,
            datapath,
            metrics,
            monitor: None,
            services: None,
            cgroup: cgroup_root(config.cgroup.as_deref()),
            node_port_addresses: config.node_port_addresses.clone(),
            socket: Socket::open()?,
            bpffs: config.bpffs.clone(),
            footprint,
            pools: config.pools.clone(),
            peers,
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
            pace: Pace::new(Instant::now()),
            place: None,
            problems_of_ways: Vec::new(),
            near_nodes: BTreeSet::new(),
            routes_seen: None,
            problems_of_ports: Vec::new(),
            failing: BTreeSet::new(),
            broken: Vec::new(),
            settled: false,
        })
    }

    /// Has `monitor` tell of the connections that the sweep finds to be over.
    #[must_use]
    pub fn tell_ends(self, monitor: Arc<Monitor>) -> Self {
        Self { monitor: Some(monitor), ..self }
    }

    /// Keeps what `services` depends on in step.
    #[must_use]
    pub fn tend_services(self, services: Arc<Balancer>) -> Self {
        Self { services: Some(services), ..self }
    }

    /// Nodes of the cluster have changed.
    pub fn nodes_changed(&mut self) {
        self.pace.ask(Instant::now());
    }

    /// Whether there is nothing to be done about that yet.
    fn rests(&self) -> bool {
        self.pace.rests(Instant::now())
    }

    /// Passes took the processor so long.
    fn spent(&mut self, cpu: std::time::Duration) {
        self.pace.spent(Instant::now(), cpu);
    }

    /// How long no pass is to be made because the kernel tells of changes.
    fn breath(&self) -> std::time::Duration {
        self.pace.breath(Instant::now())
    }

    /// How long there is nothing to do, if nothing is heard.
    fn pause(&self) -> std::time::Duration {
        self.pace.pause(Instant::now())
    }

    /// Compares once, and puts right what is amiss. Returns whether more is to be done now that this is.
    pub fn pass(&mut self) -> bool {
        let began = Instant::now();
        let mut more = false;
        let mut failures = BTreeSet::new();
        match self.observe() {
            Err(failure) => {
                failures.insert(failure);
            }
            Ok(mut observed) => {
                let nodes = self.peers.all();
                let uplinks = plan::uplinks(&self.uplink_rule, &self.routing.own, &nodes, &observed);
                let new_uplinks = self.tell_uplinks(&uplinks);
                self.tend_addresses(&observed);
                Self::observe_sysctls(&uplinks, &mut observed);
                let records = self.node.records();
                let place =
                    (uplinks.present.clone(), observed.addresses.clone(), overlay_link(&observed).cloned());
                let looks = self.pace.is_due(began) || self.place.as_ref() != Some(&place);
                if looks {
                    match self.observe_ways(&observed) {
                        Ok(ways) => observed.ways = Some(ways),
                        Err(failure) => drop(failures.insert(failure)),
                    }
                    self.place = Some(place);
                }
                let mut plan = plan::plan(&self.pools, &uplinks, &self.routing, &nodes, &records, &observed);
                more = plan.steps.iter().any(|step| matches!(step, Step::MakeOverlay { .. }));
                for step in &plan.steps {
                    supervisor::beat();
                    match self.perform(step, &observed) {
                        Ok(true) if step.follows() || step.is_of_uplink(&new_uplinks) => {
                            tracing::info!(subject = step.subject(), "{step}");
                        }
                        Ok(true) => self.report(step.subject(), &step.to_string()),
                        Ok(false) => {}
                        Err(failure) => drop(failures.insert(format!("cannot {step}: {failure}"))),
                    }
                }
                if looks {
                    self.look_at_ports();
                    self.pace.looked(Instant::now(), began.elapsed(), !failures.is_empty());
                }
                if more && failures.is_empty() {
                    self.pace.hurry(began);
                }
                if let Some(problems) = plan.problems_of_ways.take() {
                    self.problems_of_ways = problems;
                }
                let overlay = overlay::overlay_uplink(&self.pools, &uplinks, &observed);
                let origins = plan::origins(&self.routing, &nodes, &self.pools, &uplinks, &observed);
                self.watch_near_nodes(&origins, &observed, looks);
                if let Err(error) = self.datapath.set_origins(&origins) {
                    failures.insert(error.to_string());
                }
                self.tend_programs(&uplinks, overlay, &nodes, &plan, &mut failures);
                // Behind what the pass itself has changed of them.
                self.tell_plain_routes();
                let present = observed
                    .links
                    .into_iter()
                    .map(|link| (link.index, link.name))
                    .collect::<BTreeMap<_, _>>();
                self.node.forget_gone(&present);
                self.node.keep_files();
                if failures.is_empty() {
                    self.node.found_lost();
                }
                self.conclude(&uplinks, plan, &failures);
            }
        }
        for failure in failures.difference(&self.failing) {
            tracing::warn!("{failure}");
        }
        self.failing = failures;
        self.pace.passed(Instant::now());
        // What a pass adds to an interface that the one before has made is no repair either.
        self.settled = !more;
        more
    }

    /// Tells the programs whether nothing but the destination decides which way a packet leaves. The kernel's count is read first: what
    /// changes meanwhile makes it another, and what is told then is of no use. Without it flows cost more, and all go right.
    fn tell_plain_routes(&mut self) {
        let told = self.datapath.route_counts().map_err(|error| error.to_string()).and_then(|counts| {
            if self.routes_seen == Some(counts) {
                return Ok(counts);
            }
            let (ipv4, ipv6) = self.socket.plain_routes().map_err(|error| error.to_string())?;
            self.datapath.set_plain_routes(counts.of(ipv4, ipv6)).map_err(|error| error.to_string())?;
            Ok(counts)
        });
        match told {
            Ok(counts) => self.routes_seen = Some(counts),
            Err(error) => tracing::debug!(error, "each flow asks for its way out of the node"),
        }
    }

    /// Tells of interfaces that have become uplinks, and of those that are none any more. Returns the names of the former.
    fn tell_uplinks(&mut self, uplinks: &Uplinks) -> Vec<String> {
        let names: BTreeSet<_> = uplinks.present.iter().map(|uplink| uplink.ifname.clone()).collect();
        let new = names.difference(&self.known_uplinks).cloned().collect();
        for uplink in uplinks.present.iter().filter(|uplink| !self.known_uplinks.contains(&uplink.ifname)) {
            let reasons = uplinks.reasons(uplink.ifindex).collect::<Vec<_>>().join(", ");
            tracing::info!(interface = uplink.ifname, "an uplink: {reasons}");
        }
        for name in self.known_uplinks.difference(&names) {
            tracing::info!(interface = name, "no uplink any more");
        }
        self.known_uplinks = names;
        new
    }

    /// Looks who listens at a port that a service or a container has.
    fn look_at_ports(&mut self) {
        let Some(services) = &self.services else { return };
        let listeners = SocketDiag::open(None).and_then(|diag| diag.listeners());
        // Where nobody can say, nothing is said.
        let problems = listeners.map(|listeners| services.shadowed(&listeners)).unwrap_or_default();
        for problem in problems.iter().filter(|problem| !self.problems_of_ports.contains(problem)) {
            tracing::warn!("{problem}");
        }
        self.problems_of_ports = problems;
    }

    /// Has the kernel know where the nodes of this one's links are, whose packets are told by that. Again and again, for it
    /// forgets that with an interface that goes down. What an administrator has put into the table stays as it is.
    fn watch_near_nodes(&mut self, origins: &Origins, observed: &Observed, again: bool) {
        let permanent = |node: &NearNode| {
            observed.neighbours.iter().any(|it| (it.ifindex, it.address) == (node.ifindex, node.address))
        };
        let near: BTreeSet<_> =
            origins.values().filter_map(Origin::node).filter(|node| !permanent(node)).collect();
        for node in near.iter().filter(|node| again || !self.near_nodes.contains(node)) {
            if let Err(error) = self.socket.watch_neighbour(node.ifindex, node.address) {
                // The interface may be going.
                tracing::debug!(%error, "a node's Ethernet address is learnt from what it sends alone");
            }
        }
        for node in self.near_nodes.difference(&near).filter(|node| !permanent(node)) {
            if let Err(error) = self.socket.forget_neighbour(node.ifindex, node.address) {
                tracing::debug!(%error, "a node that is gone stays a neighbour");
            }
        }
        self.near_nodes = near;
    }

    /// The programs of uplinks and host ends, and what they take from the configuration.
    fn tend_programs(
        &mut self,
        uplinks: &Uplinks,
        overlay: Option<Uplink>,
        nodes: &Nodes,
        plan: &Plan,
        failures: &mut BTreeSet<String>,
    ) {
        // Endpoints of the cluster see each other's own addresses.
        let of_cluster = nodes.values().flat_map(|node| &node.pod_cidrs);
        let no_masquerade: Vec<_> = self.no_masquerade.iter().chain(of_cluster).copied().collect();
        if let Err(error) = self.datapath.set_no_masquerade(&no_masquerade) {
            failures.insert(error.to_string());
        }
        let machines = nodes.values().flat_map(|node| {
            node.addresses.iter().map(|address| (*address, node.internal.contains(address)))
        });
        if let Err(error) = self.datapath.set_machines(machines) {
            failures.insert(error.to_string());
        }
        let ways_out: Vec<_> = uplinks.present.iter().cloned().chain(overlay).collect();
        for (subject, repairs) in [
            ("clock", self.datapath.set_wall_clock().map(|()| Vec::new())),
            ("socket", self.datapath.hold_sockets(self.cgroup.as_deref())),
            ("uplink", self.datapath.set_uplinks(&ways_out)),
        ] {
            match repairs {
                Ok(repairs) => repairs.iter().for_each(|repair| self.report(subject, repair)),
                Err(error) => drop(failures.insert(error.to_string())),
            }
        }
        // Somebody may have unmounted it, and with it all pins.
        match mount_bpffs(&self.bpffs) {
            Ok(false) => {}
            Ok(true) => self.report("bpffs", &format!("mounted a bpffs for {}", self.bpffs.display())),
            Err(error) => drop(failures.insert(error.to_string())),
        }
        let (repairs, unmended) = self.datapath.heal_attachments(&plan.host_ends);
        for repair in &repairs {
            self.report("program", repair);
        }
        failures.extend(unmended.iter().map(ToString::to_string));
    }

    /// The node reaches its endpoints from any address of its own, and serves node ports there.
    fn tend_addresses(&self, observed: &Observed) {
        let policy = self.node.policy();
        let own = observed.addresses.iter().map(|address| address.address);
        let own: BTreeSet<_> = own.chain(self.pools.iter().map(Pool::gateway)).collect();
        policy.set_node_addresses(own.clone());
        policy.retry();
        if let Some(services) = &self.services {
            services.set_node_addresses(NodeAddresses::new(own, &self.node_port_addresses));
            services.retry();
        }
    }

    fn conclude(&mut self, uplinks: &Uplinks, plan: Plan, failures: &BTreeSet<String>) {
        let broken = self.node.broken();
        for lost in broken.iter().filter(|lost| !self.broken.contains(lost)) {
            tracing::warn!("{lost}");
        }
        self.broken = broken;
        let smallest = plan.overlay.map(|overlay| overlay.mtu).into_iter().chain(uplinks.mtu).min();
        let uplink_mtu = smallest.map(|mtu| mtu.clamp(1280, u16::MAX.into()));
        self.node.set_mtu(self.mtu.or(uplink_mtu).unwrap_or(FALLBACK_MTU));
        let too_large = self.mtu.zip(uplink_mtu).filter(|(mtu, takes)| mtu > takes).map(|(mtu, takes)| {
            format!("mtu = {mtu} is larger than the {takes} bytes that the way out takes: large packets are cut or refused")
        });
        self.node.set_findings(Findings {
            uplinks: uplinks
                .present
                .iter()
                .map(|uplink| wire::Uplink {
                    name: uplink.ifname.clone(),
                    reasons: uplinks.reasons(uplink.ifindex).collect(),
                    addresses: (uplink.ipv4.map(IpAddr::V4).into_iter())
                        .chain(uplink.ipv6.map(IpAddr::V6))
                        .collect(),
                })
                .collect(),
            problems: plan
                .problems
                .into_iter()
                .chain(self.problems_of_ways.iter().cloned())
                .chain(self.problems_of_ports.iter().cloned())
                .chain(self.services.iter().flat_map(|services| services.problems()))
                .chain(failures.iter().cloned())
                .chain(self.footprint.problem())
                .chain(self.broken.iter().cloned())
                .chain(too_large)
                .collect(),
        });
    }

    fn report(&self, subject: &'static str, done: &str) {
        if self.settled {
            self.metrics.repair(subject);
            tracing::warn!(subject, "repaired: {done}");
        } else {
            tracing::info!(subject, "{done}");
        }
    }
}

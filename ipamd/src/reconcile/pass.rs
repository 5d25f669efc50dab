//! One pass: it compares the kernel with the plan, and repairs the difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use ipamd_api::{host::HostEndpoint, wire};

use super::reconciler::Reconciler;
use crate::{host_endpoints::HostLinks, node::Findings};
use ipamd_addresses::ipam::Pool;
use ipamd_datapath::HostLink;
use ipamd_kernel::netlink::SocketDiag;
use ipamd_machine::preflight::mount_bpffs;
use ipamd_model::{
    objects::Nodes,
    origins::{NearNode, Origin, Origins},
    uplink::Uplink,
};
use ipamd_plan as plan;
use ipamd_plan::{Observed, Plan, Step, Uplinks, overlay::overlay_link, overlay_uplink};
use ipamd_runtime::supervisor;
use ipamd_services::NodeAddresses;

impl Reconciler {
    /// Compares the kernel with the plan once, and repairs it. Returns whether another pass is needed at once.
    pub fn pass(&mut self) -> bool {
        let began = Instant::now();
        let mut more = false;
        let mut failures = BTreeSet::new();
        match self.observe() {
            Err(failure) => {
                failures.insert(failure);
            }
            Ok(mut observed) => {
                let nodes = self.remote_nodes.all();
                let uplinks = plan::uplinks(&self.uplink_rule, &self.routing.own, &nodes, &observed);
                let new_uplinks = self.log_uplinks(&uplinks);
                self.sync_addresses(&observed);
                Self::observe_sysctls(&uplinks, &mut observed);
                let records = self.node.records();
                let topology =
                    (uplinks.present.clone(), observed.addresses.clone(), overlay_link(&observed).cloned());
                let scans = self.throttle.is_due(began) || self.topology.as_ref() != Some(&topology);
                if scans {
                    match self.observe_node_routes(&observed) {
                        Ok(node_routes) => observed.node_routes = Some(node_routes),
                        Err(failure) => drop(failures.insert(failure)),
                    }
                    self.topology = Some(topology);
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
                if scans {
                    self.check_shadowed_ports();
                    self.throttle.scanned(Instant::now(), began.elapsed(), !failures.is_empty());
                }
                if more && failures.is_empty() {
                    self.throttle.scan_now(began);
                }
                if let Some(problems) = plan.route_problems.take() {
                    self.route_problems = problems;
                }
                let overlay = overlay_uplink(&self.pools, &uplinks, &observed);
                let origins = plan::origins(&self.routing, &nodes, &self.pools, &uplinks, &observed);
                self.watch_near_nodes(&origins, &observed, scans);
                if let Err(error) = self.datapath.set_origins(&origins) {
                    failures.insert(error.to_string());
                }
                let hosts = self.find_host_links(&uplinks, overlay.as_ref(), &observed);
                self.sync_programs(&uplinks, overlay, &hosts.links, &nodes, &plan, &mut failures);
                // After the pass, which may have changed routes itself.
                self.sync_plain_routes();
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
                self.publish_findings(&uplinks, hosts.endpoints, plan, &failures);
            }
        }
        for failure in failures.difference(&self.failing) {
            tracing::warn!("{failure}");
        }
        self.failing = failures;
        self.throttle.pass_done(Instant::now());
        // A pass that completes what the pass before has begun makes no repair either.
        self.first_pass_done = !more;
        more
    }

    /// Tells the programs whether the destination alone decides a packet's route ("plain" routes), so that they need
    /// not look the route up for each flow. The kernel's change counters are read first: if routes change meanwhile,
    /// the counters differ and the programs ignore the answer. Without an answer flows cost more and are still right.
    fn sync_plain_routes(&mut self) {
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
            Err(error) => tracing::debug!(
                error,
                "cannot tell whether routes are plain; each new flow looks up its route"
            ),
        }
    }

    /// Logs interfaces that have become uplinks or are none any more. Returns the names of the new ones.
    fn log_uplinks(&mut self, uplinks: &Uplinks) -> Vec<String> {
        let names: BTreeSet<_> = uplinks.present.iter().map(|uplink| uplink.ifname.clone()).collect();
        let new = names.difference(&self.known_uplinks).cloned().collect();
        for uplink in uplinks.present.iter().filter(|uplink| !self.known_uplinks.contains(&uplink.ifname)) {
            let reasons = uplinks.reasons(uplink.ifindex).collect::<Vec<_>>().join(", ");
            tracing::info!(interface = uplink.ifname, "interface is an uplink: {reasons}");
        }
        for name in self.known_uplinks.difference(&names) {
            tracing::info!(interface = name, "interface is no longer an uplink");
        }
        self.known_uplinks = names;
        new
    }

    /// Finds processes that listen on a port of a service or a container.
    fn check_shadowed_ports(&mut self) {
        let Some(services) = &self.services else { return };
        let listeners = SocketDiag::open(None).and_then(|mut diag| diag.listeners());
        // If the listeners cannot be read, no problem is reported.
        let problems = listeners.map(|listeners| services.shadowed(&listeners)).unwrap_or_default();
        for problem in problems.iter().filter(|problem| !self.port_problems.contains(problem)) {
            tracing::warn!("{problem}");
        }
        self.port_problems = problems;
    }

    /// Makes the kernel resolve the Ethernet addresses of nodes on this node's links, by which their packets are
    /// recognised. It is repeated, because the kernel forgets them when an interface goes down. Entries that an
    /// administrator made stay.
    fn watch_near_nodes(&mut self, origins: &Origins, observed: &Observed, again: bool) {
        let permanent = |node: &NearNode| {
            observed.neighbours.iter().any(|it| (it.ifindex, it.address) == (node.ifindex, node.address))
        };
        let near: BTreeSet<_> =
            origins.values().filter_map(Origin::node).filter(|node| !permanent(node)).collect();
        for node in near.iter().filter(|node| again || !self.near_nodes.contains(node)) {
            if let Err(error) = self.socket.watch_neighbour(node.ifindex, node.address) {
                // The interface may be going.
                tracing::debug!(%error, "cannot resolve a node's Ethernet address; it is learnt from received packets only");
            }
        }
        for node in self.near_nodes.difference(&near).filter(|node| !permanent(node)) {
            if let Err(error) = self.socket.forget_neighbour(node.ifindex, node.address) {
                tracing::debug!(%error, "cannot remove the neighbour entry of a removed node");
            }
        }
        self.near_nodes = near;
    }

    /// The interfaces that have policies of a host endpoint. Notes and logs what is wrong with host endpoints.
    fn find_host_links(
        &mut self,
        uplinks: &Uplinks,
        overlay: Option<&Uplink>,
        observed: &Observed,
    ) -> HostLinks {
        let Some(hosts) = &self.hosts else { return HostLinks::default() };
        let ways_out = uplinks.present.iter().chain(overlay).map(|uplink| uplink.ifindex).collect();
        let found = hosts.links(&observed.links, &observed.addresses, &ways_out);
        for problem in found.problems.iter().filter(|problem| !self.host_problems.contains(problem)) {
            tracing::warn!("{problem}");
        }
        self.host_problems.clone_from(&found.problems);
        found
    }

    /// The programs of uplinks and host ends, and what they take from the configuration.
    fn sync_programs(
        &mut self,
        uplinks: &Uplinks,
        overlay: Option<Uplink>,
        hosts: &[HostLink],
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
            ("socket", self.datapath.attach_socket_lb(self.cgroup.as_deref())),
            ("uplink", self.datapath.set_uplinks(&ways_out, hosts)),
        ] {
            match repairs {
                Ok(repairs) => {
                    for repair in &repairs {
                        self.report(subject, repair);
                    }
                    if let Some(hosts) = self.hosts.as_ref().filter(|_| subject == "uplink") {
                        hosts.settled();
                    }
                }
                Err(error) => drop(failures.insert(error.to_string())),
            }
        }
        // What arrives by the overlay has arrived by an uplink before.
        let named: Vec<_> = uplinks.present.iter().map(|it| (it.ifname.clone(), it.ifindex)).collect();
        let (repairs, undone) = self.datapath.deny().attach(&named);
        for repair in &repairs {
            self.report("deny", repair);
        }
        failures.extend(undone.iter().map(ToString::to_string));
        // If the bpffs was unmounted, all pins are gone with it.
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
    fn sync_addresses(&self, observed: &Observed) {
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

    fn publish_findings(
        &mut self,
        uplinks: &Uplinks,
        host_endpoints: Vec<HostEndpoint>,
        plan: Plan,
        failures: &BTreeSet<String>,
    ) {
        let broken = self.node.broken();
        for lost in broken.iter().filter(|lost| !self.broken.contains(lost)) {
            tracing::warn!("{lost}");
        }
        self.broken = broken;
        let (mtu, too_large) = plan::pod_mtu(self.mtu, uplinks.mtu, plan.overlay.map(|overlay| overlay.mtu));
        self.node.set_mtu(mtu);
        self.node.set_findings(Findings {
            host_endpoints,
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
                .chain(self.route_problems.iter().cloned())
                .chain(self.port_problems.iter().cloned())
                .chain(self.host_problems.iter().cloned())
                .chain(self.services.iter().flat_map(|services| services.problems()))
                .chain(self.deny_prefixes.iter().flat_map(|prefixes| prefixes.problems()))
                .chain(failures.iter().cloned())
                .chain(self.footprint.problem())
                .chain(self.broken.iter().cloned())
                .chain(too_large)
                .collect(),
        });
    }

    fn report(&self, subject: &'static str, done: &str) {
        if self.first_pass_done {
            self.metrics.repair(subject);
            tracing::warn!(subject, "repaired: {done}");
        } else {
            tracing::info!(subject, "{done}");
        }
    }
}

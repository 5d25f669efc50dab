//! The test on a node without an API server: namespaces of its own, whose interfaces the network's plugins make.

mod chain;
mod manifests;
mod namespace;
mod process;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use ipamd_api::{
    Reply, Request,
    wire::{Status, Uplink},
};
use nix::ifaddrs::getifaddrs;
use serde_json::Value;

use self::{
    chain::{Container, Network},
    manifests::Cluster,
    process::Process,
};
use super::{
    super::daemon::Daemon,
    agent,
    arguments::{Places, Test},
    check::Hello,
    interrupt, objects,
    plan::{self, GUARDED, Node, Offered, Outside, PORT, SECOND_PORT, Services, Topology},
    progress::progress,
    report::Report,
    run_name,
};

/// How much longer than its patience an agent may take for all of its probes.
const ROOM: Duration = Duration::from_mins(1);

/// What a run has made, in the order in which it was made. It is taken back when this is dropped.
#[derive(Debug)]
struct Scene {
    run: String,
    network: Network,
    manifests: Option<PathBuf>,
    /// Killed before their containers go.
    agents: Vec<Process>,
    containers: Vec<(Container, Value)>,
}

/// Where manifests can be put.
fn directory(what: &Test) -> Offered<PathBuf> {
    match &what.places.manifests()? {
        Some(directory) if directory.is_dir() => Ok(directory.clone()),
        Some(directory) => Err(format!("{} is no directory", directory.display())),
        None => Err("the daemon follows no directory of manifests that is known (cluster in its configuration, or --manifests)"
            .into()),
    }
}

/// Runs the test.
pub(super) fn run(what: &Test, daemon: &mut Daemon) -> anyhow::Result<Report> {
    let before = status(daemon)?;
    anyhow::ensure!(
        before.ready,
        "the node is not ready: {}; see cambricctl status and cambricctl preflight",
        before.problems.join("; ")
    );
    let network = network(&what.places)?;
    let mut scene =
        Scene { run: run_name::new()?, network, manifests: None, agents: Vec::new(), containers: Vec::new() };
    let done = scene.check(what, &before);
    progress("removing everything");
    let left = scene.remove();
    let mut report = done?;
    report.left = left;
    // A daemon that has gone meanwhile has been noticed by the checks.
    if let Ok(after) = status(daemon) {
        report.drops = more(&before.drops, &after.drops);
    }
    Ok(report)
}

fn network(places: &Places) -> anyhow::Result<Network> {
    Ok(Network::find(&places.conf_dir, &places.bin_dirs(), places.network.as_deref())?)
}

fn status(daemon: &mut Daemon) -> anyhow::Result<Status> {
    daemon.ask(Request::Status, |reply| match reply {
        Reply::Status(status) => Some(*status),
        _ => None,
    })
}

fn more(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let since = |(reason, count): (&String, &u64)| {
        (reason.clone(), count.saturating_sub(before.get(reason).copied().unwrap_or(0)))
    };
    after.iter().map(since).filter(|(_, count)| *count > 0).collect()
}

impl Scene {
    fn check(&mut self, what: &Test, status: &Status) -> anyhow::Result<Report> {
        let mut report = Report::of(&self.run);
        let node = status.node_name.clone();
        let directory = directory(what);
        let host_port = match what.host_port {
            0 => Err("--host-port 0".to_owned()),
            _ if !self.network.maps_ports() => Err(format!(
                "no plugin of the network {} has the capability portMappings",
                self.network.name()
            )),
            port => Ok(port),
        };
        progress("adding pods");
        let ports = host_port.iter().map(|port| (*port, PORT)).collect();
        let server = self.add(&plan::server(0), ports).with_context(|| {
            format!(
                "the server cannot be added (another --host-port than {} may help if that is taken)",
                what.host_port
            )
        })?;
        let guarded = self.add(GUARDED, Vec::new())?;
        let client = self.add(&plan::client(0), Vec::new())?;
        let stranger = self.add(&plan::stranger(0), Vec::new())?;
        self.start(&plan::server(0), &[PORT, SECOND_PORT])?;
        self.start(GUARDED, &[PORT])?;
        let (node_agents, gateways) = self.start_on_node(what.node_agent_port)?;
        let pods = [
            (plan::server(0), &server),
            (GUARDED.into(), &guarded),
            (plan::client(0), &client),
            (plan::stranger(0), &stranger),
        ];
        for (agent, addresses) in pods {
            let words: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            report.started(&agent, &node, Ok(words.join(" ")));
        }
        let cluster = Cluster { run: &self.run, server: &server, client: &client, node_port: what.node_port };
        let (services, own_service) = cluster.addresses();
        if let Ok(directory) = &directory {
            self.manifests = Some(directory.clone());
            cluster.put(directory).with_context(|| format!("cannot write to {}", directory.display()))?;
        }
        let topology = Topology {
            nodes: vec![Node {
                name: node,
                addresses: addresses_of(&status.uplinks),
                server,
                own_service: if directory.is_ok() { own_service } else { Vec::new() },
            }],
            guarded: directory.clone().map(|_| guarded),
            services: directory.map(|_| Services { addresses: services, node_port: Some(what.node_port) }),
            host_port,
            node_agents,
            outside: outside(what, &gateways),
            dns: dns(what),
        };
        progress("probing");
        self.probe(what, &topology, &mut report)?;
        report.leave_out(topology.left_out());
        Ok(report)
    }

    /// A pod: a namespace with an interface. Returns its addresses.
    fn add(&mut self, agent: &str, ports: Vec<(u16, u16)>) -> anyhow::Result<Vec<IpAddr>> {
        interrupt::check()?;
        let name = format!("{}-{agent}", self.run);
        let labels = objects::labels(agent).map(|(key, value)| (key.to_owned(), value)).to_vec();
        let pod = (self.run.clone(), agent.to_owned());
        let container = Container { id: name.clone(), netns: namespace::path(&name), pod, labels, ports };
        namespace::make(&name).with_context(|| format!("cannot make the network namespace {name}"))?;
        // Noted before ADD, of which half may be done if it fails.
        self.containers.push((container.clone(), Value::Null));
        let (addresses, result) = self.network.add(&container)?;
        if let Some((_, noted)) = self.containers.last_mut() {
            *noted = result;
        }
        Ok(addresses)
    }

    fn start(&mut self, agent: &str, serve: &[u16]) -> anyhow::Result<Hello> {
        let arguments = agent::arguments(agent, serve, &[], Duration::ZERO, true);
        let namespace = format!("{}-{agent}", self.run);
        let (process, hello) = Process::start(Some(&namespace), &arguments)
            .with_context(|| format!("the agent {agent} does not start"))?;
        self.agents.push(process);
        Ok(hello)
    }

    /// The agent in the node's own network, and the node's gateways.
    fn start_on_node(&mut self, port: u16) -> anyhow::Result<(Offered<u16>, Vec<IpAddr>)> {
        let arguments =
            |serve: &[u16]| agent::arguments(&plan::node_agent(0), serve, &[], Duration::ZERO, true);
        match Process::start(None, &arguments(&[port])) {
            Ok((process, hello)) => {
                self.agents.push(process);
                Ok((Ok(port), hello.gateways))
            }
            Err(error) => {
                interrupt::check()?;
                let (_, hello) = Process::start(None, &arguments(&[]))?;
                Ok((Err(format!("{error:#}; --node-agent-port names another")), hello.gateways))
            }
        }
    }

    /// Has all agents probe, at the same time.
    fn probe(&self, what: &Test, topology: &Topology, report: &mut Report) -> anyhow::Result<()> {
        let mut parts = vec![
            (plan::client(0), true, vec![PORT], topology.client(0)),
            (plan::stranger(0), true, Vec::new(), topology.stranger(0)),
            (plan::node_client(0), false, Vec::new(), topology.node(0)),
            // A second agent in a namespace whose first one serves.
            (
                GUARDED.to_owned(),
                true,
                Vec::new(),
                if topology.guarded.is_ok() { topology.guarded() } else { Vec::new() },
            ),
        ];
        for (_, _, _, checks) in &mut parts {
            checks.retain(|check| what.wants(check.kind));
        }
        parts.retain(|(_, _, _, checks)| !checks.is_empty());
        let mut running = Vec::new();
        for (agent, in_pod, serve, checks) in parts {
            let arguments = agent::arguments(&agent, &serve, &plan::probes(&checks), what.patience(), false);
            let namespace = in_pod.then(|| format!("{}-{agent}", self.run));
            running.push((Process::start(namespace.as_deref(), &arguments)?.0, checks));
        }
        for (process, checks) in running {
            let rounds = u32::try_from(checks.len() / 16 + 1).unwrap_or(u32::MAX);
            let end = Instant::now() + what.patience().saturating_mul(rounds) + ROOM;
            report.add(&checks, &process.findings(end)?, "the agent ended, or did not come to it in time");
        }
        Ok(())
    }

    /// Takes everything back; what cannot be is told.
    fn remove(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        self.agents.clear();
        for (container, result) in self.containers.drain(..).rev() {
            let failed = self.network.del(&container, &result);
            left.extend(failed.iter().map(|error| format!("the interface of {}: {error}", container.id)));
            if let Err(error) = namespace::remove(&container.id) {
                left.push(format!("the network namespace {}: {error}", container.id));
            }
        }
        if let Some(directory) = self.manifests.take()
            && let Err(error) = manifests::remove(&directory, &self.run)
        {
            left.push(format!("the manifest of {} in {}: {error}", self.run, directory.display()));
        }
        left
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for left in self.remove() {
            eprintln!("cambricctl: not removed: {left}; see cambricctl connectivity clean");
        }
    }
}

/// The node's addresses on its uplinks.
fn addresses_of(uplinks: &[Uplink]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = getifaddrs()
        .into_iter()
        .flatten()
        .filter(|interface| uplinks.iter().any(|uplink| uplink.name == interface.interface_name))
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
        })
        .filter(|address| !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn outside(what: &Test, gateways: &[IpAddr]) -> Offered<Vec<Outside>> {
    if !what.outside.is_empty() {
        return Ok(what.outside.clone());
    }
    if gateways.is_empty() {
        return Err("the node has no default route, and no --outside is given".into());
    }
    Ok(gateways.iter().map(|&address| Outside { address, port: None }).collect())
}

fn dns(what: &Test) -> Offered<Vec<Option<IpAddr>>> {
    let servers = if what.dns.is_empty() {
        let path = "/etc/resolv.conf";
        let resolvers =
            agent::Resolvers::load(path).map_err(|error| format!("cannot read {path}: {error}"))?;
        // What listens on the node's loopback is not for pods.
        resolvers.servers.into_iter().filter(|it| !it.is_loopback()).collect()
    } else {
        what.dns.clone()
    };
    if servers.is_empty() {
        return Err("/etc/resolv.conf names no server beyond this machine, and no --dns is given".into());
    }
    Ok(servers.into_iter().map(Some).collect())
}

/// Removes what earlier runs have left here. Returns what was removed, and what could not be.
pub(super) fn clean(places: &Places, means: impl Fn(&str) -> bool) -> (Vec<String>, Vec<String>) {
    let (mut removed, mut left) = (Vec::new(), Vec::new());
    for name in namespace::of_runs() {
        let run = run_name::of(&name).unwrap_or_default();
        if !means(run) {
            continue;
        }
        let container = Container {
            id: name.clone(),
            netns: namespace::path(&name),
            pod: (run.to_owned(), name[run.len()..].trim_start_matches('-').to_owned()),
            labels: Vec::new(),
            ports: Vec::new(),
        };
        match network(places) {
            Ok(network) => {
                let failed = network.del(&container, &Value::Null);
                left.extend(failed.iter().map(|error| format!("the interface of {name}: {error}")));
            }
            Err(error) => left.push(format!("the interface of {name}: {error:#}")),
        }
        match namespace::remove(&name) {
            Ok(()) => removed.push(format!("the network namespace {name}")),
            Err(error) => left.push(format!("the network namespace {name}: {error}")),
        }
    }
    let directory = places.manifests().ok().flatten();
    if let Some(directory) = &directory {
        for run in manifests::of_runs(directory).into_iter().filter(|run| means(run)) {
            let what = format!("the manifest of {run} in {}", directory.display());
            match manifests::remove(directory, &run) {
                Ok(()) => removed.push(what),
                Err(error) => left.push(format!("{what}: {error}")),
            }
        }
    }
    (removed, left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_drops_of_this_run_are_told() {
        let of = |pairs: &[(&str, u64)]| {
            pairs.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
        };
        let before = of(&[("hops", 3), ("malformed", 1)]);
        let after = of(&[("hops", 3), ("malformed", 4), ("policy_ingress", 2)]);
        assert_eq!(more(&before, &after), of(&[("malformed", 3), ("policy_ingress", 2)]));
    }
}

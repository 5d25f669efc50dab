//! The test in a cluster, by the API server: a namespace with pods on every ready node, whose logs say what they have found.

mod api;
mod pods;

use std::{
    collections::BTreeMap,
    future::Future,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::{runtime::Runtime, time::sleep};

pub(super) use self::api::Access;
use self::{
    api::{Api, is},
    pods::{Agent, State},
};
use super::{
    agent,
    arguments::Test,
    check::{Check, Finding, Hello, Line},
    interrupt::{self, Interrupted},
    objects,
    plan::{self, GUARDED, Node, Offered, Outside, PORT, SECOND_PORT, Services, Topology},
    progress::progress,
    report::Report,
    run_name,
};

/// How often pods are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often is looked whether the run was told to stop.
const LISTEN: Duration = Duration::from_millis(50);
/// How long the service account of a new namespace may take.
const ACCOUNT: Duration = Duration::from_secs(15);
/// The DaemonSet's label, and the container of the daemon in it.
const DAEMON_SET: (&str, &str) = ("app.kubernetes.io/name", "cambric");
const DAEMON: &str = "cambric";

/// Runs the test.
pub(super) fn run(what: &Test, access: Access) -> anyhow::Result<Report> {
    runtime()?.block_on(async {
        let api = until_interrupted(access.api()).await??;
        let mut scene = Scene { api, what, run: run_name::new()?, image: String::new() };
        until_interrupted(scene.find_image()).await??;
        // Whatever comes of it, what was made is removed before that is told.
        let done = until_interrupted(scene.check()).await;
        progress("removing everything");
        let removed = remove(&scene.api, &scene.run, what.timeout()).await;
        let done = done.map_err(anyhow::Error::from).flatten();
        match (done, removed) {
            (done, Ok(())) => done,
            (Ok(mut report), Err(left)) => {
                report.left.push(format!("{left:#}"));
                Ok(report)
            }
            (Err(error), Err(left)) => {
                Err(error.context(format!("{left:#}; see cambricctl connectivity clean")))
            }
        }
    })
}

/// Removes what earlier runs have left. Returns what was removed.
pub(super) fn clean(access: Access, means: impl Fn(&str) -> bool) -> anyhow::Result<Vec<String>> {
    runtime()?.block_on(async {
        let api = access.api().await?;
        let mut removed = Vec::new();
        for namespace in api.list("/api/v1/namespaces").await? {
            let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
            let is_ours = namespace["metadata"]["labels"][objects::LABEL.0] == objects::LABEL.1;
            if is_ours && run_name::of(name) == Some(name) && means(name) {
                until_interrupted(remove(&api, name, Duration::from_mins(2))).await??;
                removed.push(format!("the namespace {name}"));
            }
        }
        Ok(removed)
    })
}

fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Waits for something, or until the run is told to stop.
async fn until_interrupted<T>(of: impl Future<Output = T>) -> Result<T, Interrupted> {
    let interrupted = async {
        loop {
            if let Err(interrupted) = interrupt::check() {
                return interrupted;
            }
            sleep(LISTEN).await;
        }
    };
    tokio::select! {
        done = of => Ok(done),
        interrupted = interrupted => Err(interrupted),
    }
}

/// Deletes the namespace of a run, and waits until it is gone with all that is in it.
async fn remove(api: &Api, run: &str, timeout: Duration) -> anyhow::Result<()> {
    let path = format!("/api/v1/namespaces/{run}");
    api.delete(&path).await.with_context(|| format!("cannot delete the namespace {run}"))?;
    let end = Instant::now() + timeout;
    loop {
        match api.get(&path).await {
            Err(error) if is(&error, 404) => return Ok(()),
            // Whoever may delete a namespace may perhaps not look at it.
            Err(error) if is(&error, 403) => return Ok(()),
            _ if Instant::now() >= end => bail!("the namespace {run} is being deleted, and still there"),
            _ => sleep(LOOK).await,
        }
    }
}

/// A run in a cluster.
struct Scene<'a> {
    api: Api,
    what: &'a Test,
    run: String,
    image: String,
}

/// A node of the cluster.
#[derive(Clone, Debug)]
struct ReadyNode {
    name: String,
    addresses: Vec<IpAddr>,
}

/// What a pod's log has told so far.
#[derive(Debug, Default)]
struct Told {
    hello: Option<Hello>,
    findings: Vec<Finding>,
    whole: bool,
    broken: Option<String>,
}

impl Told {
    fn read(log: &str) -> Self {
        let mut told = Self::default();
        for line in Line::read(log) {
            match line {
                Line::Hello(hello) => told.hello = Some(hello),
                Line::Finding(finding) => told.findings.push(finding),
                Line::End => told.whole = true,
                Line::Broken(why) => told.broken = Some(why),
            }
        }
        told
    }
}

impl Scene<'_> {
    /// Finds the image that pods will run.
    async fn find_image(&mut self) -> anyhow::Result<()> {
        if let Some(image) = &self.what.image {
            self.image.clone_from(image);
            return Ok(());
        }
        let (key, value) = DAEMON_SET;
        let path = format!("/apis/apps/v1/daemonsets?labelSelector={key}%3D{value}");
        let sets = self
            .api
            .list(&path)
            .await
            .context("Cambric's DaemonSet cannot be looked for; name an image by --image")?;
        let containers =
            sets.iter().filter_map(|set| set["spec"]["template"]["spec"]["containers"].as_array()).flatten();
        let image = containers.filter(|it| it["name"] == DAEMON).find_map(|it| it["image"].as_str());
        image
            .context("the cluster has no DaemonSet of Cambric's; name an image by --image")?
            .clone_into(&mut self.image);
        Ok(())
    }

    async fn check(&self) -> anyhow::Result<Report> {
        let mut report = Report::of(&self.run);
        let nodes = self.nodes().await?;
        progress(&format!("starting servers on {} nodes", nodes.len()));
        self.create("/api/v1/namespaces", &objects::namespace(&self.run)).await?;
        for policy in objects::policies(&self.run) {
            let path = format!("/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies", self.run);
            self.create(&path, &policy).await?;
        }
        let host_port = match self.what.host_port {
            0 => Err("--host-port 0".to_owned()),
            port => Ok(port),
        };
        let servers: Vec<_> = nodes
            .iter()
            .enumerate()
            .map(|(at, node)| self.server(at, node, host_port.as_ref().ok()))
            .collect();
        self.start(&servers).await?;
        let node_agents = self.start_on_nodes(&nodes).await?;
        let services = self.service(&objects::service_of_servers(&self.run)).await?;
        let mut own_services = Vec::new();
        for at in 0..nodes.len() {
            own_services.push(
                self.service(&objects::service_of_client(&self.run, &plan::client(at))).await?.addresses,
            );
        }
        let mut addresses = self.wait_until_running(&servers, &mut report).await?;
        let (node_agents, gateways) = self.node_agents(node_agents, &nodes).await?;
        let mut topology = Topology {
            nodes: nodes
                .iter()
                .zip(own_services)
                .enumerate()
                .map(|(at, (node, own_service))| Node {
                    name: node.name.clone(),
                    addresses: node.addresses.clone(),
                    server: addresses.remove(&plan::server(at)).unwrap_or_default(),
                    own_service,
                })
                .collect(),
            guarded: Err("no server runs that it could talk to".into()),
            services: Ok(services),
            host_port,
            node_agents,
            outside: outside(self.what, gateways),
            dns: Ok(vec![None]),
        };
        if topology.nodes.iter().all(|node| node.server.is_empty()) {
            report.leave_out(topology.left_out());
            return Ok(report);
        }
        let guarded = self.guarded(&nodes[0], &topology);
        self.start(std::slice::from_ref(&guarded.0)).await?;
        let found = self.wait_until_running(std::slice::from_ref(&guarded.0), &mut report).await?;
        topology.guarded =
            found.into_values().next().ok_or_else(|| "the guarded pod does not run".to_owned());
        progress("probing");
        let mut parts = self.clients(&nodes, &topology);
        let clients: Vec<_> = parts.iter().map(|(agent, _)| agent.clone()).collect();
        self.start(&clients).await?;
        if topology.guarded.is_ok() {
            parts.push(guarded);
        }
        self.collect(parts, &mut report).await?;
        report.leave_out(topology.left_out());
        Ok(report)
    }

    /// The ready nodes of the cluster.
    async fn nodes(&self) -> anyhow::Result<Vec<ReadyNode>> {
        let mut nodes: Vec<_> = self.api.list("/api/v1/nodes").await?.iter().filter_map(ready_node).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        anyhow::ensure!(!nodes.is_empty(), "no node of the cluster is ready; see kubectl get nodes");
        Ok(nodes)
    }

    async fn create(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        let what = || {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            format!("cannot create the {} {name}", object["kind"].as_str().unwrap_or("object"))
        };
        let end = Instant::now() + ACCOUNT;
        loop {
            match self.api.create(path, object).await {
                // A pod's service account is made by a controller, soon after the namespace.
                Err(error)
                    if is(&error, 403)
                        && error.to_string().contains("serviceaccount")
                        && Instant::now() < end =>
                {
                    sleep(LOOK).await;
                }
                created => return created.with_context(what),
            }
        }
    }

    fn pods(&self) -> String {
        format!("/api/v1/namespaces/{}/pods", self.run)
    }

    async fn start(&self, agents: &[Agent]) -> anyhow::Result<()> {
        for agent in agents {
            self.create(&self.pods(), &agent.object(&self.run, &self.image)).await?;
        }
        Ok(())
    }

    /// Creates a service; where it is reached.
    async fn service(&self, service: &Value) -> anyhow::Result<Services> {
        let path = format!("/api/v1/namespaces/{}/services", self.run);
        let spec = &self.create(&path, service).await?["spec"];
        let addresses = spec["clusterIPs"].as_array().into_iter().flatten();
        let node_port = spec["ports"][0]["nodePort"].as_u64().and_then(|it| it.try_into().ok());
        Ok(Services { addresses: addresses.filter_map(|it| it.as_str()?.parse().ok()).collect(), node_port })
    }

    fn agent(&self, name: String, node: &ReadyNode, serve: &[u16], checks: &[Check], stay: bool) -> Agent {
        let arguments = agent::arguments(&name, serve, &plan::probes(checks), self.what.patience(), stay);
        Agent {
            name,
            node: node.name.clone(),
            in_network_of_node: false,
            serve: serve.to_vec(),
            host_port: None,
            arguments,
        }
    }

    fn server(&self, at: usize, node: &ReadyNode, host_port: Option<&u16>) -> Agent {
        let agent = self.agent(plan::server(at), node, &[PORT, SECOND_PORT], &[], true);
        Agent { host_port: host_port.copied(), ..agent }
    }

    fn guarded(&self, node: &ReadyNode, topology: &Topology) -> (Agent, Vec<Check>) {
        let mut checks = topology.guarded();
        checks.retain(|check| self.what.wants(check.kind));
        (self.agent(GUARDED.into(), node, &[PORT], &checks, true), checks)
    }

    /// Agents in the network of each node; or why they may not be there.
    async fn start_on_nodes(&self, nodes: &[ReadyNode]) -> anyhow::Result<Offered<Vec<Agent>>> {
        let mut agents = Vec::new();
        for (at, node) in nodes.iter().enumerate() {
            let agent = self.agent(plan::node_agent(at), node, &[self.what.node_agent_port], &[], true);
            let agent = Agent { in_network_of_node: true, ..agent };
            match self.api.create(&self.pods(), &agent.object(&self.run, &self.image)).await {
                Err(error) if is(&error, 403) => {
                    return Ok(Err(format!("pods in the network of their node are not allowed: {error}")));
                }
                created => created.with_context(|| format!("cannot create the Pod {}", agent.name))?,
            };
            agents.push(agent);
        }
        Ok(Ok(agents))
    }

    /// The port that the agents on nodes serve, and the gateways of all nodes.
    async fn node_agents(
        &self,
        agents: Offered<Vec<Agent>>,
        nodes: &[ReadyNode],
    ) -> anyhow::Result<(Offered<u16>, Vec<IpAddr>)> {
        let agents = match agents {
            Ok(agents) => agents,
            Err(why) => return Ok((Err(why), Vec::new())),
        };
        let mut unused = Report::of(&self.run);
        let running = self.wait_until_running(&agents, &mut unused).await?;
        let mut gateways = Vec::new();
        for (agent, node) in agents.iter().zip(nodes) {
            let told = self.told(&agent.name).await;
            if let Some(hello) = told.hello.filter(|_| running.contains_key(&agent.name)) {
                gateways.extend(hello.gateways);
            } else {
                let why = told.broken.unwrap_or_else(|| "it does not run".into());
                let why = format!(
                    "the agent in the network of {}: {why}; --node-agent-port names another",
                    node.name
                );
                return Ok((Err(why), gateways));
            }
        }
        gateways.sort_unstable();
        gateways.dedup();
        Ok((Ok(self.what.node_agent_port), gateways))
    }

    /// Waits until pods run; those that do have addresses.
    async fn wait_until_running(
        &self,
        agents: &[Agent],
        report: &mut Report,
    ) -> anyhow::Result<BTreeMap<String, Vec<IpAddr>>> {
        let end = Instant::now() + self.what.timeout();
        loop {
            let states = self.states().await?;
            let unknown = State::Waiting("the API server does not know it".into());
            let state = |agent: &Agent| states.get(&agent.name).unwrap_or(&unknown).clone();
            let waits = agents.iter().any(|agent| matches!(state(agent), State::Waiting(_)));
            if waits && Instant::now() < end {
                sleep(LOOK).await;
                continue;
            }
            let mut running = BTreeMap::new();
            for agent in agents {
                let outcome = match state(agent) {
                    State::Running(addresses) => {
                        let words = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
                        running.insert(agent.name.clone(), addresses);
                        Ok(words)
                    }
                    State::Waiting(why) | State::Failed(why) => Err(why),
                    State::Done => Err("it has ended".into()),
                };
                report.started(&agent.name, &agent.node, outcome);
            }
            return Ok(running);
        }
    }

    async fn states(&self) -> anyhow::Result<BTreeMap<String, State>> {
        let pods = self.api.list(&self.pods()).await?;
        let named = |pod: &Value| Some((pod["metadata"]["name"].as_str()?.to_owned(), State::of(pod)));
        Ok(pods.iter().filter_map(named).collect())
    }

    async fn told(&self, pod: &str) -> Told {
        // A log that cannot be read has told nothing, yet.
        Told::read(&self.api.text(&format!("{}/{pod}/log", self.pods())).await.unwrap_or_default())
    }

    /// Those that probe, with what they check.
    fn clients(&self, nodes: &[ReadyNode], topology: &Topology) -> Vec<(Agent, Vec<Check>)> {
        let mut parts = Vec::new();
        for (at, node) in nodes.iter().enumerate() {
            // Where no server runs, no other pod will.
            if topology.nodes[at].server.is_empty() {
                continue;
            }
            let mut add = |name: String, serve: &[u16], mut checks: Vec<Check>, in_network_of_node: bool| {
                checks.retain(|check| self.what.wants(check.kind));
                if !checks.is_empty() {
                    let agent = self.agent(name, node, serve, &checks, false);
                    parts.push((Agent { in_network_of_node, ..agent }, checks));
                }
            };
            add(plan::client(at), &[PORT], topology.client(at), false);
            add(plan::stranger(at), &[], topology.stranger(at), false);
            if topology.node_agents.is_ok() {
                add(plan::node_client(at), &[], topology.node(at), true);
            }
        }
        parts
    }

    /// Waits for what all have found.
    async fn collect(&self, mut parts: Vec<(Agent, Vec<Check>)>, report: &mut Report) -> anyhow::Result<()> {
        let most = parts.iter().map(|(_, checks)| checks.len()).max().unwrap_or(0);
        let rounds = u32::try_from(most / 16 + 1).unwrap_or(u32::MAX);
        let end = Instant::now() + self.what.timeout() + self.what.patience().saturating_mul(rounds);
        while !parts.is_empty() {
            let states = self.states().await?;
            let late = Instant::now() >= end;
            let mut waiting = Vec::new();
            for (agent, checks) in parts {
                let state =
                    states.get(&agent.name).cloned().unwrap_or(State::Failed("it was deleted".into()));
                // One that goes on serving says when it has done its part.
                let told = match &state {
                    State::Running(_) if agent.name != GUARDED && !late => Told::default(),
                    State::Waiting(_) => Told::default(),
                    _ => self.told(&agent.name).await,
                };
                let lost = match state {
                    State::Failed(why) => format!("the pod has failed: {why}"),
                    State::Waiting(why) if late => format!("the pod does not start: {why}"),
                    State::Done => "the agent has not come to it".to_owned(),
                    _ if told.whole || late => "the agent has not come to it in time".to_owned(),
                    _ => {
                        waiting.push((agent, checks));
                        continue;
                    }
                };
                report.add(&checks, &told.findings, &told.broken.unwrap_or(lost));
            }
            parts = waiting;
            if !parts.is_empty() {
                sleep(LOOK).await;
            }
        }
        Ok(())
    }
}

fn ready_node(node: &Value) -> Option<ReadyNode> {
    let metadata = &node["metadata"];
    let ready = node["status"]["conditions"]
        .as_array()?
        .iter()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let is_linux = metadata["labels"]["kubernetes.io/os"].as_str().is_none_or(|os| os == "linux");
    let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
    let internal = addresses.filter(|it| it["type"] == "InternalIP");
    (ready && is_linux).then(|| ReadyNode {
        name: metadata["name"].as_str().unwrap_or_default().to_owned(),
        addresses: internal.filter_map(|it| it["address"].as_str()?.parse().ok()).collect(),
    })
}

fn outside(what: &Test, gateways: Vec<IpAddr>) -> Offered<Vec<Outside>> {
    if !what.outside.is_empty() {
        return Ok(what.outside.clone());
    }
    if gateways.is_empty() {
        return Err("no gateway of a node is known, and no --outside is given".into());
    }
    Ok(gateways.into_iter().map(|address| Outside { address, port: None }).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_ready_nodes_that_run_linux_are_tested() {
        let node = |ready: &str, os: &str| {
            json!({
                "metadata": {"name": "n", "labels": {"kubernetes.io/os": os}},
                "status": {
                    "conditions": [{"type": "Ready", "status": ready}],
                    "addresses": [
                        {"type": "InternalIP", "address": "192.0.2.2"}, {"type": "Hostname", "address": "n"},
                        {"type": "ExternalIP", "address": "198.51.100.2"},
                    ],
                },
            })
        };
        let found = ready_node(&node("True", "linux")).unwrap();
        assert_eq!(found.addresses, [IpAddr::from([192, 0, 2, 2])]);
        assert!(ready_node(&node("False", "linux")).is_none());
        assert!(ready_node(&node("True", "windows")).is_none());
    }

    #[test]
    fn a_log_tells_what_was_found_and_whether_that_is_all() {
        let lines = [
            Line::Finding(Finding { number: 0, ok: true, milliseconds: 1, detail: String::new() }),
            Line::End,
        ];
        let log: Vec<_> = lines.iter().map(|line| serde_json::to_string(line).unwrap()).collect();
        assert!(!Told::read(&log[0]).whole);
        let told = Told::read(&log.join("\n"));
        assert!(told.whole && told.findings.len() == 1);
    }
}

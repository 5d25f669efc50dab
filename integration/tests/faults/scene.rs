//! A node with pods, flows between them, and what must hold whatever goes wrong.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use integration::{
    apiserver::ApiServer,
    fleet::node_object,
    testbed::{
        Flow, Flowing, Machine, NEIGHBOUR4, NODE4, NODE6, Node, Pod, Refusal, Sandbox, Settings, eventually,
        time_passes,
    },
};
use serde_json::json;
use tempfile::TempDir;

use crate::harms::Fault;

/// How long the daemon may take to make good what it can.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where probes are answered.
pub const METRICS: u16 = 9477;
const PACE: Duration = Duration::from_millis(5);
/// How long an operation waits that hangs on the fault, before that is mended.
const HANG: Duration = Duration::from_millis(1500);

/// Nobody reaches `b`.
const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress]}
";

/// Nobody reaches `d` either.
const DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {matchLabels: {app: d}}, policyTypes: [Ingress]}
";

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Nothing but packets.
    Rest,
    /// A pod comes.
    Add,
    /// A pod goes.
    Del,
    /// A policy comes, and goes afterwards.
    Deny,
}

impl Operation {
    pub const ALL: [Self; 4] = [Self::Rest, Self::Add, Self::Del, Self::Deny];

    pub fn name(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Deny => "policy",
        }
    }
}

/// Where a node learns of policies: from an API server, or a directory of manifests.
pub struct Cluster {
    /// With the server's kubeconfig.
    folder: Option<TempDir>,
}

impl Cluster {
    pub fn new(by_server: bool) -> Result<Self> {
        Ok(Self { folder: by_server.then(tempfile::tempdir).transpose()? })
    }

    fn kubeconfig(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.path().join("kubeconfig"))
    }

    /// A node whose daemon does not run yet.
    pub fn node(&self) -> Result<Node> {
        let settings = Settings::default().flag(format!("--metrics=127.0.0.1:{METRICS}"));
        Node::new(match self.kubeconfig() {
            Some(path) => settings.flag(format!("--cluster=kube:{}", path.display())),
            None => settings.cluster(),
        })
    }

    /// The server, beside the node.
    pub fn serve(&self, node: &Node) -> Result<Option<ApiServer>> {
        let Some(path) = self.kubeconfig() else { return Ok(None) };
        let server = ApiServer::start(node.neighbour.netns(), (NEIGHBOUR4, 6443).into())?;
        server.kubeconfig(&path)?;
        let cidrs = ["10.88.0.0/16", "fd00:88::/64"].map(str::to_owned);
        server.put(node_object(&node.name(), &[NODE4.into(), NODE6.into()], &cidrs));
        Ok(Some(server))
    }
}

/// The pods `a`, `b`, `c` and `d`: `a` sends to `c`, which must arrive, and to `b`, which must not.
pub struct Scene<'n> {
    pub node: &'n Node,
    server: Option<&'n ApiServer>,
    pub pods: [Pod<'n>; 4],
    wanted: Vec<Flow>,
    forbidden: Flow,
    /// How much was in the log before anything happened.
    begun: usize,
    /// What `cambricctl status` complained of meanwhile.
    problems: RefCell<BTreeSet<String>>,
    count: Cell<u32>,
}

impl<'n> Scene<'n> {
    pub fn new(node: &'n Node, server: Option<&'n ApiServer>) -> Result<Self> {
        match server {
            None => drop(node.apply("closed.yaml", CLOSED)?),
            Some(server) => {
                server.put(serde_saphyr::from_str(CLOSED)?);
                let is_known = || node.policy("shop", "closed").is_ok_and(|found| found.is_some());
                ensure!(eventually(PATIENCE, is_known), "the policy is not in force");
            }
        }
        let pod = |name: &str| sandbox(node, server, name, name)?.add();
        let pods = [pod("a")?, pod("b")?, pod("c")?, pod("d")?];
        let [a, b, c, _] = &pods;
        ensure!(eventually(PATIENCE, || a.reaches(c.ipv6()).unwrap_or(false)), "the scene is not set");
        let wanted = vec![
            a.udp_flow(c, (c.ipv4(), 7000), PACE)?,
            a.tcp_flow(c, (c.ipv6(), 7001), PACE)?,
            c.tcp_flow(a, (a.ipv4(), 7002), PACE)?,
        ];
        let forbidden = a.udp_flow(b, (b.ipv4(), 7000), PACE)?;
        let scene = Self {
            node,
            server,
            pods,
            wanted,
            forbidden,
            begun: node.log().len(),
            problems: RefCell::default(),
            count: Cell::default(),
        };
        scene.stands(&[])?;
        Ok(scene)
    }

    /// One fault during one operation.
    pub fn cell(&self, fault: &Fault, operation: Operation, turn: usize) -> Result<()> {
        let goes = match operation {
            Operation::Del => Some(self.another_pod()?),
            _ => None,
        };
        (fault.strike)(self, turn).context("strike")?;
        let comes = match operation {
            Operation::Add => Some(sandbox(self.node, self.server, &self.another_name(), "new")?),
            _ => None,
        };
        let mut refused = None;
        let (node, server) = (self.node, self.server);
        let mut operate = || -> Result<()> {
            match operation {
                Operation::Rest => time_passes(Duration::from_millis(500), "nothing is done"),
                Operation::Add => {
                    let sandbox = comes.as_ref().context("a sandbox")?;
                    if let Err(error) = sandbox.cni("ADD").run() {
                        let refusal: Refusal = error.downcast().context("ADD fails without a word")?;
                        let words = &refusal.message;
                        ensure!(!words.is_empty() && !words.contains('\n'), "ADD says {words:?}");
                        refused = Some(words.clone());
                    }
                }
                Operation::Del => goes.as_ref().context("a pod")?.del().context("DEL always succeeds")?,
                Operation::Deny => {
                    if let Some(server) = server {
                        server.put(serde_saphyr::from_str(DENY)?);
                    } else if node.cluster().exists() {
                        // Not moved there: another file system may be mounted.
                        fs::write(node.cluster().join("deny.yaml"), DENY)?;
                    } else {
                        // It comes with the directory. One that had it alone would say that there is nothing else.
                        fs::write(node.folder().join("away/deny.yaml"), DENY)?;
                    }
                }
            }
            Ok(())
        };
        let mend = || (fault.mend)(self).context("mend");
        if fault.hangs {
            thread::scope(|scope| {
                let operating = scope.spawn(operate);
                eventually(HANG, || operating.is_finished());
                let mended = mend();
                operating.join().expect("the operation does not panic").and(mended)
            })?;
        } else {
            operate()?;
            self.hear();
            mend()?;
        }
        self.problems.borrow_mut().extend(refused);
        match operation {
            Operation::Rest => self.stands(&[]),
            Operation::Add => {
                let sandbox = comes.context("a sandbox")?;
                // As a runtime does: DEL after an ADD that failed, and again. After one that did not, it is the same again.
                sandbox.cni("DEL").run().context("DEL before ADD")?;
                let again = eventually(PATIENCE, || sandbox.cni("ADD").run().is_ok());
                ensure!(again, "{} cannot be added: {:?}", sandbox.name(), sandbox.cni("ADD").run());
                sandbox.cni("DEL").run()?;
                let pod = sandbox.add().context("ADD again")?;
                self.stands(&[&pod])?;
                ensure!(pod.reaches(self.pods[2].ipv4())?, "the new pod reaches nothing");
                pod.del()?;
                self.stands(&[])
            }
            Operation::Del => {
                let pod = goes.context("a pod")?;
                self.stands(&[])?;
                pod.del().context("a second DEL")
            }
            Operation::Deny => {
                let [a, _, _, d] = &self.pods;
                let denied = || !a.ping(d.ipv4(), &["-c1", "-W1"]).is_ok_and(|pings| pings.received > 0);
                ensure!(eventually(PATIENCE, denied), "the new policy is not in force");
                match self.server {
                    Some(server) => server.delete("networkpolicies.networking.k8s.io", "shop/deny"),
                    None => drop(self.node.remove_manifest("deny.yaml")?),
                }
                ensure!(
                    eventually(PATIENCE, || a.reaches(d.ipv4()).unwrap_or(false)),
                    "the policy stays in force"
                );
                self.stands(&[])
            }
        }
    }

    fn another_name(&self) -> String {
        self.count.set(self.count.get() + 1);
        format!("x{}", self.count.get())
    }

    /// The API server that the node follows.
    pub fn server(&self) -> Result<&ApiServer> {
        self.server.context("an API server")
    }

    fn another_pod(&self) -> Result<Pod<'n>> {
        sandbox(self.node, self.server, &self.another_name(), "new")?.add()
    }

    /// Takes note of what the daemon complains of, if it answers.
    pub fn hear(&self) {
        let problems = self.node.status().map(|mut status| status["problems"].take());
        let problems: Vec<String> =
            problems.ok().and_then(|it| serde_json::from_value(it).ok()).unwrap_or_default();
        self.problems.borrow_mut().extend(problems);
    }

    /// Waits until all is as it should be, and these pods are there and no others.
    fn stands(&self, more: &[&Pod<'_>]) -> Result<()> {
        let mut last = Ok(());
        let stands = eventually(PATIENCE, || {
            last = self.is_whole(more);
            if last.is_err() {
                self.hear();
            }
            last.is_ok()
        });
        ensure!(self.forbidden.arrived() == 0, "{} forbidden packets arrive", self.forbidden.arrived());
        if stands { Ok(()) } else { last }
    }

    fn is_whole(&self, more: &[&Pod<'_>]) -> Result<()> {
        let [a, b, c, _] = &self.pods;
        let pods: Vec<&Pod<'_>> = self.pods.iter().chain(more.iter().copied()).collect();
        let status = self.node.status()?;
        ensure!(status["problems"] == serde_json::json!([]), "problems: {}", status["problems"]);
        ensure!(a.ping(c.ipv4(), &["-c1", "-W1"])?.received == 1, "c does not answer");
        let denied = self.node.policy("shop", "closed")?;
        ensure!(denied.is_some(), "the policy is not listed");
        ensure!(a.ping(b.ipv6(), &["-c1", "-W0.2"])?.received == 0, "b answers");

        let mut model = BTreeMap::new();
        let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
        for pod in &pods {
            let addresses: BTreeSet<String> = pod.addresses().iter().map(ToString::to_string).collect();
            model.insert(pod.name().to_owned(), addresses);
            for address in pod.addresses() {
                if let Some(other) = owners.insert(*address, pod.name()) {
                    bail!("{address} belongs to {other} and {}", pod.name());
                }
            }
        }
        let recorded = self.recorded()?;
        ensure!(recorded == model, "the daemon has {recorded:?}, and the runtime {model:?}");

        let links: BTreeSet<String> = pods.iter().map(|pod| pod.host_ifname()).collect();
        let found: BTreeSet<String> = self.node.pod_links()?.into_iter().collect();
        ensure!(found == links, "there are the interfaces {found:?}, and should be {links:?}");
        let run = self.node.socket();
        for (what, folder) in [
            ("pins", self.node.bpffs().join("links")),
            ("files of endpoints", run.with_file_name("endpoints")),
            ("notes of deletions", run.with_file_name("released")),
        ] {
            let strange: Vec<String> =
                names(&folder).into_iter().filter(|name| !links.iter().any(|it| name.contains(it))).collect();
            let strange: Vec<_> = strange.into_iter().filter(|name| name.contains("cmb")).collect();
            ensure!(strange.is_empty(), "{what} of nobody: {strange:?}");
        }
        for pod in pods {
            pod.check().with_context(|| format!("CHECK of {}", pod.name()))?;
        }
        Ok(())
    }

    /// The containers that the daemon has records of.
    pub fn recorded_names(&self) -> Result<Vec<String>> {
        Ok(self.recorded()?.into_keys().collect())
    }

    fn recorded(&self) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let endpoints = self.node.ctl(&["endpoint", "list"])?;
        let mut recorded = BTreeMap::new();
        for endpoint in endpoints.as_array().context("a list")? {
            let id = endpoint["key"]["container_id"].as_str().context("container_id")?.to_owned();
            let ips = endpoint["addresses"].as_array().into_iter().flatten();
            recorded.insert(id, ips.filter_map(|ip| Some(ip["address"].as_str()?.to_owned())).collect());
        }
        Ok(recorded)
    }

    /// The sentence that said what was, in the log or among the problems.
    pub fn said(&self, fault: &Fault) -> Result<String> {
        let log = self.node.log();
        let log = log.get(self.begun..).unwrap_or_default();
        let problems = self.problems.borrow();
        if fault.says.is_empty() {
            return Ok("nothing is to be said".to_owned());
        }
        let is_told = |line: &&str| !line.contains("DEBUG");
        let mut sentences = problems.iter().map(String::as_str).chain(log.lines().filter(is_told));
        let found = sentences.find(|it| it.contains(fault.says)).map(ToOwned::to_owned);
        found.with_context(|| {
            let loud = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
            let loud: BTreeSet<_> = loud.map(|line| line.get(28..).unwrap_or(line)).collect();
            format!("nobody says {:?}; problems {problems:#?}, the log {loud:#?}", fault.says)
        })
    }

    /// Ends the flows; all of what was sent must have arrived, but for what was sent in a silence that may be.
    pub fn end(self, silence: Duration) -> Result<()> {
        let forbidden = self.forbidden.arrived();
        ensure!(forbidden == 0, "{forbidden} forbidden packets arrive");
        for flow in self.wanted {
            let report = flow.end();
            if silence.is_zero() || report.longest_gap > silence || !report.faults.is_empty() {
                report.whole("a flow")?;
            }
        }
        for pod in &self.pods {
            pod.del()?;
        }
        let mut left = Vec::new();
        let clean = eventually(PATIENCE, || {
            left = self.node.leftovers().unwrap_or_else(|error| vec![error.to_string()]);
            left.is_empty()
        });
        ensure!(clean, "left over: {left:?}");
        Ok(())
    }
}

/// A sandbox of a pod of `shop` with that label, which the cluster knows of.
fn sandbox<'n>(node: &'n Node, server: Option<&ApiServer>, name: &str, app: &str) -> Result<Sandbox<'n>> {
    if let Some(server) = server {
        server.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": {"app": app}},
            "spec": {"nodeName": node.name(), "containers": []}, "status": {},
        }));
    }
    node.sandbox_of(&format!("shop/{name}"), &[("app", app)])
}

/// The names in a folder, none where there is none.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

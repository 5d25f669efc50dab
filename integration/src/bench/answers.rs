//! How long those wait who ask something of the daemon while it is at a large change of policy.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    io::{Read, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ipamd_api::{Client, Reply, Request};

use crate::testbed::{Machine, Node, Pod, Settings};

/// Where probes and scrapes are answered.
const METRICS: u16 = 9477;
/// Where a load balancer asks for the service of [`SERVICE`].
const CHECKED: u16 = 30_900;
/// A service of which load balancers ask this node.
const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: { namespace: shop, name: web }
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.5
  clusterIPs: [ 10.96.0.5 ]
  externalTrafficPolicy: Local
  healthCheckNodePort: 30900
  ports: [ { port: 80 } ]
";
/// Each policy is for the pods of one application.
const APPS: usize = 10;
/// How long a question may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the daemon is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Policies that fit, of ten applications.
    Rebuild(usize),
    /// Policies of one application that do not all fit: those that do are searched for.
    Search(usize),
}

impl Work {
    /// A daemon that has little of this to do yet.
    pub fn node(self) -> Result<Node> {
        let entries = match self {
            Self::Rebuild(_) => 65_536,
            Self::Search(_) => 16_384,
        };
        let settings = Settings::default()
            .cluster()
            .flag(format!("--policy-entries={entries}"))
            .flag(format!("--metrics=127.0.0.1:{METRICS}"));
        let node = Node::start_with(settings)?;
        node.apply("service.yaml", SERVICE)?;
        Ok(node)
    }

    /// The labels of the pods that the policies are for.
    pub fn app(self) -> &'static str {
        "a3"
    }

    /// The policies, each of a port and an address of its own.
    pub fn manifest(self) -> String {
        let (count, apps) = match self {
            Self::Rebuild(count) => (count, APPS),
            Self::Search(count) => (count, 1),
        };
        let mut text = String::new();
        for number in 0..count {
            let (high, low) = (number / 256, number % 256);
            let app = if apps == 1 { self.app().to_owned() } else { format!("a{}", number % apps) };
            let _ = write!(
                text,
                "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ namespace: shop, name: p{number} }}\n\
                 spec: {{ podSelector: {{ matchLabels: {{ app: {app} }} }}, policyTypes: [Ingress], ingress: [ {{ from: [ {{ ipBlock: {{ cidr: 172.16.{high}.{low}/32 }} }} ],\
                 ports: [ {{ port: {} }} ] }} ] }}\n",
                1 + number % 5_000
            );
        }
        text
    }

    /// Whether it is done.
    pub fn is_done(self, node: &Node) -> bool {
        let (Self::Rebuild(all) | Self::Search(all)) = self;
        let status = node.status().map(|mut status| status["policy"].take()).unwrap_or_default();
        let count = |name: &str| status[name].as_u64().unwrap_or(0);
        count("policies") + count("left_out") >= all as u64
    }
}

/// How long each sort of question was waited for, and how long the work took.
#[derive(Debug, Default)]
pub struct Answers {
    /// By what was asked.
    pub times: BTreeMap<&'static str, Vec<Duration>>,
    /// How long the daemon was at it.
    pub work: Duration,
    /// For how long a change has had policy without a break, at the longest.
    pub longest_hold: Duration,
    /// How many policies `status` has told of that were known and not in force yet, at the most.
    pub pending: u64,
}

impl Answers {
    /// Gives the daemon the work, and asks all that can be asked until it is done. Of the pods that are added meanwhile so many stay.
    pub fn during(work: Work, node: &Node, keep: usize) -> Result<(Self, Vec<Pod<'_>>)> {
        let mut answers = Self::default();
        let mut kept = Vec::new();
        node.manifest("many.yaml", &work.manifest())?;
        let began = Instant::now();
        let mut rounds = 0;
        while !work.is_done(node) {
            ensure!(began.elapsed() < Duration::from_mins(3), "it is not done: {:?}", node.status());
            let pod = answers
                .time("ADD", || node.add_pod_of(&format!("shop/new-{rounds}"), &[("app", work.app())]))?;
            let pending = answers.time("status", || pending(node))?;
            answers.pending = answers.pending.max(pending);
            answers.time("readyz", || ask(node, METRICS, "/readyz"))?;
            answers.time("health check", || ask(node, CHECKED, "/"))?;
            // Every other one, so that some are deleted, however few there are time for.
            if rounds % 2 == 0 && kept.len() < keep {
                kept.push(pod);
            } else {
                answers.time("DEL", || pod.del())?;
            }
            rounds += 1;
        }
        answers.work = began.elapsed();
        answers.longest_hold = longest_hold(node)?;
        Ok((answers, kept))
    }

    /// Times one question.
    pub fn time<T>(&mut self, what: &'static str, ask: impl FnOnce() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let answer = ask().context(what)?;
        self.times.entry(what).or_default().push(began.elapsed());
        Ok(answer)
    }

    /// The longest of each sort.
    pub fn longest(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        self.times.iter().filter_map(|(what, times)| Some((*what, *times.iter().max()?)))
    }
}

/// Rows of a table: what was asked, how often, and ms: p50, p99, max.
impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, times) in &self.times {
            let mut times = times.clone();
            times.sort_unstable();
            let Some(last) = times.len().checked_sub(1) else { continue };
            let at = |percent: usize| times[(times.len() * percent / 100).min(last)].as_secs_f64() * 1e3;
            writeln!(f, "| {what} | {} | {:.1} | {:.1} | {:.1} |", times.len(), at(50), at(99), at(100))?;
        }
        Ok(())
    }
}

/// What the metric of that name tells.
fn longest_hold(node: &Node) -> Result<Duration> {
    const NAME: &str = "cambric_policy_longest_hold_seconds ";
    let text = ask(node, METRICS, "/metrics")?;
    let seconds =
        text.lines().find_map(|line| line.strip_prefix(NAME)).with_context(|| format!("no {NAME}"))?;
    Ok(Duration::try_from_secs_f64(seconds.trim().parse()?)?)
}

/// Asks for the status; the policies in it that are not in force yet.
fn pending(node: &Node) -> Result<u64> {
    match Client::connect(&node.socket())?.call(Request::Status)? {
        Reply::Status(status) => Ok(status.cluster.map_or(0, |it| it.pending_policies)),
        reply => bail!("{reply:?}"),
    }
}

/// Asks by HTTP, and reads the answer, whichever it is: a service without endpoints here is none to send to.
fn ask(node: &Node, port: u16, path: &str) -> Result<String> {
    let answer = node.netns().inside(|| -> Result<String> {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })?;
    ensure!(answer.starts_with("HTTP/1.1 "), "{answer}");
    Ok(answer)
}

//! From another version to this one and back, beside traffic that must lose nothing and some that must not pass. The way back is
//! refused, for what is on disk and pinned is newer: all goes on, until the node is drained and this version uninstalled.
//!
//! `scripts/test upgrade` builds that version, runs this and prints the table; `CAMBRIC_UPGRADE_FROM` names the folder of its
//! binaries.

mod stream;

use std::{
    env, fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{
        Binaries, FAR4, FAR6, Flow, Flowing, Machine, NODE4, Node, Pod, Settings, eventually, time_passes,
    },
};

use crate::stream::{Report, Stream};

const PATIENCE: Duration = Duration::from_secs(30);
/// Numbers a second of each of four streams: 10,000 packets a second, and as many answers.
const RATE: u32 = 2_500;
/// Of what must not pass.
const FORBIDDEN_RATE: u32 = 500;
const PACE: Duration = Duration::from_millis(5);
/// How long all goes on before and after the change.
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(5);

/// Nobody reaches `b`.
const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress]}
";

/// What the version before says of what this one has left.
const REFUSAL: &str = "was written by a newer Cambric (format 2, this one knows 1); start that version";

/// How the versions change.
#[derive(Clone, Copy, Debug)]
enum How<'b> {
    /// The daemon is stopped, and the other one started.
    Stopped,
    /// The same, but it is killed.
    Killed,
    /// This version refuses first.
    RefusedBy(&'b Binaries),
}

/// Pods that stay, and what goes on between them.
struct Scene<'n> {
    node: &'n Node,
    pods: [Pod<'n>; 3],
}

/// What came of one change of versions.
struct Row {
    what: String,
    /// From the end of one daemon until the other serves.
    away: Duration,
    report: Report,
    /// The connections that were not whole.
    broken: Vec<String>,
    connections: usize,
    /// Packets that policy forbids and that arrived.
    unpoliced: u64,
    forbidden: u64,
    /// What else is wrong.
    faults: Vec<String>,
}

impl Row {
    fn failures(&self) -> Vec<String> {
        let Report { lost, reordered, .. } = self.report;
        let mut failures = self.faults.clone();
        failures.extend(self.broken.iter().cloned());
        for (count, what) in [(lost, "lost"), (reordered, "reordered"), (self.unpoliced, "unpoliced")] {
            if count > 0 {
                failures.push(format!("{count} packets {what}"));
            }
        }
        failures.iter().map(|failure| format!("{}: {failure}", self.what)).collect()
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { sent, lost, reordered, gap } = self.report;
        let whole = self.connections - self.broken.len().min(self.connections);
        write!(
            f,
            "| {:<46} | {:>5} ms | {sent:>7} | {lost:>5} | {reordered:>9} | {:>5} ms | {:>4} of {:<2} | {:>4} of {:<6} | {} |",
            self.what,
            self.away.as_millis(),
            gap.as_millis(),
            whole,
            self.connections,
            self.unpoliced,
            self.forbidden,
            if self.faults.is_empty() { "kept, nothing leaked" } else { "FAILED" },
        )
    }
}

impl<'n> Scene<'n> {
    fn new(node: &'n Node) -> Result<Self> {
        node.apply("closed.yaml", CLOSED)?;
        let pod = |name: &str| node.add_pod_of(&format!("shop/{name}"), &[("app", name)]);
        let pods = [pod("a")?, pod("b")?, pod("c")?];
        // Whoever is outside finds the pods.
        let outside = node.neighbour.netns();
        outside.ip(&format!("route replace 10.88.0.0/16 via {NODE4}"))?;
        ensure!(
            eventually(PATIENCE, || pods[0].reaches(FAR6).unwrap_or(false)),
            "nothing is reached outside"
        );
        Ok(Self { node, pods })
    }

    /// Has the daemon of `to` follow the one that runs.
    fn change(&self, what: &str, to: &Binaries, how: How<'_>) -> Result<Row> {
        let (node, [a, b, c], outside) = (self.node, &self.pods, &self.node.neighbour);
        let stream = |from: &Pod<'_>, to: SocketAddr| Stream::start(from, outside, to, RATE);
        let streams = [
            Stream::start(a, c, (c.ipv4(), 7000).into(), RATE)?,
            Stream::start(c, a, (a.ipv6(), 7000).into(), RATE)?,
            stream(a, (FAR4, 7000).into())?,
            stream(c, (FAR6, 7000).into())?,
        ];
        let forbidden = [
            Stream::start(a, b, (b.ipv4(), 7003).into(), FORBIDDEN_RATE)?,
            Stream::start(c, b, (b.ipv6(), 7003).into(), FORBIDDEN_RATE)?,
            Stream::start(outside, b, (b.ipv4(), 7004).into(), FORBIDDEN_RATE)?,
        ];
        let connections: Vec<(&str, Flow)> = vec![
            ("a to c by IPv4", a.tcp_flow(c, (c.ipv4(), 7001), PACE)?),
            ("c to a by IPv6", c.tcp_flow(a, (a.ipv6(), 7001), PACE)?),
            ("a to outside", a.tcp_flow(outside, (FAR4, 7001), PACE)?),
            ("c to outside by IPv6", c.tcp_flow(outside, (FAR6, 7001), PACE)?),
            ("outside to c", outside.tcp_flow(c, (c.ipv4(), 7002), PACE)?),
            ("the node to a", node.tcp_flow(a, (a.ipv4(), 7002), PACE)?),
        ];
        time_passes(BEFORE, "losses are counted over this time");
        let began = Instant::now();
        match how {
            How::Killed => node.kill_daemon(),
            How::Stopped | How::RefusedBy(_) => node.stop_daemon()?,
        }
        if let How::RefusedBy(former) = how {
            node.use_binaries(former.clone());
            let refusal = node.start_daemon().err().context("what is newer is not refused")?.to_string();
            ensure!(refusal.contains(REFUSAL), "{refusal}");
        }
        node.use_binaries(to.clone());
        node.start_daemon()?;
        let away = began.elapsed();
        let faults = self.faults();
        time_passes(AFTER, "losses are counted over this time");

        let mut report = Report::default();
        for stream in streams {
            let one = stream.end();
            report.sent += one.sent;
            report.lost += one.lost;
            report.reordered += one.reordered;
            report.gap = report.gap.max(one.gap);
        }
        let count = connections.len();
        let whole = connections.into_iter().map(|(name, flow)| flow.end().whole(name));
        let broken = whole.filter_map(|it| it.err().map(|error| error.to_string())).collect();
        let unpoliced = forbidden.iter().map(Stream::arrived).sum();
        let sent = forbidden.into_iter().map(|stream| stream.end().sent).sum();
        Ok(Row {
            what: what.to_owned(),
            away,
            report,
            broken,
            connections: count,
            unpoliced,
            forbidden: sent,
            faults,
        })
    }

    /// What is not as it was: addresses, interfaces, and what a node is for.
    fn faults(&self) -> Vec<String> {
        let all = || -> Result<()> {
            let status = self.node.status()?;
            ensure!(status["problems"] == serde_json::json!([]), "problems: {}", status["problems"]);
            for pod in &self.pods {
                pod.check().with_context(|| format!("CHECK of {}", pod.name()))?;
                let listed = self.node.ctl(&["endpoint", "list"])?.to_string();
                for address in pod.addresses() {
                    ensure!(
                        listed.contains(&format!("\"{address}\"")),
                        "{address} of {} is lost",
                        pod.name()
                    );
                }
            }
            let new = self.node.add_pod_of("shop/new", &[("app", "new")])?;
            let taken = |ip| self.pods.iter().any(|pod| pod.addresses().contains(ip));
            ensure!(!new.addresses().iter().any(taken), "an address is given out twice");
            ensure!(new.reaches(self.pods[2].ipv4())?, "a new pod reaches nothing");
            ensure!(new.ping(self.pods[1].ipv4(), &["-c1", "-W0.3"])?.received == 0, "b answers a new pod");
            new.del()?;
            let links = || self.node.pod_links().is_ok_and(|links| links.len() == self.pods.len());
            ensure!(eventually(PATIENCE, links), "interfaces of nobody: {:?}", self.node.pod_links()?);
            Ok(())
        };
        let mut last = Ok(());
        eventually(PATIENCE, || {
            last = all();
            last.is_ok()
        });
        last.err().map(|error| format!("{error:#}")).into_iter().collect()
    }

    fn end(self) -> Result<()> {
        self.pods.iter().try_for_each(Pod::del)?;
        let mut left = Vec::new();
        let clean = eventually(PATIENCE, || {
            left = self.node.leftovers().unwrap_or_else(|error| vec![error.to_string()]);
            left.is_empty()
        });
        ensure!(clean, "left over: {left:?}");
        Ok(())
    }
}

/// From a drained node of this version to one of another.
fn go_back(node: &Node, former: &Binaries) -> Result<()> {
    node.stop_daemon()?;
    let (state, bpffs) = (node.state_dir().display().to_string(), node.bpffs().display().to_string());
    node.ctl(&["uninstall", "--config=/dev/null", "--state-dir", &state, "--bpffs", &bpffs])?;
    node.use_binaries(former.clone());
    node.start_daemon().context("the way back that the refusal names")
}

/// What the daemons have said aloud.
fn loud(log: &str) -> String {
    log.lines().filter(|line| !line.contains("DEBUG")).take(60).collect::<Vec<_>>().join("\n")
}

#[test]
#[ignore = "needs the binaries of another version: scripts/test upgrade"]
fn an_upgrade_loses_reorders_and_lets_through_nothing() -> Result<()> {
    needs_root!();
    let folder = env::var_os("CAMBRIC_UPGRADE_FROM").context("CAMBRIC_UPGRADE_FROM is to name a folder")?;
    let from = env::var("CAMBRIC_UPGRADE_COMMIT").unwrap_or_else(|_| "the other".to_owned());
    let (former, this) = (Binaries::in_folder(folder), Binaries::find()?);
    let mut failures = Vec::new();
    println!(
        "\n| {:<46} | {:>8} | {:>7} | {:>5} | {:>9} | {:>8} | {:>10} | {:>14} | addresses",
        "change", "away", "packets", "lost", "reordered", "gap", "TCP whole", "unpoliced"
    );
    // Maps of the same size go on being used; those of another are made anew.
    for (sizes, same) in [("maps of the same size", true), ("maps of other sizes", false)] {
        let mut settings = Settings::default().cluster();
        if !same {
            settings.flags.retain(|flag| !flag.starts_with("--conntrack-size"));
        }
        let node = Node::new(settings)?;
        node.use_binaries(former.clone());
        node.start_daemon()?;
        let mut scene = Some(Scene::new(&node)?);
        for (what, how) in [
            (format!("{from} to this, {sizes}"), How::Stopped),
            ("this to this".to_owned(), How::Stopped),
            (format!("this to {from}, which refuses, to this"), How::RefusedBy(&former)),
            (format!("back to {from}, killed, to this"), How::Killed),
        ] {
            if matches!(how, How::Killed) {
                // As the refusal says.
                scene.take().context("a scene")?.end()?;
                go_back(&node, &former)?;
                scene = Some(Scene::new(&node)?);
            }
            let scene = scene.as_ref().context("a scene")?;
            let begun = node.log().len();
            let row = match scene.change(&what, &this, how) {
                Ok(row) => row,
                Err(error) => {
                    println!("| {what:<46} | breaks off: {error:#}");
                    failures.push(format!("{what}: {error:#}"));
                    break;
                }
            };
            println!("{row}");
            let failed = row.failures();
            if !failed.is_empty() {
                eprintln!("{}\n{}", failed.join("\n"), loud(&node.log()[begun..]));
            }
            failures.extend(failed);
        }
        scene.take().context("a scene")?.end()?;
    }
    println!("upgrade from {from} and back: {} failures", failures.len());
    ensure!(failures.is_empty(), "\n{}", failures.join("\n"));
    Ok(())
}

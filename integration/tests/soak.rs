//! Churn for hours: pods, policies, services and nodes come and go beside flows that must lose nothing, and what the daemon holds
//! stays as much as it was.
//!
//! `scripts/soak HOURS` runs it and prints the table.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Flow, Flowing, Machine, Node, Pod, Settings, eventually},
};

const PATIENCE: Duration = Duration::from_secs(30);
const PACE: Duration = Duration::from_millis(10);
/// How often is looked what there is.
const SAMPLES: u32 = 12;
/// How much more memory than at the first look is no leak, in KiB: what allocators keep varies.
const SLACK_KIB: u64 = 4096;

/// Nobody reaches `b`.
const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress]}
";

/// A control group for the memory that the kernel holds for the daemon: maps with what is in them, programs, sockets.
struct KernelMemory {
    /// That of this process.
    outer: PathBuf,
    group: PathBuf,
    of_version_1: bool,
}

impl KernelMemory {
    fn new() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mut groups = mounts.filter(|it| it[2] == "cgroup" || it[2] == "cgroup2").filter(|it| {
            let controllers = Path::new(it[1]).join("cgroup.controllers");
            let of_version_2 = || fs::read_to_string(controllers).is_ok_and(|it| it.contains("memory"));
            it[2] == "cgroup" && it[3].split(',').any(|option| option == "memory") || of_version_2()
        });
        let mount = groups.next().context("no control group tells of memory")?;
        let (at, of_version_1) = (Path::new(mount[1]), mount[2] == "cgroup");
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let is_it =
            |line: &&str| if of_version_1 { line.contains(":memory:") } else { line.starts_with("0::") };
        let own = groups.lines().find(is_it).and_then(|line| line.rsplit(':').next()).context("a group")?;
        let outer = at.join(own.trim_start_matches('/'));
        let group = at.join(format!("cambric-soak-{}", process::id()));
        fs::create_dir(&group).with_context(|| format!("create {}", group.display()))?;
        Ok(Self { outer, group, of_version_1 })
    }

    /// Calls `start` with this process in the group: what it starts stays there.
    fn inside(&self, start: impl FnOnce() -> Result<()>) -> Result<()> {
        let enter = |group: &Path| fs::write(group.join("cgroup.procs"), process::id().to_string());
        enter(&self.group)?;
        let started = start();
        enter(&self.outer)?;
        started
    }

    fn kib(&self) -> Result<u64> {
        // Names and inodes that the kernel keeps for as long as nobody needs the memory are no leak.
        fs::write("/proc/sys/vm/drop_caches", "2")?;
        let bytes = if self.of_version_1 {
            fs::read_to_string(self.group.join("memory.kmem.usage_in_bytes"))?
        } else {
            let stat = fs::read_to_string(self.group.join("memory.stat"))?;
            stat.lines()
                .find_map(|line| line.strip_prefix("kernel "))
                .context("the kernel's memory")?
                .to_owned()
        };
        Ok(bytes.trim().parse::<u64>()? / 1024)
    }
}

impl Drop for KernelMemory {
    fn drop(&mut self) {
        // The node, made later, has gone with its daemon by now.
        let _ = fs::remove_dir(&self.group);
    }
}

/// What there is while nothing comes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    second: u64,
    rounds: u64,
    memory_kib: u64,
    kernel_kib: u64,
    descriptors: usize,
    threads: usize,
    pins: usize,
    links: usize,
    routes: usize,
    neighbours: usize,
}

impl Sample {
    fn take(node: &Node, kernel: &KernelMemory, began: Instant, rounds: u64) -> Result<Self> {
        let (pid, memory_kib) = {
            let daemon = node.daemon();
            let daemon = daemon.as_ref().context("a daemon")?;
            (daemon.pid(), daemon.own_memory_kib()?)
        };
        let count = |of: &str| Ok::<_, anyhow::Error>(fs::read_dir(format!("/proc/{pid}/{of}"))?.count());
        let lines = |show: &str| Ok::<_, anyhow::Error>(node.netns().ip(show)?.lines().count());
        Ok(Self {
            second: began.elapsed().as_secs(),
            rounds,
            memory_kib,
            kernel_kib: kernel.kib()?,
            descriptors: count("fd")?,
            threads: count("task")?,
            pins: pins(node.bpffs())?,
            links: node.netns().links()?.len(),
            routes: lines("-4 route show table all")? + lines("-6 route show table all")?,
            neighbours: lines("neighbour show nud permanent")?,
        })
    }

    fn print(&self) {
        println!(
            "| {:>6} | {:>7} | {:>8} | {:>10} | {:>11} | {:>7} | {:>4} | {:>5} | {:>6} | {:>10} |",
            self.second,
            self.rounds,
            self.memory_kib,
            self.kernel_kib,
            self.descriptors,
            self.threads,
            self.pins,
            self.links,
            self.routes,
            self.neighbours
        );
    }

    /// What of the kernel's objects there is more of than there was.
    fn more_objects(&self, first: &Self) -> Vec<String> {
        let counts = [
            ("pins", self.pins, first.pins),
            ("links", self.links, first.links),
            ("routes", self.routes, first.routes),
            ("neighbours", self.neighbours, first.neighbours),
        ];
        more(&counts)
    }

    /// What of it is more than it was.
    fn grown(&self, first: &Self) -> Vec<String> {
        let mut grown = self.more_objects(first);
        grown.extend(more(&[
            ("descriptors", self.descriptors, first.descriptors + 2),
            ("threads", self.threads, first.threads + 2),
        ]));
        for (whose, now, first) in [
            ("its own", self.memory_kib, first.memory_kib),
            ("the kernel's", self.kernel_kib, first.kernel_kib),
        ] {
            let most = first + first / 10 + SLACK_KIB;
            if now > most {
                grown.push(format!("{now} KiB of {whose} memory, not at most {most}"));
            }
        }
        grown
    }
}

fn more(counts: &[(&str, usize, usize)]) -> Vec<String> {
    let more = counts.iter().filter(|(_, now, most)| now > most);
    more.map(|(what, now, most)| format!("{now} {what}, not at most {most}")).collect()
}

/// The files below a folder.
fn pins(folder: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        count += if path.is_dir() { pins(&path)? } else { 1 };
    }
    Ok(count)
}

/// A service with one backend, and a node elsewhere.
fn service_and_node(round: u64, backend: &Pod<'_>) -> String {
    let (third, address) = (round % 200 + 1, backend.ipv4());
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: s, namespace: shop}}
spec:
  clusterIP: 10.96.7.{third}
  clusterIPs: [10.96.7.{third}]
  ports: [{{name: p, port: 80, targetPort: 7010, protocol: TCP}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s-1, namespace: shop, labels: {{kubernetes.io/service-name: s}}}}
addressType: IPv4
ports: [{{name: p, port: 7010, protocol: TCP}}]
endpoints: [{{addresses: [{address}], conditions: {{ready: true}}}}]
---
apiVersion: v1
kind: Node
metadata: {{name: far-{third}}}
spec: {{podCIDR: 10.77.{third}.0/24, podCIDRs: [10.77.{third}.0/24]}}
status: {{addresses: [{{type: InternalIP, address: 192.0.2.77}}]}}
"
    )
}

/// Pods, policies, services and nodes come, do what they should, and go.
fn round(node: &Node, standing: &[Pod<'_>; 3], round: u64) -> Result<()> {
    let [a, b, c] = standing;
    let new = |name: &str| node.add_pod_of(&format!("shop/{name}{round}"), &[("app", "new")]);
    let pods = [new("x")?, new("y")?, new("z")?];
    let third = round % 200 + 1;
    node.apply("service.yaml", &service_and_node(round, c))?;
    let service = SocketAddr::from(([10, 96, 7, u8::try_from(third)?], 80));
    let served = eventually(PATIENCE, || a.connect(service).is_ok());
    ensure!(served, "round {round}: the service {service} does not answer");
    for pod in &pods {
        ensure!(
            pod.ping(c.ipv4(), &["-c1", "-W2"])?.received == 1,
            "round {round}: a new pod reaches nothing"
        );
        ensure!(pod.ping(b.ipv4(), &["-c1", "-W0.1"])?.received == 0, "round {round}: b answers a new pod");
        pod.check()?;
    }
    node.apply("new.yaml", &CLOSED.replace("closed", "new").replace("app: b", "app: new"))?;
    let denied = !a.ping(pods[0].ipv4(), &["-c1", "-W0.1"]).is_ok_and(|it| it.received > 0);
    ensure!(denied, "round {round}: a policy in force lets packets through");
    node.withdraw("new.yaml")?;
    node.withdraw("service.yaml")?;
    pods.iter().try_for_each(Pod::del)
}

#[test]
#[ignore = "takes as long as it is told: scripts/soak"]
fn what_the_daemon_holds_stays_as_much_as_it_was() -> Result<()> {
    needs_root!();
    let seconds = env::var("CAMBRIC_SOAK_SECONDS").map_or(Ok(60), |text| text.parse())?;
    let period = Duration::from_secs(seconds) / SAMPLES;
    let kernel = KernelMemory::new()?;
    let node = Node::new(Settings::default().cluster())?;
    kernel.inside(|| node.start_daemon())?;
    node.apply("closed.yaml", CLOSED)?;
    let pod = |name: &str| node.add_pod_of(&format!("shop/{name}"), &[("app", name)]);
    let pods = [pod("a")?, pod("b")?, pod("c")?];
    let [a, b, c] = &pods;
    let _served = c.serve_tcp((c.ipv4(), 7010))?;
    let wanted: Vec<Flow> =
        vec![a.udp_flow(c, (c.ipv4(), 7000), PACE)?, a.tcp_flow(c, (c.ipv6(), 7001), PACE)?];
    let forbidden = a.udp_flow(b, (b.ipv4(), 7000), PACE)?;

    let (began, mut rounds, mut samples) = (Instant::now(), 0, Vec::<Sample>::new());
    let before = Sample::take(&node, &kernel, began, rounds)?;
    println!(
        "\n| second | rounds | KiB own | KiB kernel | descriptors | threads | pins | links | routes | neighbours |"
    );
    for sample in 1..=SAMPLES {
        while began.elapsed() < period * sample {
            round(&node, &pods, rounds)?;
            rounds += 1;
        }
        let whole = || node.status().is_ok_and(|status| status["problems"] == serde_json::json!([]));
        ensure!(eventually(PATIENCE, whole), "{}", node.status()?["problems"]);
        // What nobody has any more goes a while later: interfaces many at a time, and with the last other node the overlay.
        let mut left = Vec::new();
        let gone = eventually(PATIENCE, || {
            let now = Sample::take(&node, &kernel, began, rounds);
            left = now.map_or_else(|error| vec![error.to_string()], |now| now.more_objects(&before));
            left.is_empty()
        });
        ensure!(gone, "after {rounds} rounds there are {}", left.join(", "));
        ensure!(forbidden.arrived() == 0, "{} forbidden packets arrive", forbidden.arrived());
        let taken = Sample::take(&node, &kernel, began, rounds)?;
        taken.print();
        samples.push(taken);
    }
    drop(forbidden);
    for flow in wanted {
        flow.end().whole("a flow")?;
    }
    let (first, last) = (samples.first().context("a sample")?, samples.last().context("a sample")?);
    let grown = last.grown(first);
    ensure!(grown.is_empty(), "after {rounds} rounds there are {}", grown.join(", "));
    pods.iter().try_for_each(Pod::del)?;
    node.is_left_clean()?;
    println!(
        "{rounds} rounds in {} s: nothing grows, nothing is lost or let through",
        began.elapsed().as_secs()
    );
    Ok(())
}

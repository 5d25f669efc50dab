//! A large cluster against one daemon: thousands of nodes, a hundred thousand pods, and changes all the time. The API server
//! is the tests' own, in this process; the daemon is a process of its own, of which the kernel tells what it uses.

mod churn;
mod enforced;
mod population;
mod usage;

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bpf::attach::Pins;
use clap::Parser;
use integration::{
    apiserver::ApiServer,
    testbed::{Machine, NEIGHBOUR4, Node, Settings},
};
use ipamd_api::{Client, Reply, Request};

use churn::{Churn, Times};
use enforced::Enforced;
use population::{OWN, Pod, Population, State};
use usage::Process;

/// How long a daemon may take to start.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long is waited until what a start leaves to be done is done.
const SETTLE: Duration = Duration::from_secs(5);

/// A large cluster against one daemon.
#[derive(Debug, Parser)]
#[command(name = "cambric-bench-cluster", max_term_width = 110)]
struct Arguments {
    #[command(flatten)]
    population: Population,
    /// Changes of pods a second
    #[arg(long, default_value_t = 20)]
    rate: u32,
    /// How long there are changes
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Flags of the daemon, besides those that the bench needs
    #[arg(long = "flag", value_name = "FLAG", allow_hyphen_values = true)]
    flags: Vec<String>,
    /// Prints what each thread of the daemon uses
    #[arg(long)]
    threads: bool,
    /// Only how much memory the daemon holds, before and after the changes
    #[arg(long)]
    memory: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir()?;
    let kubeconfig = folder.path().join("kubeconfig");
    let flags = vec![format!("--node-name={OWN}"), format!("--cluster=kube:{}", kubeconfig.display())];
    let flags = flags.into_iter().chain(arguments.flags.clone()).collect();
    let node = Node::new(Settings { pools: Vec::new(), flags, cluster: false })?;
    let server = ApiServer::start(node.neighbour.netns(), (NEIGHBOUR4, 6443).into())?;
    server.kubeconfig(&kubeconfig)?;
    server.behave(|server| server.bookmarks = Duration::from_mins(1));
    populate(&server, &arguments.population);
    let measured = measure(&arguments, &node, &server);
    if measured.is_err() {
        eprintln!("--- the end of the daemon's log\n{}", end_of(&node.log()));
    }
    server.stop();
    measured
}

fn populate(server: &ApiServer, population: &Population) {
    population.others().for_each(|object| server.put(object));
    (0..population.nodes).for_each(|number| server.put(population.node(number, 0)));
    for pod in (0..population.pods).map(Pod) {
        // This node's are not started yet.
        let addresses = if population.is_local(pod) { Vec::new() } else { population.addresses(pod) };
        server.put(population.pod(pod, &State { addresses, ..State::default() }));
    }
    (0..population.services).for_each(|service| server.put(population.slice(service, None)));
    server.compact();
}

fn measure(arguments: &Arguments, node: &Node, server: &ApiServer) -> Result<()> {
    let population = &arguments.population;
    println!(
        "{} nodes, {} pods, {} services of 10 endpoints, {} policies; {}; {} pods on the node that is measured\n",
        population.nodes,
        population.pods,
        population.services,
        population.policies,
        if population.single { "IPv4" } else { "IPv4 and IPv6" },
        population.local
    );
    let first = start(node)?;
    let process = process(node)?;
    let at_start = process.memory()?;
    println!("| cambric-ipamd | | limit |");
    println!("| --- | ---: | ---: |");
    row("start on an empty node, until it serves", &seconds(first), "");
    row("processor time of that", &seconds(process.cpu()?), "");
    row("most that was resident in it", &mebibytes(at_start.peak), "");
    let began = Instant::now();
    let mut endpoints = Vec::new();
    for pod in population.locals() {
        let (namespace, name) = pod.key(population);
        let endpoint = node.kubelet_sandbox(&format!("{namespace}/{name}"), &pod.uid())?.add()?;
        let state = State { addresses: endpoint.addresses().to_vec(), ..State::default() };
        server.put(population.pod(pod, &state));
        endpoints.push(endpoint);
    }
    row(&format!("ADD of {} pods, one after the other", population.local), &seconds(began.elapsed()), "");
    thread::sleep(SETTLE);
    print_memory("with these endpoints", process)?;

    let enforced = Enforced::open(&Pins::new(node.bpffs()))?;
    let mut churn = Churn { server, population, enforced, rate: arguments.rate };
    let (cpu, written, threads) = (process.cpu()?, process.written()?, process.threads()?);
    let began = Instant::now();
    let mut times = churn.run(Duration::from_secs(arguments.seconds))?;
    let elapsed = began.elapsed();
    let share = 100.0 * process.cpu()?.saturating_sub(cpu).as_secs_f64() / elapsed.as_secs_f64();
    row(
        &format!("processor time at {} changes of pods a second, % of a core", arguments.rate),
        &format!("{share:.1}"),
        "5",
    );
    if arguments.threads {
        print_threads(&threads, &process.threads()?, elapsed);
    }
    #[expect(clippy::cast_precision_loss, reason = "it is printed without digits")]
    let pace = (process.written()? - written) as f64 / 1024.0 / elapsed.as_secs_f64();
    row("written to disk meanwhile", &format!("{pace:.0} KiB/s"), "");
    thread::sleep(SETTLE);
    print_memory("after that", process)?;
    if arguments.memory {
        return Ok(());
    }
    row(
        "copy of the cluster's state on disk",
        &mebibytes(size_of(&node.state_dir().join("cluster"))? / 1024),
        "",
    );

    node.stop_daemon()?;
    row("start on what the last one left, until it serves", &seconds(start(node)?), "");
    node.stop_daemon()?;
    server.stop();
    row("the same while the API server is away", &seconds(start(node)?), "");
    println!();
    print_times(&mut times);
    Ok(())
}

const LIMIT_OF_MEMORY: &str = "130 MiB";

fn print_memory(when: &str, process: Process) -> Result<()> {
    let memory = process.memory()?;
    row(&format!("resident {when}"), &mebibytes(memory.resident), LIMIT_OF_MEMORY);
    row("of that its own (anonymous)", &mebibytes(memory.anonymous), "");
    Ok(())
}

fn row(name: &str, value: &str, limit: &str) {
    println!("| {name} | {value} | {limit} |");
}

fn print_times(times: &mut Times) {
    println!("| from the server's word to the maps, ms | changes | p50 | p99 | max | limit of p99 |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for (name, times) in [
        ("a pod gets its addresses", &mut times.came),
        ("a pod gets other labels", &mut times.relabelled),
        ("a pod is deleted", &mut times.went),
        ("a service gets an endpoint", &mut times.served),
    ] {
        times.sort_unstable();
        let Some(max) = times.last() else { continue };
        let at = |percent: usize| millis(times[(times.len() * percent / 100).min(times.len() - 1)]);
        println!("| {name} | {} | {:.2} | {:.2} | {:.2} | 10 |", times.len(), at(50), at(99), millis(*max));
    }
}

fn print_threads(before: &[(String, Duration)], after: &[(String, Duration)], elapsed: Duration) {
    for (name, used) in after {
        let before = before.iter().find(|it| it.0 == *name).map_or(Duration::ZERO, |it| it.1);
        let share = 100.0 * used.saturating_sub(before).as_secs_f64() / elapsed.as_secs_f64();
        if share >= 0.05 {
            row(&format!("- of its thread {name}"), &format!("{share:.2}"), "");
        }
    }
}

/// Starts the daemon, and waits until it serves; how long that took.
fn start(node: &Node) -> Result<Duration> {
    let began = Instant::now();
    node.launch_daemon()?;
    let socket = node.socket();
    loop {
        let asked = Client::connect(&socket).and_then(|mut client| client.call(Request::Status));
        if matches!(asked, Ok(Reply::Status(status)) if status.ready) {
            return Ok(began.elapsed());
        }
        ensure!(began.elapsed() < PATIENCE, "the daemon does not serve within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn process(node: &Node) -> Result<Process> {
    Ok(Process(node.daemon().as_ref().context("a daemon")?.pid()))
}

/// Bytes of the files of a folder.
fn size_of(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() { size_of(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}

fn end_of(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn mebibytes(kib: u64) -> String {
    format!("{} MiB", kib.div_ceil(1024))
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

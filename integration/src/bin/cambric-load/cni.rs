//! How long CNI plugins take as processes: from the spawn to the exit, with the output read.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    str::FromStr,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::{netns::Netns, option_values::parts, spread::Spread};

/// Between two calls of one-at-a-time rounds, so that what the kernel or a daemon still does for one plugin does not
/// slow the next.
const SETTLE: Duration = Duration::from_millis(60);

#[derive(Debug, clap::Args)]
pub struct Options {
    /// What is compared, the first being what the others are compared with: a name, the namespace of the host, the
    /// directory of the plugin, and its configuration
    #[arg(long = "plugin", value_name = "NAME,NETNS,DIR,FILE", required = true)]
    plugins: Vec<Subject>,
    /// Namespaces of containers, named PREFIX0, PREFIX1, ...; as many as there are parallel attachments
    #[arg(long, value_name = "PREFIX")]
    containers: String,
    /// Rounds of one ADD and one DEL at a time, in turns
    #[arg(long, default_value_t = 40)]
    rounds: usize,
    /// Attachments of a parallel round
    #[arg(long, default_value_t = 100)]
    parallel: usize,
    /// How many of them are under way at a time
    #[arg(long, default_value_t = 20)]
    at_once: usize,
    /// Parallel rounds
    #[arg(long, default_value_t = 3)]
    parallel_rounds: usize,
}

#[derive(Clone, Debug)]
struct Subject {
    name: String,
    host: Netns,
    directory: PathBuf,
    config: PathBuf,
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [name, host, directory, config] = parts(text, "NAME,NETNS,DIR,FILE")?;
        Ok(Self { name, host: Netns(host), directory: directory.into(), config: config.into() })
    }
}

/// A plugin and what was measured of it, in milliseconds: each call, and each parallel round as a whole.
struct Plugin<'a> {
    subject: &'a Subject,
    binary: PathBuf,
    config: Vec<u8>,
    alone: Times,
    among_others: Times,
    rounds: Times,
}

#[derive(Default)]
struct Times {
    add: Vec<f64>,
    del: Vec<f64>,
}

impl Times {
    fn of(&mut self, command: &str) -> &mut Vec<f64> {
        if command == "ADD" { &mut self.add } else { &mut self.del }
    }

    fn spreads(&self) -> (Spread, Spread) {
        (Spread::of(self.add.iter().copied()), Spread::of(self.del.iter().copied()))
    }
}

/// Takes the times and prints them.
pub fn run(options: &Options) -> Result<()> {
    let mut plugins = options.plugins.iter().map(Plugin::new).collect::<Result<Vec<_>>>()?;
    let containers: Vec<Netns> =
        (0..options.parallel).map(|number| Netns(format!("{}{number}", options.containers))).collect();
    for round in 0..options.rounds {
        for plugin in &mut plugins {
            plugin.subject.host.enter()?;
            for command in ["ADD", "DEL"] {
                let took =
                    plugin.call(command, &format!("bench-{round}"), &containers[round % containers.len()])?;
                plugin.alone.of(command).push(milliseconds(took));
                thread::sleep(SETTLE);
            }
        }
    }
    for _ in 0..options.parallel_rounds {
        for plugin in &mut plugins {
            for command in ["ADD", "DEL"] {
                let began = Instant::now();
                let took = plugin.call_in_parallel(command, &containers, options.at_once)?;
                plugin.rounds.of(command).push(milliseconds(began.elapsed()));
                plugin.among_others.of(command).extend(took.into_iter().map(milliseconds));
                thread::sleep(10 * SETTLE);
            }
        }
    }
    print(options, &plugins);
    Ok(())
}

fn print(options: &Options, plugins: &[Plugin<'_>]) {
    println!(
        "One at a time, {} rounds in turns: median (min-max) in ms, ratio of the medians\n",
        options.rounds
    );
    println!("| plugin | ADD | ratio | DEL | ratio |\n| --- | ---: | ---: | ---: | ---: |");
    let (base_add, base_del) = plugins[0].alone.spreads();
    for plugin in plugins {
        let (add, del) = plugin.alone.spreads();
        println!(
            "| {} | {add:.2} | {:.2} | {del:.2} | {:.2} |",
            plugin.subject.name,
            add.median() / base_add.median(),
            del.median() / base_del.median(),
        );
    }
    println!(
        "\n{} in parallel, {} at a time, {} rounds: the whole (median) and the slowest in a hundred, in ms\n",
        options.parallel, options.at_once, options.parallel_rounds
    );
    println!("| plugin | ADD, all | ratio | p99 | DEL, all | ratio | p99 |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    let (base_add, base_del) = plugins[0].rounds.spreads();
    for plugin in plugins {
        let (add, del) = plugin.rounds.spreads();
        let (one_add, one_del) = plugin.among_others.spreads();
        println!(
            "| {} | {:.0} | {:.2} | {:.0} | {:.0} | {:.2} | {:.0} |",
            plugin.subject.name,
            add.median(),
            add.median() / base_add.median(),
            one_add.percentile(99),
            del.median(),
            del.median() / base_del.median(),
            one_del.percentile(99),
        );
    }
}

impl<'a> Plugin<'a> {
    fn new(subject: &'a Subject) -> Result<Self> {
        let config = read(&subject.config)?;
        let parsed: Value = serde_json::from_slice(&config)
            .with_context(|| format!("{} is not JSON", subject.config.display()))?;
        let kind =
            parsed["type"].as_str().with_context(|| format!("{} has no type", subject.config.display()))?;
        let binary = subject.directory.join(kind);
        Ok(Self {
            subject,
            binary,
            config,
            alone: Times::default(),
            among_others: Times::default(),
            rounds: Times::default(),
        })
    }

    /// Runs it in this thread's namespace, as a runtime would.
    fn call(&self, command: &str, id: &str, container: &Netns) -> Result<Duration> {
        let mut process = Command::new(&self.binary);
        process
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", container.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.subject.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let began = Instant::now();
        let mut child = process.spawn().with_context(|| format!("cannot run {}", self.binary.display()))?;
        child.stdin.take().context("no standard input")?.write_all(&self.config)?;
        let output = child.wait_with_output()?;
        let took = began.elapsed();
        ensure!(
            output.status.success(),
            "{command} of {} for {id}: {}{}",
            self.subject.name,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(took)
    }

    /// One call for each container.
    fn call_in_parallel(&self, command: &str, containers: &[Netns], at_once: usize) -> Result<Vec<Duration>> {
        let next = AtomicUsize::new(0);
        let caller = || -> Result<Vec<Duration>> {
            self.subject.host.enter()?;
            let mut took = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(container) = containers.get(number) else { return Ok(took) };
                took.push(self.call(command, &format!("bench-parallel-{number}"), container)?);
            }
        };
        thread::scope(|scope| {
            let callers: Vec<_> = (0..at_once).map(|_| scope.spawn(caller)).collect();
            let mut took = Vec::new();
            for caller in callers {
                took.extend(caller.join().map_err(|_| anyhow!("a caller has panicked"))??);
            }
            Ok(took)
        })
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The file's contents.
fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

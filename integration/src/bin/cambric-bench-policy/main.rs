//! Policy at scale, on the kernel's maps: how long a full start takes, how long it takes from a manifest's change to what
//! it says being enforced, what the policy maps weigh, and what a packet costs with few and with many policies.
//!
//! With `--write FOLDER` it only writes the manifests of the cluster, for a daemon to be measured on.

mod answers;
mod packets;
mod scene;
mod tenant;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bpf::sizes::{Machine, MapSizes, PolicySizes, RequestedSizes};
use clap::Parser;
use ipamd_datapath::{Datapath, DatapathConfig, PolicyTables};
use ipamd_policy::enforce::Enforcer;
use ipamd_sources::{Source, directory::Directory};
use nix::sched::{CloneFlags, unshare};

use scene::{LOCAL, NAMESPACES, PodNumber};

/// Policy at scale.
#[derive(Debug, Parser)]
struct Arguments {
    /// Policies of the cluster
    #[arg(long, default_value_t = 1_000)]
    policies: u32,
    /// Pods of the cluster
    #[arg(long, default_value_t = 10_000)]
    pods: u32,
    /// Changes that are timed, of each sort
    #[arg(long, default_value_t = 300)]
    changes: u32,
    /// Where a bpffs is mounted
    #[arg(long, default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
    /// Only what one tenant can make, which needs neither root nor a kernel
    #[arg(long)]
    tenant: bool,
    /// Only how long the daemon's answers are waited for while it is at a large change; the daemon is that of `CAMBRIC_BIN_DIR`
    #[arg(long)]
    answers: bool,
    /// Only writes the manifests there
    #[arg(long, value_name = "FOLDER")]
    write: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(folder) = &arguments.write {
        return scene::write(folder, arguments.policies, arguments.pods);
    }
    if arguments.answers {
        return answers::measure();
    }
    tenant::measure()?;
    if arguments.tenant {
        return Ok(());
    }
    println!();
    changes(&arguments)?;
    println!();
    // The namespace of a bench ends with its thread.
    let ran = std::thread::spawn(move || packets::measure(&arguments)).join();
    ran.map_err(|_| anyhow::anyhow!("measuring packets has failed"))?
}

/// A folder on a bpffs; removed with all pins in it.
struct PinFolder(PathBuf);

impl PinFolder {
    fn new(bpffs: &Path, name: &str) -> Result<Self> {
        let folder = bpffs.join(format!("cambric-bench-{name}-{}", std::process::id()));
        fs::create_dir(&folder)
            .with_context(|| format!("make {} (is a bpffs mounted there?)", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for PinFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn datapath_config(pins: &PinFolder) -> DatapathConfig {
    DatapathConfig {
        pins: bpf::attach::Pins::new(&pins.0),
        attach_mode: None,
        sizes: MapSizes::new(
            &RequestedSizes { conntrack: Some(131_072), ..RequestedSizes::default() },
            Machine { memory: 0, processors: 1 },
        ),
        masquerade: true,
        masquerade_ports: 20_000..=39_999,
        lifetimes: bpf::layout::LIFETIMES,
        policy_rules: PolicySizes::default().rules,
        overlay: None,
    }
}

/// Times from a manifest's change to its being enforced.
fn changes(arguments: &Arguments) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("unshare the network namespace (root only)")?;
    let pins = PinFolder::new(&arguments.bpffs, "changes")?;
    let config = datapath_config(&pins);
    let datapath = Arc::new(Datapath::open(&config)?);
    let tables = PolicyTables::open(Arc::clone(&datapath), &config.pins, PolicySizes::default())?;
    let enforcer = Enforcer::new(Box::new(tables));
    let folder = tempfile::tempdir()?;
    scene::write(folder.path(), arguments.policies, arguments.pods)?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut source = Directory::open(folder.path())?;
        let began = Instant::now();
        let first = source.next().await;
        let read = began.elapsed();
        let endpoints = (0..LOCAL).map(|number| (PodNumber(number).endpoint(), None));
        let began = Instant::now();
        enforcer.start(endpoints, BTreeSet::new(), first)?;
        let compiled = began.elapsed();
        let counts = enforcer.counts();
        ensure!(enforcer.problems().is_empty(), "{:?}", enforcer.problems());
        println!(
            "{} policies, {} pods, {LOCAL} of them on this node: {} classes, {} policy maps with {} entries, {} addresses and \
             prefixes; {:.1} MiB in the kernel\n",
            counts.policies,
            arguments.pods,
            counts.classes,
            counts.maps,
            counts.entries,
            counts.peers,
            mebibytes(counts.memory)
        );
        println!("| start | ms |\n| --- | ---: |");
        println!("| the manifests read | {:.0} |", millis(read));
        println!("| compiled and in force | {:.0} |\n", millis(compiled));

        println!("| ms from a file's change to it being in force | p50 | p99 | max | of it enforcing, p50 |");
        println!("| --- | ---: | ---: | ---: | ---: |");
        let mut bench = Changes { source, enforcer: &enforcer, folder: folder.path(), count: arguments.changes };
        let pods = arguments.pods;
        // Of an app that has pods already, in a namespace with policies.
        bench.time("a pod of a known class added", |at| {
            let pod = PodNumber(pods + at);
            (format!("new-pod-{at}.yaml"), Some(pod.manifest()))
        })
        .await?;
        bench.time("that pod removed", |at| (format!("new-pod-{at}.yaml"), None)).await?;
        // Each selects an endpoint of this node.
        bench.time("a policy added", |at| {
            let (namespace, app) = (at % NAMESPACES, at / NAMESPACES % (LOCAL / NAMESPACES));
            let name = format!("new-policy-{at}");
            (format!("{name}.yaml"), Some(scene::policy(&name, namespace, app).replace("port: 443", &format!("port: {}", 1000 + at))))
        })
        .await?;
        bench.time("that policy removed", |at| (format!("new-policy-{at}.yaml"), None)).await
    })
}

struct Changes<'a> {
    source: Directory,
    enforcer: &'a Enforcer,
    folder: &'a Path,
    count: u32,
}

impl Changes<'_> {
    /// Times changes of a file: its name, and what is in it.
    async fn time(&mut self, name: &str, change: impl Fn(u32) -> (String, Option<String>)) -> Result<()> {
        let (mut whole, mut enforcing) = (Vec::new(), Vec::new());
        for at in 0..self.count {
            let (file, text) = change(at);
            let path = self.folder.join(file);
            let written = match &text {
                Some(text) => {
                    let beside = self.folder.join(".new");
                    fs::write(&beside, text)?;
                    Some(beside)
                }
                None => None,
            };
            let began = Instant::now();
            match written {
                Some(beside) => fs::rename(beside, &path)?,
                None => fs::remove_file(&path)?,
            }
            let batch = tokio::time::timeout(Duration::from_secs(10), self.source.next()).await?;
            ensure!(batch.changes.len() == 1, "{} changes", batch.changes.len());
            let applied = self.enforcer.apply(batch);
            whole.push(began.elapsed());
            enforcing.push(applied.took);
        }
        ensure!(self.enforcer.problems().is_empty(), "{:?}", self.enforcer.problems());
        let (p50, p99, max) =
            (percentile(&mut whole, 50), percentile(&mut whole, 99), percentile(&mut whole, 100));
        println!(
            "| {name} | {:.3} | {:.3} | {:.3} | {:.3} |",
            millis(p50),
            millis(p99),
            millis(max),
            millis(percentile(&mut enforcing, 50))
        );
        Ok(())
    }
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    let at = (times.len() * percent / 100).min(times.len() - 1);
    times[at]
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[allow(clippy::cast_precision_loss, reason = "it is printed with one digit")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

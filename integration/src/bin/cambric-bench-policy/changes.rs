//! How long it takes from a manifest's change to its being enforced.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bpf::sizes::PolicySizes;
use ipamd_datapath::{Datapath, PolicyTables};
use ipamd_policy::enforce::Enforcer;
use ipamd_sources::{Source, directory::Directory};
use nix::sched::{CloneFlags, unshare};

use crate::{
    arguments::Arguments,
    bench_datapath::{PinFolder, datapath_config},
    figures::{mebibytes, millis, percentile},
    scene::{self, LOCAL, NAMESPACES, PodNumber},
};

/// Times from a manifest's change to its being enforced.
pub fn measure(arguments: &Arguments) -> Result<()> {
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

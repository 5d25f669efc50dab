//! The daemon is killed at random while pods come and go, and what it then says is compared with a model. `CAMBRIC_KILLS` says how
//! often, as `scripts/test storm` does.

use std::{
    collections::{BTreeMap, HashMap},
    env,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, Node, Sandbox, eventually, time_passes},
};
use serde_json::Value;

const WORKERS: usize = 4;
const KILLS: u32 = 12;
const SEED: u64 = 0xca4b_41c0;

/// A generator of random numbers that says the same again for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// What a runtime knows of a container: what its ADD answered, or that its state is not known because one failed.
enum Known<'n> {
    Added(Sandbox<'n>, Value),
    Unclear(Sandbox<'n>),
}

/// Adds and deletes until told to stop, and counts that; returns what stands.
fn work<'n>(node: &'n Node, worker: usize, stop: &AtomicBool, done: &AtomicU64) -> Result<Vec<Known<'n>>> {
    let mut dice = Dice(0x5eed + worker as u64);
    let mut standing: Vec<(Sandbox<'n>, Value)> = Vec::new();
    let mut unclear = Vec::new();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        done.fetch_add(1, Ordering::Relaxed);
        if standing.len() < 4 || dice.below(2) == 0 && standing.len() < 10 {
            let sandbox = node.sandbox(&format!("w{worker}-{count}"))?;
            count += 1;
            match sandbox.cni("ADD").run() {
                Ok(result) => standing.push((sandbox, result)),
                // As a runtime does: DEL, or ADD again later.
                Err(_) if dice.below(2) == 0 => sandbox.cni("DEL").run().map(drop)?,
                Err(_) => unclear.push(Known::Unclear(sandbox)),
            }
        } else {
            let place = usize::try_from(dice.below(standing.len() as u64))?;
            let (sandbox, _) = standing.swap_remove(place);
            sandbox.cni("DEL").run().context("DEL always succeeds")?;
        }
    }
    let standing = standing.into_iter().map(|(sandbox, result)| Known::Added(sandbox, result));
    Ok(standing.chain(unclear).collect())
}

fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| Some(ip["address"].as_str()?.split('/').next()?.to_owned())).collect()
}

#[test]
fn no_address_is_lost_or_given_twice_however_the_daemon_dies() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let stop = AtomicBool::new(false);
    let done = AtomicU64::new(0);
    let kills = env::var("CAMBRIC_KILLS").map_or(Ok(KILLS), |text| text.parse())?;
    let mut dice = Dice(SEED);
    let known = thread::scope(|scope| -> Result<Vec<Known<'_>>> {
        let (node, stop, done) = (&node, &stop, &done);
        let workers: Vec<_> =
            (0..WORKERS).map(|worker| scope.spawn(move || work(node, worker, stop, done))).collect();
        let killed = (0..kills).try_for_each(|_| {
            time_passes(Duration::from_millis(100 + dice.below(700)), "each is killed at another step");
            node.kill_daemon();
            time_passes(
                Duration::from_millis(dice.below(100)),
                "the daemon is away for another time in each round",
            );
            node.start_daemon()
        });
        stop.store(true, Ordering::Relaxed);
        let known = workers.into_iter().map(|worker| worker.join().expect("the thread ran"));
        let known: Vec<_> = known.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        killed.map(|()| known)
    })?;

    let mut model: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut owners: HashMap<String, String> = HashMap::new();
    let mut sandboxes = Vec::new();
    for each in known {
        let (sandbox, result) = match each {
            Known::Added(sandbox, result) => (sandbox, result),
            Known::Unclear(sandbox) => {
                let result = sandbox.cni("ADD").run().context("ADD again")?;
                (sandbox, result)
            }
        };
        for address in addresses(&result) {
            let before = owners.insert(address.clone(), sandbox.name().to_owned());
            ensure!(before.is_none(), "{address} belongs to {before:?} and {}", sandbox.name());
        }
        model.insert(sandbox.name().to_owned(), addresses(&result));
        sandboxes.push((sandbox, result));
    }

    // Notes of DELs without a daemon are worked off.
    let recorded = || -> Result<BTreeMap<String, Vec<String>>> {
        let endpoints = node.ctl(&["endpoint", "list"])?;
        let mut recorded = BTreeMap::new();
        for endpoint in endpoints.as_array().context("a list")? {
            let id = endpoint["key"]["container_id"].as_str().context("container_id")?.to_owned();
            let ips = endpoint["addresses"].as_array().into_iter().flatten();
            recorded.insert(id, ips.filter_map(|ip| Some(ip["address"].as_str()?.to_owned())).collect());
        }
        Ok(recorded)
    };
    let agree = eventually(Duration::from_secs(15), || recorded().is_ok_and(|recorded| recorded == model));
    ensure!(agree, "the daemon has {:#?}, and the runtime {model:#?}", recorded()?);

    let began = Instant::now();
    for (sandbox, result) in &sandboxes {
        sandbox.cni("CHECK").set("prevResult", result.clone()).run()?;
        let first: std::net::IpAddr = addresses(result)[0].parse()?;
        ensure!(node.ping(first, &["-c1", "-W1"])?.received == 1, "{} does not answer", sandbox.name());
    }
    eprintln!("{} pods checked in {:?}", sandboxes.len(), began.elapsed());
    for (sandbox, _) in &sandboxes {
        sandbox.cni("DEL").run()?;
        assert_eq!(sandbox.netns().links()?, ["lo"]);
    }
    node.is_left_clean()?;
    eprintln!(
        "{kills} kills in the midst of {} ADD and DEL, seed {SEED:#x}: no address lost or given twice, nothing left over",
        done.into_inner()
    );
    Ok(())
}

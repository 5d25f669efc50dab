//! Many pods at once.

use std::{collections::HashSet, thread};

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{Daemon, Machine, Node, Pod},
};

const PODS: usize = 100;
const AT_ONCE: usize = 20;
/// What the daemon may hold in memory with all of them, in KiB.
const OWN_MEMORY_KIB: u64 = 8 * 1024;

#[test]
fn a_hundred_pods_come_and_go_twenty_at_a_time_and_leave_nothing() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let mut pods: Vec<Pod<'_>> = Vec::new();
    thread::scope(|scope| -> Result<()> {
        let node = &node;
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|worker| {
                scope.spawn(move || -> Result<Vec<Pod<'_>>> {
                    (worker..PODS).step_by(AT_ONCE).map(|n| node.add_pod(&format!("pod-{n}"))).collect()
                })
            })
            .collect();
        for worker in workers {
            pods.extend(worker.join().expect("the thread ran")?);
        }
        Ok(())
    })?;
    let addresses: HashSet<_> = pods.iter().flat_map(Pod::addresses).collect();
    assert_eq!(addresses.len(), 2 * PODS, "addresses are distinct");
    for pod in &pods {
        pod.check()?;
    }
    for (from, to) in pods.iter().zip(pods.iter().rev()).step_by(10) {
        ensure!(from.ping(to.ipv4(), &["-c1", "-W1"])?.received == 1, "{} to {}", from.name(), to.name());
        ensure!(from.ping(to.ipv6(), &["-c1", "-W1"])?.received == 1, "{} to {}", from.name(), to.name());
    }
    let own = node.daemon().as_ref().map(Daemon::own_memory_kib).transpose()?.unwrap_or(0);
    ensure!((1..=OWN_MEMORY_KIB).contains(&own), "the daemon holds {own} KiB");
    thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = pods
            .chunks(PODS / AT_ONCE)
            .map(|chunk| scope.spawn(|| chunk.iter().try_for_each(Pod::del)))
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("the thread ran"))
    })?;
    node.is_left_clean()?;
    for pod in &pods {
        assert_eq!(pod.netns().links()?, ["lo"], "{}", pod.name());
    }
    Ok(())
}

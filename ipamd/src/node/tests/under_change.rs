//! ADD, DEL and status while a large change of the cluster is under way.

use std::{
    future::Future,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ipamd_waiting::{eventually_async, time_passes};
use tokio::time::timeout;

use ipamd_model::endpoint::Slot;

use crate::node::commit::Patience;

use super::*;

/// What must not wait for the change. It is under way for as long as the test says, so this only ends a test that fails.
const AT_ONCE: Duration = Duration::from_secs(10);

/// A change of policies that goes on until it is told to end.
struct Change {
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Change {
    fn begin(bench: &Bench) -> Self {
        let policy = Arc::clone(bench.node().policy());
        let (end, ended) = mpsc::channel();
        let (begun, has_begun) = mpsc::channel();
        let thread = thread::spawn(move || {
            policy.stall(|| {
                begun.send(()).unwrap();
                let _ = ended.recv();
            });
        });
        has_begun.recv().unwrap();
        Self { end: Some(end), thread: Some(thread) }
    }

    async fn end(mut self, bench: &Bench) {
        drop(self.end.take());
        self.thread.take().unwrap().join().unwrap();
        // Who waits for the state to take in what came has it soon.
        assert!(eventually_async(AT_ONCE, async || !bench.node().policy().waits()).await);
    }
}

async fn at_once<T>(what: impl Future<Output = T>) -> T {
    timeout(AT_ONCE, what).await.expect("it waited for the change")
}

impl Bench {
    fn slot(&self, id: &str) -> Slot {
        self.node().state().records[&key(id)].committed.unwrap().slot
    }
}

#[tokio::test]
async fn an_add_goes_on_cut_off_and_its_policy_follows() {
    let bench = Bench::new();
    bench.add("a").await;
    let change = Change::begin(&bench);
    at_once(bench.add("b")).await;
    let (a, b) = (bench.slot("a"), bench.slot("b"));
    assert_ne!(a, b);
    assert!(bench.tables.postures().contains_key(&a));
    assert!(!bench.tables.postures().contains_key(&b), "nothing passes whose policy is not there");
    let status = bench.node().status();
    assert_eq!((status.endpoints, status.ready), (2, true));
    assert_eq!(at_once(async { bench.node().check(&key("b")).faults }).await, Vec::<String>::new());
    change.end(&bench).await;
    assert!(bench.tables.postures().contains_key(&b));
    assert_eq!(bench.node().policy().problems(), Vec::<String>::new());
}

#[tokio::test]
async fn a_del_does_not_wait_either_and_who_comes_again_is_cut_off_until_its_policy_is_there() {
    let bench = Bench::new();
    bench.add("a").await;
    bench.add("b").await;
    let (a, b) = (bench.slot("a"), bench.slot("b"));
    let change = Change::begin(&bench);
    at_once(bench.node().release(&key("a"))).await.unwrap();
    at_once(bench.node().release(&key("b"))).await.unwrap();
    assert!(bench.kernel.lock().endpoints.is_empty(), "both are cut off");
    at_once(bench.add("b")).await;
    let again = bench.slot("b");
    assert!(!bench.tables.postures().contains_key(&again), "it is not judged as the one before");
    change.end(&bench).await;
    assert_eq!(bench.tables.postures().into_keys().collect::<Vec<_>>(), [again]);
    assert!(![a, b].contains(&again));
    // One that is gone before it was taken in is gone.
    let change = Change::begin(&bench);
    at_once(bench.node().release(&key("b"))).await.unwrap();
    at_once(bench.add("b")).await;
    at_once(bench.node().release(&key("b"))).await.unwrap();
    change.end(&bench).await;
    assert!(bench.tables.postures().is_empty(), "{:?}", bench.tables.postures());
    let places = [bench.add("a").await, bench.add("b").await].map(|_| ());
    assert_eq!(places.len(), 2);
    assert_ne!(bench.slot("a"), bench.slot("b"));
}

#[tokio::test]
async fn patience_is_short_with_changes_of_the_cluster_and_is_had_once_for_policy_and_services() {
    let bench = Bench::new();
    let (node, long) = (bench.node(), Duration::from_millis(30));
    let begun_before = |time| Patience::begun_at(Instant::now().checked_sub(time).unwrap(), node);
    let of_others = begun_before(Duration::from_millis(500));
    assert!(!of_others.is_over(node), "nothing changes: it waits for other pods");
    let waiting = begun_before(Duration::from_millis(60));
    node.services.stall(|| time_passes(long, "time is what is counted"));
    assert!(waiting.is_over(node), "whichever of them it was, and though it is between two turns now");
    assert!(begun_before(Duration::from_secs(2)).is_over(node));
}

#[tokio::test]
async fn ports_of_the_node_follow_too() {
    let bench = Bench::new();
    let services = Arc::clone(&bench.node().services);
    let mapping = ipamd_api::PortMapping { host_ip: None, host_port: 8080, container_port: 80, protocol: 6 };
    services.set_host_ports_later(&key("a"), vec![mapping], vec![[10, 0, 0, 2].into()]);
    assert!(services.needs_taking() && !services.needs_taking(), "one is enough");
    services.take();
    assert!(!services.needs_taking(), "there is nothing left to take in");
}

//! A disk that takes nothing for a while: what need not be durable waits for nothing, and what must be waits and comes.

use std::{pin::pin, time::Duration};

use tokio::time::timeout;

use super::*;
use ipamd_store::Batch;

/// What is not to come meanwhile has so long to come all the same.
const MOMENT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_disk_that_hangs_cuts_nobody_off_late_and_lets_nobody_pass_early() {
    let bench = Bench::new();
    bench.add("a").await;
    let disk = bench.node().store.hold();
    // Whoever goes is cut off at once; that it is gone is said when it is so for good.
    let key = key("a");
    let mut leaving = pin!(bench.node().release(&key));
    assert!(timeout(MOMENT, &mut leaving).await.is_err(), "its record is still on the disk");
    assert!(bench.kernel.lock().endpoints.is_empty());
    // Whoever comes has its addresses at once, and passes nothing before its record is durable.
    let mut coming = pin!(bench.add("b"));
    assert!(timeout(MOMENT, &mut coming).await.is_err(), "its record is not on the disk");
    assert!(bench.kernel.lock().endpoints.is_empty());
    // Nobody who asks waits for the disk.
    let status = bench.node().status();
    assert_eq!((status.ready, status.endpoints), (true, 0));
    assert_eq!(bench.node().unready(), None);
    let reserved = bench.node().endpoints();
    assert_eq!(reserved.iter().map(|it| it.state).collect::<Vec<_>>(), [EndpointState::Reserved]);
    drop(disk);
    leaving.await.unwrap();
    coming.await;
    assert_eq!(bench.kernel.lock().endpoints.len(), 2);
    assert_eq!(bench.node().endpoints()[0].state, EndpointState::Ready);
}

#[tokio::test]
async fn more_than_a_slow_disk_has_room_for_is_refused_and_what_was_queued_is_written() {
    let mut bench = Bench::new();
    bench.add("a").await;
    let disk = bench.node().store.hold();
    let reserved = bench.node().reserve(&request("b"));
    assert_eq!(reserved.unwrap().addresses.len(), 2);
    // More of them than the queue takes are refused, and none waits.
    let refused = (0..2_000).find_map(|_| bench.node().submit(Batch::new()).err());
    assert!(
        refused.is_some_and(|error| error.message.contains("too far behind")),
        "the queue has an end, and nobody waits for it"
    );
    drop(disk);
    bench.restart();
    let known: Vec<_> = bench.node().endpoints().into_iter().map(|it| it.key.container_id).collect();
    assert_eq!(known, ["a", "b"], "what was queued is written before the store closes");
}

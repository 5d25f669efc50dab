//! `sessionAffinity: ClientIP` as a client outside meets it.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{Asking, NODE4, NODE6, Node, time_passes},
};
use serde_json::json;

use crate::shop::{NODE_PORT, at, shop};

/// Seconds of affinity; the programs' clock counts steps of a little more than one.
const LASTS: u64 = 2;

#[test]
fn a_client_outside_keeps_its_backend_for_the_time_and_meets_another_after_it() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    let affine = json!({
        "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": LASTS}},
    });
    shop.serve(&node, &affine, &json!({}))?;
    for to in [at(NODE4, NODE_PORT), at(NODE6, NODE_PORT)] {
        // As long as it goes on, over more than a turn of the choice.
        let first = node.neighbour.ask_tcp(to)?.name;
        for _ in 0..20 {
            time_passes(
                Duration::from_millis(LASTS * 250),
                "a client comes again within the time of the affinity",
            );
            let now = node.neighbour.ask_tcp(to)?.name;
            ensure!(now == first, "{to}: {now} in place of {first}");
        }
        // Then, with pauses that are longer than the affinity, it meets another within ten tries.
        let mut tries = 0..10;
        let moves = tries.any(|_| {
            time_passes(Duration::from_secs(LASTS * 2), "the affinity ends by the clock of the programs");
            node.neighbour.ask_tcp(to).is_ok_and(|answer| answer.name != first)
        });
        ensure!(moves, "{to}: the client is sent to {first} for ever");
        // And stays there.
        let second = node.neighbour.ask_tcp(to)?.name;
        ensure!(second != first && node.neighbour.ask_tcp(to)?.name == second);
    }
    Ok(())
}

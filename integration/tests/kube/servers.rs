//! Servers of every version, and what they answer to a list that is asked for as a stream.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::testbed::time_passes;
use integration::{apiserver::Streaming, needs_root, testbed::eventually};
use serde_json::json;

use super::scene::{PATIENCE, Scene, guard};

/// Within how long a daemon serves beside any server, on a machine that runs other tests: most of it is the kernel's, which verifies
/// the programs. A stream that says nothing is waited for three seconds; a client without such a limit waits for 30 or more.
const SECONDS: Duration = Duration::from_secs(25);

/// Servers by their answer, and whether one line in the log says that they do not stream.
const SERVERS: [(&str, Streaming, bool); 18] = [
    ("1.32, 1.34, 1.35 and 1.36 as they are", Streaming::Whole, false),
    ("1.30, 1.31 and 1.33 as they are, or the gate off", Streaming::Refused, true),
    ("the gate on over an etcd before 3.4.31 or 3.5.13", Streaming::OldEtcd, true),
    ("one that ignores the parameter", Streaming::Unknown, true),
    ("one that never sends headers", Streaming::Headerless, true),
    ("one that ends the stream", Streaming::Ends, true),
    ("one that breaks the stream off", Streaming::Breaks, true),
    ("one that sends a page of HTML", Streaming::Garbage, true),
    ("400", Streaming::Code(400), true),
    ("401", Streaming::Code(401), false),
    ("403", Streaming::Code(403), false),
    ("404", Streaming::Code(404), false),
    ("405", Streaming::Code(405), true),
    ("410", Streaming::Code(410), false),
    ("429", Streaming::Code(429), false),
    ("500", Streaming::Code(500), true),
    ("501", Streaming::Code(501), true),
    ("503", Streaming::Code(503), false),
];

impl Scene {
    /// How often a list was asked for as a stream, so far.
    fn streams(&self) -> usize {
        self.server.requests().iter().filter(|it| it.contains("sendInitialEvents=true")).count()
    }

    fn lines_of(&self, words: &str) -> usize {
        self.node.log().lines().filter(|line| line.contains(words)).count()
    }
}

#[test]
fn beside_any_server_a_node_is_ready_within_seconds_and_says_so_once() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    for (server, streaming, is_refusal) in SERVERS {
        scene.server.behave(|it| it.streaming = streaming);
        scene.server.put(guard("first"));
        let before = ["does not stream lists", "list or watch failed", "list and watch work again"]
            .map(|words| scene.lines_of(words));
        // Nothing may come from the copy.
        let _ = std::fs::remove_dir_all(scene.node.state_dir().join("cluster"));
        let begun = Instant::now();
        scene.node.start_daemon()?;
        scene.wait_for_policies(&["first"])?;
        scene.wait_until_live(true)?;
        let took = begun.elapsed();
        ensure!(took < SECONDS, "{server}: {took:?}\n{}", scene.node.log());
        println!("{server}: ready after {took:.1?}");
        scene.server.put(guard("second"));
        scene.wait_for_policies(&["first", "second"])?;

        // What has refused is not asked again, though everything must be listed anew.
        let streams = scene.streams();
        scene.server.behave(|it| it.silent = true);
        scene.server.delete("networkpolicies.networking.k8s.io", "shop/second");
        scene.server.compact();
        scene.server.behave(|it| it.silent = false);
        scene.server.end_watches();
        scene.wait_for_policies(&["first"])?;
        scene.wait_until_live(true)?;
        if is_refusal {
            let again = scene.streams() - streams;
            ensure!(again == 0, "{server}: asked for a stream {again} times more");
        }
        let said = scene.lines_of("does not stream lists") - before[0];
        ensure!(said == usize::from(is_refusal), "{server}: {said} lines\n{}", scene.node.log());
        scene.node.stop_daemon()?;
    }
    Ok(())
}

#[test]
fn a_server_that_refuses_streams_is_no_trouble() -> Result<()> {
    needs_root!();
    for streaming in [Streaming::Refused, Streaming::OldEtcd, Streaming::Code(500)] {
        let scene = Scene::new()?;
        scene.server.behave(|it| it.streaming = streaming);
        scene.node.start_daemon()?;
        scene.wait_until_live(true)?;
        time_passes(Duration::from_secs(5), "if it asked again and again, there would be several rounds");
        let requests = scene.server.requests().len();
        time_passes(Duration::from_secs(3), "there would be more rounds");
        let log = scene.node.log();
        for words in ["list or watch failed", "list and watch work again"] {
            ensure!(!log.contains(words), "{streaming:?}: {log}");
        }
        let more = scene.server.requests().split_off(requests);
        ensure!(more.len() < 10, "{streaming:?}: asked again and again: {more:?}");
    }
    Ok(())
}

#[test]
fn an_aggregated_server_that_streams_nothing_costs_the_others_no_streams() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    let tiers = "tiers.projectcalico.org";
    scene.server.serve(tiers, true);
    scene.server.put(
        json!({"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "default"}, "spec": {}}),
    );
    scene.server.behave(|it| it.streams_not = Some("projectcalico.org"));
    scene.node.start_daemon()?;
    scene.wait_until_live(true)?;
    let lists =
        |part: &str| scene.server.requests().iter().any(|it| it.contains(part) && it.contains("limit="));
    ensure!(lists("/tiers?"), "{:?}", scene.server.requests());
    ensure!(!lists("/pods?"), "{:?}", scene.server.requests());
    ensure!(eventually(PATIENCE, || scene.lines_of("does not stream lists") == 1), "{}", scene.node.log());
    Ok(())
}

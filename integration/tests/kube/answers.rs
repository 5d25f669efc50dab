//! Lists in pages, servers that are busy or fail, both versions of HTTP, and compressed answers.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::{
    apiserver::{Compresses, Streaming},
    needs_root,
    testbed::{Machine, eventually},
};
use serde_json::json;

use super::scene::{PATIENCE, Scene, guard};

/// A server without streams that has many namespaces, the last of which is selected by nobody.
fn paged() -> Result<Scene> {
    let scene = Scene::new()?;
    scene.server.behave(|server| server.streaming = Streaming::Refused);
    for number in 0..1100 {
        let name = format!("s{number}");
        let labels = json!({"number": number.to_string(), "padding": "x".repeat(60)});
        scene.server.put(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}),
        );
    }
    scene.server.put(guard("first"));
    Ok(scene)
}

impl Scene {
    /// The lists of namespaces that were begun, by their limits.
    fn limits(&self) -> Vec<String> {
        let requests = self.server.requests();
        let lists = requests.iter().filter(|it| {
            it.contains("/namespaces?") && !it.contains("watch=true") && !it.contains("continue=")
        });
        let limit = |it: &String| it.split_once("limit=").map_or("none", |it| it.1).to_owned();
        lists.map(limit).collect()
    }

    fn follows(&self) -> Result<()> {
        self.wait_for_policies(&["first"])?;
        self.server.put(guard("second"));
        self.wait_for_policies(&["first", "second"])?;
        self.wait_until_live(true)
    }
}

#[test]
fn a_list_whose_rest_is_forgotten_is_begun_anew_and_never_mended_with_another() -> Result<()> {
    needs_root!();
    for (forgotten, limits) in [(1, vec!["500", "5000"]), (0, vec!["500"])] {
        let scene = paged()?;
        scene.server.behave(|server| server.forgets_rests = forgotten);
        scene.node.start_daemon()?;
        scene.follows()?;
        ensure!(scene.limits() == limits, "{:?}", scene.limits());
        let requests = scene.server.requests();
        ensure!(!requests.iter().any(|it| it.contains("another-state")), "{requests:?}");
        let log = scene.node.log();
        ensure!(!log.contains("list or watch failed"), "{log}");
    }
    // More than fits on any page, all of whose rests are forgotten: at last it is asked for as a whole.
    let scene = paged()?;
    for number in 1100..5200 {
        let name = format!("s{number}");
        scene.server.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    }
    scene.server.behave(|server| server.forgets_rests = 2);
    scene.node.start_daemon()?;
    scene.follows()?;
    ensure!(scene.limits() == ["500", "5000", "none"], "{:?}", scene.limits());
    Ok(())
}

#[test]
fn a_busy_server_is_asked_again_when_it_says_and_not_before() -> Result<()> {
    needs_root!();
    for streaming in [Streaming::Whole, Streaming::Refused] {
        let scene = Scene::new()?;
        scene.server.put(guard("first"));
        scene.server.behave(|server| {
            server.streaming = streaming;
            // One for each of what is asked for at first.
            server.busy = 14;
        });
        let begun = Instant::now();
        scene.node.start_daemon()?;
        let took = begun.elapsed();
        ensure!(took >= Duration::from_secs(1), "{streaming:?}: only {took:?}");
        scene.follows()?;
        let early = scene.server.refused_too_early();
        ensure!(early == 0, "{streaming:?}: {early} requests before the time");
    }
    Ok(())
}

#[test]
fn a_server_that_fails_is_outlived() -> Result<()> {
    needs_root!();
    let scene = Scene::started()?;
    scene.server.put(guard("first"));
    scene.wait_for_policies(&["first"])?;
    for code in [500, 502, 503, 504, 429, 401, 408] {
        let all = ["networkpolicies", "pods", "services", "nodes"];
        scene.server.behave(|server| server.refuses = all.map(|it| (it, code)).into());
        scene.server.end_watches();
        scene.wait_until_live(false)?;
        scene.server.put(guard("second"));
        ensure!(scene.wait_for_policies(&["first"]).is_ok(), "{code}");
        scene.server.behave(|server| server.refuses.clear());
        scene.wait_for_policies(&["first", "second"])?;
        scene.wait_until_live(true)?;
        scene.server.delete("networkpolicies.networking.k8s.io", "shop/second");
        scene.wait_for_policies(&["first"])?;
    }
    Ok(())
}

#[test]
fn both_versions_of_http_are_spoken() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    scene.server.put(guard("first"));
    for (http2, version) in [(true, "HTTP/2.0"), (false, "HTTP/1.1"), (true, "HTTP/2.0")] {
        for streaming in [Streaming::Whole, Streaming::Refused] {
            scene.server.behave(|server| {
                server.http2 = http2;
                server.streaming = streaming;
            });
            scene.server.spoken();
            scene.node.start_daemon()?;
            scene.follows()?;
            let spoken: Vec<_> = scene.server.spoken().into_iter().collect();
            ensure!(spoken == [version], "{spoken:?}");
            // It goes, and comes back.
            scene.server.stop();
            scene.wait_until_live(false)?;
            scene.server.delete("networkpolicies.networking.k8s.io", "shop/second");
            scene.server.resume(scene.node.neighbour.netns())?;
            scene.wait_for_policies(&["first"])?;
            scene.wait_until_live(true)?;
            scene.node.stop_daemon()?;
        }
    }
    Ok(())
}

#[test]
fn compressed_answers_are_read() -> Result<()> {
    needs_root!();
    for (compresses, streaming) in [
        (Compresses::Large, Streaming::Refused),
        (Compresses::All, Streaming::Refused),
        (Compresses::All, Streaming::Whole),
    ] {
        let scene = paged()?;
        scene.server.behave(|server| {
            server.compresses = compresses;
            server.streaming = streaming;
        });
        scene.node.start_daemon()?;
        scene.follows()?;
        let compressed = scene.server.compressed();
        ensure!(compressed > 0, "{compresses:?} {streaming:?}: nothing was compressed");
    }
    Ok(())
}

/// A load balancer that takes everything, before a server that is stopped.
#[test]
fn a_server_that_takes_requests_and_never_answers_is_told_of() -> Result<()> {
    needs_root!();
    for http2 in [true, false] {
        let scene = Scene::new()?;
        scene.server.behave(|server| server.http2 = http2);
        scene.server.put(guard("first"));
        scene.node.start_daemon()?;
        scene.follows()?;
        scene.server.behave(|server| server.hangs_watches = true);
        scene.server.end_watches();
        // Half a minute is waited for the headers.
        let says = || scene.cluster().is_ok_and(|it| it["live"] == false);
        ensure!(eventually(Duration::from_mins(1), says), "{}", scene.cluster()?);
        let trouble = scene.cluster()?["trouble"].to_string();
        ensure!(trouble.contains("does not answer"), "{trouble}");
        scene.server.behave(|server| server.hangs_watches = false);
        ensure!(eventually(Duration::from_mins(1), || scene.cluster().is_ok_and(|it| it["live"] == true)));
        scene.server.delete("networkpolicies.networking.k8s.io", "shop/second");
        ensure!(eventually(PATIENCE, || scene.wait_for_policies(&["first"]).is_ok()));
    }
    Ok(())
}

/// A proxy that mixes up who asked, or a server that means another version: an empty list of something else is no empty list.
#[test]
fn an_answer_of_another_type_takes_nothing_away() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    scene.server.put(guard("first"));
    scene.server.behave(|server| server.streaming = Streaming::Refused);
    scene.node.start_daemon()?;
    scene.wait_for_policies(&["first"])?;
    scene.wait_until_live(true)?;
    let others =
        [("v1", "SecretList"), ("other/v9", "NetworkPolicyList"), ("meta.k8s.io/v1", "Table"), ("", "")];
    for (api_version, kind) in others {
        scene.server.behave(|server| server.lists_others = [("networkpolicies", (api_version, kind))].into());
        // Those who watch must list anew, of which only this one fails in the end.
        scene.server.compact();
        scene.server.end_watches();
        let says = |trouble: &str| trouble.contains("networkpolicies") && trouble.contains("makes no sense");
        let is_told = || scene.cluster().is_ok_and(|it| says(&it["trouble"].to_string()));
        ensure!(eventually(PATIENCE, is_told), "{}", scene.cluster()?);
        scene.wait_for_policies(&["first"])?;
        scene.server.behave(|server| server.lists_others.clear());
        ensure!(eventually(PATIENCE * 3, || scene.cluster().is_ok_and(|it| it["live"] == true)));
        scene.wait_for_policies(&["first"])?;
    }
    // Nor at a start, with a copy or without.
    scene.server.behave(|server| server.lists_others = [("networkpolicies", ("v1", "SecretList"))].into());
    scene.node.kill_daemon();
    let _ = std::fs::remove_dir_all(scene.node.state_dir().join("cluster"));
    scene.node.launch_daemon()?;
    let waits = || {
        let problems = scene.node.status().unwrap_or_default()["problems"].to_string();
        problems.contains("not listed yet: networkpolicies") && problems.contains("SecretList")
    };
    ensure!(eventually(PATIENCE, waits), "{:?}", scene.node.status());
    Ok(())
}

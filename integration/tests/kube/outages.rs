//! The server goes, and comes back.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, allowed, denied, eventually, hold, tcp, time_passes},
};
use serde_json::json;

use super::scene::{PATIENCE, Pods, Scene, guard};

#[test]
fn without_the_server_everything_goes_on_and_its_age_is_told() -> Result<()> {
    needs_root!();
    let scene = Scene::started()?;
    scene.server.put(guard("guard"));
    scene.wait_for_policies(&["guard"])?;
    let pods = Pods::start(&scene)?;
    scene.wait_until_live(true)?;
    ensure!(scene.cluster()?["age_seconds"] == 0, "{}", scene.cluster()?);

    scene.server.stop();
    scene.wait_until_live(false)?;
    pods.are_guarded()?;
    // A pod that is known comes back, one that nobody knows comes.
    pods.friend.del()?;
    let again = scene.node.kubelet_sandbox("shop/friend", "uid-of-friend")?.add()?;
    hold(allowed(&again, &pods.guarded, tcp(80)))?;
    let unknown = scene.node.kubelet_sandbox("shop/unknown", "no-uid")?.add()?;
    hold(denied(&unknown, &pods.guarded, tcp(80)))?;
    let aged = || scene.cluster().is_ok_and(|it| it["age_seconds"].as_u64().is_some_and(|age| age >= 2));
    ensure!(eventually(PATIENCE, aged), "{}", scene.cluster()?);
    let problems = scene.node.status()?["problems"].to_string();
    ensure!(problems.contains("is not up to date"), "{problems}");
    ensure!(scene.node.status()?["ready"] == true);

    // What happened meanwhile is made up for.
    scene.server.delete("networkpolicies.networking.k8s.io", "shop/guard");
    scene.server.put(guard("other"));
    scene.server.resume(scene.node.neighbour.netns())?;
    scene.wait_for_policies(&["other"])?;
    scene.wait_until_live(true)
}

#[test]
fn a_daemon_that_starts_without_the_server_goes_on_with_what_was_known() -> Result<()> {
    needs_root!();
    let scene = Scene::started()?;
    scene.server.put(guard("guard"));
    scene.wait_for_policies(&["guard"])?;
    let pods = Pods::start(&scene)?;
    scene.wait_until_live(true)?;
    time_passes(Duration::from_secs(3), "what is on disk may be some seconds old");
    scene.server.stop();
    scene.node.kill_daemon();
    pods.are_guarded()?;

    scene.node.start_daemon()?;
    let cluster = scene.cluster()?;
    ensure!(cluster["live"] == false && cluster["age_seconds"].is_u64(), "{cluster}");
    scene.wait_for_policies(&["guard"])?;
    pods.are_guarded()?;
    // Its pools are those of its Node, which only the copy knows.
    let stranger = scene.node.kubelet_sandbox("shop/unknown", "no-uid")?.add()?;
    hold(denied(&stranger, &pods.guarded, tcp(80)))?;

    // A policy that went while nobody looked goes when the server is back, and nothing else does.
    scene.server.delete("networkpolicies.networking.k8s.io", "shop/guard");
    scene.server.resume(scene.node.neighbour.netns())?;
    scene.wait_for_policies(&[])?;
    scene.wait_until_live(true)?;
    pods.are_open()
}

#[test]
fn a_restart_beside_the_server_disturbs_nobody() -> Result<()> {
    needs_root!();
    let scene = Scene::started()?;
    scene.server.put(guard("guard"));
    scene.wait_for_policies(&["guard"])?;
    let pods = Pods::start(&scene)?;
    for gracefully in [false, true] {
        if gracefully {
            scene.node.stop_daemon()?;
        } else {
            scene.node.kill_daemon();
        }
        scene.server.put(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("n{gracefully}")}}),
        );
        scene.node.start_daemon()?;
        scene.wait_until_live(true)?;
        pods.are_guarded()?;
    }
    Ok(())
}

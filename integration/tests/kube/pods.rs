//! What the API says of pods decides what they may do, from their first packet on.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, allowed, denied, eventually, hold, tcp, throughout},
};
use serde_json::json;

use super::scene::{PATIENCE, Pods, Scene, addresses, guard, pod_object};

#[test]
fn policies_of_the_server_are_in_force_and_follow_it() -> Result<()> {
    needs_root!();
    let scene = Scene::started()?;
    scene.server.put(guard("guard"));
    scene.wait_for_policies(&["guard"])?;
    let pods = Pods::start(&scene)?;
    pods.are_guarded()?;

    // A stranger becomes a friend.
    let befriended =
        pod_object("stranger", "uid-of-stranger", &json!({"app": "friend"}), &addresses(&pods.stranger));
    scene.server.put(befriended);
    ensure!(eventually(PATIENCE, || pods.are_open().is_ok()), "the new label does not count");
    scene.server.delete("networkpolicies.networking.k8s.io", "shop/guard");
    scene.wait_for_policies(&[])?;
    pods.are_open()
}

#[test]
fn a_pods_labels_count_from_the_start_however_late_the_watch_is() -> Result<()> {
    needs_root!();
    let scene = Scene::started()?;
    scene.server.put(guard("guard"));
    scene.wait_for_policies(&["guard"])?;
    let stranger = scene.start_pod("stranger", &json!({"app": "stranger"}))?;
    scene.server.behave(|server| server.silent = true);
    // Of these the watch tells nothing.
    let guarded = scene.start_pod("guarded", &json!({"app": "guarded"}))?;
    let listeners = guarded.serve(guarded.addresses(), &[tcp(80)])?;
    hold(denied(&stranger, &guarded, tcp(80)))?;
    let friend = scene.start_pod("friend", &json!({"app": "friend"}))?;
    hold(allowed(&friend, &guarded, tcp(80)))?;
    // The same name, but another pod; the old one's labels must not count for it.
    let uid = "another-uid";
    scene.server.delete("pods", "shop/stranger");
    scene.server.put(pod_object("stranger", uid, &json!({"app": "friend"}), &[]));
    stranger.del()?;
    drop(stranger);
    let again = scene.node.kubelet_sandbox("shop/stranger", uid)?.add()?;
    hold(allowed(&again, &guarded, tcp(80)))?;
    // When the watch catches up, it tells of older states first, and that the old one is gone.
    scene.server.behave(|server| server.silent = false);
    ensure!(throughout(Duration::from_secs(1), || hold(allowed(&again, &guarded, tcp(80))).is_ok()));
    drop(listeners);
    Ok(())
}

#[test]
fn a_pod_that_the_server_does_not_know_is_added() -> Result<()> {
    needs_root!();
    let scene = Scene::started()?;
    let unknown = scene.node.kubelet_sandbox("shop/unknown", "some-uid")?.add()?;
    ensure!(unknown.addresses().len() == 2);
    Ok(())
}

#[test]
fn services_of_the_server_are_served() -> Result<()> {
    needs_root!();
    let scene = Scene::started()?;
    let pods = Pods::start(&scene)?;
    scene.server.put(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "type": "ClusterIP",
            "ports": [{"port": 8080, "targetPort": 80, "protocol": "TCP"}],
        },
    }));
    scene.server.put(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
        "endpoints": [{
            "addresses": [pods.guarded.ipv4().to_string()], "conditions": {"ready": true}, "nodeName": "node",
            "targetRef": {"kind": "Pod", "name": "guarded", "namespace": "shop"},
        }],
    }));
    let answers = || {
        pods.friend.netns().inside(|| {
            let address = ([10, 96, 0, 10], 8080).into();
            std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
        })
    };
    ensure!(eventually(PATIENCE, answers), "the service does not answer");
    scene.server.delete("services", "shop/web");
    ensure!(eventually(PATIENCE, || !answers()), "the service is still there");
    Ok(())
}

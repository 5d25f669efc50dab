//! What the daemon does with the API is what the manifest's role lets it do, and nothing of that is too much.

use anyhow::{Result, ensure};
use integration::{
    apiserver::{Right, Streaming},
    manifests, needs_root,
    testbed::{Machine, NEIGHBOUR4, eventually},
};
use serde_json::json;

use super::scene::{PATIENCE, Scene, pod_object};

#[test]
fn the_manifests_role_is_what_the_daemon_needs() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    let role = Right::of_role(&manifests::find("cambric.yaml", "ClusterRole")?);
    ensure!(
        role.iter().all(|right| ![&right.verb, &right.group, &right.resource].contains(&&"*".to_owned()))
    );
    // A server that has every resource, but streams no lists: so clients list and watch.
    scene.server.behave(|server| {
        server.rights = Some(role.clone());
        server.streaming = Streaming::Refused;
    });
    for file in ["crds/calico.yaml", "crds/cluster-network-policy.yaml"] {
        for definition in manifests::read(file)? {
            scene.server.serve(definition["metadata"]["name"].as_str().unwrap_or_default(), true);
            scene.server.put(definition);
        }
    }
    // One that cannot be understood is told of.
    scene.server.put(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "odd", "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"a/b/c": "x"}}},
    }));
    scene.server.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}));
    let mut node = scene.server.get("nodes", "node").unwrap_or_default();
    node["status"]["conditions"] = json!([{"type": "NetworkUnavailable", "status": "True"}]);
    scene.server.put(node);
    scene.node.start_daemon()?;
    // One that the watch does not tell of is asked for.
    scene.server.behave(|server| server.silent = true);
    scene.server.put(pod_object("late", "uid", &json!({}), &[]));
    let late = scene.node.kubelet_sandbox("shop/late", "uid")?.add()?;
    ensure!(late.reaches(NEIGHBOUR4)?);
    scene.server.behave(|server| server.silent = false);

    let used = || scene.server.used_rights();
    eventually(PATIENCE, || used() == role);
    let (used, role): (Vec<_>, Vec<_>) = (used().into_iter().collect(), role.into_iter().collect());
    let lacking: Vec<_> = used.iter().filter(|right| !role.contains(right)).collect();
    let unused: Vec<_> = role.iter().filter(|right| !used.contains(right)).collect();
    ensure!(lacking.is_empty(), "the role lacks {lacking:?}");
    ensure!(unused.is_empty(), "nobody needs {unused:?}");
    let events = scene.server.all("events.events.k8s.io");
    let of_odd: Vec<_> = events.iter().filter(|it| it["regarding"]["name"] == "odd").collect();
    ensure!(of_odd.len() == 1, "{events:?}");
    ensure!(
        of_odd[0]["metadata"]["namespace"] == "shop"
            && of_odd[0]["reason"] == "Refused"
            && of_odd[0]["type"] == "Warning"
            && of_odd[0]["note"].as_str().is_some_and(|note| note.contains("podSelector.matchLabels")),
        "{}",
        of_odd[0]
    );
    Ok(())
}

//! What a daemon waits for before it serves.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, Settings, eventually, time_passes},
};
use serde_json::json;

use super::scene::{PATIENCE, Pods, Scene, node_object};

impl Scene {
    /// Whether the daemon says that it waits for this.
    fn waits_for(&self, what: &str) -> Result<()> {
        let says = || {
            let status = self.node.status().unwrap_or_default();
            status["ready"] == false && status["problems"].to_string().contains(what)
        };
        ensure!(eventually(PATIENCE, says), "{:?}", self.node.status());
        // What the runtime is told, by STATUS and by ADD.
        let refusal = self.node.cni("STATUS", "").refusal()?;
        ensure!(refusal.code == 50 && refusal.to_string().contains(what), "{refusal:?}");
        let refusal = self.node.sandbox("early")?.cni("ADD").refusal()?;
        ensure!(refusal.code == 11, "{refusal:?}");
        // DEL succeeds whatever is missing.
        self.node.sandbox("early")?.cni("DEL").run()?;
        Ok(())
    }

    fn becomes_ready(&self) -> Result<()> {
        let ready = || self.node.status().is_ok_and(|status| status["ready"] == true);
        ensure!(eventually(PATIENCE, ready), "{:?}", self.node.status());
        self.node.cni("STATUS", "").run()?;
        self.node.add_pod("pod").map(drop)
    }
}

#[test]
fn a_daemon_waits_for_its_nodes_pod_cidrs() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    scene.server.delete("nodes", "node");
    scene.node.launch_daemon()?;
    scene.waits_for("has no Node named")?;
    scene.server.put(node_object(&json!([])));
    scene.waits_for("has no spec.podCIDRs")?;
    scene.server.put(node_object(&json!(["10.77.0.0/24"])));
    scene.becomes_ready()?;
    let pools = scene.node.ctl(&["ipam", "list"])?.to_string();
    ensure!(pools.contains("10.77.0.0/24"), "{pools}");
    Ok(())
}

#[test]
fn a_first_start_waits_for_the_server() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    scene.server.behave(|server| server.hangs = true);
    scene.node.launch_daemon()?;
    scene.waits_for("has not listed everything yet")?;
    scene.server.behave(|server| server.hangs = false);
    scene.server.stop();
    time_passes(Duration::from_millis(200), "the daemon tries again and meets no server");
    scene.server.resume(scene.node.neighbour.netns())?;
    scene.becomes_ready()
}

/// Rights are looked at before what there is, so a refusal says nothing of whether there are objects; nor does a server that does
/// not serve yet what is defined.
#[test]
fn without_a_copy_what_is_refused_is_not_taken_for_empty_and_what_is_in_force_stays() -> Result<()> {
    needs_root!();
    let scene = Scene::with(Settings::default().pools(&[]).flag("--metrics=127.0.0.1:9477"))?;
    let resource = "globalnetworkpolicies.projectcalico.org";
    scene.server.put(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": resource},
    }));
    scene.server.serve(resource, true);
    scene.server.put(json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "guard"},
        "spec": {
            "selector": "app == 'guarded'", "types": ["Ingress"],
            "ingress": [{"action": "Allow", "source": {"selector": "app == 'friend'"}}],
        },
    }));
    scene.node.start_daemon()?;
    scene.wait_for_policies(&["guard"])?;
    let pods = Pods::start(&scene)?;
    pods.are_guarded()?;
    for code in [403, 404] {
        scene.node.kill_daemon();
        let _ = std::fs::remove_dir_all(scene.node.state_dir().join("cluster"));
        scene.server.behave(|server| server.refuses = [("globalnetworkpolicies", code)].into());
        scene.node.launch_daemon()?;
        let why = format!("not listed yet: {resource}; {resource}: it says: as the test wants it ({code})");
        scene.waits_for(&why)?;
        pods.are_guarded()?;
        let mut probe = scene.node.netns().command("curl")?;
        probe.args(["-s", "--max-time", "5", "http://127.0.0.1:9477/readyz"]);
        let probed = String::from_utf8(probe.output()?.stdout)?;
        ensure!(probed.contains(&why), "{probed}");
        ensure!(scene.cluster()?["live"] == false, "{}", scene.cluster()?);
    }
    scene.server.behave(|server| server.refuses.clear());
    let ready = || scene.node.status().is_ok_and(|status| status["ready"] == true);
    ensure!(eventually(PATIENCE * 2, ready), "{:?}", scene.node.status());
    scene.wait_for_policies(&["guard"])?;
    pods.are_guarded()
}

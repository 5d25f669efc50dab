//! What a daemon waits for before it serves.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::{needs_root, testbed::eventually};
use serde_json::json;

use super::scene::{PATIENCE, Scene, node_object};

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
    scene.waits_for("has not told everything yet")?;
    scene.server.behave(|server| server.hangs = false);
    scene.server.stop();
    std::thread::sleep(Duration::from_millis(200));
    scene.server.resume(integration::testbed::Machine::netns(&scene.node.neighbour))?;
    scene.becomes_ready()
}

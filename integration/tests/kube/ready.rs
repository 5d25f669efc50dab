//! Whoever asks whether the node is ready hears the truth: the kubelet, which looks for a network configuration; the
//! cluster, by the node's condition; a probe.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, Settings, eventually},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::scene::{PATIENCE, Scene, node_object};

/// A scene whose daemon puts the plugin and the configuration in directories of the test's own.
struct Installing {
    scene: Scene,
    folder: TempDir,
}

impl Installing {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let dir = |name: &str| folder.path().join(name).display().to_string();
        let settings = Settings::default()
            .pools(&[])
            .flag(format!("--cni-conf-dir={}", dir("net.d")))
            .flag(format!("--cni-bin-dir={}", dir("bin")))
            .flag("--metrics=127.0.0.1:9477");
        Ok(Self { scene: Scene::with(settings)?, folder })
    }

    fn conflist(&self) -> PathBuf {
        self.folder.path().join("net.d/10-cambric.conflist")
    }

    fn plugin(&self) -> PathBuf {
        self.folder.path().join("bin/cambric")
    }

    /// What the readiness probe of the manifest is answered.
    fn probe(&self) -> Result<String> {
        self.get("readyz", &["-w", "%{http_code}"])
    }

    fn get(&self, path: &str, flags: &[&str]) -> Result<String> {
        let mut curl = self.scene.node.netns().command("curl")?;
        curl.args(["-s", "--max-time", "5"]).args(flags).arg(format!("http://127.0.0.1:9477/{path}"));
        Ok(String::from_utf8(curl.output()?.stdout)?)
    }

    /// One of the daemon's metrics, by its name and labels.
    fn metric(&self, name: &str) -> Option<u64> {
        let metrics = self.get("metrics", &[]).ok()?;
        metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    fn is_ready(&self) -> Result<()> {
        ensure!(
            eventually(PATIENCE, || self.conflist().exists()),
            "no configuration: {}",
            self.scene.node.log()
        );
        ensure!(eventually(PATIENCE, || self.probe().is_ok_and(|it| it == "ok\n200")), "{}", self.probe()?);
        let status = self.scene.node.ctl_output(&["status"])?.status;
        ensure!(status.success(), "{status}");
        Ok(())
    }

    fn condition(&self) -> Option<Value> {
        let node = self.scene.server.get("nodes", "node")?;
        node["status"]["conditions"].as_array()?.iter().find(|it| it["type"] == "NetworkUnavailable").cloned()
    }

    fn network_is_available(&self) -> Result<()> {
        let available = || self.condition().is_some_and(|it| it["status"] == "False");
        ensure!(eventually(PATIENCE, available), "{:?}", self.condition());
        Ok(())
    }
}

/// The node's object as clouds make it, until somebody has made routes.
fn without_network(cidrs: &Value) -> Value {
    let mut node = node_object(cidrs);
    node["status"]["conditions"] = json!([
        {"type": "Ready", "status": "False"},
        {"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"},
    ]);
    node
}

#[test]
fn a_node_is_ready_when_it_can_serve_and_not_before() -> Result<()> {
    needs_root!();
    let it = Installing::new()?;
    it.scene.server.put(without_network(&json!([])));
    // What a former boot has left.
    fs::create_dir_all(it.conflist().parent().context("a parent")?)?;
    fs::write(it.conflist(), "{}")?;
    it.scene.node.launch_daemon()?;
    let waits = || it.scene.node.status().is_ok_and(|it| it["problems"].to_string().contains("podCIDRs"));
    ensure!(eventually(PATIENCE, waits), "{:?}", it.scene.node.status());
    ensure!(!it.conflist().exists(), "the kubelet takes a node for ready that waits");
    let probed = it.probe()?;
    ensure!(probed.ends_with("\n503") && probed.contains("podCIDRs"), "{probed}");
    // It is as it should be, and not to be started anew.
    assert_eq!(it.get("healthz", &["-w", "%{http_code}"])?, "ok\n200");
    assert_eq!(it.get("metrics", &["-w", "%{http_code}", "-o", "/dev/null"])?, "503");
    let status = it.scene.node.ctl_output(&["status"])?.status;
    ensure!(status.code() == Some(1), "{status}");
    ensure!(it.condition().is_some_and(|it| it["status"] == "True"), "{:?}", it.condition());

    it.scene.server.put(without_network(&json!(["10.88.0.0/16", "fd00:88::/64"])));
    it.is_ready()?;
    it.network_is_available()?;
    let conditions =
        it.scene.server.get("nodes", "node").context("the node")?["status"]["conditions"].to_string();
    ensure!(conditions.contains("\"Ready\""), "the kubelet's own condition is gone: {conditions}");
    is_configuration(&it.conflist(), &it.scene.node.socket())?;
    // It is the plugin.
    let mut version = it.scene.node.netns().command(it.plugin())?;
    version.env("CNI_COMMAND", "VERSION");
    let told = String::from_utf8(version.output()?.stdout)?;
    ensure!(told.contains("supportedVersions"), "{told}");

    // Neither a restart nor a kill takes the node from the kubelet, with the server there or not.
    it.scene.node.stop_daemon()?;
    ensure!(it.conflist().exists());
    it.scene.server.stop();
    it.scene.node.start_daemon()?;
    it.is_ready()?;
    it.scene.node.kill_daemon();
    ensure!(it.conflist().exists() && it.plugin().exists());

    let uninstall = it.scene.node.folder().join("uninstall.toml");
    fs::write(
        &uninstall,
        format!(
            "state-dir = {:?}\nbpffs = {:?}\ncni-conf-dir = {:?}\ncni-bin-dir = {:?}\n",
            it.scene.node.state_dir(),
            it.scene.node.bpffs(),
            it.folder.path().join("net.d"),
            it.folder.path().join("bin")
        ),
    )?;
    it.scene.node.ctl(&["uninstall", "--config", &uninstall.display().to_string()])?;
    ensure!(!it.conflist().exists() && !it.plugin().exists(), "uninstalled, but still there");
    Ok(())
}

fn is_configuration(path: &Path, socket: &Path) -> Result<()> {
    let configuration: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
    let plugin = &configuration["plugins"][0];
    ensure!(plugin["type"] == "cambric" && plugin["socket"] == json!(socket), "{configuration}");
    Ok(())
}

#[test]
fn a_node_that_is_made_anew_is_told_of_again_and_refusals_are_outlived() -> Result<()> {
    needs_root!();
    let it = Installing::new()?;
    let cidrs = json!(["10.88.0.0/16", "fd00:88::/64"]);
    it.scene.server.put(without_network(&cidrs));
    it.scene.node.start_daemon()?;
    it.network_is_available()?;
    it.scene.server.delete("nodes", "node");
    it.scene.server.put(without_network(&cidrs));
    it.network_is_available()?;

    it.scene.server.delete("nodes", "node");
    it.scene.server.behave(|server| server.refuses = [("nodes/status", 403)].into());
    it.scene.server.put(without_network(&cidrs));
    let said = || it.scene.node.log().contains("cannot clear the node's condition NetworkUnavailable");
    ensure!(eventually(PATIENCE, said), "{}", it.scene.node.log());
    it.scene.server.behave(|server| server.refuses.clear());
    it.network_is_available()?;
    it.is_ready()
}

#[test]
fn a_cluster_that_does_not_tell_is_in_the_metrics() -> Result<()> {
    needs_root!();
    let it = Installing::new()?;
    it.scene.node.start_daemon()?;
    it.scene.wait_until_live(true)?;
    let [lists, expired, failures] = ["lists", "expired", "failures"]
        .map(|what| format!("cambric_cluster_{what}_total{{resource=\"pods\"}}"));
    let all = || it.get("metrics", &[]).unwrap_or_default();
    ensure!(it.metric("cambric_cluster_live") == Some(1), "{}", all());
    ensure!(
        [&lists, &expired, &failures].map(|name| it.metric(name)) == [Some(1), Some(0), Some(0)],
        "{}",
        all()
    );
    let problems = it.metric("cambric_problems");

    it.scene.server.stop();
    it.scene.wait_until_live(false)?;
    ensure!(it.metric("cambric_cluster_live") == Some(0), "{}", all());
    ensure!(it.metric("cambric_problems") == problems.map(|it| it + 1), "{}", all());
    ensure!(eventually(PATIENCE, || it.metric("cambric_cluster_age_seconds") >= Some(2)), "{}", all());
    ensure!(eventually(PATIENCE, || it.metric(&failures) >= Some(1)), "{}", all());

    // What happened meanwhile is forgotten.
    it.scene.server.compact();
    it.scene.server.resume(it.scene.node.neighbour.netns())?;
    it.scene.wait_until_live(true)?;
    let is_counted = || it.metric(&expired) == Some(1) && it.metric(&lists) == Some(2);
    ensure!(eventually(PATIENCE, is_counted), "{}", all());
    ensure!(it.metric("cambric_cluster_age_seconds") == Some(0), "{}", all());
    Ok(())
}

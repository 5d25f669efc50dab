//! The plugin, run on what runtimes really sent (`cni-plugin/tests/recordings`).

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, NODE4, NODE6, Netns, Node},
};
use serde_json::{Value, json};

/// A recorded call.
#[derive(serde::Deserialize)]
struct Recording {
    plugin: String,
    environment: BTreeMap<String, String>,
    stdin: String,
}

/// Every call of Cambric's plugin for a command, by the path of its file.
fn recordings(command: &str) -> Result<Vec<(PathBuf, Recording)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cni-plugin/tests/recordings");
    let mut all = Vec::new();
    for program in fs::read_dir(&folder)?.flatten().filter(|entry| entry.path().is_dir()) {
        for file in fs::read_dir(program.path())?.flatten() {
            let recording: Recording = serde_json::from_slice(&fs::read(file.path())?)?;
            if recording.plugin == "cambric" && recording.environment["CNI_COMMAND"] == command {
                all.push((file.path(), recording));
            }
        }
    }
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    ensure!(!all.is_empty(), "no recording of {command}");
    Ok(all)
}

/// Runs the plugin on a call as it was recorded, but for the places and addresses of this node. Returns what it printed.
fn replay(node: &Node, path: &Path, recording: &Recording, netns: &Netns) -> Result<Value> {
    let socket = node.socket();
    let stdin = recording.stdin.replace("/run/record/daemon/ipamd.sock", socket.to_str().context("a path")?);
    let stdin = stdin.replace("192.0.2.1", &NODE4.to_string()).replace("2001:db8::1", &NODE6.to_string());
    let mut plugin = node.netns().command(node.binaries().plugin())?;
    plugin.env_clear().envs(&recording.environment).env("CNI_NETNS", netns.path());
    let mut child = plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("a pipe")?.write_all(stdin.as_bytes())?;
    let out = child.wait_with_output()?;
    let printed = String::from_utf8_lossy(&out.stdout);
    ensure!(out.status.success(), "{}: {printed}", path.display());
    Ok(if printed.is_empty() { Value::Null } else { serde_json::from_str(&printed)? })
}

#[test]
fn the_plugin_serves_what_runtimes_sent() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let deletes = recordings("DEL")?;
    for (path, add) in recordings("ADD")? {
        let sandbox = node.sandbox("a")?;
        let result = replay(&node, &path, &add, sandbox.netns())?;
        ensure!(result["ips"].as_array().is_some_and(|ips| ips.len() == 2), "{}: {result}", path.display());
        let id = &add.environment["CNI_CONTAINERID"];
        let endpoints = node.ctl(&["endpoint", "list"])?;
        let of_it = |it: &&Value| it["key"]["container_id"] == id.as_str();
        let endpoint = endpoints.as_array().into_iter().flatten().find(of_it).context("an endpoint")?;
        let name = path.file_name().and_then(|name| name.to_str()).context("a name")?;
        let ports = endpoint["port_mappings"].as_array().map_or(0, Vec::len);
        let expected = if name.contains("udp") { 2 } else { usize::from(name.contains("host-port")) };
        ensure!(ports == expected, "{}: {endpoint}", path.display());
        ensure!((result["dns"] != json!({})) == name.contains("dns"), "{}: {result}", path.display());
        // The removal that was recorded, or else the same call as one.
        let same = |it: &&(PathBuf, Recording)| it.1.environment["CNI_CONTAINERID"] == *id;
        if let Some((path, del)) = deletes.iter().rfind(same) {
            replay(&node, path, del, sandbox.netns())?;
        } else {
            let mut environment = add.environment.clone();
            environment.insert("CNI_COMMAND".into(), "DEL".into());
            replay(&node, &path, &Recording { environment, ..add }, sandbox.netns())?;
        }
        node.is_left_clean().with_context(|| path.display().to_string())?;
    }
    let nowhere = node.sandbox("b")?;
    for command in ["STATUS", "GC"] {
        for (path, call) in recordings(command)? {
            let done = replay(&node, &path, &call, nowhere.netns());
            let refused = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("refused"));
            ensure!(done.is_err() == refused, "{}: {done:?}", path.display());
        }
    }
    Ok(())
}

#[test]
fn a_delete_without_a_readable_configuration_removes_what_the_container_has() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    for away in [false, true] {
        let pod = node.add_pod("a")?;
        let other = node.add_pod("b")?;
        if away {
            node.kill_daemon();
        }
        // The name is what somebody has spoilt; the socket can still be read.
        pod.cni("DEL").set("name", json!("../x")).set("cniVersion", json!("9.9.9")).run()?;
        ensure!(!node.pod_links()?.contains(&pod.host_ifname()), "its interface is gone");
        ensure!(node.pod_links()?.contains(&other.host_ifname()), "the other's is not");
        if away {
            node.start_daemon()?;
        }
        other.del()?;
        node.is_left_clean()?;
    }
    Ok(())
}

//! The CNI project's own `cnitool`.

use std::{env, path::PathBuf};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, Netns, Node, Settings},
};
use serde_json::{Value, json};

/// `CNITOOL`, or where `scripts/setup` builds it: Debian ships its source only.
fn cnitool() -> Result<PathBuf> {
    if let Some(path) = env::var_os("CNITOOL") {
        return Ok(path.into());
    }
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    let path = cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("cambric/cnitool");
    ensure!(path.exists(), "{} is missing: scripts/setup builds it, or name it by CNITOOL", path.display());
    Ok(path)
}

/// Cambric first, as usual.
fn first(node: &Node) -> Value {
    let mut plugin = node.config();
    plugin["capabilities"] = json!({"ips": true, "mac": true});
    json!({"cniVersion": "1.0.0", "name": "net", "plugins": [plugin, {"type": "tuning", "sysctl": {}}]})
}

/// The project's example of Cambric behind another plugin, with the places of a node.
fn behind(node: &Node) -> Result<Value> {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../conf/chained.conflist");
    let mut conflist: Value = serde_json::from_str(&std::fs::read_to_string(example)?)?;
    conflist["name"] = json!("net");
    conflist["plugins"][0]["ipam"]["dataDir"] = json!(node.folder().join("host-local"));
    conflist["plugins"][1]["socket"] = json!(node.socket());
    Ok(conflist)
}

/// Runs a command of cnitool for a namespace, with that conflist on a node.
fn run(node: &Node, conflist: &Value, command: &str, netns: &Netns) -> Result<String> {
    let conflists = node.folder().join("net.d");
    std::fs::create_dir_all(&conflists)?;
    std::fs::write(conflists.join("10-cambric.conflist"), conflist.to_string())?;
    let mut tool = node.netns().command(cnitool()?)?;
    tool.env("NETCONFPATH", &conflists).env("CNI_PATH", node.binaries().cni_path()).env("CNI_IFNAME", "eth0");
    let out = tool.arg(command).arg("net").arg(netns.path()).output().context("run cnitool")?;
    let text = String::from_utf8_lossy(&out.stdout);
    ensure!(out.status.success(), "cnitool {command}: {text}{}", String::from_utf8_lossy(&out.stderr));
    Ok(text.into_owned())
}

fn first_address(result: &str) -> Result<std::net::IpAddr> {
    let result: Value = serde_json::from_str(result)?;
    let text = result["ips"][0]["address"].as_str().context("an address")?;
    Ok(text.split('/').next().unwrap_or_default().parse()?)
}

fn two_namespaces_reach_each_other(node: &Node, conflist: &Value) -> Result<()> {
    let (a, b) = (node.sandbox("a")?, node.sandbox("b")?);
    let first = first_address(&run(node, conflist, "add", a.netns())?)?;
    let second = first_address(&run(node, conflist, "add", b.netns())?)?;
    assert!(a.reaches(second)? && b.reaches(first)? && node.reaches(first)?);
    run(node, conflist, "check", a.netns())?;
    run(node, conflist, "check", b.netns())?;
    run(node, conflist, "del", a.netns())?;
    run(node, conflist, "del", b.netns())?;
    node.is_left_clean()?;
    assert_eq!(a.netns().links()?, ["lo"]);
    Ok(())
}

#[test]
fn cnitool_adds_checks_and_removes_two_namespaces_that_reach_each_other() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    two_namespaces_reach_each_other(&node, &first(&node))
}

#[test]
fn cnitool_does_the_same_with_cambric_behind_another_plugin() -> Result<()> {
    needs_root!();
    let node = Node::start_with(Settings::default().behind_others())?;
    two_namespaces_reach_each_other(&node, &behind(&node)?)
}

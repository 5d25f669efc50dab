//! The CNI project's own `cnitool`.

use std::{env, path::PathBuf};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, Netns, Node},
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

/// Runs a command of cnitool for a namespace, with the conflists of a node.
fn run(node: &Node, command: &str, netns: &Netns) -> Result<String> {
    let conflists = node.folder().join("net.d");
    std::fs::create_dir_all(&conflists)?;
    let mut plugin = node.config();
    plugin["capabilities"] = json!({"ips": true, "mac": true});
    let conflist = json!({
        "cniVersion": "1.0.0", "name": "net", "plugins": [plugin, {"type": "tuning", "sysctl": {}}],
    });
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

#[test]
fn cnitool_adds_checks_and_removes_two_namespaces_that_reach_each_other() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let (a, b) = (node.sandbox("a")?, node.sandbox("b")?);
    let first = first_address(&run(&node, "add", a.netns())?)?;
    let second = first_address(&run(&node, "add", b.netns())?)?;
    assert!(a.reaches(second)? && b.reaches(first)? && node.reaches(first)?);
    run(&node, "check", a.netns())?;
    run(&node, "check", b.netns())?;
    run(&node, "del", a.netns())?;
    run(&node, "del", b.netns())?;
    ensure!(node.leftovers()?.is_empty(), "{:?}", node.leftovers()?);
    assert_eq!(a.netns().links()?, ["lo"]);
    Ok(())
}

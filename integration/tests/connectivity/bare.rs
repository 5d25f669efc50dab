//! On a node without an API server.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, NEIGHBOUR4, NEIGHBOUR6, Node, Settings, eventually},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use super::{
    resolver::Resolver,
    told::{Told, namespaces},
};

/// How long a run may take to come to something.
const PATIENCE: Duration = Duration::from_mins(1);

/// The command on a node whose network is `net`.
fn command(node: &Node, which: &str, args: &[&str]) -> Result<Command> {
    let conflists = node.folder().join("net.d");
    fs::create_dir_all(&conflists)?;
    let mut plugin = node.config();
    plugin["capabilities"] = json!({"portMappings": true});
    let conflist = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [plugin]});
    fs::write(conflists.join("10-cambric.conflist"), conflist.to_string())?;
    let mut command = node.netns().command(node.binaries().ctl())?;
    command.arg("--socket").arg(node.socket()).args(["-o", "json", "connectivity", which, "--bare"]);
    command.arg("--conf-dir").arg(&conflists);
    for folder in node.binaries().cni_path().split(':') {
        command.arg("--bin-dir").arg(folder);
    }
    command.arg("--manifests").arg(node.cluster()).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

fn test(node: &Node, args: &[&str]) -> Result<Told> {
    let dns = format!("--dns={NEIGHBOUR4}");
    let args = [&[dns.as_str()], args].concat();
    Ok(Told::read(&command(node, "test", &args)?.output()?))
}

/// Nothing of a run is on the node any more.
fn nothing_is_left(node: &Node, run: &str) -> Result<()> {
    ensure!(namespaces(run).is_empty(), "{:?} are left", namespaces(run));
    let manifests: Vec<_> = fs::read_dir(node.cluster())?.flatten().map(|it| it.file_name()).collect();
    ensure!(!manifests.iter().any(|it| it.to_string_lossy().contains(run)), "{manifests:?} are left");
    node.is_left_clean()?;
    let services = node.ctl(&["service", "list"])?;
    ensure!(!services.to_string().contains(run), "a service is left: {services}");
    Ok(())
}

#[test]
fn a_healthy_node_has_nothing_to_be_found_and_nothing_is_left_on_it() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let _resolver = Resolver::start(node.neighbour.netns(), NEIGHBOUR4.into())?;
    let told = test(&node, &[])?;
    told.is_all_well()?;
    // What policies were tried with is dropped by policies, and nothing else is.
    let drops = told.report["drops"].as_object().context("drops")?;
    ensure!(drops.contains_key("policy_ingress") && drops.contains_key("policy_egress"), "{drops:?}");
    nothing_is_left(&node, told.run()?)
}

#[test]
fn packets_are_led_as_well_as_sockets() -> Result<()> {
    needs_root!();
    let node = Node::start_with(Settings::default().cluster().flag("--socket-lb=off"))?;
    let _resolver = Resolver::start(node.neighbour.netns(), NEIGHBOUR4.into())?;
    test(&node, &[])?.is_all_well()
}

#[test]
fn a_policy_that_shuts_everybody_out_is_found_and_pointed_at() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shut = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: { name: shut }\n\
                spec: { order: 1, selector: \"role == 'server'\", types: [Ingress], ingress: [{ action: Deny }] }\n";
    node.apply("shut.yaml", shut)?;
    let told = test(&node, &["--patience=1", "--skip=dns"])?;
    ensure!(told.code == Some(1), "{told:?}");
    let failed = told.checks("failed");
    ensure!(failed.contains("pod-to-pod") && failed.contains("cluster-ip"), "{failed:?}");
    // What has nothing to do with servers is well.
    ensure!(
        ["outside", "hairpin", "pod-to-node"].iter().all(|it| !failed.contains(it)),
        "{}",
        told.failures()
    );
    ensure!(
        told.hints("pod-to-pod").contains("cambricctl monitor --verdict deny"),
        "{}",
        told.hints("pod-to-pod")
    );
    ensure!(told.report["drops"]["policy_ingress"].as_u64() > Some(0), "{}", told.report["drops"]);
    ensure!(told.checks("skipped").contains("dns"));
    nothing_is_left(&node, told.run()?)
}

#[test]
fn what_does_not_answer_is_told_apart_from_what_does() -> Result<()> {
    needs_root!();
    let node = Node::start_with(Settings::default().cluster().flag("--nodeport-addresses=203.0.113.0/24"))?;
    node.neighbour.netns().sysctl("net/ipv4/icmp_echo_ignore_all", "1")?;
    let told = test(&node, &["--patience=1", "--skip=dns", "--skip=host-port"])?;
    ensure!(told.code == Some(1), "{told:?}");
    let failed = told.checks("failed");
    ensure!(failed == ["node-port", "outside"].into(), "{}", told.failures());
    ensure!(told.hints("node-port").contains("nodeport-addresses"));
    ensure!(told.hints("outside").contains("masquerade"));
    // The other family of the same gateway answers.
    let six = NEIGHBOUR6.to_string();
    let answers =
        told.rows("ok").into_iter().any(|row| row["to"].as_str().is_some_and(|to| to.contains(&six)));
    ensure!(answers, "{}", told.failures());
    Ok(())
}

#[test]
fn without_a_daemon_or_a_network_nothing_is_said_about_the_network() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let told = test(&node, &["--network=other"])?;
    ensure!(told.code == Some(2), "{told:?}");
    node.stop_daemon()?;
    let told = test(&node, &[])?;
    ensure!(told.code == Some(2), "{told:?}");
    Ok(())
}

/// A run that takes long, and its name once it has come to a moment.
fn begun(node: &Node, moment: impl Fn(&str) -> bool) -> Result<(Child, String)> {
    // Nobody answers there, and it is waited for.
    let slow = ["--patience=60", "--outside=192.0.2.77", "--skip=dns"];
    let child = command(node, "test", &slow)?.spawn()?;
    let run = || {
        let endpoints = node.ctl(&["endpoint", "list"]).ok()?;
        Some(endpoints[0]["pod"]["namespace"].as_str()?.to_owned())
    };
    let mut found = None;
    let come = eventually(PATIENCE, || {
        found = found.take().or_else(run);
        found.as_deref().is_some_and(&moment)
    });
    ensure!(come, "the run does not come to it: {found:?}");
    Ok((child, found.unwrap_or_default()))
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let probes = |run: &str| node.cluster().join(format!("{run}.yaml")).exists();
    for (signal, early) in [(Signal::SIGINT, true), (Signal::SIGINT, false), (Signal::SIGTERM, false)] {
        let (child, run) = begun(&node, |run| early || probes(run))?;
        kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        let told = Told::read(&child.wait_with_output()?);
        ensure!(told.code == Some(2), "{signal}: {told:?}");
        nothing_is_left(&node, &run).with_context(|| format!("{signal}: {told:?}"))?;
    }
    Ok(())
}

#[test]
fn what_a_killed_run_has_left_is_removed_by_clean() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let is_probing = |run: &str| node.cluster().join(format!("{run}.yaml")).exists();
    let (mut child, run) = begun(&node, is_probing)?;
    child.kill()?;
    child.wait()?;
    ensure!(!namespaces(&run).is_empty());
    // Other tests of this machine may be under way.
    let out = command(&node, "clean", &[&run])?.output()?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    nothing_is_left(&node, &run)
}

//! Staged policies: real flows pass as they did, and it is known what would become of them.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Flowing, Listeners, Machine, Node, Pod, Settings, allowed, denied, eventually, hold, tcp},
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

/// What is in force: `closed` is spoken to by nobody.
const IN_FORCE: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: shop, name: shut }
spec: { podSelector: { matchLabels: { app: closed } }, policyTypes: [Ingress] }
";

/// `guarded` would be spoken to on port 80 only, and `closed` by everybody.
const STAGED: &str = "\
apiVersion: projectcalico.org/v3
kind: StagedNetworkPolicy
metadata: { namespace: shop, name: guard }
spec:
  selector: app == 'guarded'
  types: [Ingress]
  ingress:
  - { action: Deny, protocol: TCP, destination: { ports: [8080] } }
  - { action: Deny, protocol: TCP, destination: { ports: [81] } }
  - { action: Allow }
---
apiVersion: projectcalico.org/v3
kind: StagedKubernetesNetworkPolicy
metadata: { namespace: shop, name: shut }
spec: { stagedAction: Delete }
";

struct Scene<'n> {
    node: &'n Node,
    guarded: Pod<'n>,
    closed: Pod<'n>,
    friend: Pod<'n>,
    _listeners: Vec<Listeners>,
}

impl<'n> Scene<'n> {
    fn new(node: &'n Node) -> Result<Self> {
        node.apply("in-force.yaml", IN_FORCE)?;
        let [guarded, closed, friend] = ["guarded", "closed", "friend"]
            .map(|app| node.add_pod_of(&format!("shop/{app}"), &[("app", app)]));
        let (guarded, closed, friend) = (guarded?, closed?, friend?);
        let listeners = [&guarded, &closed].map(|pod| pod.serve(pod.addresses(), &[tcp(80), tcp(81)]));
        let listeners = listeners.into_iter().collect::<Result<_>>()?;
        Ok(Self { node, guarded, closed, friend, _listeners: listeners })
    }

    /// What is in force holds.
    fn holds(&self) -> Result<()> {
        let mut table = Vec::new();
        for port in [80, 81] {
            table.extend(allowed(&self.friend, &self.guarded, tcp(port)));
            table.extend(denied(&self.friend, &self.closed, tcp(port)));
        }
        hold(table)
    }

    /// What `policy list` says of a staged policy.
    fn staged(&self, name: &str) -> Result<Value> {
        let listing = self.node.ctl(&["policy", "list"])?;
        let staged = listing["staged"].as_array().context("a list of staged policies")?;
        let found = staged.iter().find(|it| it["policy"]["name"] == name);
        found.map(|it| it["staged"].clone()).with_context(|| format!("no {name} in {listing:#}"))
    }

    fn count(&self, name: &str, what: &str) -> u64 {
        self.staged(name).ok().and_then(|it| it[what].as_u64()).unwrap_or_default()
    }
}

#[test]
fn staged_policies_judge_real_flows_and_change_none() -> Result<()> {
    needs_root!();
    let node = Node::start_with(Settings::default().cluster().flag("--metrics=127.0.0.1:9477"))?;
    let scene = Scene::new(&node)?;
    scene.holds()?;
    // One that lives before there is something to try.
    let living =
        scene.friend.tcp_flow(&scene.guarded, (scene.guarded.ipv4(), 8080), Duration::from_millis(5))?;
    ensure!(living.goes_on());
    let monitor = node.monitor(&["--staged"])?;
    node.apply("staged.yaml", STAGED)?;
    ensure!(
        eventually(PATIENCE, || scene.count("guard", "live_would_deny") == 1),
        "{:#?}\n{}",
        scene.staged("guard"),
        node.log()
    );
    ensure!(scene.staged("shut")?["action"] == "delete" && scene.staged("shut")?["replaces"] == true);

    // Of new flows each is counted, and none is treated otherwise.
    scene.holds()?;
    let families = scene.guarded.addresses().len() as u64;
    let all = || {
        scene.count("guard", "would_deny") == families && scene.count("shut", "would_allow") >= 2 * families
    };
    ensure!(eventually(PATIENCE, all), "{:#?} {:#?}", scene.staged("guard")?, scene.staged("shut")?);
    ensure!(scene.count("guard", "would_allow") == 0 && scene.count("shut", "would_deny") == 0);
    ensure!(living.goes_on());

    // Who and because of what.
    let event = monitor.tells("what would be denied", |event| event["verdict"] == "deny")?;
    ensure!(event["kind"] == "staged" && event["destination"]["port"] == 81, "{event:#}");
    ensure!(event["source"]["pod"] == "shop/friend" && event["destination"]["pod"] == "shop/guarded");
    ensure!(event["rule"]["text"] == "StagedNetworkPolicy shop/guard ingress[1]", "{event:#}");
    let event = monitor.tells("what would be allowed", |event| event["verdict"] == "allow")?;
    ensure!(
        event["staged"][0]["name"] == "shut" && event["destination"]["pod"] == "shop/closed",
        "{event:#}"
    );
    let shown = node.ctl(&["policy", "show", "shop/guard"])?;
    ensure!(shown["trial"]["rules"].as_array().is_some_and(|rules| rules.len() == 2), "{shown:#}");
    ensure!(shown["trial"]["flows"].to_string().contains("shop/friend"), "{shown:#}");
    let trace =
        node.ctl(&["policy", "trace", "--from", "shop/friend", "--to", "shop/guarded", "--port", "tcp/81"])?;
    ensure!(trace["verdict"] == "allow" && trace["paths"][0]["staged"]["verdict"] == "deny", "{trace:#}");

    // Of how many.
    let status = node.status()?;
    let policy = &status["policy"];
    ensure!(policy["staged"] == 2 && policy["staged_would_deny"] == families, "{policy:#}");
    ensure!(policy["staged_lost"] == 0, "{policy:#}");
    let metrics = node.netns().run("curl", &["-s", "http://127.0.0.1:9477/metrics"])?;
    for line in [
        "cambric_policies{state=\"staged\"} 2".to_owned(),
        format!("cambric_staged_policy_flows_total{{outcome=\"would_deny\"}} {families}"),
    ] {
        ensure!(metrics.lines().any(|it| it == line), "{line} in\n{metrics}");
    }

    // A pipeline is told, too: of the staged policies of the cluster, or of files with them.
    let diff = node.ctl_output(&["-o", "json", "policy", "diff", "--staged"])?;
    ensure!(diff.status.code() == Some(1), "{diff:?}");
    let said: Value = serde_json::from_slice(&diff.stdout)?;
    ensure!(said.to_string().contains("8080"), "{said:#}");
    let open = STAGED.replace("action: Deny", "action: Allow").replace("Delete", "Ignore");
    let file = node.folder().join("open.yaml");
    fs::write(&file, open)?;
    let diff = node.ctl_output(&["policy", "diff", "--staged", file.to_str().context("a path")?])?;
    ensure!(diff.status.code() == Some(0), "{diff:?}");

    // A daemon that comes back goes on.
    node.stop_daemon()?;
    node.start_daemon()?;
    ensure!(eventually(PATIENCE, || scene.count("guard", "live_would_deny") >= 1), "{}", node.log());
    scene.holds()?;
    ensure!(eventually(PATIENCE, || scene.count("guard", "would_deny") >= families), "{}", node.log());
    ensure!(living.goes_on());

    // With the last of them the programs tell no flow any more.
    node.withdraw("staged.yaml")?;
    ensure!(eventually(PATIENCE, || node.status().is_ok_and(|it| it["policy"]["staged"] == 0)));
    scene.holds()
}

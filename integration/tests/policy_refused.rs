//! Policies that cannot be understood, or do not fit: they change nothing, and it is said why.

use std::{fmt::Write as _, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Listeners, Machine, Node, Pod, Settings, allowed, denied, eventually, hold, tcp},
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

/// `app=guarded` is spoken to by `app=friend` only.
const GUARD: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: guard
  namespace: shop
spec:
  podSelector:
    matchLabels: { app: guarded }
  ingress:
  - from:
    - podSelector:
        matchExpressions:
        - { key: app, operator: In, values: [friend] }
    ports:
    - port: 80
";

/// The same in Calico's words.
const CALICO_GUARD: &str = "\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  name: guard
spec:
  selector: app == 'guarded'
  types: [Ingress]
  ingress:
  - action: Allow
    protocol: TCP
    source:
      selector: app == 'friend'
";

struct Scene<'n> {
    guarded: Pod<'n>,
    friend: Pod<'n>,
    stranger: Pod<'n>,
    _listeners: Listeners,
}

impl<'n> Scene<'n> {
    fn new(node: &'n Node) -> Result<Self> {
        let [guarded, friend, stranger] = ["guarded", "friend", "stranger"]
            .map(|app| node.add_pod_of(&format!("shop/{app}"), &[("app", app)]));
        let guarded = guarded?;
        let listeners = guarded.serve(guarded.addresses(), &[tcp(80)])?;
        Ok(Self { guarded, friend: friend?, stranger: stranger?, _listeners: listeners })
    }

    fn is_guarded(&self) -> Result<()> {
        hold(
            [allowed(&self.friend, &self.guarded, tcp(80)), denied(&self.stranger, &self.guarded, tcp(80))]
                .concat(),
        )
    }

    fn is_open(&self) -> Result<()> {
        let open =
            [allowed(&self.friend, &self.guarded, tcp(80)), allowed(&self.stranger, &self.guarded, tcp(80))];
        hold(open.concat())
    }
}

/// What is said of a file that is refused, once it is about that field: it may still be about what was there before.
fn refusal(node: &Node, file: &str, field: &str) -> Result<Value> {
    let mut found = None;
    eventually(PATIENCE, || {
        let refused = node.refused_policies().unwrap_or_default();
        found = refused.into_iter().find(|it| it["file"].as_str().is_some_and(|path| path.ends_with(file)));
        found.as_ref().is_some_and(|it| it["field"] == field)
    });
    found.with_context(|| format!("{file} is not refused: {:?}", node.ctl(&["policy", "list"])))
}

fn nothing_is_refused(node: &Node) -> Result<()> {
    let mended = eventually(PATIENCE, || node.refused_policies().is_ok_and(|refused| refused.is_empty()));
    ensure!(mended, "still refused: {:?}", node.refused_policies());
    Ok(())
}

/// Something to replace, its replacement, and the line, the field and a word of the reason.
type Fault = (&'static str, &'static str, u64, &'static str, &'static str);

fn faults_change_nothing(guard: &str, faults: &[Fault]) -> Result<()> {
    let node = Node::in_cluster()?;
    let scene = Scene::new(&node)?;
    node.apply("guard.yaml", guard)?;
    scene.is_guarded()?;
    for (good, bad, line, field, reason) in faults {
        ensure!(guard.contains(good), "{good} is not in the policy");
        node.manifest("guard.yaml", &guard.replace(good, bad))?;
        let said = refusal(&node, "guard.yaml", field).context(*bad)?;
        ensure!(said["line"] == *line, "{bad}: line {line}: {said}");
        ensure!(said["field"].as_str().is_some_and(|said| said == *field), "{bad}: field {field}: {said}");
        ensure!(said["reason"].as_str().is_some_and(|said| said.contains(reason)), "{bad}: {reason}: {said}");
        scene.is_guarded().with_context(|| format!("while {bad} is refused"))?;
        let text = node.ctl_output(&["policy", "list"])?;
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        ensure!(text.contains(&format!("guard.yaml:{line}")) && text.contains(reason), "for people: {text}");
    }
    // A daemon that starts now has nothing to go on with for this pod, and says so.
    let mended = guard.replace("friend", "stranger");
    node.apply("guard.yaml", &mended)?;
    nothing_is_refused(&node)?;
    hold(
        [denied(&scene.friend, &scene.guarded, tcp(80)), allowed(&scene.stranger, &scene.guarded, tcp(80))]
            .concat(),
    )
}

#[test]
fn a_network_policy_with_a_fault_changes_nothing() -> Result<()> {
    needs_root!();
    faults_change_nothing(
        GUARD,
        &[
            ("  ingress:\n", "  ingres:\n", 9, "spec.ingres", "not known"),
            (
                "operator: In,",
                "operator: Within,",
                13,
                "spec.ingress[0].from[0].podSelector.matchExpressions[0].operator",
                "Within",
            ),
            ("port: 80", "port: 80000", 15, "spec.ingress[0].ports[0].port", "80000"),
            ("{ app: guarded }", "{ app: guarded", 9, "", ""),
            (
                "matchLabels: { app: guarded }",
                "matchLabels: { app: [guarded] }",
                8,
                "spec.podSelector.matchLabels.app",
                "string",
            ),
        ],
    )
}

#[test]
fn a_calico_policy_with_a_fault_changes_nothing() -> Result<()> {
    needs_root!();
    faults_change_nothing(
        CALICO_GUARD,
        &[
            ("app == 'guarded'", "app == ", 6, "spec.selector", ""),
            ("app == 'friend'", "app = 'friend'", 12, "spec.ingress[0].source.selector", ""),
            (
                "selector: app == 'friend'",
                "domains: ['*.internal.cluster']",
                12,
                "spec.ingress[0].source.domains",
                "DNS",
            ),
            ("action: Allow", "action: Accept", 9, "spec.ingress[0].action", "Accept"),
            ("protocol: TCP", "protocol: TPC", 10, "spec.ingress[0].protocol", "TPC"),
        ],
    )
}

#[test]
fn a_policy_that_denies_by_dns_names_is_refused_by_that_name() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let scene = Scene::new(&node)?;
    node.apply("guard.yaml", GUARD)?;
    node.manifest(
        "dns.yaml",
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: { name: allow-dns-only }\nspec:\n  \
         selector: app == 'friend'\n  egress:\n    \
         - { action: Deny, protocol: UDP, destination: { domains: ['*.internal.cluster'] } }\n    \
         - { action: Deny, destination: {} }\n",
    )?;
    let said = refusal(&node, "dns.yaml", "spec.egress[0].destination.domains")?;
    ensure!(said["line"] == 7 && said["field"] == "spec.egress[0].destination.domains", "{said}");
    // Its second half is not in force either.
    scene.is_guarded()?;
    let listed = node.policy("", "allow-dns-only")?;
    ensure!(listed.is_none(), "{listed:?}");
    Ok(())
}

/// A policy for `app=big` with more ports than fit: every second one.
fn too_large() -> Result<String> {
    let mut text = GUARD.replace("name: guard", "name: big").replace("app: guarded", "app: big");
    for port in (1000..1400).step_by(2) {
        writeln!(text, "    - port: {port}")?;
    }
    Ok(text)
}

#[test]
fn a_policy_that_does_not_fit_is_refused_as_a_whole_and_others_go_on() -> Result<()> {
    needs_root!();
    let node = Node::start_with(Settings::default().cluster().flag("--policy-entries=64"))?;
    let scene = Scene::new(&node)?;
    let big = node.add_pod_of("shop/big", &[("app", "big")])?;
    let _listeners = big.serve(big.addresses(), &[tcp(80), tcp(81)])?;
    node.apply("guard.yaml", GUARD)?;
    node.manifest("big.yaml", &too_large()?)?;
    let problems = || -> Result<String> { Ok(node.status()?["problems"].to_string()) };
    ensure!(
        eventually(PATIENCE, || problems().is_ok_and(|text| text.contains("shop/big"))),
        "status says nothing of it: {}",
        problems()?
    );
    scene.is_guarded()?;
    // Not half of it is in force.
    hold([allowed(&scene.stranger, &big, tcp(80)), allowed(&scene.friend, &big, tcp(81))].concat())?;
    // Others change meanwhile, and pods come.
    node.apply("guard.yaml", &GUARD.replace("friend", "stranger"))?;
    hold(
        [denied(&scene.friend, &scene.guarded, tcp(80)), allowed(&scene.stranger, &scene.guarded, tcp(80))]
            .concat(),
    )?;
    let late = node.add_pod_of("shop/late", &[("app", "guarded")])?;
    let _late = late.serve(late.addresses(), &[tcp(80)])?;
    hold([denied(&scene.friend, &late, tcp(80)), allowed(&scene.stranger, &late, tcp(80))].concat())?;
    // Smaller, it fits.
    node.apply("big.yaml", &GUARD.replace("name: guard", "name: big").replace("app: guarded", "app: big"))?;
    hold([denied(&scene.stranger, &big, tcp(80)), allowed(&scene.friend, &big, tcp(80))].concat())?;
    ensure!(!problems()?.contains("shop/big"), "{}", problems()?);
    Ok(())
}

#[test]
fn check_says_what_is_wrong_without_a_daemon() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let scene = Scene::new(&node)?;
    let (good, bad) = (node.folder().join("good.yaml"), node.folder().join("bad.yaml"));
    fs::write(&good, GUARD)?;
    fs::write(&bad, GUARD.replace("  ingress:\n", "  ingres:\n"))?;
    let good = good.to_str().context("a path")?;
    let bad = bad.to_str().context("a path")?;
    for daemon in [true, false] {
        if !daemon {
            node.kill_daemon();
        }
        let out = node.ctl_output(&["policy", "check", good])?;
        ensure!(out.status.success(), "{out:?}");
        let out = node.ctl_output(&["policy", "check", good, bad])?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        ensure!(!out.status.success(), "{out:?}");
        ensure!(said.contains("bad.yaml:9") && said.contains("spec.ingres"), "{said}");
    }
    // Nothing of it was applied.
    scene.is_open()
}

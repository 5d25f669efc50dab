//! Alerts and the dashboard: Prometheus takes them, they are raised when they should be, and name metrics that the daemon has.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, Node, Settings, eventually},
};
use serde_json::Value;

const METRICS: &str = "127.0.0.1:9477";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/kustomize/monitoring")
}

fn yaml(name: &str) -> Result<Value> {
    let text = fs::read_to_string(folder().join(name))?;
    serde_saphyr::from_str(&text).with_context(|| format!("{name} is no YAML"))
}

fn dashboard() -> Result<Value> {
    Ok(serde_json::from_str(&fs::read_to_string(folder().join("dashboard.json"))?)?)
}

/// Runs Debian's promtool, which scripts/setup installs, on what it is given.
fn promtool(arguments: &[&str], input: &[u8]) -> Result<String> {
    use std::io::Write;
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run promtool; scripts/setup installs it")?;
    child.stdin.take().context("its input")?.write_all(input)?;
    let out = child.wait_with_output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    ensure!(out.status.success(), "promtool {arguments:?}: {said}");
    Ok(said)
}

/// The names of metrics in an expression.
fn named(expression: &str) -> impl Iterator<Item = &str> {
    let is_of_name = |it: char| it.is_ascii_alphanumeric() || it == '_';
    expression.split(move |it| !is_of_name(it)).filter(|word| word.starts_with("cambric_"))
}

/// The expressions of all alerts.
fn alerts() -> Result<Vec<String>> {
    let rules = yaml("cambric.rules.yaml")?;
    let groups = rules["groups"].as_array().context("groups")?;
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten());
    rules.map(|rule| Ok(rule["expr"].as_str().context("an expression")?.to_owned())).collect()
}

/// The expressions of all panels and variables of the dashboard.
fn panels() -> Result<Vec<String>> {
    let dashboard = dashboard()?;
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().context("panels")? {
        for target in panel["targets"].as_array().context("targets")? {
            found.push(target["expr"].as_str().context("an expression")?.to_owned());
        }
    }
    for variable in dashboard["templating"]["list"].as_array().context("variables")? {
        found.extend(variable["definition"].as_str().map(str::to_owned));
    }
    Ok(found)
}

/// What the daemon of a node that has had a pod, refused a request and repaired something serves.
fn exposition(node: &Node, accept: &str) -> Result<String> {
    let mut curl = node.netns().command("curl")?;
    curl.args(["-sSf", "-H", &format!("Accept: {accept}"), &format!("http://{METRICS}/metrics")]);
    let out = curl.output()?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8(out.stdout)?)
}

#[test]
fn alerts_are_raised_when_something_is_wrong_and_only_then() -> Result<()> {
    promtool(&["check", "rules", "cambric.rules.yaml"], b"")?;
    promtool(&["test", "rules", "cambric.rules.test.yaml"], b"")?;
    let tests = fs::read_to_string(folder().join("cambric.rules.test.yaml"))?;
    let rules = yaml("cambric.rules.yaml")?;
    for rule in rules["groups"][0]["rules"].as_array().context("rules")? {
        let name = rule["alert"].as_str().context("a name")?;
        ensure!(tests.contains(name), "no test raises {name}");
    }
    Ok(())
}

#[test]
fn the_operator_gets_the_same_alerts() -> Result<()> {
    let object = yaml("prometheus-rule.yaml")?;
    ensure!(object["kind"] == "PrometheusRule" && object["spec"] == yaml("cambric.rules.yaml")?);
    Ok(())
}

#[test]
fn the_dashboard_fits_its_grid_and_asks_promql() -> Result<()> {
    let dashboard = dashboard()?;
    let panels = dashboard["panels"].as_array().context("panels")?.clone();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    ensure!(ids.len() == panels.len() && panels.len() > 10, "ids are used twice");
    let mut taken = BTreeSet::new();
    for panel in &panels {
        let at = |name: &str| panel["gridPos"][name].as_u64().context("a place");
        for x in at("x")?..at("x")? + at("w")? {
            for y in at("y")?..at("y")? + at("h")? {
                ensure!(x < 24 && taken.insert((x, y)), "{} lies over another", panel["title"]);
            }
        }
    }
    // As rules, so that Prometheus' own parser reads the expressions; Grafana fills in the variables.
    let rules: Vec<_> = self::panels()?
        .iter()
        .filter(|it| !it.starts_with("label_values("))
        .enumerate()
        .map(|(at, it)| {
            let plain = it.replace("$__rate_interval", "5m").replace("$instance", ".*");
            serde_json::json!({ "record": format!("panel:{at}"), "expr": plain })
        })
        .collect();
    let file = tempfile::NamedTempFile::with_suffix(".json")?;
    fs::write(
        file.path(),
        serde_json::json!({ "groups": [{ "name": "panels", "rules": rules }] }).to_string(),
    )?;
    promtool(&["check", "rules", &file.path().display().to_string()], b"")?;
    Ok(())
}

#[test]
fn the_daemon_serves_each_metric_that_they_name_and_promtool_takes_all() -> Result<()> {
    needs_root!();
    let node = Node::start_with(Settings::default().cluster().flag(format!("--metrics={METRICS}")))?;
    let _pod = node.add_pod_of("shop/web", &[("app", "web")])?;
    // A request that is refused, and a repair: families without a sample are not written.
    let refused = node
        .netns()
        .command(node.binaries().ctl())?
        .arg("--socket")
        .arg(node.socket())
        .args(["ipam", "release", "192.0.2.99"])
        .output()?;
    ensure!(!refused.status.success());
    node.netns().sysctl("net/ipv4/ip_forward", "0")?;
    let repaired = || exposition(&node, "text/plain").is_ok_and(|it| it.contains("cambric_repairs_total{"));
    ensure!(eventually(Duration::from_secs(90), repaired), "nothing was repaired");

    let text = exposition(&node, "text/plain")?;
    let said = promtool(&["check", "metrics"], text.as_bytes())?;
    ensure!(said.trim().is_empty(), "{said}");
    let names: BTreeSet<_> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    // Of deny sets and of watches there is nothing here; a test of the registry holds the document to it.
    let document = include_str!("../../../docs/metrics.md");
    let elsewhere = ["cambric_denied_", "cambric_cluster_"];
    let is_documented = |name: &str| {
        elsewhere.iter().any(|it| name.starts_with(it)) && document.contains(&format!("`{name}`"))
    };
    let asked = [alerts()?, panels()?].concat();
    ensure!(asked.iter().flat_map(|it| named(it)).count() > 30, "{asked:?}");
    for expression in &asked {
        for name in named(expression) {
            ensure!(names.contains(name) || is_documented(name), "{name} of {expression} is not served");
        }
    }
    let open = exposition(&node, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")?;
    ensure!(open.ends_with("# EOF\n") && !text.contains("# EOF"), "{open}");
    let samples = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    ensure!(samples(&open) == samples(&text), "one format has more than the other");
    Ok(())
}

//! `cambricctl sysdump`: what a report needs is in the archive, whether the daemon lives, hangs or is dead; no secret is.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use integration::{
    needs_root,
    testbed::{Machine, Node, Settings},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

const METRICS: &str = "127.0.0.1:9477";

/// What must be nowhere in an archive.
const SECRET: &str = "hunter2";

const NETWORK: &str =
    r#"{"name": "other", "plugins": [{"type": "other", "apiToken": "hunter2", "mtu": 1400}]}"#;

const KUBECONFIG: &str = "users: [{ name: me, user: { token: hunter2 } }]\n";

/// A policy and a service that an archive tells of.
const OBJECTS: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: shop, name: guard }
spec: { podSelector: {}, policyTypes: [Ingress] }
---
apiVersion: v1
kind: Service
metadata: { namespace: shop, name: web }
spec: { clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10], ports: [{ port: 80 }] }
---
apiVersion: v1
kind: Secret
metadata: { namespace: shop, name: keys }
stringData: { key: hunter2 }
";

/// What is in an archive, by the paths below its one folder.
struct Dump {
    files: BTreeMap<String, String>,
    manifest: Value,
}

impl Dump {
    fn read(archive: &Path) -> Result<Self> {
        let mut plain = Vec::new();
        GzDecoder::new(fs::File::open(archive)?).read_to_end(&mut plain)?;
        ensure!(!String::from_utf8_lossy(&plain).contains(SECRET), "a secret is in the archive");
        let folder = tempfile::tempdir()?;
        let out = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(folder.path()).output()?;
        ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let root = fs::read_dir(folder.path())?.next().context("a folder")??.path();
        let mut files = BTreeMap::new();
        let mut left = vec![root.clone()];
        while let Some(inside) = left.pop() {
            for entry in fs::read_dir(inside)? {
                let path = entry?.path();
                if path.is_dir() {
                    left.push(path);
                    continue;
                }
                ensure!(fs::metadata(&path)?.permissions().mode() & 0o777 == 0o600, "{}", path.display());
                files.insert(path.strip_prefix(&root)?.display().to_string(), fs::read_to_string(&path)?);
            }
        }
        let manifest = serde_json::from_str(files.get("manifest.json").context("a manifest")?)?;
        Ok(Self { files, manifest })
    }

    fn file(&self, path: &str) -> Result<&str> {
        let file = self.files.get(path).with_context(|| format!("no {path} in {:#}", self.manifest))?;
        Ok(file)
    }

    /// An item's outcome and its reason.
    fn outcome(&self, path: &str) -> Result<(&str, &str)> {
        let items = self.manifest["items"].as_array().context("items")?;
        let item = items.iter().find(|it| it["path"] == path).with_context(|| format!("no {path}"))?;
        Ok((item["outcome"].as_str().context("an outcome")?, item["reason"].as_str().unwrap_or_default()))
    }

    /// What the kernel tells is there, whatever the daemon does.
    fn has_the_node(&self) -> Result<()> {
        for (path, what) in [
            ("kernel/links.txt", "IfName(\"uplink\")"),
            ("kernel/routes.txt", "192.0.2.1"),
            ("kernel/rules.txt", "RuleMessage"),
            ("kernel/programs.jsonl", "\"name\":\"from_endpoint\""),
            ("kernel/maps.jsonl", "\"kind\":"),
            ("kernel/sysctls.txt", "net/ipv4/ip_forward = 1"),
            ("kernel/pins.txt", "from_network"),
            ("kernel/proc/version.txt", "Linux"),
            ("node/preflight.json", "\"outcome\""),
            ("node/records.txt", "/state/"),
            ("configuration/ipamd.toml", "https://[left out]@192.0.2.1"),
            ("configuration/cni/10-other.conflist", "\"apiToken\": \"[left out]\", \"mtu\": 1400"),
            ("commands/ip-link.txt", "uplink"),
        ] {
            ensure!(self.file(path)?.contains(what), "{path} has no {what}: {}", self.file(path)?);
            ensure!(self.outcome(path)?.0 == "taken", "{path}: {:?}", self.outcome(path)?);
        }
        let logs = self.outcome("logs/journal.txt")?;
        ensure!(logs.0 == "taken" || !logs.1.is_empty(), "{logs:?}");
        Ok(())
    }
}

/// A node whose files hold secrets in many places, beside what a report needs.
fn node() -> Result<(Node, PathBuf)> {
    let node = Node::start_with(Settings::default().cluster().flag(format!("--metrics={METRICS}")))?;
    node.apply("objects.yaml", OBJECTS)?;
    let (config, cni) = (node.folder().join("report.toml"), node.folder().join("net.d"));
    let kubeconfig = node.folder().join("kubeconfig");
    fs::create_dir(&cni)?;
    fs::write(cni.join("10-other.conflist"), NETWORK)?;
    fs::write(&kubeconfig, KUBECONFIG)?;
    fs::write(
        &config,
        format!(
            "cluster = \"kube:{}\"\nkube-api-server = \"https://me:{SECRET}@192.0.2.1\"\ncni-conf-dir = \"{}\"\n\
             metrics = \"{METRICS}\"\nstate-dir = \"{}\"\nbpffs = \"{}\"\n",
            kubeconfig.display(),
            cni.display(),
            node.state_dir().display(),
            node.bpffs().display()
        ),
    )?;
    Ok((node, config))
}

fn sysdump(node: &Node, config: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = node.netns().command(node.binaries().ctl())?;
    command.arg("--socket").arg(node.socket()).arg("sysdump").arg("--config").arg(config).args(arguments);
    Ok(command.env("REPORT_TOKEN", SECRET).output()?)
}

/// The archive of a run, and what the run said.
fn dumped(node: &Node, config: &Path, name: &str, arguments: &[&str]) -> Result<(Dump, String)> {
    let file = node.folder().join(name);
    let path = file.display().to_string();
    let out = sysdump(node, config, &[&["--file", &path], arguments].concat())?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600, "others may read {path}");
    Ok((Dump::read(&file)?, String::from_utf8(out.stdout)?))
}

#[test]
fn the_archive_has_what_a_report_needs_and_no_secret() -> Result<()> {
    needs_root!();
    let (node, config) = node()?;
    let _pod = node.add_pod_of("shop/web", &[("app", "web")])?;
    let (dump, _) = dumped(&node, &config, "alive.tar.gz", &[])?;
    dump.has_the_node()?;
    let status: Value = serde_json::from_str(dump.file("daemon/status.json")?)?;
    ensure!(status["ready"] == true && status["deny"].is_object() && status["maps"].is_object(), "{status}");
    for (path, what) in [
        ("daemon/endpoints.jsonl", "\"name\":\"web\""),
        ("daemon/policies.jsonl", "\"name\":\"guard\""),
        ("daemon/services.jsonl", "10.96.0.10"),
        ("daemon/details.jsonl", "\"problems\""),
        ("daemon/pools.jsonl", "\"capacity\""),
        ("daemon/conntrack.json", "\"counts\""),
        ("daemon/metrics.txt", "cambric_endpoints 1"),
        ("daemon/readyz.txt", "200 OK"),
        ("node/process.txt", "--socket"),
    ] {
        ensure!(dump.outcome(path)?.0 == "taken", "{path}: {:?}", dump.outcome(path)?);
        ensure!(dump.file(path)?.contains(what), "{path}: {}", dump.file(path)?);
    }
    // What it was written to is not written over.
    let out =
        sysdump(&node, &config, &["--file", &node.folder().join("alive.tar.gz").display().to_string()])?;
    ensure!(
        !out.status.success() && String::from_utf8_lossy(&out.stderr).contains("cannot create"),
        "{out:?}"
    );
    let out = sysdump(&node, &config, &["--file", "-"])?;
    fs::write(node.folder().join("stdout.tar.gz"), out.stdout)?;
    Dump::read(&node.folder().join("stdout.tar.gz"))?.has_the_node()
}

#[test]
fn without_a_daemon_it_takes_the_rest_and_says_what_is_missing() -> Result<()> {
    needs_root!();
    let (node, config) = node()?;
    node.kill_daemon();
    let (dump, said) = dumped(&node, &config, "dead.tar.gz", &[])?;
    dump.has_the_node()?;
    let (outcome, reason) = dump.outcome("daemon/status.json")?;
    ensure!(outcome == "failed" && reason.contains("is cambric-ipamd running?"), "{outcome}: {reason}");
    let (outcome, reason) = dump.outcome("daemon/policies.jsonl")?;
    ensure!(outcome == "failed" && reason.contains("was not asked"), "{outcome}: {reason}");
    let (outcome, reason) = dump.outcome("daemon/metrics.txt")?;
    ensure!(outcome == "failed" && reason.contains(METRICS), "{outcome}: {reason}");
    ensure!(dump.outcome("node/process.txt")?.0 == "absent");
    ensure!(said.contains("daemon/status.json") && said.contains("read it before you send it on"), "{said}");
    Ok(())
}

#[test]
fn a_daemon_that_hangs_costs_one_items_time() -> Result<()> {
    needs_root!();
    let (node, config) = node()?;
    let pid = Pid::from_raw(node.daemon().as_ref().context("a daemon")?.pid().try_into()?);
    kill(pid, Signal::SIGSTOP)?;
    let began = Instant::now();
    let dumped = dumped(&node, &config, "hung.tar.gz", &["--item-timeout", "2"]);
    kill(pid, Signal::SIGCONT)?;
    let (dump, _) = dumped?;
    dump.has_the_node()?;
    ensure!(dump.outcome("daemon/status.json")?.0 == "late", "{:?}", dump.outcome("daemon/status.json")?);
    ensure!(dump.outcome("daemon/services.jsonl")?.1.contains("was not asked"));
    // Three pages of its HTTP server may each take their time, too.
    ensure!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    Ok(())
}

#[test]
fn what_is_beyond_the_limit_is_cut_and_named() -> Result<()> {
    needs_root!();
    let (node, config) = node()?;
    fs::write(&config, format!("{}{}", "# a long comment\n".repeat(40_000), fs::read_to_string(&config)?))?;
    let (dump, said) = dumped(&node, &config, "small.tar.gz", &["--size-limit", "1"])?;
    let (outcome, reason) = dump.outcome("configuration/ipamd.toml")?;
    ensure!(outcome == "cut" && reason.contains("--size-limit"), "{outcome}: {reason}");
    ensure!(dump.file("configuration/ipamd.toml")?.len() == 256 << 10);
    ensure!(said.contains("configuration/ipamd.toml"), "{said}");
    let all: usize =
        dump.files.iter().filter(|(path, _)| *path != "manifest.json").map(|it| it.1.len()).sum();
    ensure!(all <= 1 << 20, "{all} bytes");
    Ok(())
}

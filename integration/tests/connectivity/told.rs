//! What a test has told, and what it must not have left.

use std::{collections::BTreeSet, fs, process::Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// What every name that a test gives begins with.
const PREFIX: &str = "cambric-connectivity-";

/// Every check that there is.
pub const ALL: [&str; 16] = [
    "start",
    "pod-to-pod",
    "stream",
    "mtu-sized",
    "oversized-refused",
    "oversized-cut",
    "pod-to-node",
    "node-to-pod",
    "outside",
    "cluster-ip",
    "node-port",
    "host-port",
    "hairpin",
    "dns",
    "policy-allow",
    "policy-deny",
];

/// A test's report.
#[derive(Debug)]
pub struct Told {
    pub code: Option<i32>,
    pub report: Value,
    stderr: String,
}

impl Told {
    pub fn read(out: &Output) -> Self {
        Self {
            code: out.status.code(),
            report: serde_json::from_slice(&out.stdout).unwrap_or_default(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }

    pub fn run(&self) -> Result<&str> {
        self.report["run"].as_str().with_context(|| format!("no run: {self:?}"))
    }

    pub fn rows(&self, result: &str) -> Vec<&Value> {
        let rows = self.report["rows"].as_array().into_iter().flatten();
        rows.filter(|row| row["result"] == result).collect()
    }

    /// The checks that have ended so.
    pub fn checks(&self, result: &str) -> BTreeSet<&str> {
        self.rows(result).into_iter().filter_map(|row| row["check"].as_str()).collect()
    }

    /// Everything was checked, in both families, and is as it should be.
    pub fn is_all_well(&self) -> Result<()> {
        ensure!(self.code == Some(0), "exits with {:?}: {}\n{}", self.code, self.stderr, self.failures());
        let ok = self.checks("ok");
        ensure!(ok == ALL.into_iter().collect(), "checked is {ok:?}\n{}", self.failures());
        ensure!(self.rows("failed").is_empty() && self.rows("skipped").is_empty(), "{}", self.failures());
        for check in ALL.into_iter().filter(|it| !["start", "dns"].contains(it)) {
            for family in ["ipv4", "ipv6"] {
                let found =
                    self.rows("ok").into_iter().any(|row| row["check"] == check && row["family"] == family);
                ensure!(found, "{check} was not tried by {family}");
            }
        }
        Ok(())
    }

    /// What has failed or was left out, a line each.
    pub fn failures(&self) -> String {
        let rows = [self.rows("failed"), self.rows("skipped")].concat();
        let lines: Vec<_> = rows.into_iter().map(Value::to_string).collect();
        lines.join("\n") + "\n" + &self.stderr
    }

    /// What somebody is told to look at for the failures of a check.
    pub fn hints(&self, check: &str) -> String {
        let rows = self.rows("failed").into_iter().filter(|row| row["check"] == check);
        rows.filter_map(|row| row["look_at"].as_array()).flatten().filter_map(Value::as_str).collect()
    }
}

/// The namespaces of tests on this machine whose names have something to do with `of`.
pub fn namespaces(of: &str) -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(PREFIX) && name.contains(of)).collect()
}

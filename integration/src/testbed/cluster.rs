//! A node's cluster: a directory of manifests, written as kubectl-like tools write them.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::node::Node;
use ipamd_waiting::eventually;

/// How long a manifest may take to be in force.
const PATIENCE: Duration = Duration::from_secs(30);

/// The namespace of the markers; nothing runs in it.
const MARKERS: &str = "markers";

impl Node {
    /// The folder that the daemon follows.
    pub fn cluster(&self) -> PathBuf {
        self.folder().join("cluster")
    }

    /// Puts a manifest there, whole at once; returns when.
    pub fn manifest(&self, name: &str, text: &str) -> Result<Instant> {
        let beside = self.folder().join("written");
        fs::create_dir_all(&beside)?;
        let written = beside.join(name);
        fs::write(&written, text)?;
        let at = Instant::now();
        fs::rename(&written, self.cluster().join(name)).with_context(|| format!("put {name}"))?;
        Ok(at)
    }

    /// Takes a manifest away; returns when.
    pub fn remove_manifest(&self, name: &str) -> Result<Instant> {
        let at = Instant::now();
        fs::remove_file(self.cluster().join(name)).with_context(|| format!("remove {name}"))?;
        Ok(at)
    }

    /// Puts a manifest there and waits until it is in force. A policy in its last document, which concerns nobody, shows
    /// that it is.
    pub fn apply(&self, name: &str, text: &str) -> Result<Instant> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let marker = format!("marker-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let at = self.manifest(name, &format!("{}\n---\n{}", text.trim_end(), marker_policy(&marker)))?;
        if !eventually(PATIENCE, || self.policy(MARKERS, &marker).is_ok_and(|found| found.is_some())) {
            bail!("{name} is not in force:\n{text}\n{}", self.log());
        }
        Ok(at)
    }

    /// Takes away what [`apply`](Self::apply) put there, and waits until it is out of force.
    pub fn withdraw(&self, name: &str) -> Result<Instant> {
        let text = fs::read_to_string(self.cluster().join(name))?;
        let marker = text.rsplit_once("name: marker-").context("a marker")?.1;
        let marker = format!("marker-{}", marker.split_whitespace().next().unwrap_or_default());
        let at = self.remove_manifest(name)?;
        if !eventually(PATIENCE, || self.policy(MARKERS, &marker).is_ok_and(|found| found.is_none())) {
            bail!("{name} is still in force:\n{text}\n{}", self.log());
        }
        Ok(at)
    }

    /// What `policy list` says of a policy; `None` if it is not there.
    pub fn policy(&self, namespace: &str, name: &str) -> Result<Option<Value>> {
        let listing = self.ctl(&["policy", "list"])?;
        let policies = listing["policies"].as_array().context("a list of policies")?;
        let is_it = |policy: &&Value| {
            policy["policy"]["namespace"].as_str().unwrap_or_default() == namespace
                && policy["policy"]["name"] == name
        };
        Ok(policies.iter().find(is_it).cloned())
    }

    /// What `policy list` says was refused.
    pub fn refused_policies(&self) -> Result<Vec<Value>> {
        let listing = self.ctl(&["policy", "list"])?;
        Ok(listing["refused"].as_array().context("a list of refusals")?.clone())
    }
}

fn marker_policy(name: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ namespace: {MARKERS}, name: {name} }}\n\
         spec: {{ podSelector: {{ matchLabels: {{ marker: none }} }}, policyTypes: [Ingress] }}\n"
    )
}

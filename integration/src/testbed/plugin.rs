//! A plugin invoked as runtimes do.

use std::{
    fmt,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{machine::Machine, node::Node};

/// The plugin's own word of why it failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// `code`.
    pub code: u64,
    /// `msg`.
    pub message: String,
    /// `details`.
    pub details: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "code {}: {}: {}", self.code, self.message, self.details)
    }
}

impl std::error::Error for Refusal {}

/// One invocation of a plugin in the node's namespace.
#[derive(Clone, Debug)]
pub struct Invocation<'n> {
    node: &'n Node,
    plugin: PathBuf,
    command: String,
    container: String,
    netns: Option<PathBuf>,
    ifname: String,
    args: Option<String>,
    config: Value,
}

impl Node {
    /// An invocation of `cambric` for a container.
    pub fn cni(&self, command: &str, container: &str) -> Invocation<'_> {
        Invocation::new(self, self.binaries().plugin(), command, container, self.config())
    }
}

impl<'n> Invocation<'n> {
    fn new(node: &'n Node, plugin: PathBuf, command: &str, container: &str, config: Value) -> Self {
        Self {
            node,
            plugin,
            command: command.into(),
            container: container.into(),
            netns: None,
            ifname: "eth0".into(),
            args: None,
            config,
        }
    }

    /// Of another plugin, from `folder`, whose configuration is `config`.
    #[must_use]
    pub fn plugin(mut self, folder: &Path, config: Value) -> Self {
        if let Some(name) = config["type"].as_str() {
            self.plugin = folder.join(name);
        }
        self.config = config;
        self
    }

    /// With `CNI_NETNS`.
    #[must_use]
    pub fn netns(mut self, path: &Path) -> Self {
        self.netns = Some(path.into());
        self
    }

    /// With `CNI_IFNAME` other than eth0.
    #[must_use]
    pub fn ifname(mut self, ifname: &str) -> Self {
        self.ifname = ifname.into();
        self
    }

    /// With `CNI_ARGS`.
    #[must_use]
    pub fn args(mut self, args: &str) -> Self {
        self.args = Some(args.into());
        self
    }

    /// With a key of the configuration set.
    #[must_use]
    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// The command as it will be run, `wrapper` in front of it.
    fn prepare(&self, wrapper: &[&str]) -> Result<Command> {
        let netns = self.node.netns();
        let mut command = match wrapper {
            [] => netns.command(&self.plugin)?,
            [program, args @ ..] => {
                let mut command = netns.command(program)?;
                command.args(args).arg(&self.plugin);
                command
            }
        };
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("CNI_COMMAND", &self.command).env("CNI_CONTAINERID", &self.container);
        command.env("CNI_IFNAME", &self.ifname).env("CNI_PATH", self.node.binaries().cni_path());
        if let Some(netns) = &self.netns {
            command.env("CNI_NETNS", netns);
        }
        if let Some(args) = &self.args {
            command.env("CNI_ARGS", args);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    /// Starts it and does not wait.
    pub fn spawn(&self, wrapper: &[&str]) -> Result<Child> {
        let mut child =
            self.prepare(wrapper)?.spawn().with_context(|| format!("run {}", self.plugin.display()))?;
        let mut stdin = child.stdin.take().context("a pipe")?;
        // It may die before it has read all.
        let _ = stdin.write_all(self.config.to_string().as_bytes());
        Ok(child)
    }

    /// Runs it and reads its result, `Null` if it prints none. Its error object becomes a [`Refusal`].
    pub fn run(&self) -> Result<Value> {
        let out = self.spawn(&[])?.wait_with_output()?;
        let stdout = String::from_utf8_lossy(&out.stdout);
        if stdout.trim().is_empty() && out.status.success() {
            return Ok(Value::Null);
        }
        let printed: Value = serde_json::from_str(&stdout).with_context(|| {
            format!("{} {}: {stdout:?}, {:?}", self.command, out.status, String::from_utf8_lossy(&out.stderr))
        })?;
        if out.status.success() {
            return Ok(printed);
        }
        let text = |key: &str| printed[key].as_str().unwrap_or_default().to_owned();
        Err(Refusal {
            code: printed["code"].as_u64().context("a code")?,
            message: text("msg"),
            details: text("details"),
        }
        .into())
    }

    /// Runs it, and expects it to fail by its own word.
    pub fn refusal(&self) -> Result<Refusal> {
        match self.run() {
            Ok(result) => anyhow::bail!("{} succeeded with {result}", self.command),
            Err(error) => error.downcast(),
        }
    }
}

//! The CRI's runtime service, asked by curl: a gRPC call is a POST of HTTP/2 whose body and answer are each a Protocol
//! Buffers message behind five bytes. The numbers are those of the CRI's `api.proto`, v1.

pub mod message;

use std::{
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use self::message::{count, field, fields, number_of, only, only_text, text};

/// What has become of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has not begun, or it runs.
    Runs,
    /// It has ended with this code.
    Ended(u64),
}

/// The runtime service behind a socket.
#[derive(Debug)]
pub struct Cri {
    socket: PathBuf,
}

impl Cri {
    /// The service that listens on `socket`.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.into() }
    }

    /// Whether somebody answers.
    pub fn answers(&self) -> bool {
        self.call("Version", &[]).is_ok()
    }

    /// `RunPodSandbox`; returns the sandbox's id.
    pub fn run_sandbox(&self, config: &[u8]) -> Result<String> {
        only_text(&self.call("RunPodSandbox", &field(1, config))?, 1)
    }

    /// `CreateContainer` and `StartContainer`; returns the container's id.
    pub fn run_container(&self, sandbox: &str, config: &[u8], of_sandbox: &[u8]) -> Result<String> {
        let create = [text(1, sandbox), field(2, config), field(3, of_sandbox)].concat();
        let container = only_text(&self.call("CreateContainer", &create)?, 1)?;
        self.call("StartContainer", &text(1, &container))?;
        Ok(container)
    }

    /// `ContainerStatus`, in short.
    pub fn state(&self, container: &str) -> Result<State> {
        const EXITED: u64 = 2;
        let status = only(&self.call("ContainerStatus", &text(1, container))?, 1)?;
        Ok(if number_of(&status, 3)? == EXITED { State::Ended(number_of(&status, 7)?) } else { State::Runs })
    }

    /// `StopContainer`: SIGTERM, and SIGKILL after so many seconds.
    pub fn stop_container(&self, container: &str, grace: u64) -> Result<()> {
        self.call("StopContainer", &[text(1, container), count(2, grace)].concat())?;
        Ok(())
    }

    /// `PodSandboxStatus`: the sandbox's addresses.
    pub fn addresses(&self, sandbox: &str) -> Result<Vec<IpAddr>> {
        let answer = self.call("PodSandboxStatus", &text(1, sandbox))?;
        let status = only(&answer, 1)?;
        let network = only(&status, 5)?;
        let mut addresses = vec![only_text(&network, 1)?.parse()?];
        for additional in fields(&network, 2)? {
            addresses.push(only_text(&additional, 1)?.parse()?);
        }
        Ok(addresses)
    }

    /// `StopPodSandbox` and `RemovePodSandbox`.
    pub fn remove_sandbox(&self, sandbox: &str) -> Result<()> {
        self.call("StopPodSandbox", &text(1, sandbox))?;
        self.call("RemovePodSandbox", &text(1, sandbox))?;
        Ok(())
    }

    /// How many sandboxes `ListPodSandbox` lists.
    pub fn sandboxes(&self) -> Result<usize> {
        Ok(fields(&self.call("ListPodSandbox", &[])?, 1)?.len())
    }

    fn call(&self, method: &str, message: &[u8]) -> Result<Vec<u8>> {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--http2-prior-knowledge",
            "--max-time",
            "120",
            "--unix-socket",
        ]);
        curl.arg(&self.socket).args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
        // The headers, and the status that follows the answer, go to standard error.
        curl.args(["--dump-header", "/dev/stderr", "--data-binary", "@-"]);
        curl.arg(format!("http://containerd/runtime.v1.RuntimeService/{method}"));
        let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("a pipe")?;
        stdin.write_all(&[&[0][..], &u32::try_from(message.len())?.to_be_bytes(), message].concat())?;
        drop(stdin);
        let out = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&out.stderr);
        let value = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        match value("grpc-status:") {
            Some("0") => {}
            Some(_) => bail!("{method}: {}", value("grpc-message:").unwrap_or_default()),
            None => bail!("{method}: {said}"),
        }
        ensure!(
            out.stdout.len() >= 5 && out.stdout[0] == 0,
            "{method}: an answer of {} bytes",
            out.stdout.len()
        );
        Ok(out.stdout[5..].to_vec())
    }
}

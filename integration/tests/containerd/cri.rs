//! The CRI's runtime service, as far as sandboxes go, asked by curl: a gRPC call is a POST of HTTP/2 whose body and
//! answer are each a Protocol Buffers message behind five bytes. The numbers are those of the CRI's `api.proto`, v1.

use std::{
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

/// A length-delimited field of a message.
const DELIMITED: u64 = 2;

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

    /// `RunPodSandbox` for a pod of that name; returns the sandbox's id. Its cgroups are made below `cgroup`.
    pub fn run_sandbox(&self, pod: &str, cgroup: &str) -> Result<String> {
        let metadata = [text(1, pod), text(2, &format!("uid-of-{pod}")), text(3, "default")].concat();
        let linux = text(1, cgroup);
        let config = [field(1, &metadata), field(8, &linux)].concat();
        let answer = self.call("RunPodSandbox", &field(1, &config))?;
        only_text(&answer, 1)
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

fn number(mut value: u64, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    into.push(value.to_le_bytes()[0]);
}

fn field(tag: u64, value: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    number(tag << 3 | DELIMITED, &mut message);
    number(value.len() as u64, &mut message);
    message.extend_from_slice(value);
    message
}

fn text(tag: u64, value: &str) -> Vec<u8> {
    field(tag, value.as_bytes())
}

fn take_number(message: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first().context("a message cut short")?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("a number of more than 64 bits")
}

/// The length-delimited fields with this tag.
fn fields(mut message: &[u8], tag: u64) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = take_number(&mut message)?;
        match key & 7 {
            0 => drop(take_number(&mut message)?),
            DELIMITED => {
                let length = usize::try_from(take_number(&mut message)?)?;
                let (value, rest) = message.split_at_checked(length).context("a message cut short")?;
                if key >> 3 == tag {
                    found.push(value.to_vec());
                }
                message = rest;
            }
            other => bail!("a field of the wire type {other}"),
        }
    }
    Ok(found)
}

fn only(message: &[u8], tag: u64) -> Result<Vec<u8>> {
    fields(message, tag)?.pop().with_context(|| format!("the message has no field {tag}"))
}

fn only_text(message: &[u8], tag: u64) -> Result<String> {
    Ok(String::from_utf8(only(message, tag)?)?)
}

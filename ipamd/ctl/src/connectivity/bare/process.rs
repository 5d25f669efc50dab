//! An agent as a process, in a namespace or in the network of the node.

use std::{
    env, io,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{prctl, signal::Signal},
    unistd::getppid,
};

use super::{
    super::{
        check::{Finding, Hello, Line},
        interrupt,
    },
    namespace,
};

/// How long an agent may take until it serves.
const START: Duration = Duration::from_secs(15);
/// How often is looked whether the run was told to stop.
const LOOK: Duration = Duration::from_millis(50);

/// A running agent. It is killed when this is dropped, or when this process ends.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    lines: Receiver<Line>,
}

impl Process {
    /// Starts an agent in a namespace, or in that of this process, and waits until it serves.
    pub fn start(namespace: Option<&str>, arguments: &[String]) -> anyhow::Result<(Self, Hello)> {
        let mut command = Command::new(env::current_exe()?);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        // Ctrl-C is for us.
        command.process_group(0);
        let parent = nix::unistd::getpid();
        let mut enter = namespace.map(namespace::entering).transpose()?;
        // SAFETY: the closure makes system calls and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                if getppid() != parent {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                enter.as_mut().map_or(Ok(()), |enter| enter())
            });
        }
        let mut child = command.spawn()?;
        let (sender, lines) = channel();
        let stdout = child.stdout.take();
        thread::spawn(move || {
            let stdout = stdout.map(BufReader::new);
            for line in stdout.into_iter().flat_map(|it| it.take(64 << 20).lines()).map_while(Result::ok) {
                for line in Line::read(&line) {
                    // Nobody may read any more.
                    let _ = sender.send(line);
                }
            }
        });
        let process = Self { child, lines };
        match process.line(Instant::now() + START)? {
            Some(Line::Hello(hello)) => Ok((process, hello)),
            Some(Line::Broken(why)) => anyhow::bail!(why),
            _ => anyhow::bail!("an agent does not start"),
        }
    }

    /// The next line; `None` if the agent has ended, or time is over.
    fn line(&self, end: Instant) -> Result<Option<Line>, interrupt::Interrupted> {
        loop {
            interrupt::check()?;
            match self.lines.recv_timeout(LOOK) {
                Ok(line) => return Ok(Some(line)),
                Err(RecvTimeoutError::Timeout) if Instant::now() < end => {}
                Err(_) => return Ok(None),
            }
        }
    }

    /// Waits for what it finds; less than all if it ends before, or time is over.
    pub fn findings(&self, end: Instant) -> Result<Vec<Finding>, interrupt::Interrupted> {
        let mut findings = Vec::new();
        while let Some(line) = self.line(end)? {
            match line {
                Line::Finding(finding) => findings.push(finding),
                Line::End => break,
                Line::Hello(_) | Line::Broken(_) => {}
            }
        }
        Ok(findings)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

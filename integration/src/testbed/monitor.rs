//! `cambricctl monitor`, listened to.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{machine::Machine, node::Node};
use ipamd_waiting::eventually;

/// How long an event may take to be told.
const PATIENCE: Duration = Duration::from_secs(15);

/// The client's stream of events. It ends when this is dropped.
#[derive(Debug)]
pub struct Monitor {
    child: Child,
    events: Arc<Mutex<Vec<Value>>>,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    /// Begins to listen, with these flags. When it returns, the daemon tells.
    pub fn monitor(&self, flags: &[&str]) -> Result<Monitor> {
        let mut command = self.netns().command(self.binaries().ctl())?;
        command.arg("--socket").arg(self.socket()).args(["-o", "json", "monitor"]).args(flags);
        let mut child = command.stdout(Stdio::piped()).spawn().context("start the monitor")?;
        let out = child.stdout.take().context("a pipe")?;
        let events = Arc::<Mutex<Vec<Value>>>::default();
        let told = Arc::clone(&events);
        let thread = thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                told.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            }
        });
        Ok(Monitor { child, events, thread: Some(thread) })
    }
}

impl Monitor {
    /// All that was told.
    pub fn events(&self) -> Vec<Value> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for an event that fits.
    pub fn tells(&self, what: &str, mut fits: impl FnMut(&Value) -> bool) -> Result<Value> {
        let mut found = None;
        eventually(PATIENCE, || {
            found = self.events().into_iter().find(|event| fits(event));
            found.is_some()
        });
        match found {
            Some(event) => Ok(event),
            None => bail!("{what} is not told; this is:\n{:#?}", self.events()),
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

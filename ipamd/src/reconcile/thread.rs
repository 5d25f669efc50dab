//! When to reconcile, and what else is done from time to time.

use std::{
    io::{self, PipeReader, PipeWriter},
    os::fd::AsFd,
    sync::mpsc::sync_channel,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Reconciler;
use crate::{
    monitor::Monitor,
    netlink::{Events, NetlinkError},
};

/// How often is compared though nothing was heard: pins and maps make no events.
const PASS_EVERY: Duration = Duration::from_secs(3);
/// How long is waited after word of a change, for the rest of it: an ADD makes a dozen events.
const SETTLE: Duration = Duration::from_millis(400);
/// How often expired connections are swept out of the maps.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// How often is looked for attachments that were left behind.
const LEAKS_EVERY: Duration = Duration::from_secs(30);

/// The running reconciliation. Dropping it waits until the pass under way is done.
#[derive(Debug)]
pub struct Reconciliation {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Reconciliation {
    /// Makes the first pass and goes on in the background.
    ///
    /// # Errors
    /// Why the kernel's events cannot be listened to.
    pub fn start(mut reconciler: Reconciler) -> Result<Self, NetlinkError> {
        let failed = |source| NetlinkError::new("start the reconciliation", source);
        let events = Events::open()?;
        let (stopped, stop) = io::pipe().map_err(failed)?;
        let (passed, first_pass) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("reconcile".into())
            .spawn(move || {
                reconciler.free_leaks();
                reconciler.pass();
                // Nobody waits for it if the daemon is on its way out.
                let _ = passed.send(());
                run(&mut reconciler, &events, &stopped);
            })
            .map_err(failed)?;
        first_pass.recv().map_err(|_| failed(io::Error::other("the first pass has failed")))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Reconciliation {
    fn drop(&mut self) {
        // The other end of the pipe sees it close.
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the reconciliation has failed");
        }
    }
}

fn run(reconciler: &mut Reconciler, events: &Events, stopped: &PipeReader) {
    let mut sweep = Instant::now();
    let mut leaks = Instant::now() + LEAKS_EVERY;
    loop {
        match wait(Some(events), stopped, PASS_EVERY) {
            Heard::Stop => return,
            Heard::Nothing => {}
            Heard::Change => {
                reconciler.forget_routes();
                match wait(None, stopped, SETTLE) {
                    Heard::Stop => return,
                    _ => events.drain(),
                }
                // Of what changed meanwhile, too.
                reconciler.forget_routes();
            }
        }
        let now = Instant::now();
        if now >= leaks {
            reconciler.free_leaks();
            leaks = now + LEAKS_EVERY;
        }
        reconciler.pass();
        if now >= sweep {
            reconciler.sweep_conntrack();
            sweep = now + SWEEP_EVERY;
        }
    }
}

enum Heard {
    Nothing,
    Change,
    Stop,
}

fn wait(events: Option<&Events>, stopped: &PipeReader, longest: Duration) -> Heard {
    let timeout = PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX);
    let mut watched = vec![PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
    watched.extend(events.map(|events| PollFd::new(events.as_fd(), PollFlags::POLLIN)));
    if poll(&mut watched, timeout).is_err() {
        // Interrupted by a signal: a pass too many does no harm.
        return Heard::Nothing;
    }
    let heard = |at: usize| watched.get(at).and_then(PollFd::any).unwrap_or(false);
    if heard(0) {
        Heard::Stop
    } else if heard(1) {
        Heard::Change
    } else {
        Heard::Nothing
    }
}

impl Reconciler {
    fn free_leaks(&self) {
        for leak in self.node.repair_leaks() {
            self.metrics.repair("leak");
            let (key, reason) = (&leak.key, leak.reason);
            tracing::warn!(%key, "repaired: freed what was left behind: its interface is gone and {reason}");
        }
    }

    /// Has every flow find its way anew: established ones remember their next hop and the route's MTU.
    fn forget_routes(&self) {
        if let Err(error) = self.datapath.bump_epoch() {
            tracing::warn!(%error, "established flows may not follow a change of routes");
        }
    }

    fn sweep_conntrack(&self) {
        let monitor = self.monitor.as_deref();
        let mut ends = monitor.and_then(Monitor::ends);
        let swept = match &mut ends {
            Some(ends) => self.datapath.sweep_conntrack(Some(&mut |connection| ends.note(connection))),
            None => self.datapath.sweep_conntrack(None),
        };
        match swept {
            Ok(swept) => {
                self.node.set_conntrack_use(swept.used);
                if let Some(services) = &self.services {
                    services.forget_ports(&swept.service_ports);
                }
            }
            Err(error) => tracing::warn!(%error, "expired connections could not be swept"),
        }
        if let (Some(monitor), Some(ends)) = (monitor, ends) {
            monitor.expire(&ends);
        }
    }
}

//! When to reconcile, and what else is done from time to time.

use std::{
    io::{self, PipeReader, PipeWriter, Read},
    os::fd::AsFd,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    time::{ClockId, clock_gettime},
};
use tokio::sync::oneshot;

use super::Reconciler;
use crate::monitor::Monitor;
use ipamd_addresses::leaks::Grace;
use ipamd_kernel::netlink::{Events, NetlinkError};
use ipamd_model::concerned::Concerned;
use ipamd_runtime::supervisor;

/// How often is compared though nothing was heard: pins and maps make no events.
pub(super) const PASS_EVERY: Duration = Duration::from_secs(3);
/// How long a wait goes on before the thread says that it gets on: well below what is told of as long.
const WAIT_AT_ONCE: Duration = Duration::from_millis(500);
/// How long is waited after word of a change, for the rest of it: an ADD makes a dozen events.
const SETTLE: Duration = Duration::from_millis(400);
/// How long a pass under way is waited for at the end.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often expired connections are swept out of the maps.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// How often the maps are looked at for how full they are.
const COUNT_EVERY: Duration = Duration::from_mins(1);
/// How often is looked for attachments that were left behind.
const LEAKS_EVERY: Duration = Duration::from_secs(30);

/// The running reconciliation. Dropping it waits until the pass under way is done, if that is soon: each step of it is whole.
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
    pub async fn start(mut reconciler: Reconciler) -> Result<Self, NetlinkError> {
        let failed = |source| NetlinkError::new("start the reconciliation", source);
        let mut events = Events::open()?;
        let (stopped, stop) = io::pipe().map_err(failed)?;
        let woken = reconciler.peers.woken();
        let (passed, first_pass) = oneshot::channel();
        let thread = supervisor::spawn("reconcile", move || {
            reconciler.free_leaks();
            // A node is ready when it reaches the others.
            reconciler.settle();
            // Nobody waits for it if the daemon is on its way out.
            let _ = passed.send(());
            run(&mut reconciler, &mut events, &stopped, woken.as_ref());
        })
        .map_err(failed)?;
        first_pass.await.map_err(|_| failed(io::Error::other("the first pass has failed")))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Reconciliation {
    fn drop(&mut self) {
        // The other end of the pipe sees it close.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = supervisor::join_within(thread, FAREWELL);
        }
    }
}

fn run(reconciler: &mut Reconciler, events: &mut Events, stopped: &PipeReader, nodes: Option<&PipeReader>) {
    let mut sweep = Instant::now();
    let mut count = Instant::now();
    let mut leaks = Instant::now() + LEAKS_EVERY;
    loop {
        let pause = reconciler.pause();
        match wait(Some(&*events), nodes, stopped, pause) {
            Heard::Stop => return,
            Heard::Nothing => {}
            Heard::Nodes => {
                drain(nodes);
                reconciler.nodes_changed();
                if reconciler.rests() {
                    continue;
                }
            }
            Heard::Change => {
                if heed(reconciler, events, stopped) {
                    return;
                }
            }
        }
        let now = Instant::now();
        if now >= leaks {
            reconciler.free_leaks();
            leaks = now + LEAKS_EVERY;
        }
        reconciler.settle_in_measure();
        if now >= sweep {
            reconciler.sweep_conntrack();
            sweep = now + SWEEP_EVERY;
        }
        if now >= count {
            reconciler.count_entries();
            count = now + COUNT_EVERY;
        }
    }
}

/// Has flows follow what changes, and waits until it is time for a pass about it. Returns whether to stop.
fn heed(reconciler: &Reconciler, events: &mut Events, stopped: &PipeReader) -> bool {
    loop {
        reconciler.judge_again(&events.read());
        // For the rest of it.
        if matches!(wait(None, None, stopped, SETTLE), Heard::Stop) {
            return true;
        }
        // Of what changed meanwhile, too.
        reconciler.judge_again(&events.read());
        match wait(Some(&*events), None, stopped, reconciler.breath()) {
            Heard::Stop => return true,
            Heard::Change if !reconciler.breath().is_zero() => {}
            _ => return false,
        }
    }
}

enum Heard {
    Nothing,
    /// The kernel has changed.
    Change,
    /// The cluster's nodes have.
    Nodes,
    Stop,
}

fn wait(
    events: Option<&Events>,
    nodes: Option<&PipeReader>,
    stopped: &PipeReader,
    longest: Duration,
) -> Heard {
    let until = Instant::now() + longest;
    let mut meanings = vec![(Heard::Stop, stopped.as_fd())];
    meanings.extend(events.map(|it| (Heard::Change, it.as_fd())));
    meanings.extend(nodes.map(|it| (Heard::Nodes, it.as_fd())));
    let mut watched: Vec<_> = meanings.iter().map(|it| PollFd::new(it.1, PollFlags::POLLIN)).collect();
    loop {
        // In short pieces, not at rest: who does not come back from a rest is not seen to hang.
        supervisor::beat();
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.min(WAIT_AT_ONCE)).unwrap_or(PollTimeout::MAX);
        match poll(&mut watched, timeout) {
            // Interrupted by a signal: a pass too many does no harm.
            Err(_) => return Heard::Nothing,
            Ok(0) if left > WAIT_AT_ONCE => {}
            Ok(_) => break,
        }
    }
    let at = watched.iter().position(|it| it.any().unwrap_or(false));
    at.map_or(Heard::Nothing, |at| meanings.swap_remove(at).0)
}

/// What the calling thread has had of the processor.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Takes note of all nodes that have changed so far.
fn drain(nodes: Option<&PipeReader>) {
    if let Some(mut nodes) = nodes {
        // There is something to be read, and a pipe gives what it has.
        let _ = nodes.read(&mut [0; 4096]);
    }
}

impl Reconciler {
    /// Passes until nothing is left that waits for what a pass has done.
    fn settle(&mut self) {
        if self.pass() {
            self.pass();
        }
    }

    /// The same, and rests in proportion to what that took the processor.
    fn settle_in_measure(&mut self) {
        let before = processor_time();
        self.settle();
        let cpu = processor_time().saturating_sub(before);
        self.spent(cpu);
    }

    fn free_leaks(&self) {
        for leak in self.node.repair_leaks(Grace::Kept) {
            self.metrics.repair("leak");
            let (key, reason) = (&leak.key, leak.reason);
            tracing::warn!(%key, "repaired: freed what was left behind: its interface is gone and {reason}");
        }
    }

    /// Has the flows that a change of the kernel's tables concerns find their way anew: established ones remember their next
    /// hop and the route's MTU.
    fn judge_again(&self, concerned: &Concerned) {
        if let Err(error) = self.datapath.raise_epoch(concerned) {
            tracing::warn!(%error, "established flows may not follow a change of routes");
        }
    }

    fn count_entries(&self) {
        match self.datapath.fills() {
            Ok(fills) => self.node.set_map_use(fills),
            Err(error) => tracing::warn!(%error, "it cannot be told how full the maps are"),
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
                self.node.set_flow_use(swept.used);
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

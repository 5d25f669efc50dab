//! The thread of the reconciliation: when to make a pass, and periodic work beside it.

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

use super::reconciler::Reconciler;
use crate::monitor::Monitor;
use ipamd_addresses::leaks::Grace;
use ipamd_kernel::netlink::{Events, NetlinkError};
use ipamd_model::concerned::Concerned;
use ipamd_runtime::{memory, supervisor};

/// A longer wait is cut into pieces of this length, so that the supervisor sees the thread alive.
const WAIT_AT_ONCE: Duration = Duration::from_millis(500);
/// How long to wait after the first event of a change: an ADD makes a dozen events.
const DEBOUNCE: Duration = Duration::from_millis(400);
/// How long after the first pass the start is over.
const STARTED_AFTER: Duration = Duration::from_secs(10);
/// How long a pass under way is waited for at the end.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often expired connections are swept out of the maps.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// How often the entries of the maps are counted.
const COUNT_EVERY: Duration = Duration::from_mins(1);
/// How often leaked attachments are looked for.
const LEAKS_EVERY: Duration = Duration::from_secs(30);

/// The running reconciliation. Dropping it waits until the pass under way is done, if that is soon: each step of it is whole.
#[derive(Debug)]
pub struct Reconciliation {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Reconciliation {
    /// Makes the first pass and continues in the background.
    ///
    /// # Errors
    /// Why the kernel's events cannot be listened to.
    pub async fn start(mut reconciler: Reconciler) -> Result<Self, NetlinkError> {
        let failed = |source| NetlinkError::new("start the reconciliation", source);
        let mut events = Events::open()?;
        let (stopped, stop) = io::pipe().map_err(failed)?;
        let woken = reconciler.remote_nodes.wake_pipe();
        let (passed, first_pass) = oneshot::channel();
        let thread = supervisor::spawn("reconcile", move || {
            reconciler.free_leaks();
            // The node is ready only when it has its routes to the others.
            reconciler.reconcile_until_stable();
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
    let mut starting = Some(Instant::now() + STARTED_AFTER);
    loop {
        let pause = reconciler.idle_time();
        match wait(Some(&*events), nodes, stopped, pause) {
            Wakeup::Stop => return,
            Wakeup::Nothing => {}
            Wakeup::Nodes => {
                drain(nodes);
                reconciler.nodes_changed();
                if reconciler.is_idle() {
                    continue;
                }
            }
            Wakeup::Change => {
                if debounce(reconciler, events, stopped) {
                    return;
                }
            }
        }
        let now = Instant::now();
        if now >= leaks {
            reconciler.free_leaks();
            leaks = now + LEAKS_EVERY;
        }
        reconciler.reconcile_and_throttle();
        if now >= sweep {
            reconciler.sweep_conntrack();
            // A pod whose policy means many others needs memory for a moment, which lies between what stays.
            memory::give_back();
            sweep = now + SWEEP_EVERY;
        }
        if now >= count {
            reconciler.count_entries();
            count = now + COUNT_EVERY;
        }
        if starting.take_if(|until| now >= *until).is_some()
            && let Err(error) = memory::give_back_program()
        {
            tracing::debug!(%error, "cannot give back pages of the program that only a start needs");
        }
    }
}

/// Raises the epoch of the flows that the events concern, and waits until a pass is due. Returns whether to stop.
fn debounce(reconciler: &Reconciler, events: &mut Events, stopped: &PipeReader) -> bool {
    loop {
        reconciler.revalidate_flows(&events.read());
        // The rest of the events of the same change.
        if matches!(wait(None, None, stopped, DEBOUNCE), Wakeup::Stop) {
            return true;
        }
        // What changed meanwhile.
        reconciler.revalidate_flows(&events.read());
        match wait(Some(&*events), None, stopped, reconciler.cooldown()) {
            Wakeup::Stop => return true,
            Wakeup::Change if !reconciler.cooldown().is_zero() => {}
            _ => return false,
        }
    }
}

enum Wakeup {
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
) -> Wakeup {
    let until = Instant::now() + longest;
    let mut meanings = vec![(Wakeup::Stop, stopped.as_fd())];
    meanings.extend(events.map(|it| (Wakeup::Change, it.as_fd())));
    meanings.extend(nodes.map(|it| (Wakeup::Nodes, it.as_fd())));
    let mut watched: Vec<_> = meanings.iter().map(|it| PollFd::new(it.1, PollFlags::POLLIN)).collect();
    loop {
        // The wait is cut into pieces and not marked as rest, because the supervisor does not watch a resting thread.
        supervisor::beat();
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.min(WAIT_AT_ONCE)).unwrap_or(PollTimeout::MAX);
        match poll(&mut watched, timeout) {
            // Interrupted by a signal: a pass too many does no harm.
            Err(_) => return Wakeup::Nothing,
            Ok(0) if left > WAIT_AT_ONCE => {}
            Ok(_) => break,
        }
    }
    let at = watched.iter().position(|it| it.any().unwrap_or(false));
    at.map_or(Wakeup::Nothing, |at| meanings.swap_remove(at).0)
}

/// The processor time of the calling thread.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Empties the wake-up pipe.
fn drain(nodes: Option<&PipeReader>) {
    if let Some(mut nodes) = nodes {
        // The pipe is readable, so this does not block.
        let _ = nodes.read(&mut [0; 4096]);
    }
}

impl Reconciler {
    /// Makes passes until none asks for another; two are enough.
    fn reconcile_until_stable(&mut self) {
        if self.pass() {
            self.pass();
        }
    }

    /// The same, and charges its processor time to the throttle.
    fn reconcile_and_throttle(&mut self) {
        let before = processor_time();
        self.reconcile_until_stable();
        let cpu = processor_time().saturating_sub(before);
        self.charge(cpu);
    }

    fn free_leaks(&self) {
        for leak in self.node.repair_leaks(Grace::Kept) {
            self.metrics.repair("leak");
            let (key, reason) = (&leak.key, leak.reason);
            tracing::warn!(%key, "repaired: freed a leaked attachment: its interface is gone and {reason}");
        }
    }

    /// Raises the epoch for the flows that a change of the kernel's tables concerns. Established flows remember their
    /// next hop and the route's MTU, so they must look both up again.
    fn revalidate_flows(&self, concerned: &Concerned) {
        if let Err(error) = self.datapath.raise_epoch(concerned) {
            tracing::warn!(%error, "cannot raise the epoch; established flows may keep their old routes");
        }
    }

    fn count_entries(&self) {
        match self.datapath.map_use() {
            Ok(fills) => self.node.set_map_use(fills),
            Err(error) => tracing::warn!(%error, "cannot count the entries of the maps"),
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
            Err(error) => tracing::warn!(%error, "cannot sweep expired connections"),
        }
        if let (Some(monitor), Some(ends)) = (monitor, ends) {
            monitor.expire(&ends);
        }
        if let Err(error) = self.datapath.sweep_names() {
            tracing::warn!(%error, "cannot forget the DNS names of endpoints that are gone");
        }
    }
}

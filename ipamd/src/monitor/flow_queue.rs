//! New flows that wait to be judged by the staged policies. The thread that reads the programs' events never waits for that.

use std::{
    collections::{HashSet, VecDeque},
    mem,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ipamd_api::policy::EventKind;

use super::ring_event::RingEvent;
use ipamd_policy::enforce::{Passed, SeenFlow};
use ipamd_runtime::queued_lock::locked;

/// How many wait. What is beyond is counted.
const WAITING: usize = 16_384;
/// How many refused flows are known again: whoever is refused asks several times.
const KNOWN: usize = 4_096;

/// A new flow, and when it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewFlow {
    /// What the programs have said of it.
    pub passed: Passed,
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
}

/// What there is to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The flows, in their order.
    pub flows: Vec<NewFlow>,
    /// How many there was no room for.
    pub lost: u64,
    /// Nothing comes any more.
    pub closed: bool,
}

#[derive(Debug, Default)]
struct Waiting {
    flows: VecDeque<NewFlow>,
    lost: u64,
    closed: bool,
    woken: bool,
    /// Refused flows that were seen lately, and those before them.
    refused: HashSet<SeenFlow>,
    before: HashSet<SeenFlow>,
}

impl Waiting {
    /// Whether a refused flow is new.
    fn is_new(&mut self, flow: SeenFlow) -> bool {
        if self.refused.len() >= KNOWN {
            self.before = mem::take(&mut self.refused);
        }
        let was_before = self.before.contains(&flow);
        self.refused.insert(flow) && !was_before
    }
}

/// The queue.
#[derive(Debug, Default)]
pub struct FlowQueue {
    judging: AtomicBool,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl FlowQueue {
    /// Whether flows are taken. If they are not, those that wait are forgotten.
    pub(super) fn judge(&self, judging: bool) {
        self.judging.store(judging, Ordering::Relaxed);
        if !judging {
            let mut waiting = locked(&self.waiting);
            let closed = waiting.closed;
            *waiting = Waiting { closed, ..Waiting::default() };
        }
    }

    /// Adds the flow of an event, if it is new.
    pub(super) fn push(&self, raw: &RingEvent) {
        if !self.judging.load(Ordering::Relaxed) || !(raw.kind == EventKind::Flow || raw.is_refused()) {
            return;
        }
        let mut waiting = locked(&self.waiting);
        if raw.is_refused() && !waiting.is_new(raw.flow) {
            return;
        }
        if waiting.flows.len() >= WAITING {
            waiting.lost += 1;
            return;
        }
        let passed = Passed { flow: raw.flow, verdict: raw.verdict() };
        waiting.flows.push_back(NewFlow { passed, time: raw.time });
        self.changed.notify_one();
    }

    /// Waits for flows, or until somebody wakes whoever waits, or so long. Returns up to `most` of the flows.
    pub fn take(&self, most: usize, patience: Duration) -> Taken {
        let waiting = locked(&self.waiting);
        let nothing = |it: &mut Waiting| it.flows.is_empty() && !it.closed && !it.woken;
        let waited = self.changed.wait_timeout_while(waiting, patience, nothing);
        let mut waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        waiting.woken = false;
        let count = waiting.flows.len().min(most);
        Taken {
            flows: waiting.flows.drain(..count).collect(),
            lost: mem::take(&mut waiting.lost),
            closed: waiting.closed,
        }
    }

    /// Has whoever waits look at what has changed.
    pub fn wake(&self) {
        locked(&self.waiting).woken = true;
        self.changed.notify_one();
    }

    /// Nothing comes any more.
    pub fn close(&self) {
        locked(&self.waiting).closed = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use bpf::layout::{EVENT_DROP, EVENT_END, EVENT_FLOW, EVENT_LOG};
    use ipamd_api::policy::Verdict;

    use super::{super::tests::ring_event, *};

    fn of_port(kind: u8, why: &str, port: u16) -> RingEvent {
        let mut raw = ring_event(kind, why);
        raw.flow.source_port = port;
        raw
    }

    fn taken(queue: &FlowQueue) -> Vec<(u16, Verdict)> {
        let flows = queue.take(usize::MAX, Duration::ZERO).flows;
        flows.iter().map(|it| (it.passed.flow.source_port, it.passed.verdict)).collect()
    }

    #[test]
    fn new_flows_and_what_policy_refuses_are_judged_once_and_nothing_else() {
        let queue = FlowQueue::default();
        queue.push(&of_port(EVENT_FLOW, "none", 1));
        assert_eq!(taken(&queue), [], "there is nothing to try");
        queue.judge(true);
        for raw in [
            of_port(EVENT_FLOW, "none", 1),
            of_port(EVENT_DROP, "policy_ingress", 2),
            of_port(EVENT_DROP, "policy_ingress", 2),
            of_port(EVENT_DROP, "malformed", 3),
            of_port(EVENT_END, "none", 4),
            of_port(EVENT_LOG, "none", 5),
        ] {
            queue.push(&raw);
        }
        assert_eq!(taken(&queue), [(1, Verdict::Allow), (2, Verdict::Deny)]);
        queue.push(&of_port(EVENT_DROP, "policy_ingress", 2));
        assert_eq!(taken(&queue), []);
        queue.push(&of_port(EVENT_FLOW, "none", 6));
        queue.judge(false);
        assert_eq!(taken(&queue), []);
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let queue = FlowQueue::default();
        queue.judge(true);
        for port in 0..WAITING + 3 {
            queue.push(&of_port(EVENT_FLOW, "none", u16::try_from(port).unwrap()));
        }
        let first = queue.take(10, Duration::ZERO);
        assert_eq!((first.flows.len(), first.lost), (10, 3));
        let rest = queue.take(usize::MAX, Duration::ZERO);
        assert_eq!((rest.flows.len(), rest.lost), (WAITING - 10, 0));
    }

    #[test]
    fn who_waits_is_woken_and_told_the_end() {
        let queue = FlowQueue::default();
        let long = Duration::from_mins(1);
        queue.wake();
        assert_eq!(queue.take(1, long), Taken::default());
        queue.close();
        assert!(queue.take(1, long).closed);
    }
}

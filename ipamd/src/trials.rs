//! The thread that has the staged policies judge flows: each new one as the programs tell it, and those that live once, when the staged
//! policies have changed. While there is nothing to try it looks once in a second whether there is.

use std::{io, sync::Arc, thread::JoinHandle, time::Duration};

use ipamd_api::wire::ConntrackFilter;

use crate::{
    monitor::{Monitor, NewFlow, flow_of},
    node::Node,
};
use ipamd_policy::enforce::{Enforcer, SeenFlow};
use ipamd_runtime::supervisor;

/// How many flows are judged at once. Nobody has what is in force for long.
const AT_ONCE: usize = 512;
/// How many of the flows that live are judged.
const LIVING: u64 = 100_000;
/// How often it is looked whether there is something to try, if nobody says so.
const TICK: Duration = Duration::from_secs(1);

/// The running thread. Dropping it ends it.
#[derive(Debug)]
pub struct Trials {
    monitor: Arc<Monitor>,
    thread: Option<JoinHandle<()>>,
}

impl Trials {
    /// Starts it.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(node: &Arc<Node>, policy: &Arc<Enforcer>, monitor: &Arc<Monitor>) -> io::Result<Self> {
        let mut judge = Judge {
            node: Arc::clone(node),
            policy: Arc::clone(policy),
            monitor: Arc::clone(monitor),
            walked: None,
            missed: 0,
        };
        let thread = supervisor::spawn("trials", move || judge.run())?;
        Ok(Self { monitor: Arc::clone(monitor), thread: Some(thread) })
    }
}

impl Drop for Trials {
    fn drop(&mut self) {
        self.monitor.new_flows().close();
        if let Some(thread) = self.thread.take() {
            let _ = supervisor::join_within(thread, supervisor::FAREWELL);
        }
    }
}

struct Judge {
    node: Arc<Node>,
    policy: Arc<Enforcer>,
    monitor: Arc<Monitor>,
    /// The version of the staged policies that has judged the flows that live.
    walked: Option<u64>,
    /// How many events the programs could not tell, as of the last look.
    missed: u64,
}

impl Judge {
    fn run(&mut self) {
        loop {
            let taken = supervisor::resting(|| self.monitor.new_flows().take(AT_ONCE, TICK));
            if taken.closed {
                return;
            }
            let version = self.policy.stage();
            if let Err(error) = self.monitor.judge_new_flows(version.is_some()) {
                tracing::warn!(%error, "the programs cannot be asked to tell new flows for the staged policies");
            }
            if version.is_none() {
                self.walked = None;
                continue;
            }
            self.count_losses(taken.lost, self.walked.is_none());
            self.judge(&taken.flows);
            if self.walked != version {
                self.walked = version;
                self.judge_living();
            }
        }
    }

    fn judge(&self, flows: &[NewFlow]) {
        if flows.is_empty() {
            return;
        }
        let passed: Vec<_> = flows.iter().map(|flow| flow.passed).collect();
        for otherwise in self.policy.judge_new(&passed, |flow| self.names(flow)) {
            let seen = flows.iter().find(|it| it.passed.flow == otherwise.flow);
            self.monitor.tell_staged(&otherwise, seen.map_or(0, |it| it.time));
        }
    }

    /// Judges the flows that are tracked, a page at a time.
    fn judge_living(&self) {
        let all = ConntrackFilter { limit: Some(LIVING), ..ConntrackFilter::default() };
        let walked = self.node.kernel().conntrack(&all, &mut |connections| {
            supervisor::beat();
            // Those that have ended are remembered for a while.
            let live = connections.iter().filter(|it| !matches!(it.state.as_str(), "closed" | "reset"));
            let flows: Vec<_> = live.map(flow_of).collect();
            for flows in flows.chunks(AT_ONCE) {
                self.policy.judge_living(flows, |flow| self.names(flow));
            }
            true
        });
        if let Err(error) = walked {
            tracing::warn!(%error, "the staged policies cannot judge the connections that live");
        }
    }

    /// Counts flows that were not told, or that there was no room for. What the programs missed before there was something to try
    /// does not count.
    fn count_losses(&mut self, lost: u64, is_first: bool) {
        let missed = self.monitor.missed().unwrap_or(self.missed);
        let more = missed.saturating_sub(self.missed);
        self.missed = missed;
        let lost = if is_first { lost } else { lost + more };
        if lost > 0 {
            self.policy.lose_judgements(lost);
        }
    }

    /// The DNS names that the opener of a flow was told for its destination.
    fn names(&self, flow: &SeenFlow) -> Vec<String> {
        self.node.kernel().dns_names_of(flow.source, flow.destination).unwrap_or_default()
    }
}

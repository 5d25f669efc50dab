//! Gives events to subscribers: [`Monitor`] and the right to its events.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use ipamd_api::policy::{Event, EventKind, MonitorFilter};
use tokio::sync::mpsc;

use super::{
    event_filter::EventMask,
    expired_flows::Ends,
    flow_queue::FlowQueue,
    log_lines::{self, LogLines},
    named_event::{self, Names},
    programs::Programs,
    recent_denials::RecentDenials,
    ring_event::RingEvent,
    subscribers::{Kinds, Subscribers},
};
use ipamd_datapath::DatapathError;
use ipamd_policy::enforce::{Otherwise, SeenFlow};
use ipamd_runtime::queued_lock::locked;

/// Why a subscription fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// There are too many subscribers.
    #[error("too many clients listen already")]
    TooMany,
    /// The mask of events could not be set.
    #[error("the programs cannot be asked to tell: {0}")]
    Programs(#[from] DatapathError),
}

/// Gives events to subscribers.
#[derive(Debug)]
pub struct Monitor {
    programs: Arc<dyn Programs>,
    names: Arc<dyn Names>,
    subscribers: Subscribers,
    recent: Mutex<RecentDenials>,
    lines: Mutex<LogLines>,
    /// New flows that the staged policies are to judge.
    new_flows: FlowQueue,
}

impl Monitor {
    /// There are no subscribers yet; the datapath starts with events off.
    pub fn new(programs: Arc<dyn Programs>, names: Arc<dyn Names>) -> Self {
        Self {
            programs,
            names,
            subscribers: Subscribers::default(),
            recent: Mutex::default(),
            lines: Mutex::default(),
            new_flows: FlowQueue::default(),
        }
    }

    /// The new flows that the staged policies are to judge.
    pub fn new_flows(&self) -> &FlowQueue {
        &self.new_flows
    }

    /// Has the programs tell every new flow for the staged policies, or no more than subscribers want.
    ///
    /// # Errors
    /// The programs cannot be asked; all is as before.
    pub fn judge_new_flows(&self, judging: bool) -> Result<(), DatapathError> {
        if self.subscribers.judge(judging, |mask| self.ask(mask))? {
            self.new_flows.judge(judging);
        }
        Ok(())
    }

    /// Tells subscribers what the staged policies would do with a flow that was seen at that time.
    pub fn tell_staged(&self, otherwise: &Otherwise, time: u64) {
        let change = &otherwise.change;
        let interested = self.subscribers.interested_in_staged(&otherwise.flow, change.after);
        if interested.is_empty() {
            return;
        }
        let event = Arc::new(named_event::staged(otherwise, time));
        for subscriber in interested.iter().filter(|subscriber| subscriber.admits(&event)) {
            subscriber.offer(&event);
        }
    }

    /// How many events the programs could not tell so far.
    ///
    /// # Errors
    /// That cannot be read.
    pub fn missed(&self) -> Result<u64, DatapathError> {
        let (lost, suppressed) = self.programs.events_missed()?;
        Ok(lost.saturating_add(suppressed))
    }

    /// Listens from now on.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn subscribe(self: &Arc<Self>, filter: MonitorFilter) -> Result<Subscription, SubscribeError> {
        self.join(filter, Kinds::All)
    }

    /// Listens from now on to new flows, drops and what staged policies would do, and to nothing else.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn subscribe_to_openings(self: &Arc<Self>) -> Result<Subscription, SubscribeError> {
        self.join(MonitorFilter::default(), Kinds::Openings)
    }

    fn join(self: &Arc<Self>, filter: MonitorFilter, kinds: Kinds) -> Result<Subscription, SubscribeError> {
        let missed = self.missed()?;
        let joined = self.subscribers.join(filter, kinds, missed, |mask| self.ask(mask));
        let (id, events) = joined.ok_or(SubscribeError::TooMany)??;
        Ok(Subscription { monitor: Arc::clone(self), id, events })
    }

    /// The flows that policies refused lately, the latest first.
    pub fn recent(&self) -> Vec<SeenFlow> {
        locked(&self.recent).flows()
    }

    /// A collector for the ends of expired connections, if a subscriber wants them.
    pub fn ends(&self) -> Option<Ends> {
        self.subscribers.sample().map(Ends::new)
    }

    /// Tells of them.
    pub fn expire(&self, ends: &Ends) {
        let now = named_event::now();
        for flow in ends.flows() {
            self.take(&RingEvent::expired(now, *flow));
        }
        self.subscribers.lose_flows(ends.beyond());
    }

    /// Handles a record of the ring.
    pub(super) fn read(&self, record: &[u8]) {
        if let Some(raw) = RingEvent::read(record) {
            self.take(&raw);
        }
    }

    pub(super) fn take(&self, raw: &RingEvent) {
        if raw.is_refused() {
            locked(&self.recent).put(raw.flow);
        }
        self.new_flows.push(raw);
        let is_written = raw.kind == EventKind::Log && locked(&self.lines).admit(Instant::now());
        let interested = self.subscribers.interested(raw);
        if interested.is_empty() && !is_written {
            return;
        }
        let mut event = named_event::named(raw, self.names.as_ref());
        // Who reads the event sees the name that the opener meant. An event without it is better than none.
        let names = self.programs.dns_names_of(raw.flow.source, raw.flow.destination).unwrap_or_default();
        event.destination.others.extend(names.iter().map(|name| format!("DNS name {name}")));
        let event = Arc::new(event);
        if is_written {
            log_lines::write(&event);
        }
        for subscriber in interested.iter().filter(|subscriber| subscriber.admits(&event)) {
            subscriber.offer(&event);
        }
    }

    /// Reports lost events to all subscribers.
    pub(super) fn report_losses(&self) {
        match self.missed() {
            Ok(missed) => self.subscribers.report_losses(missed),
            Err(error) => tracing::warn!(%error, "cannot read how many events were lost"),
        }
    }

    pub(super) fn is_heard(&self) -> bool {
        !self.subscribers.is_empty()
    }

    fn ask(&self, mask: EventMask) -> Result<(), DatapathError> {
        self.programs.set_events(mask.flows, mask.drops, mask.sample)
    }
}

/// The right to events, until it is dropped.
#[derive(Debug)]
pub struct Subscription {
    monitor: Arc<Monitor>,
    id: u64,
    pub(super) events: mpsc::Receiver<Arc<Event>>,
}

impl Subscription {
    /// Waits for events, and takes up to `most` of those that are there.
    pub async fn next(&mut self, most: usize) -> Vec<Arc<Event>> {
        let mut events = Vec::new();
        self.events.recv_many(&mut events, most).await;
        events
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Err(error) = self.monitor.subscribers.leave(self.id, |mask| self.monitor.ask(mask)) {
            tracing::warn!(%error, "cannot turn off events that no subscriber wants");
        }
    }
}

//! Events of flows from the programs' ring buffer: read, given names, and sent to subscribers.
//!
//! Flows that policy refuses are always reported, and kept for a while without names. Everything else is reported only
//! while there are subscribers. [`RingReader`] is the thread that reads the ring, [`Monitor`] gives the events to the
//! subscribers.

mod event_filter;
mod expired_flows;
mod log_lines;
mod named_event;
mod recent_denials;
mod ring_event;
mod ring_reader;
mod subscribers;
#[cfg(test)]
mod tests;

use std::{
    fmt::Debug,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use ipamd_api::policy::{DecidingRule, Event, EventKind, MonitorFilter, Party};
use tokio::sync::mpsc;

use self::{
    event_filter::EventMask, log_lines::LogLines, recent_denials::RecentDenials, ring_event::RingEvent,
    subscribers::Subscribers,
};
pub use self::{
    expired_flows::{Ends, flow_of},
    ring_reader::{RingError, RingReader},
};
use ipamd_datapath::{Datapath, DatapathError};
use ipamd_policy::{
    enforce::{Enforcer, SeenFlow},
    tables::RuleId,
};

/// The programs, as far as events need them.
pub trait Programs: Debug + Send + Sync {
    /// Turns events on and off (denials by policy are always on), and sets of how many flows one is reported.
    fn set_events(&self, flows: bool, drops: bool, sample: u32) -> Result<(), DatapathError>;
    /// How many events the ring had no room for, and how many were beyond the rate.
    fn events_missed(&self) -> Result<(u64, u64), DatapathError>;
}

impl Programs for Datapath {
    fn set_events(&self, flows: bool, drops: bool, sample: u32) -> Result<(), DatapathError> {
        Self::set_events(self, flows, drops, sample)
    }

    fn events_missed(&self) -> Result<(u64, u64), DatapathError> {
        Self::events_missed(self)
    }
}

/// Looks names up. This may wait for a change of policies under way.
pub trait Names: Debug + Send + Sync {
    /// Who has an address.
    fn party(&self, address: IpAddr, port: u16) -> Party;
    /// The rule of a number.
    fn rule(&self, rule: RuleId) -> Option<DecidingRule>;
}

impl Names for Enforcer {
    fn party(&self, address: IpAddr, port: u16) -> Party {
        Self::party(self, address, port)
    }

    fn rule(&self, rule: RuleId) -> Option<DecidingRule> {
        Self::rule(self, rule)
    }
}

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
        }
    }

    /// Listens from now on.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn subscribe(self: &Arc<Self>, filter: MonitorFilter) -> Result<Subscription, SubscribeError> {
        let missed = self.missed()?;
        let joined = self.subscribers.join(filter, missed, |mask| self.ask(mask));
        let (id, events) = joined.ok_or(SubscribeError::TooMany)??;
        Ok(Subscription { monitor: Arc::clone(self), id, events })
    }

    /// The flows that policies refused lately, the latest first.
    pub fn recent(&self) -> Vec<SeenFlow> {
        lock(&self.recent).flows()
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
    fn read(&self, record: &[u8]) {
        if let Some(raw) = RingEvent::read(record) {
            self.take(&raw);
        }
    }

    fn take(&self, raw: &RingEvent) {
        if raw.is_refused() {
            lock(&self.recent).put(raw.flow);
        }
        let is_written = raw.kind == EventKind::Log && lock(&self.lines).admit(Instant::now());
        let interested = self.subscribers.interested(raw);
        if interested.is_empty() && !is_written {
            return;
        }
        let event = Arc::new(named_event::named(raw, self.names.as_ref()));
        if is_written {
            log_lines::write(&event);
        }
        for subscriber in interested.iter().filter(|subscriber| subscriber.admits(&event)) {
            subscriber.offer(&event);
        }
    }

    /// Reports lost events to all subscribers.
    fn report_losses(&self) {
        match self.missed() {
            Ok(missed) => self.subscribers.report_losses(missed),
            Err(error) => tracing::warn!(%error, "cannot read how many events were lost"),
        }
    }

    fn is_heard(&self) -> bool {
        !self.subscribers.is_empty()
    }

    fn missed(&self) -> Result<u64, DatapathError> {
        let (lost, suppressed) = self.programs.events_missed()?;
        Ok(lost.saturating_add(suppressed))
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
    events: mpsc::Receiver<Arc<Event>>,
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

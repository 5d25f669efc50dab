//! What the programs tell of flows: read, named, and given to those who listen.
//!
//! Refused flows come always and are kept for a while without their names; everything else is told only while somebody
//! listens. [`Listening`] is the thread that reads, [`Monitor`] what it gives to.

mod decode;
mod expired;
mod filter;
mod lines;
mod name;
mod recent;
mod ring;
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

use self::{decode::Told, filter::Wishes, lines::Lines, recent::Recent, subscribers::Subscribers};
pub use self::{
    expired::{Ends, flow_of},
    ring::{Listening, RingError},
};
use ipamd_datapath::{Datapath, DatapathError};
use ipamd_policy::{
    enforce::{Enforcer, SeenFlow},
    tables::RuleId,
};

/// The programs, as they tell.
pub trait Programs: Debug + Send + Sync {
    /// Sets what they tell besides what policies refuse, and of how many flows one.
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

/// Who knows names. May have to wait for a change of policies under way.
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

/// Why nobody can listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// Too many do.
    #[error("too many clients listen already")]
    TooMany,
    /// The programs could not be asked.
    #[error("the programs cannot be asked to tell: {0}")]
    Programs(#[from] DatapathError),
}

/// What gives events to those who listen.
#[derive(Debug)]
pub struct Monitor {
    programs: Arc<dyn Programs>,
    names: Arc<dyn Names>,
    subscribers: Subscribers,
    recent: Mutex<Recent>,
    lines: Mutex<Lines>,
}

impl Monitor {
    /// Nobody listens yet; the datapath has been opened with telling turned off.
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
        let joined = self.subscribers.join(filter, missed, |wishes| self.ask(wishes));
        let (id, events) = joined.ok_or(SubscribeError::TooMany)??;
        Ok(Subscription { monitor: Arc::clone(self), id, events })
    }

    /// The flows that policies refused lately, the latest first.
    pub fn recent(&self) -> Vec<SeenFlow> {
        lock(&self.recent).flows()
    }

    /// What to note the ends of connections in that the conntrack forgets, if anybody is told of them.
    pub fn ends(&self) -> Option<Ends> {
        self.subscribers.sample().map(Ends::new)
    }

    /// Tells of them.
    pub fn expire(&self, ends: &Ends) {
        let now = name::now();
        for flow in ends.flows() {
            self.take(&Told::expired(now, *flow));
        }
        self.subscribers.lose_flows(ends.beyond());
    }

    /// Takes a record of the ring.
    fn read(&self, record: &[u8]) {
        if let Some(told) = Told::read(record) {
            self.take(&told);
        }
    }

    fn take(&self, told: &Told) {
        if told.is_refused() {
            lock(&self.recent).put(told.flow);
        }
        let is_written = told.kind == EventKind::Log && lock(&self.lines).admit(Instant::now());
        let interested = self.subscribers.interested(told);
        if interested.is_empty() && !is_written {
            return;
        }
        let event = Arc::new(name::named(told, self.names.as_ref()));
        if is_written {
            lines::write(&event);
        }
        for subscriber in interested.iter().filter(|subscriber| subscriber.admits(&event)) {
            subscriber.offer(&event);
        }
    }

    /// Tells everybody of what was lost.
    fn settle(&self) {
        match self.missed() {
            Ok(missed) => self.subscribers.settle(missed),
            Err(error) => tracing::warn!(%error, "it is not known how many events were lost"),
        }
    }

    fn is_heard(&self) -> bool {
        !self.subscribers.is_empty()
    }

    fn missed(&self) -> Result<u64, DatapathError> {
        let (lost, suppressed) = self.programs.events_missed()?;
        Ok(lost.saturating_add(suppressed))
    }

    fn ask(&self, wishes: Wishes) -> Result<(), DatapathError> {
        self.programs.set_events(wishes.flows, wishes.drops, wishes.sample)
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
        if let Err(error) = self.monitor.subscribers.leave(self.id, |wishes| self.monitor.ask(wishes)) {
            tracing::warn!(%error, "the programs go on telling what nobody wants");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The subscribers of events. A subscriber that reads too slowly loses events and is told how many; it delays nobody
//! else.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use ipamd_api::policy::{Event, EventKind, MonitorFilter, Verdict};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{
    event_filter::{EventMask, admits_named, admits_staged, admits_unnamed, wants_flows},
    named_event::lost,
    ring_event::RingEvent,
};
use ipamd_policy::enforce::SeenFlow;

/// How many events wait for a subscriber: what a quarter of a second of the programs' full rate makes on two processors,
/// and a megabyte at most. Subscribers share the events themselves.
const WAITING: usize = 1_024;
/// The largest number of subscribers. Each event is compared with the filter of each.
const SUBSCRIBERS: usize = 32;

/// A subscriber's number and the receiver of its events.
type Joined = (u64, mpsc::Receiver<Arc<Event>>);

/// Which kinds of events a subscriber wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinds {
    /// All.
    All,
    /// New flows, drops, and what staged policies would do: neither ends, which are collected for whoever wants them, nor logs.
    Openings,
}

impl Kinds {
    fn admit(self, kind: EventKind) -> bool {
        self == Self::All || !matches!(kind, EventKind::End | EventKind::Log)
    }
}

/// A subscriber.
#[derive(Debug)]
pub struct Subscriber {
    id: u64,
    filter: MonitorFilter,
    kinds: Kinds,
    events: mpsc::Sender<Arc<Event>>,
    /// Lost events that are not reported yet.
    lost: AtomicU64,
    /// The programs' count of lost events at the last report.
    missed: AtomicU64,
}

impl Subscriber {
    /// Whether it wants an event, by its names.
    pub fn admits(&self, event: &Event) -> bool {
        admits_named(&self.filter, event)
    }

    /// Sends an event, after a report of lost ones.
    pub fn offer(&self, event: &Arc<Event>) {
        if !self.report_losses()
            || matches!(self.events.try_send(Arc::clone(event)), Err(TrySendError::Full(_)))
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reports to this subscriber how many events it has lost. Returns false if its queue is full.
    fn report_losses(&self) -> bool {
        if self.lost.load(Ordering::Relaxed) == 0 {
            return true;
        }
        let Ok(place) = self.events.try_reserve() else { return false };
        place.send(Arc::new(lost(self.lost.swap(0, Ordering::Relaxed))));
        true
    }
}

/// All subscribers.
#[derive(Debug, Default)]
pub struct Subscribers {
    registry: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    subscribers: Vec<Arc<Subscriber>>,
    last_id: u64,
    /// The programs report one in this many flows.
    sample: u32,
    /// Staged policies judge every new flow.
    judging: bool,
}

impl Registry {
    /// Sets the mask of events to what all subscribers want together.
    fn update_mask<E>(&mut self, ask: impl FnOnce(EventMask) -> Result<(), E>) -> Result<(), E> {
        let mut mask = EventMask::of(self.subscribers.iter().map(|it| &it.filter));
        if self.judging {
            mask = mask.with_every_flow();
        }
        self.sample = mask.sample;
        ask(mask)
    }
}

impl Subscribers {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a subscriber; `None` if there are too many. Losses count beyond `missed`. `ask` sets the mask of events in
    /// the programs.
    pub fn join<E>(
        &self,
        filter: MonitorFilter,
        kinds: Kinds,
        missed: u64,
        ask: impl FnOnce(EventMask) -> Result<(), E>,
    ) -> Option<Result<Joined, E>> {
        let mut registry = self.registry();
        if registry.subscribers.len() >= SUBSCRIBERS {
            return None;
        }
        let (events, received) = mpsc::channel(WAITING);
        registry.last_id += 1;
        let id = registry.last_id;
        let (lost, missed) = (AtomicU64::new(0), AtomicU64::new(missed));
        registry.subscribers.push(Arc::new(Subscriber { id, filter, kinds, events, lost, missed }));
        let asked = registry.update_mask(ask);
        if asked.is_err() {
            registry.subscribers.pop();
        }
        Some(asked.map(|()| (id, received)))
    }

    /// Removes a subscriber.
    pub fn leave<E>(&self, id: u64, ask: impl FnOnce(EventMask) -> Result<(), E>) -> Result<(), E> {
        let mut registry = self.registry();
        registry.subscribers.retain(|subscriber| subscriber.id != id);
        registry.update_mask(ask)
    }

    /// Has every new flow be told, or only those that subscribers want. Returns whether that is another state than before.
    pub fn judge<E>(&self, judging: bool, ask: impl FnOnce(EventMask) -> Result<(), E>) -> Result<bool, E> {
        let mut registry = self.registry();
        if registry.judging == judging {
            return Ok(false);
        }
        registry.judging = judging;
        if let Err(error) = registry.update_mask(ask) {
            registry.judging = !judging;
            return Err(error);
        }
        Ok(true)
    }

    /// The subscribers whose filters may match what staged policies would do with a flow.
    pub fn interested_in_staged(&self, flow: &SeenFlow, would: Verdict) -> Vec<Arc<Subscriber>> {
        let registry = self.registry();
        let wants = |it: &&Arc<Subscriber>| admits_staged(&it.filter, flow, would);
        registry.subscribers.iter().filter(wants).cloned().collect()
    }

    /// Whether there is anybody.
    pub fn is_empty(&self) -> bool {
        self.registry().subscribers.is_empty()
    }

    /// The sampling rate, if anybody wants the ends of flows.
    pub fn sample(&self) -> Option<u32> {
        let registry = self.registry();
        let wanting = registry.subscribers.iter().filter(|it| it.kinds.admit(EventKind::End));
        let mask = EventMask::of(wanting.map(|it| &it.filter));
        mask.flows.then_some(mask.sample)
    }

    /// The subscribers whose filters may match an event, before names are looked up.
    pub fn interested(&self, raw: &RingEvent) -> Vec<Arc<Subscriber>> {
        let registry = self.registry();
        let sample = registry.sample.max(1);
        let wants = |it: &&Arc<Subscriber>| {
            it.kinds.admit(raw.kind) && admits_unnamed(&it.filter, raw, it.filter.sample / sample)
        };
        registry.subscribers.iter().filter(wants).cloned().collect()
    }

    /// Counts flows that were not reported.
    pub fn lose_flows(&self, lost: u64) {
        let registry = self.registry();
        let wanting = registry.subscribers.iter().filter(|it| it.kinds.admit(EventKind::End));
        for subscriber in wanting.filter(|it| wants_flows(&it.filter)) {
            subscriber.lost.fetch_add(lost, Ordering::Relaxed);
        }
    }

    /// Reports losses to every subscriber: events that the ring had no room for (`missed` so far), and those that the
    /// subscriber was too slow for.
    pub fn report_losses(&self, missed: u64) {
        for subscriber in &self.registry().subscribers {
            let before = subscriber.missed.swap(missed, Ordering::Relaxed);
            subscriber.lost.fetch_add(missed.saturating_sub(before), Ordering::Relaxed);
            subscriber.report_losses();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::{super::tests::ring_event, *};
    use bpf::layout::{EVENT_DROP, EVENT_END, EVENT_FLOW, EVENT_LOG};

    type Received = mpsc::Receiver<Arc<Event>>;

    fn join(subscribers: &Subscribers, filter: MonitorFilter, missed: u64) -> (u64, Received) {
        subscribers.join(filter, Kinds::All, missed, |_| Ok::<_, Infallible>(())).unwrap().unwrap()
    }

    fn tell(subscribers: &Subscribers, kind: u8) {
        let raw = ring_event(kind, "none");
        let event = Arc::new(Event { kind: raw.kind, ..lost(0) });
        for subscriber in subscribers.interested(&raw) {
            subscriber.offer(&event);
        }
    }

    fn received(events: &mut Received) -> Vec<(EventKind, u64)> {
        std::iter::from_fn(|| events.try_recv().ok()).map(|event| (event.kind, event.lost)).collect()
    }

    #[test]
    fn a_slow_subscriber_loses_events_and_is_told_how_many() {
        let subscribers = Subscribers::default();
        let (_, mut slow) = join(&subscribers, MonitorFilter::default(), 0);
        let (_, mut quick) = join(&subscribers, MonitorFilter::default(), 0);
        for _ in 0..WAITING + 10 {
            tell(&subscribers, EVENT_FLOW);
            assert_eq!(received(&mut quick), [(EventKind::Flow, 0)]);
        }
        assert_eq!(received(&mut slow), vec![(EventKind::Flow, 0); WAITING]);
        tell(&subscribers, EVENT_FLOW);
        assert_eq!(received(&mut slow), [(EventKind::Lost, 10), (EventKind::Flow, 0)]);
        // Also if nothing comes any more.
        for _ in 0..WAITING + 3 {
            tell(&subscribers, EVENT_FLOW);
        }
        assert_eq!(received(&mut slow).len(), WAITING);
        subscribers.report_losses(0);
        assert_eq!(received(&mut slow), [(EventKind::Lost, 3)]);
    }

    #[test]
    fn what_the_programs_missed_is_told_from_the_beginning_on() {
        let subscribers = Subscribers::default();
        let (_, mut first) = join(&subscribers, MonitorFilter::default(), 100);
        subscribers.report_losses(100);
        assert_eq!(received(&mut first), []);
        subscribers.report_losses(105);
        let (_, mut second) = join(&subscribers, MonitorFilter::default(), 105);
        subscribers.report_losses(107);
        assert_eq!(received(&mut first), [(EventKind::Lost, 5), (EventKind::Lost, 2)]);
        assert_eq!(received(&mut second), [(EventKind::Lost, 2)]);
        // The maps were made anew.
        subscribers.report_losses(0);
        assert_eq!(received(&mut first), []);
    }

    #[test]
    fn who_wants_openings_has_no_ends_collected() {
        let subscribers = Subscribers::default();
        let ask = |_| Ok::<_, Infallible>(());
        let (_, mut openings) =
            subscribers.join(MonitorFilter::default(), Kinds::Openings, 0, ask).unwrap().unwrap();
        assert_eq!(subscribers.sample(), None);
        for kind in [EVENT_FLOW, EVENT_END, EVENT_LOG, EVENT_DROP] {
            tell(&subscribers, kind);
        }
        subscribers.lose_flows(7);
        subscribers.report_losses(0);
        assert_eq!(received(&mut openings), [(EventKind::Flow, 0), (EventKind::Drop, 0)]);
    }

    #[test]
    fn the_programs_are_asked_when_subscribers_come_and_go() {
        let subscribers = Subscribers::default();
        let mut asked = Vec::new();
        let mut ask = |mask| {
            asked.push(mask);
            Ok::<_, Infallible>(())
        };
        let drops = MonitorFilter { drops_only: true, ..MonitorFilter::default() };
        let (first, _events) = subscribers.join(drops, Kinds::All, 0, &mut ask).unwrap().unwrap();
        let all = MonitorFilter { sample: 5, ..MonitorFilter::default() };
        let (second, _more) = subscribers.join(all, Kinds::All, 0, &mut ask).unwrap().unwrap();
        assert_eq!(subscribers.sample(), Some(5));
        subscribers.leave(second, &mut ask).unwrap();
        assert_eq!(subscribers.sample(), None);
        subscribers.leave(first, &mut ask).unwrap();
        let mask = |flows, drops, sample| EventMask { flows, drops, sample };
        assert_eq!(asked, [mask(false, true, 1), mask(true, true, 5), mask(false, true, 1), EventMask::NONE]);
        assert!(subscribers.is_empty());
    }

    #[test]
    fn staged_policies_are_told_every_flow_and_subscribers_what_they_ask_for() {
        let subscribers = Subscribers::default();
        let asked = std::cell::RefCell::new(Vec::new());
        let ask = |mask| {
            asked.borrow_mut().push(mask);
            Ok::<_, Infallible>(())
        };
        let sampled = MonitorFilter { sample: 50, ..MonitorFilter::default() };
        let (_, mut events) = subscribers.join(sampled, Kinds::All, 0, ask).unwrap().unwrap();
        assert!(subscribers.judge(true, ask).unwrap() && !subscribers.judge(true, ask).unwrap());
        let told = (0..10_000).filter(|port| {
            let mut raw = ring_event(EVENT_FLOW, "none");
            raw.flow.source_port = *port;
            !subscribers.interested(&raw).is_empty()
        });
        assert!((100..400).contains(&told.count()));
        assert!(subscribers.judge(false, ask).unwrap());
        let mask = |sample| EventMask { flows: true, drops: true, sample };
        assert_eq!(*asked.borrow(), [mask(50), mask(1), mask(50)]);
        assert_eq!(received(&mut events), []);
    }

    #[test]
    fn who_asks_for_a_smaller_share_than_others_gets_it() {
        let subscribers = Subscribers::default();
        let sampled = |sample| MonitorFilter { sample, ..MonitorFilter::default() };
        let _all = join(&subscribers, sampled(2), 0);
        let _some = join(&subscribers, sampled(20), 0);
        let mut shares = [0, 0];
        for port in 0..10_000 {
            let mut raw = ring_event(EVENT_FLOW, "none");
            raw.flow.source_port = port;
            for subscriber in subscribers.interested(&raw) {
                shares[usize::from(subscriber.filter.sample == 20)] += 1;
            }
        }
        assert_eq!(shares[0], 10_000, "the programs have left out what it does not want");
        assert!((800..1_200).contains(&shares[1]), "{shares:?}");
    }

    #[test]
    fn there_may_be_too_many() {
        let subscribers = Subscribers::default();
        let all =
            (0..SUBSCRIBERS).map(|_| join(&subscribers, MonitorFilter::default(), 0)).collect::<Vec<_>>();
        assert!(
            subscribers.join(MonitorFilter::default(), Kinds::All, 0, |_| Ok::<_, Infallible>(())).is_none()
        );
        subscribers.leave(all[0].0, |_| Ok::<_, Infallible>(())).unwrap();
        join(&subscribers, MonitorFilter::default(), 0);
    }

    #[test]
    fn who_the_programs_do_not_tell_is_refused_and_forgotten() {
        let subscribers = Subscribers::default();
        assert!(
            subscribers.join(MonitorFilter::default(), Kinds::All, 0, |_| Err("no map")).unwrap().is_err()
        );
        assert!(
            subscribers.is_empty() && subscribers.interested(&ring_event(EVENT_DROP, "malformed")).is_empty()
        );
    }
}

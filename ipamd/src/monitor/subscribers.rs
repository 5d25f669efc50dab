//! Who listens. A subscriber that reads too slowly loses events, is told how many, and holds up nobody.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use ipamd_api::policy::{Event, MonitorFilter};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{
    decode::Told,
    filter::{Wishes, admits_named, admits_unnamed, wants_flows},
    name::lost,
};

/// How many events wait for a subscriber: what a quarter of a second of the programs' full rate makes on two processors,
/// and a megabyte at most. Subscribers share the events themselves.
const WAITING: usize = 1_024;
/// How many may listen: each of them has every event compared with its filter.
const SUBSCRIBERS: usize = 32;

/// The number of one that listens, and what it gets.
type Joined = (u64, mpsc::Receiver<Arc<Event>>);

/// One that listens.
#[derive(Debug)]
pub struct Subscriber {
    id: u64,
    filter: MonitorFilter,
    events: mpsc::Sender<Arc<Event>>,
    /// Events that it was not given, and not told of yet.
    lost: AtomicU64,
    /// What the programs had missed when it was told last.
    missed: AtomicU64,
}

impl Subscriber {
    /// Whether it wants an event, by its names.
    pub fn admits(&self, event: &Event) -> bool {
        admits_named(&self.filter, event)
    }

    /// Gives it an event, after word of those that it lost before.
    pub fn offer(&self, event: &Arc<Event>) {
        if !self.settle() || matches!(self.events.try_send(Arc::clone(event)), Err(TrySendError::Full(_))) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells it what it lost; whether it could be told.
    fn settle(&self) -> bool {
        if self.lost.load(Ordering::Relaxed) == 0 {
            return true;
        }
        let Ok(place) = self.events.try_reserve() else { return false };
        place.send(Arc::new(lost(self.lost.swap(0, Ordering::Relaxed))));
        true
    }
}

/// All that listen.
#[derive(Debug, Default)]
pub struct Subscribers {
    listening: Mutex<Listening>,
}

#[derive(Debug, Default)]
struct Listening {
    subscribers: Vec<Arc<Subscriber>>,
    last_id: u64,
    /// Of so many flows, the programs tell one.
    sample: u32,
}

impl Listening {
    /// Asks the programs for what all want together.
    fn wish<E>(&mut self, ask: impl FnOnce(Wishes) -> Result<(), E>) -> Result<(), E> {
        let wishes = Wishes::of(self.subscribers.iter().map(|it| &it.filter));
        self.sample = wishes.sample;
        ask(wishes)
    }
}

impl Subscribers {
    fn listening(&self) -> MutexGuard<'_, Listening> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one in, who is told of what is missed beyond `missed`; `None` if there are too many. `ask` has the programs
    /// tell what is wanted now.
    pub fn join<E>(
        &self,
        filter: MonitorFilter,
        missed: u64,
        ask: impl FnOnce(Wishes) -> Result<(), E>,
    ) -> Option<Result<Joined, E>> {
        let mut listening = self.listening();
        if listening.subscribers.len() >= SUBSCRIBERS {
            return None;
        }
        let (events, received) = mpsc::channel(WAITING);
        listening.last_id += 1;
        let id = listening.last_id;
        let (lost, missed) = (AtomicU64::new(0), AtomicU64::new(missed));
        listening.subscribers.push(Arc::new(Subscriber { id, filter, events, lost, missed }));
        let asked = listening.wish(ask);
        if asked.is_err() {
            listening.subscribers.pop();
        }
        Some(asked.map(|()| (id, received)))
    }

    /// Lets one go.
    pub fn leave<E>(&self, id: u64, ask: impl FnOnce(Wishes) -> Result<(), E>) -> Result<(), E> {
        let mut listening = self.listening();
        listening.subscribers.retain(|subscriber| subscriber.id != id);
        listening.wish(ask)
    }

    /// Whether there is anybody.
    pub fn is_empty(&self) -> bool {
        self.listening().subscribers.is_empty()
    }

    /// Of how many flows one is told, if flows are told at all.
    pub fn sample(&self) -> Option<u32> {
        let listening = self.listening();
        let wishes = Wishes::of(listening.subscribers.iter().map(|it| &it.filter));
        wishes.flows.then_some(wishes.sample)
    }

    /// Those that may want an event, as far as that can be told before names are looked up.
    pub fn interested(&self, told: &Told) -> Vec<Arc<Subscriber>> {
        let listening = self.listening();
        let sample = listening.sample.max(1);
        let wants = |it: &&Arc<Subscriber>| admits_unnamed(&it.filter, told, it.filter.sample / sample);
        listening.subscribers.iter().filter(wants).cloned().collect()
    }

    /// Takes note that so many flows were not told.
    pub fn lose_flows(&self, lost: u64) {
        for subscriber in self.listening().subscribers.iter().filter(|it| wants_flows(&it.filter)) {
            subscriber.lost.fetch_add(lost, Ordering::Relaxed);
        }
    }

    /// Tells everybody of what nobody got: `missed` by the programs so far, and what they were too slow for.
    pub fn settle(&self, missed: u64) {
        for subscriber in &self.listening().subscribers {
            let before = subscriber.missed.swap(missed, Ordering::Relaxed);
            subscriber.lost.fetch_add(missed.saturating_sub(before), Ordering::Relaxed);
            subscriber.settle();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bpf::layout::{EVENT_DROP, EVENT_FLOW};
    use ipamd_api::policy::EventKind;

    use super::{super::decode::tests::told, *};

    type Received = mpsc::Receiver<Arc<Event>>;

    fn join(subscribers: &Subscribers, filter: MonitorFilter, missed: u64) -> (u64, Received) {
        subscribers.join(filter, missed, |_| Ok::<_, Infallible>(())).unwrap().unwrap()
    }

    fn tell(subscribers: &Subscribers, kind: u8) {
        let told = told(kind, "none");
        let event = Arc::new(Event { kind: told.kind, ..lost(0) });
        for subscriber in subscribers.interested(&told) {
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
        subscribers.settle(0);
        assert_eq!(received(&mut slow), [(EventKind::Lost, 3)]);
    }

    #[test]
    fn what_the_programs_missed_is_told_from_the_beginning_on() {
        let subscribers = Subscribers::default();
        let (_, mut first) = join(&subscribers, MonitorFilter::default(), 100);
        subscribers.settle(100);
        assert_eq!(received(&mut first), []);
        subscribers.settle(105);
        let (_, mut second) = join(&subscribers, MonitorFilter::default(), 105);
        subscribers.settle(107);
        assert_eq!(received(&mut first), [(EventKind::Lost, 5), (EventKind::Lost, 2)]);
        assert_eq!(received(&mut second), [(EventKind::Lost, 2)]);
        // The maps were made anew.
        subscribers.settle(0);
        assert_eq!(received(&mut first), []);
    }

    #[test]
    fn the_programs_are_asked_when_subscribers_come_and_go() {
        let subscribers = Subscribers::default();
        let mut asked = Vec::new();
        let mut ask = |wishes| {
            asked.push(wishes);
            Ok::<_, Infallible>(())
        };
        let drops = MonitorFilter { drops_only: true, ..MonitorFilter::default() };
        let (first, _events) = subscribers.join(drops, 0, &mut ask).unwrap().unwrap();
        let all = MonitorFilter { sample: 5, ..MonitorFilter::default() };
        let (second, _more) = subscribers.join(all, 0, &mut ask).unwrap().unwrap();
        assert_eq!(subscribers.sample(), Some(5));
        subscribers.leave(second, &mut ask).unwrap();
        assert_eq!(subscribers.sample(), None);
        subscribers.leave(first, &mut ask).unwrap();
        let wishes = |flows, drops, sample| Wishes { flows, drops, sample };
        assert_eq!(
            asked,
            [wishes(false, true, 1), wishes(true, true, 5), wishes(false, true, 1), Wishes::NONE]
        );
        assert!(subscribers.is_empty());
    }

    #[test]
    fn who_asks_for_a_smaller_share_than_others_gets_it() {
        let subscribers = Subscribers::default();
        let sampled = |sample| MonitorFilter { sample, ..MonitorFilter::default() };
        let _all = join(&subscribers, sampled(2), 0);
        let _some = join(&subscribers, sampled(20), 0);
        let mut shares = [0, 0];
        for port in 0..10_000 {
            let mut told = told(EVENT_FLOW, "none");
            told.flow.source_port = port;
            for subscriber in subscribers.interested(&told) {
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
        assert!(subscribers.join(MonitorFilter::default(), 0, |_| Ok::<_, Infallible>(())).is_none());
        subscribers.leave(all[0].0, |_| Ok::<_, Infallible>(())).unwrap();
        join(&subscribers, MonitorFilter::default(), 0);
    }

    #[test]
    fn who_the_programs_do_not_tell_is_refused_and_forgotten() {
        let subscribers = Subscribers::default();
        assert!(subscribers.join(MonitorFilter::default(), 0, |_| Err("no map")).unwrap().is_err());
        assert!(subscribers.is_empty() && subscribers.interested(&told(EVENT_DROP, "malformed")).is_empty());
    }
}

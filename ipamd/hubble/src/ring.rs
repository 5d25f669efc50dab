//! The last flows. Whoever follows reads here at its own pace: a flow that is overwritten before it was read is lost to that reader,
//! who is told how many are.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::proto::flow::Flow;

/// How long a namespace counts after a flow of its pods, in microseconds, and how many namespaces are known.
const NAMESPACE_RESTS: u64 = 3_600_000_000;
const NAMESPACES: usize = 4_096;
/// Over how long the rate of flows is counted, in microseconds.
const MINUTE: u64 = 60_000_000;

/// What is in a place of the ring.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A flow.
    Flow(Arc<Flow>),
    /// So many events were lost before they came here.
    Lost {
        /// How many.
        events: u64,
        /// Microseconds since the Unix epoch: when that was noticed.
        time: u64,
    },
}

/// What a reader gets.
#[derive(Debug, Default, PartialEq)]
pub struct Batch {
    /// How many entries were overwritten before they were read.
    pub missed: u64,
    /// What follows those, in order.
    pub entries: Vec<Entry>,
    /// Where the reader goes on.
    pub next: u64,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Amount {
    /// Flows in the ring.
    pub flows: u64,
    /// Its room.
    pub room: u64,
    /// Flows since the daemon runs.
    pub seen: u64,
    /// Flows in a second, over the last minute.
    pub rate: f64,
}

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<Entry>,
    /// The number of the entry that comes next; the first was 0.
    next: u64,
    seen: u64,
    /// When a flow of their pods was seen last.
    namespaces: BTreeMap<String, u64>,
}

/// The last flows.
#[derive(Debug)]
pub struct Ring {
    room: usize,
    state: Mutex<State>,
    grown: watch::Sender<u64>,
}

impl Ring {
    /// Empty, with room for so many.
    pub fn new(room: usize) -> Self {
        Self { room: room.max(1), state: Mutex::default(), grown: watch::Sender::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds entries, and tells whoever follows.
    pub fn extend(&self, entries: impl IntoIterator<Item = Entry>) {
        let mut state = self.state();
        for entry in entries {
            state.push(entry, self.room);
        }
        let next = state.next;
        drop(state);
        self.grown.send_replace(next);
    }

    /// All entries, and the number of the one that comes next.
    pub fn all(&self) -> (Vec<Entry>, u64) {
        let state = self.state();
        (state.entries.iter().cloned().collect(), state.next)
    }

    /// Up to `most` entries from that number on.
    pub fn from(&self, number: u64, most: usize) -> Batch {
        let state = self.state();
        let first = state.next - state.entries.len() as u64;
        let begin = number.max(first);
        let skipped = usize::try_from(begin - first).unwrap_or(usize::MAX);
        let entries: Vec<_> = state.entries.iter().skip(skipped).take(most).cloned().collect();
        Batch { missed: begin - number, next: begin + entries.len() as u64, entries }
    }

    /// The entry of that number, unless it is overwritten.
    pub fn get(&self, number: u64) -> Option<Entry> {
        let state = self.state();
        let first = state.next - state.entries.len() as u64;
        let place = usize::try_from(number.checked_sub(first)?).ok()?;
        state.entries.get(place).cloned()
    }

    /// Changes when the ring has grown.
    pub fn grown(&self) -> watch::Receiver<u64> {
        self.grown.subscribe()
    }

    /// How much there is, at a time in microseconds since the Unix epoch.
    pub fn amount(&self, now: u64) -> Amount {
        let state = self.state();
        let times = state.entries.iter().rev().filter_map(|entry| match entry {
            Entry::Flow(flow) => Some(micros(flow)),
            Entry::Lost { .. } => None,
        });
        let (mut recent, mut since) = (0_u32, now);
        for time in times.take_while(|time| time.saturating_add(MINUTE) > now) {
            recent += 1;
            since = since.min(time);
        }
        // A ring that holds less than a minute tells of that time only.
        let is_short = usize::try_from(recent).unwrap_or(usize::MAX) >= self.room;
        let over = if is_short { now.saturating_sub(since).max(1) } else { MINUTE };
        let over = f64::from(u32::try_from(over).unwrap_or(u32::MAX)) / 1e6;
        let flows = state.entries.iter().filter(|it| matches!(it, Entry::Flow(_))).count();
        Amount {
            flows: flows as u64,
            room: self.room as u64,
            seen: state.seen,
            rate: f64::from(recent) / over,
        }
    }

    /// The namespaces of the pods that had flows in the last hour.
    pub fn namespaces(&self, now: u64) -> Vec<String> {
        let mut state = self.state();
        state.namespaces.retain(|_, seen| seen.saturating_add(NAMESPACE_RESTS) > now);
        state.namespaces.keys().cloned().collect()
    }
}

impl State {
    fn push(&mut self, entry: Entry, room: usize) {
        match &entry {
            Entry::Flow(flow) => {
                self.seen += 1;
                let time = micros(flow);
                for endpoint in [&flow.source, &flow.destination].into_iter().flatten() {
                    self.see(&endpoint.namespace, time);
                }
            }
            // One place tells of all that was lost at one time.
            Entry::Lost { events: more, .. } => {
                if let Some(Entry::Lost { events, .. }) = self.entries.back_mut() {
                    *events = events.saturating_add(*more);
                    return;
                }
            }
        }
        if self.entries.len() >= room {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
        self.next += 1;
    }

    fn see(&mut self, namespace: &str, time: u64) {
        if namespace.is_empty() {
            return;
        }
        if let Some(seen) = self.namespaces.get_mut(namespace) {
            *seen = time;
        } else if self.namespaces.len() < NAMESPACES {
            self.namespaces.insert(namespace.to_owned(), time);
        }
    }
}

/// The time of a flow, in microseconds since the Unix epoch.
pub fn micros(flow: &Flow) -> u64 {
    flow.time.as_ref().map_or(0, |time| {
        let seconds = u64::try_from(time.seconds).unwrap_or_default();
        seconds
            .saturating_mul(1_000_000)
            .saturating_add(u64::try_from(time.nanos / 1_000).unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{flow::timestamp, proto::flow::Endpoint};

    fn flow(time: u64) -> Entry {
        let source = Some(Endpoint { namespace: format!("n{time}"), ..Endpoint::default() });
        Entry::Flow(Arc::new(Flow { time: Some(timestamp(time)), source, ..Flow::default() }))
    }

    #[test]
    fn a_reader_that_is_too_slow_is_told_what_it_has_missed() {
        let ring = Ring::new(3);
        assert_eq!(ring.from(0, 10), Batch::default());
        ring.extend([flow(1), flow(2)]);
        assert_eq!(ring.from(0, 1), Batch { missed: 0, entries: vec![flow(1)], next: 1 });
        ring.extend([flow(3), flow(4), flow(5)]);
        assert_eq!(ring.from(1, 10), Batch { missed: 1, entries: vec![flow(3), flow(4), flow(5)], next: 5 });
        assert_eq!(ring.from(5, 10), Batch { missed: 0, entries: vec![], next: 5 });
        assert_eq!(ring.all(), (vec![flow(3), flow(4), flow(5)], 5));
    }

    #[test]
    fn followers_are_woken_when_there_is_more() {
        let ring = Ring::new(3);
        let mut grown = ring.grown();
        assert!(!grown.has_changed().unwrap());
        ring.extend([flow(1)]);
        assert!(grown.has_changed().unwrap());
        assert_eq!(*grown.borrow_and_update(), 1);
    }

    #[test]
    fn losses_that_follow_each_other_take_one_place() {
        let ring = Ring::new(3);
        let lost = |events, time| Entry::Lost { events, time };
        ring.extend([lost(2, 7), lost(3, 8), flow(9), lost(1, 10)]);
        assert_eq!(ring.all(), (vec![lost(5, 7), flow(9), lost(1, 10)], 3));
    }

    #[test]
    fn flows_and_their_namespaces_are_counted() {
        let ring = Ring::new(2);
        let hour = NAMESPACE_RESTS;
        ring.extend([flow(1), flow(hour), flow(hour + 500_000), Entry::Lost { events: 1, time: hour }]);
        let amount = ring.amount(hour + 1_000_000);
        assert_eq!((amount.flows, amount.room, amount.seen), (1, 2, 3));
        assert!(ring.amount(hour).rate > 0.0);
        assert_eq!(ring.namespaces(hour).len(), 3);
        assert_eq!(ring.namespaces(hour + 2), [format!("n{hour}"), format!("n{}", hour + 500_000)]);
    }
}

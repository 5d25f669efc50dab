//! Addresses that were given back a while ago. Others may still send to a former holder, and have connections with it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// Numbers of addresses that rest, and since when.
#[derive(Debug, Default)]
pub(super) struct Resting {
    since: BTreeMap<u128, Instant>,
    /// As they came. One that rests no more, or again since, is passed over.
    order: VecDeque<(Instant, u128)>,
}

impl Resting {
    /// `number` rests from now on.
    pub(super) fn put(&mut self, number: u128, now: Instant) {
        self.since.insert(number, now);
        self.order.push_back((now, number));
    }

    /// `number` rests no more.
    pub(super) fn remove(&mut self, number: u128) {
        self.since.remove(&number);
    }

    /// Takes out those that have rested for so long.
    pub(super) fn take_rested(&mut self, now: Instant, rest: Duration) -> Vec<u128> {
        let mut rested = Vec::new();
        while let Some((since, number)) = self.order.front().copied() {
            if self.is_current(since, number) {
                if now.saturating_duration_since(since) < rest {
                    break;
                }
                self.since.remove(&number);
                rested.push(number);
            }
            self.order.pop_front();
        }
        rested
    }

    /// The one that has rested longest, and since when.
    pub(super) fn longest(&self) -> Option<(Instant, u128)> {
        self.order.iter().copied().find(|(since, number)| self.is_current(*since, *number))
    }

    fn is_current(&self, since: Instant, number: u128) -> bool {
        self.since.get(&number) == Some(&since)
    }
}

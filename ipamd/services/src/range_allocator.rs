//! An allocator of ranges of an array. A freed range rests before it is used again, because a program may still read
//! it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// How long a freed range rests: far longer than any program runs.
const REST: Duration = Duration::from_secs(5);

/// The free and the resting ranges of an array.
#[derive(Debug)]
pub(super) struct RangeAllocator {
    /// The free ranges: first index and length.
    free: BTreeMap<u32, u32>,
    /// The free ranges by length and first index, so that the shortest one that is long enough is found at once.
    by_length: BTreeSet<(u32, u32)>,
    resting: VecDeque<(Instant, u32, u32)>,
}

impl RangeAllocator {
    /// All of `count` places from `first` on are free.
    pub fn new(first: u32, count: u32) -> Self {
        Self {
            free: BTreeMap::from([(first, count)]),
            by_length: BTreeSet::from([(count, first)]),
            resting: VecDeque::new(),
        }
    }

    /// Allocates a range; `None` if no free range is long enough.
    pub fn take(&mut self, count: u32) -> Option<u32> {
        self.wake(Instant::now());
        let (_, first) = self.by_length.range((count, 0)..).next().copied()?;
        self.split(first, first, count);
        Some(first)
    }

    /// Allocates exactly this range. Returns false if it is not free.
    pub fn claim(&mut self, first: u32, count: u32) -> bool {
        let Some((&from, &free)) = self.free.range(..=first).next_back() else { return false };
        let fits = first.checked_add(count).is_some_and(|end| end <= from + free);
        if fits {
            self.split(from, first, count);
        }
        fits
    }

    /// Frees a range, which rests first.
    pub fn give(&mut self, first: u32, count: u32) {
        if count > 0 {
            self.resting.push_back((Instant::now() + REST, first, count));
        }
    }

    /// Cuts a range out of the free one that begins at `from`.
    fn split(&mut self, from: u32, first: u32, count: u32) {
        let Some(free) = self.remove(from) else { return };
        let end = from + free;
        if first > from {
            self.insert(from, first - from);
        }
        if first + count < end {
            self.insert(first + count, end - first - count);
        }
    }

    fn insert(&mut self, first: u32, count: u32) {
        self.free.insert(first, count);
        self.by_length.insert((count, first));
    }

    fn remove(&mut self, first: u32) -> Option<u32> {
        let count = self.free.remove(&first)?;
        self.by_length.remove(&(count, first));
        Some(count)
    }

    fn wake(&mut self, now: Instant) {
        while let Some((until, first, count)) = self.resting.front().copied() {
            if until > now {
                break;
            }
            self.resting.pop_front();
            self.join(first, count);
        }
    }

    fn join(&mut self, mut first: u32, mut count: u32) {
        if let Some((&before, &free)) = self.free.range(..first).next_back()
            && before + free == first
        {
            self.remove(before);
            first = before;
            count += free;
        }
        if let Some(free) = self.remove(first + count) {
            count += free;
        }
        self.insert(first, count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_given_back_rests() {
        let mut places = RangeAllocator::new(1, 10);
        assert_eq!(places.take(6), Some(1));
        places.give(1, 6);
        assert_eq!(places.take(6), None, "four are free, six rest");
        places.wake(Instant::now() + REST);
        assert_eq!(places.take(10), Some(1), "they are one run again");
    }

    #[test]
    fn a_run_is_claimed_once() {
        let mut places = RangeAllocator::new(0, 10);
        assert!(places.claim(4, 3));
        assert!(
            !places.claim(6, 1) && !places.claim(3, 2) && !places.claim(9, 2) && !places.claim(u32::MAX, 2)
        );
        assert_eq!([places.take(4), places.take(3), places.take(1)], [Some(0), Some(7), None]);
    }

    proptest! {
        #[test]
        fn no_place_is_given_twice_and_none_is_lost(steps in prop::collection::vec((1_u32..9, any::<bool>()), 1..80)) {
            let mut places = RangeAllocator::new(5, 64);
            let mut taken: Vec<(u32, u32)> = Vec::new();
            for (count, gives) in steps {
                if gives && let Some((first, count)) = taken.pop() {
                    places.join(first, count);
                } else if let Some(first) = places.take(count) {
                    taken.push((first, count));
                }
                let mut seen = BTreeSet::new();
                let runs = taken.iter().copied().chain(places.free.iter().map(|(first, count)| (*first, *count)));
                for (first, count) in runs {
                    for place in first..first + count {
                        prop_assert!(seen.insert(place), "{place} twice");
                    }
                }
                prop_assert_eq!(seen, (5..69).collect());
                let free: BTreeSet<_> = places.free.iter().map(|(first, count)| (*count, *first)).collect();
                prop_assert_eq!(&places.by_length, &free);
            }
        }
    }
}

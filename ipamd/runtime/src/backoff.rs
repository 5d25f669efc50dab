//! How long to wait before something that has failed is tried again: longer after each failure, and different on each node.

use std::time::Duration;

/// An exponential back-off with jitter.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    next: Duration,
}

impl Backoff {
    /// A back-off whose first pause is `first`.
    pub fn new(first: Duration) -> Self {
        Self { first, next: first }
    }

    /// The next pause, twice as long as the one before, up to `longest`.
    pub fn next(&mut self, longest: Duration) -> Duration {
        let pause = self.next.min(longest);
        self.next = (pause * 2).min(longest);
        spread(pause)
    }

    /// An attempt succeeded: the next pause is the shortest again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A pause with jitter, so that nodes do not come back at the same time.
pub fn spread(pause: Duration) -> Duration {
    pause / 2 + pause * random_below(1000) / 1000
}

/// A random number below the bound; 0 for a bound of 0.
pub fn random_below(bound: u32) -> u32 {
    use std::hash::{BuildHasher, RandomState};
    // Each RandomState has random keys from the system.
    u32::try_from(RandomState::new().hash_one(()) % u64::from(bound.max(1))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest_until_all_is_well() {
        let first = Duration::from_millis(500);
        let mut pause = Backoff::new(first);
        let longest = Duration::from_secs(4);
        for base in [1, 2, 4, 8, 8, 8].map(|it| first * it) {
            let next = pause.next(longest);
            assert!((base / 2..base * 3 / 2).contains(&next), "{base:?}: {next:?}");
        }
        pause.reset();
        assert!(pause.next(longest) < first * 3 / 2);
    }
}

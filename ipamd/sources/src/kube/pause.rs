//! How long to wait before the server is asked again: longer each time, and not the same on all nodes.

use std::time::Duration;

/// The first pause.
pub(super) const FIRST: Duration = Duration::from_millis(500);
/// The longest pause while the server does not answer as it should.
pub(super) const LONGEST: Duration = Duration::from_secs(30);
/// The longest that a server is obeyed that says when to come back: nothing may be without a list for long.
const LONGEST_SAID: Duration = Duration::from_secs(10);
/// Within how long the nodes of a cluster list anew what a server has forgotten the history of, which it does for all of
/// them at once.
const RELIST: Duration = Duration::from_secs(5);

/// Pauses that grow.
#[derive(Debug)]
pub(super) struct Pause {
    next: Duration,
}

impl Default for Pause {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Pause {
    /// The next pause, twice as long as the one before, up to the longest.
    pub fn next(&mut self, longest: Duration) -> Duration {
        let pause = self.next.min(longest);
        self.next = (pause * 2).min(longest);
        spread(pause)
    }

    /// All is well: the next pause is the first.
    pub fn reset(&mut self) {
        self.next = FIRST;
    }
}

/// A pause before what a server has forgotten the history of is listed anew, which costs it the more the larger the cluster
/// is.
pub(super) fn relist() -> Duration {
    RELIST * random_below(1000) / 1000
}

/// A pause that a server has asked for: never shorter, within bounds, and up to half as long again.
pub(super) fn said(pause: Duration) -> Duration {
    let pause = pause.min(LONGEST_SAID);
    pause + pause * random_below(1000) / 2000
}

/// A pause that is not the same on all nodes, so that they do not come back as one.
pub(super) fn spread(pause: Duration) -> Duration {
    pause / 2 + pause * random_below(1000) / 1000
}

/// A number below the bound, another one each time.
pub(super) fn random_below(bound: u32) -> u32 {
    use std::hash::{BuildHasher, RandomState};
    // Each has keys of its own, from the system's random numbers.
    u32::try_from(RandomState::new().hash_one(()) % u64::from(bound.max(1))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five thousand nodes whose API server has restarted: in no tenth of the time that they take to come back are there
    /// many more than a tenth of them.
    #[test]
    fn thousands_of_nodes_do_not_come_back_as_one() {
        type Way = (&'static str, fn() -> Duration, Duration, Duration);
        const NODES: usize = 5000;
        let second = Duration::from_secs(1);
        let ways: [Way; 3] = [
            ("relist", relist, Duration::ZERO, RELIST),
            ("spread", || spread(Duration::from_secs(1)), second / 2, second * 3 / 2),
            ("said", || said(Duration::from_secs(1)), second, second * 3 / 2),
        ];
        for (way, pause, first, last) in ways {
            let mut tenths = [0; 10];
            for _ in 0..NODES {
                let pause = pause();
                assert!((first..last).contains(&pause), "{way}: {pause:?}");
                let at =
                    10 * pause.saturating_sub(first).as_millis() / last.saturating_sub(first).as_millis();
                tenths[usize::try_from(at).unwrap()] += 1;
            }
            assert!(tenths.iter().all(|it| (NODES / 20..NODES * 3 / 20).contains(it)), "{way}: {tenths:?}");
        }
    }

    #[test]
    fn pauses_grow_up_to_the_longest_until_all_is_well() {
        let mut pause = Pause::default();
        let longest = Duration::from_secs(4);
        for base in [1, 2, 4, 8, 8, 8].map(|it| FIRST * it) {
            let next = pause.next(longest);
            assert!((base / 2..base * 3 / 2).contains(&next), "{base:?}: {next:?}");
        }
        pause.reset();
        assert!(pause.next(longest) < FIRST * 3 / 2);
    }

    #[test]
    fn a_server_is_obeyed_within_bounds() {
        let hour = said(Duration::from_hours(1));
        assert!((LONGEST_SAID..LONGEST_SAID * 3 / 2).contains(&hour), "{hour:?}");
        assert_eq!(said(Duration::ZERO), Duration::ZERO);
    }
}

//! How long to wait before the next request to the server, which all nodes ask.

use std::time::Duration;

use ipamd_runtime::backoff::random_below;

/// The first pause.
pub(super) const FIRST: Duration = Duration::from_millis(500);
/// The longest pause while requests fail.
pub(super) const LONGEST: Duration = Duration::from_secs(30);
/// The longest Retry-After that is obeyed: a node must not be without a list for long.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(10);
/// The time over which all nodes spread their new lists after a 410, which all get at once.
const RELIST: Duration = Duration::from_secs(5);

/// The pause before a list that follows a 410. Lists are expensive for the server in a large cluster, so nodes spread
/// them.
pub(super) fn relist() -> Duration {
    RELIST * random_below(1000) / 1000
}

/// The pause for a Retry-After: never shorter, bounded, and up to half as long again.
pub(super) fn retry_after(pause: Duration) -> Duration {
    let pause = pause.min(LONGEST_RETRY_AFTER);
    pause + pause * random_below(1000) / 2000
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipamd_runtime::backoff::spread;

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
            ("retry_after", || retry_after(Duration::from_secs(1)), second, second * 3 / 2),
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
    fn a_server_is_obeyed_within_bounds() {
        let hour = retry_after(Duration::from_hours(1));
        assert!((LONGEST_RETRY_AFTER..LONGEST_RETRY_AFTER * 3 / 2).contains(&hour), "{hour:?}");
        assert_eq!(retry_after(Duration::ZERO), Duration::ZERO);
    }
}

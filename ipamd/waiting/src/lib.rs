//! How tests wait: for a condition, with a bound. Where nothing tells that something has happened, or that it has not, time passes, and
//! whoever lets it pass says why nothing else serves. `ipamd/tests/structure/` holds the tests to this.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `holds` does, at most `within`. Returns whether it did.
pub fn eventually(within: Duration, holds: impl FnMut() -> bool) -> bool {
    eventually_every(LOOK_EVERY, within, holds)
}

/// The same, with another pause between two looks: for looks that change what is looked at.
pub fn eventually_every(pause: Duration, within: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + within;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        thread::sleep(pause);
    }
}

/// The same as [`eventually`] in a task.
pub async fn eventually_async(within: Duration, mut holds: impl AsyncFnMut() -> bool) -> bool {
    let end = Instant::now() + within;
    loop {
        if holds().await {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        tokio::time::sleep(LOOK_EVERY / 4).await;
    }
}

/// Whether `holds` does for so long, at each look.
pub fn throughout(period: Duration, mut holds: impl FnMut() -> bool) -> bool {
    !eventually(period, || !holds())
}

/// Lets time pass, where only time serves: `_fact` says what it is that takes this time and tells nobody.
pub fn time_passes(period: Duration, _fact: &str) {
    thread::sleep(period);
}

/// The same in a task.
pub async fn time_passes_async(period: Duration, _fact: &str) {
    tokio::time::sleep(period).await;
}

/// Waits for a time: for what is sent at a pace, or is due then.
pub fn pause_until(due: Instant) {
    thread::sleep(due.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn a_condition_is_waited_for_and_not_longer() {
        let mut looks = 0..3;
        assert!(eventually(Duration::from_secs(10), || looks.next().is_none()));
        assert!(!eventually(SHORT, || false));
        assert!(throughout(SHORT, || true));
        let mut looks = 0..1;
        assert!(!throughout(SHORT, || looks.next().is_some()));
    }
}

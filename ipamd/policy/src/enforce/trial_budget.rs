//! The processor time that the node spends on objects that do not fit. Each trial compiles the object together with all
//! policies of its pods, so thousands of them would delay everybody's policies for minutes. So the time of failed
//! trials is charged to a budget of the namespace, which refills slowly; while it is empty, objects are left out
//! untried.

use std::{collections::BTreeMap, time::Duration};

use nix::time::{ClockId, clock_gettime};

/// The size of a namespace's budget, in processor time.
const ROOM: Duration = Duration::from_secs(1);
/// A budget refills by a fiftieth of the time that passes.
const SHARE: u32 = 50;
/// The most that a namespace owes. A namespace that has fixed its policies waits two and a half minutes for the next
/// trial, not hours.
const OWED_MOST: Duration = Duration::from_secs(4);

/// The time that a namespace has spent, as of a moment.
#[derive(Clone, Copy, Debug)]
struct Taken {
    spent: Duration,
    at: Duration,
}

/// The budgets of the namespaces that have spent something. Times are those of a steady clock.
#[derive(Clone, Debug, Default)]
pub(super) struct TrialBudget(BTreeMap<Box<str>, Taken>);

impl TrialBudget {
    /// Whether another object of this namespace may be tried.
    pub fn may_try(&mut self, namespace: &str, now: Duration) -> bool {
        self.0.retain(|_, taken| !left(taken, now).is_zero());
        self.0.get(namespace).is_none_or(|taken| left(taken, now) < ROOM)
    }

    /// Charges the time of a failed trial.
    pub fn charge(&mut self, namespace: &str, took: Duration, now: Duration) {
        let spent = self.0.get(namespace).map_or(Duration::ZERO, |taken| left(taken, now)) + took;
        self.0.insert(namespace.into(), Taken { spent: spent.min(OWED_MOST), at: now });
    }
}

/// The time spent that is not refilled yet.
fn left(taken: &Taken, now: Duration) -> Duration {
    taken.spent.saturating_sub(now.saturating_sub(taken.at) / SHARE)
}

/// The processor time of this thread, which does not depend on how busy the node is.
pub(super) fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// The time of a steady clock.
pub(super) fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_spent_its_time_waits_until_some_has_passed_and_nobody_else_does() {
        let mut trials = TrialBudget::default();
        let at = Duration::from_secs;
        for _ in 0..4 {
            assert!(trials.may_try("a", at(0)));
            trials.charge("a", Duration::from_millis(300), at(0));
        }
        assert!(!trials.may_try("a", at(0)) && trials.may_try("b", at(0)));
        assert!(!trials.may_try("a", at(10)), "a fiftieth of it is the room for what was taken beyond");
        assert!(trials.may_try("a", at(11)));
        trials.charge("a", Duration::from_millis(300), at(11));
        assert!(!trials.may_try("a", at(11)));
        assert!(trials.may_try("a", at(60)));
        assert!(trials.may_try("b", at(1000)) && trials.0.is_empty(), "what is full again is forgotten");
        trials.charge("c", at(100), at(1000));
        assert!(!trials.may_try("c", at(1149)));
        assert!(trials.may_try("c", at(1151)), "what one trial took is not paid for by hours");
    }
}

//! How often the ways to other nodes are looked at. There are as many as nodes, twice with two families, so a look takes
//! long in a large cluster: the more it takes, the rarer it is.

use std::time::{Duration, Instant};

use super::thread::PASS_EVERY;

/// Of the time, a look that nobody asked for may take one part in so many.
const UNASKED: u32 = 100;
/// The same of looks because nodes have changed: those that come one after the other are taken together.
const ASKED: u32 = 20;

/// How often a change of nodes has the uplinks found anew, though the ways to nodes are not looked at yet.
const PASS_ASKED_EVERY: Duration = Duration::from_millis(500);

/// Of the processor's time of one core, passes because the kernel has changed may take one part in so many: with a whole
/// routing table of the Internet on the node, one takes a second.
const HEARD: u32 = 50;
/// Of what a pass takes beyond this it may take less: the routes that change one after the other cost something by themselves.
const LONG: Duration = Duration::from_millis(100);
const HEARD_LONG: u32 = 200;
/// But the kernel's changes are looked at this often, whatever that takes: a pass of some seconds is one of a million routes.
const HEARD_AT_LEAST_EVERY: Duration = Duration::from_mins(2);

/// When to look next.
#[derive(Debug)]
pub(super) struct Pace {
    /// No pass before, whatever the kernel tells.
    breathes: Instant,
    /// Nodes have changed since the last look.
    asked: bool,
    /// Not before, even if asked.
    rested: Instant,
    /// Then, even if nobody asks.
    due: Instant,
    /// When the last pass was, with or without a look.
    passed: Instant,
    /// When nodes have changed that no pass has seen.
    pass: Option<Instant>,
}

impl Pace {
    /// Looks at once.
    pub fn new(now: Instant) -> Self {
        Self { breathes: now, asked: true, rested: now, due: now, passed: now, pass: None }
    }

    /// Nodes have changed.
    pub fn ask(&mut self, now: Instant) {
        self.asked = true;
        self.pass.get_or_insert(now.max(self.passed + PASS_ASKED_EVERY));
    }

    /// There is more to be done, now.
    pub fn hurry(&mut self, now: Instant) {
        self.asked = true;
        self.rested = now;
    }

    /// Whether to look.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.due || (self.asked && now >= self.rested)
    }

    /// Whether there is no need of a pass, if nobody else asks: uplinks follow from nodes as ways do, and sooner.
    pub fn rests(&self, now: Instant) -> bool {
        !self.is_due(now) && self.pass.is_none_or(|at| now < at)
    }

    /// A pass is over.
    pub fn passed(&mut self, now: Instant) {
        self.passed = now;
        self.pass = None;
    }

    /// Passes took the processor so long.
    pub fn spent(&mut self, now: Instant, cpu: Duration) {
        let rest = cpu.min(LONG) * HEARD + cpu.saturating_sub(LONG) * HEARD_LONG;
        self.breathes = now + rest.min(HEARD_AT_LEAST_EVERY);
    }

    /// How long no pass is to be made because the kernel tells of changes.
    pub fn breath(&self, now: Instant) -> Duration {
        self.breathes.saturating_duration_since(now)
    }

    /// How long there is nothing to do, if nobody asks.
    pub fn pause(&self, now: Instant) -> Duration {
        let next = if self.asked { self.rested.min(self.due) } else { self.due };
        let next = self.pass.map_or(next, |at| next.min(at));
        next.saturating_duration_since(now).min(PASS_EVERY).max(self.breath(now))
    }

    /// A look took so long. One that failed is repeated sooner.
    pub fn looked(&mut self, now: Instant, took: Duration, failed: bool) {
        self.asked = false;
        self.rested = now + took * ASKED;
        let part = if failed { ASKED } else { UNASKED };
        self.due = now + PASS_EVERY.max(took * part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_looked_at_in_proportion_to_what_a_pass_takes() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.looked(now, Duration::from_millis(1), false);
        pace.spent(now, Duration::from_millis(5));
        assert_eq!((pace.breath(now), pace.pause(now)), (Duration::from_millis(250), PASS_EVERY));
        assert_eq!(pace.breath(now + Duration::from_secs(1)), Duration::ZERO);
        // A table of a million routes.
        pace.spent(now, Duration::from_millis(200));
        assert_eq!((pace.breath(now), pace.pause(now)), (Duration::from_secs(25), Duration::from_secs(25)));
        pace.spent(now, Duration::from_secs(3));
        assert_eq!(pace.breath(now), HEARD_AT_LEAST_EVERY);
    }

    #[test]
    fn a_long_look_is_rare_and_a_short_one_is_not() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert!(pace.is_due(now));
        pace.looked(now, Duration::from_millis(1), false);
        assert!(!pace.is_due(now + PASS_EVERY / 2) && pace.is_due(now + PASS_EVERY));
        pace.looked(now, Duration::from_millis(200), false);
        assert!(!pace.is_due(now + Duration::from_secs(19)) && pace.is_due(now + Duration::from_secs(20)));
        pace.looked(now, Duration::from_millis(200), true);
        assert!(pace.is_due(now + Duration::from_secs(4)));
    }

    #[test]
    fn nodes_that_change_are_looked_at_soon_and_together() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.looked(now, Duration::from_millis(100), false);
        pace.passed(now);
        pace.ask(now);
        // The uplinks are found at once, or soon after the pass before; the ways are looked at later.
        let soon = now + PASS_ASKED_EVERY;
        assert!(pace.rests(now) && !pace.rests(soon) && !pace.is_due(soon));
        assert_eq!(pace.pause(now), PASS_ASKED_EVERY);
        pace.passed(soon);
        assert!(pace.rests(soon));
        pace.ask(now + Duration::from_secs(1));
        assert!(!pace.rests(now + Duration::from_secs(1)), "the last pass is long ago");
        pace.passed(now + Duration::from_secs(1));
        assert!(!pace.is_due(now + Duration::from_secs(1)));
        assert_eq!(pace.pause(now + Duration::from_secs(1)), Duration::from_secs(1));
        assert!(pace.is_due(now + Duration::from_secs(2)));
        pace.looked(now, Duration::from_millis(100), false);
        assert_eq!(pace.pause(now), PASS_EVERY);
        pace.hurry(now);
        assert!(pace.is_due(now));
    }
}

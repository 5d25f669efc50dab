//! How often the routes to other nodes are scanned. There are as many as nodes, so a scan is slow in a large cluster:
//! the longer it takes, the rarer it is.

use std::time::{Duration, Instant};

/// The longest time between passes. Pins and maps make no events, so they are checked by time.
const PASS_EVERY: Duration = Duration::from_secs(3);
/// A periodic scan may take one part in this many of the time.
const PERIODIC_SHARE: u32 = 100;
/// The same for scans because nodes have changed. Changes that follow each other closely share a scan.
const REQUESTED_SHARE: u32 = 20;

/// How often a change of nodes starts a pass that finds the uplinks again, without a scan.
const NODES_PASS_EVERY: Duration = Duration::from_millis(500);

/// Passes because of kernel events may take one part in this many of one core: with a full routing table of the
/// Internet a pass takes a second.
const EVENT_SHARE: u32 = 50;
/// A pass longer than this counts more for its rest, because dumping many routes slows the kernel down too.
const LONG: Duration = Duration::from_millis(100);
const LONG_EVENT_SHARE: u32 = 200;
/// Kernel events start a pass at least this often, whatever a pass costs.
const EVENTS_AT_LEAST_EVERY: Duration = Duration::from_mins(2);

/// When to pass and scan next.
#[derive(Debug)]
pub(super) struct ScanThrottle {
    /// No pass because of kernel events before this time.
    no_pass_before: Instant,
    /// Nodes have changed since the last scan.
    scan_requested: bool,
    /// No scan before this time, even if nodes have changed.
    no_scan_before: Instant,
    /// The next periodic scan.
    scan_due: Instant,
    /// When the last pass was, with or without a scan.
    last_pass: Instant,
    /// When a pass is due because nodes have changed.
    pass_due: Option<Instant>,
}

impl ScanThrottle {
    /// A scan is due at once.
    pub fn new(now: Instant) -> Self {
        Self {
            no_pass_before: now,
            scan_requested: true,
            no_scan_before: now,
            scan_due: now,
            last_pass: now,
            pass_due: None,
        }
    }

    /// Nodes have changed.
    pub fn nodes_changed(&mut self, now: Instant) {
        self.scan_requested = true;
        self.pass_due.get_or_insert(now.max(self.last_pass + NODES_PASS_EVERY));
    }

    /// A scan is needed at once.
    pub fn scan_now(&mut self, now: Instant) {
        self.scan_requested = true;
        self.no_scan_before = now;
    }

    /// Whether a scan is due.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.scan_due || (self.scan_requested && now >= self.no_scan_before)
    }

    /// Whether no pass is due because of nodes or time.
    pub fn is_idle(&self, now: Instant) -> bool {
        !self.is_due(now) && self.pass_due.is_none_or(|at| now < at)
    }

    /// A pass is over.
    pub fn pass_done(&mut self, now: Instant) {
        self.last_pass = now;
        self.pass_due = None;
    }

    /// The last passes took this much processor time.
    pub fn charge(&mut self, now: Instant, cpu: Duration) {
        let rest = cpu.min(LONG) * EVENT_SHARE + cpu.saturating_sub(LONG) * LONG_EVENT_SHARE;
        self.no_pass_before = now + rest.min(EVENTS_AT_LEAST_EVERY);
    }

    /// How long kernel events start no pass.
    pub fn cooldown(&self, now: Instant) -> Duration {
        self.no_pass_before.saturating_duration_since(now)
    }

    /// How long the thread may sleep if no event comes.
    pub fn idle_time(&self, now: Instant) -> Duration {
        let next = if self.scan_requested { self.no_scan_before.min(self.scan_due) } else { self.scan_due };
        let next = self.pass_due.map_or(next, |at| next.min(at));
        next.saturating_duration_since(now).min(PASS_EVERY).max(self.cooldown(now))
    }

    /// A scan took this long. A failed scan is repeated sooner.
    pub fn scanned(&mut self, now: Instant, took: Duration, failed: bool) {
        self.scan_requested = false;
        self.no_scan_before = now + took * REQUESTED_SHARE;
        let part = if failed { REQUESTED_SHARE } else { PERIODIC_SHARE };
        self.scan_due = now + PASS_EVERY.max(took * part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_looked_at_in_proportion_to_what_a_pass_takes() {
        let now = Instant::now();
        let mut throttle = ScanThrottle::new(now);
        throttle.scanned(now, Duration::from_millis(1), false);
        throttle.charge(now, Duration::from_millis(5));
        assert_eq!(
            (throttle.cooldown(now), throttle.idle_time(now)),
            (Duration::from_millis(250), PASS_EVERY)
        );
        assert_eq!(throttle.cooldown(now + Duration::from_secs(1)), Duration::ZERO);
        // A table of a million routes.
        throttle.charge(now, Duration::from_millis(200));
        assert_eq!(
            (throttle.cooldown(now), throttle.idle_time(now)),
            (Duration::from_secs(25), Duration::from_secs(25))
        );
        throttle.charge(now, Duration::from_secs(3));
        assert_eq!(throttle.cooldown(now), EVENTS_AT_LEAST_EVERY);
    }

    #[test]
    fn a_long_look_is_rare_and_a_short_one_is_not() {
        let now = Instant::now();
        let mut throttle = ScanThrottle::new(now);
        assert!(throttle.is_due(now));
        throttle.scanned(now, Duration::from_millis(1), false);
        assert!(!throttle.is_due(now + PASS_EVERY / 2) && throttle.is_due(now + PASS_EVERY));
        throttle.scanned(now, Duration::from_millis(200), false);
        assert!(
            !throttle.is_due(now + Duration::from_secs(19)) && throttle.is_due(now + Duration::from_secs(20))
        );
        throttle.scanned(now, Duration::from_millis(200), true);
        assert!(throttle.is_due(now + Duration::from_secs(4)));
    }

    #[test]
    fn nodes_that_change_are_looked_at_soon_and_together() {
        let now = Instant::now();
        let mut throttle = ScanThrottle::new(now);
        throttle.scanned(now, Duration::from_millis(100), false);
        throttle.pass_done(now);
        throttle.nodes_changed(now);
        // The uplinks are found at once, or soon after the pass before; the ways are looked at later.
        let soon = now + NODES_PASS_EVERY;
        assert!(throttle.is_idle(now) && !throttle.is_idle(soon) && !throttle.is_due(soon));
        assert_eq!(throttle.idle_time(now), NODES_PASS_EVERY);
        throttle.pass_done(soon);
        assert!(throttle.is_idle(soon));
        throttle.nodes_changed(now + Duration::from_secs(1));
        assert!(!throttle.is_idle(now + Duration::from_secs(1)), "the last pass is long ago");
        throttle.pass_done(now + Duration::from_secs(1));
        assert!(!throttle.is_due(now + Duration::from_secs(1)));
        assert_eq!(throttle.idle_time(now + Duration::from_secs(1)), Duration::from_secs(1));
        assert!(throttle.is_due(now + Duration::from_secs(2)));
        throttle.scanned(now, Duration::from_millis(100), false);
        assert_eq!(throttle.idle_time(now), PASS_EVERY);
        throttle.scan_now(now);
        assert!(throttle.is_due(now));
    }
}

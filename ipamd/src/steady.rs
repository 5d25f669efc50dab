//! A clock that nobody sets: it tells how long ago something was, also across a step of the time of day.

use nix::time::{ClockId, clock_gettime};

/// A moment, in seconds since the machine was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(u64);

impl Moment {
    /// This one.
    pub fn now() -> Self {
        // The kernel has this clock always.
        let since = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| time.tv_sec());
        Self(u64::try_from(since).unwrap_or(0))
    }

    /// So many seconds before this one; not before the machine was started.
    #[must_use]
    pub fn before(self, seconds: u64) -> Self {
        Self(self.0.saturating_sub(seconds))
    }

    /// How many seconds ago it was.
    pub fn age(self) -> u64 {
        Self::now().0.saturating_sub(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_grows_old() {
        let now = Moment::now();
        assert!(now.age() < 5);
        assert!((3..9).contains(&now.before(3).age()) || now.before(3).age() == now.before(u64::MAX).age());
    }
}

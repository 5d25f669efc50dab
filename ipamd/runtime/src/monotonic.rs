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

    /// So many seconds after this one.
    #[must_use]
    pub fn after(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// How many seconds it is after an earlier one.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// How many seconds ago it was.
    pub fn age(self) -> u64 {
        Self::now().0.saturating_sub(self.0)
    }
}

/// How long something lasts: so long when that was noted, and by as much longer as has passed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    noted: Moment,
    before: u64,
}

impl Default for Age {
    /// It begins now.
    fn default() -> Self {
        Self::of(0)
    }
}

impl Age {
    /// It has lasted for so many seconds.
    pub fn of(seconds: u64) -> Self {
        Self { noted: Moment::now(), before: seconds }
    }

    /// How many seconds it has lasted.
    pub fn seconds(self) -> u64 {
        self.before.saturating_add(self.noted.age())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_grows_old() {
        let now = Moment::now();
        assert!(now.age() < 5);
        assert!((100..105).contains(&Age::of(100).seconds()) && Age::default().seconds() < 5);
        assert!((3..9).contains(&now.before(3).age()) || now.before(3).age() == now.before(u64::MAX).age());
    }
}

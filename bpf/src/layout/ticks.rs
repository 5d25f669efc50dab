//! The programs' clock.

/// How many bits of a nanosecond clock make a tick of the conntrack (2^30 ns, 1.07 s).
pub const TICK_SHIFT: u32 = 30;

/// So many seconds in ticks of the programs' clock, at least as long.
pub fn ticks(seconds: u32) -> u32 {
    u32::try_from((u64::from(seconds) * 1_000_000_000).div_ceil(1 << TICK_SHIFT)).unwrap_or(u32::MAX)
}

/// The seconds that [`ticks`] were made from.
pub fn seconds(ticks: u32) -> u32 {
    u32::try_from((u64::from(ticks) << TICK_SHIFT) / 1_000_000_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_come_back_from_ticks() {
        for wanted in [0, 1, 2, 10, 299, 10_800, 86_400] {
            assert_eq!(seconds(ticks(wanted)), wanted);
        }
    }
}

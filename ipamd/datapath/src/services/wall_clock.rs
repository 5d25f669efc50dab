//! Tells the programs of the wall clock.

use std::time::Duration;

use bpf::layout::TICK_SHIFT;
use nix::time::{ClockId, clock_gettime};

use crate::{datapath::Datapath, error::DatapathError};

impl Datapath {
    /// Tells the programs how far the wall clock is from theirs. The wall clock may be set, so they are told
    /// again and again.
    pub fn set_wall_clock(&self) -> Result<(), DatapathError> {
        let ahead = wall_clock_ahead();
        if self.wall_clock.get(&0)? == Some(ahead) { Ok(()) } else { self.wall_clock.put(&0, &ahead) }
    }
}

/// Ticks of the wall clock when the programs' clock stood at zero.
fn wall_clock_ahead() -> u32 {
    let wall = clock_gettime(ClockId::CLOCK_REALTIME).map(Duration::from).unwrap_or_default();
    let own = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    #[allow(clippy::cast_possible_truncation, reason = "modulo 2^32, as the programs count")]
    let ahead = (wall.saturating_sub(own).as_nanos() >> TICK_SHIFT) as u32;
    ahead
}

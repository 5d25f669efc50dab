//! What the programs count.

use std::collections::BTreeMap;

use bpf::layout::{
    COUNTER_ANSWERS_SUPPRESSED, COUNTER_EVENTS_LOST, COUNTER_EVENTS_SUPPRESSED, COUNTER_UNTRACKED,
    DROP_REASONS,
};

use super::{datapath::Datapath, error::DatapathError, maps};

impl Datapath {
    /// Packets dropped since the maps were made, by reason.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>, DatapathError> {
        let named = DROP_REASONS.iter().map(|reason| (*reason).to_owned());
        // The first is no reason.
        Ok(named.zip(maps::sums(&self.drops)?).skip(1).collect())
    }

    /// Flows that passed although conntrack could not take them.
    pub fn untracked(&self) -> Result<u64, DatapathError> {
        maps::sum(&self.counters, COUNTER_UNTRACKED)
    }

    /// Events that the ring had no room for, and that were beyond the rate.
    pub fn events_missed(&self) -> Result<(u64, u64), DatapathError> {
        Ok((
            maps::sum(&self.counters, COUNTER_EVENTS_LOST)?,
            maps::sum(&self.counters, COUNTER_EVENTS_SUPPRESSED)?,
        ))
    }

    /// Errors and resets that were beyond the rate.
    pub fn answers_suppressed(&self) -> Result<u64, DatapathError> {
        maps::sum(&self.counters, COUNTER_ANSWERS_SUPPRESSED)
    }
}

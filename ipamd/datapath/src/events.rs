//! Which events the programs put into the ring.

use bpf::layout::{EVENTS_DROPS, EVENTS_FLOWS};

use super::{datapath::Datapath, error::DatapathError};

impl Datapath {
    /// Sets what the programs tell through the ring of events, and of how many flows one is told.
    pub fn set_events(&self, flows: bool, drops: bool, sample: u32) -> Result<(), DatapathError> {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        self.change_node(|node| {
            node.events = flag(flows, EVENTS_FLOWS) | flag(drops, EVENTS_DROPS);
            node.sample = sample.max(1);
        })
    }
}

//! Keeps the programs' policy tables in step with the cluster. [`Enforcer`] is what others see. Behind its lock are the cluster
//! (`cluster`), what is in the tables (`written`) and what is not in force (`left_out`).

mod admit;
mod apply;
mod change_log;
mod cluster;
mod compaction;
mod compiled;
mod copy;
mod counts;
mod enforcer;
mod error;
mod explain;
mod flow_facts;
mod judge;
mod left_out;
mod listing;
pub mod memory;
mod parties;
mod parts;
mod policy_diff;
mod put_domains;
mod queue;
mod rebuild;
mod seen_flow;
mod slots;
mod state;
#[cfg(test)]
mod tests;
mod trial;
mod trial_budget;
mod write_error;
mod write_tables;
mod writes;
mod written;
mod written_peers;

pub use self::{
    counts::Counts,
    enforcer::{Applied, Enforcer},
    error::EnforceError,
    flow_facts::{FlowDecision, FlowFacts, SideFacts},
    queue::Admission,
    seen_flow::{Numbers, SeenFlow},
    trial::{
        otherwise::{Otherwise, Passed},
        tally::TrialCounts,
    },
    writes::Writes,
};
pub use crate::compile::policy_inputs::LocalEndpoint;

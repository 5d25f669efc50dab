//! Events of flows from the programs' ring buffer: read, given names, and sent to subscribers.
//!
//! Flows that policy refuses are always reported, and kept for a while without names. Everything else is reported only
//! while there are subscribers. [`RingReader`] is the thread that reads the ring, [`Monitor`] gives the events to the
//! subscribers.

mod delivery;
mod event_filter;
mod expired_flows;
mod flow_queue;
mod log_lines;
mod named_event;
mod programs;
mod recent_denials;
mod ring_event;
mod ring_reader;
mod subscribers;
#[cfg(test)]
mod tests;

pub use self::{
    delivery::{Monitor, SubscribeError, Subscription},
    expired_flows::{Ends, flow_of},
    flow_queue::{FlowQueue, NewFlow, Taken},
    named_event::Names,
    programs::Programs,
    ring_reader::{RingError, RingReader},
};

//! The reconciliation. It compares the kernel with the records and the configuration and repairs the difference: at
//! start, when something changes, and every few seconds. It observes, asks [`ipamd_plan`] what to do, and performs the
//! steps.
//!
//! It has a thread of its own, because its netlink requests block while the kernel removes interfaces.

mod observe;
mod pass;
mod perform;
mod reconciler;
mod scan_throttle;
mod thread;

pub use self::{reconciler::Reconciler, thread::Reconciliation};

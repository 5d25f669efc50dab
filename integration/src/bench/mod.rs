//! What `scripts/bench service` is made of: a population of services, and what each way to balance them is told of it. And how long
//! the daemon's answers are waited for, for `scripts/bench policy` and tests.

pub mod answers;
mod change;
pub mod iptables;
pub mod manifests;
mod metrics;
pub mod nftables;
mod population;

pub use change::{Changes, time_changes};
pub use metrics::{Metrics, Reading};
pub use population::{Backend, PORT, Population, SERVICE_PORT};

//! Hubble's API: the flows of a node for the programs that people have.
//!
//! [`observed::Observed`] is what the daemon knows of a flow; [`flow`] writes it as Hubble's clients read it. The last ones are in a
//! [`ring::Ring`]. Each client reads the ring at its own pace ([`observer`]): one that is too slow is told how many it has missed, and
//! keeps nobody waiting. [`filter`] decides which flows a client gets. None of that does I/O; [`server`] does.

pub mod cluster;
mod cluster_name;
pub mod codec;
pub mod filter;
pub mod flow;
mod health;
pub mod observed;
pub mod observer;
pub mod peers;
pub mod proto;
mod reasons;
pub mod ring;
mod select;
pub mod server;
pub mod service_names;
pub mod uuids;
mod workload;

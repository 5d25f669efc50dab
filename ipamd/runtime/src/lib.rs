//! What all parts of the daemon stand on, and none of them is about: threads that are watched, a clock that nobody sets, locks that
//! nobody need wait for, files that are replaced whole, plain HTTP for probes, and the memory that the process keeps.

pub mod atomic_file;
pub mod backoff;
pub mod catch_panic;
pub mod digest;
pub mod error_chain;
pub mod http;
pub mod memory;
pub mod monotonic;
pub mod queued_lock;
pub mod supervisor;
pub mod work;

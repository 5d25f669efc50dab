//! What all parts of the daemon stand on, and none of them is about: threads that are watched, a clock that nobody sets, locks that
//! nobody need wait for, files that are replaced whole, plain HTTP for probes, and the memory that the process keeps.

pub mod caught;
pub mod chain;
pub mod digest;
pub mod http;
pub mod memory;
pub mod queued_lock;
pub mod steady;
pub mod supervisor;
pub mod whole_file;
pub mod work;

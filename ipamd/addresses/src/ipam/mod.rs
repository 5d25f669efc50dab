//! Address allocation: pure functions of the pools, the attachments that stand, and where each pool's cursor is.

mod allocator;
mod error;
mod family;
mod pool;
mod resting;
mod runs;

pub use allocator::Allocator;
pub use error::{AllocationError, PoolUse};
pub use family::Family;
pub use pool::{Pool, PoolError, Reserved, check_disjoint};

//! The conntrack maps from user space.

mod age;
mod entry;
mod listing;
mod sweep;

pub use self::sweep::Swept;
pub(super) use entry::now;

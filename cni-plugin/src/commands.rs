//! The commands, one file each.

pub mod add;
mod add_chained;
pub mod check;
pub mod del;
pub mod gc;
mod reservation;
pub mod status;
pub mod version;

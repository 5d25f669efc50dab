//! x

pub mod programs;

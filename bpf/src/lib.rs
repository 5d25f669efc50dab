//! Cambric's TC programs for user space: their skeleton, the Rust mirror of every map key and value, and how they
//! are attached to interfaces.

pub mod attach;

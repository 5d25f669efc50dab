//! Cambric's TC programs for user space: their skeleton, the Rust mirror of every map key and value, and how they
//! are attached to interfaces.

pub mod attach;
pub mod layout;
pub mod sizes;
pub mod states;

#[allow(
    missing_docs,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks
)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/cambric.skel.rs"));
}

pub use skeleton::{CambricSkel, CambricSkelBuilder, OpenCambricSkel};

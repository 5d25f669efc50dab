//! Cambric's programs for user space: their skeletons, the Rust mirror of every map key and value, and how they
//! are attached to interfaces.

pub mod attach;
pub mod layout;
pub mod sizes;
pub mod states;

/// Generated from the programs.
macro_rules! skeleton {
    ($name:ident, $file:literal) => {
        #[allow(
            missing_docs,
            unused_qualifications,
            clippy::all,
            clippy::pedantic,
            clippy::undocumented_unsafe_blocks
        )]
        mod $name {
            include!(concat!(env!("OUT_DIR"), $file));
        }
    };
}

skeleton!(skeleton, "/cambric.skel.rs");
skeleton!(deny_skeleton, "/deny.skel.rs");

pub use deny_skeleton::{DenySkel, DenySkelBuilder, OpenDenySkel};
pub use skeleton::{CambricSkel, CambricSkelBuilder, OpenCambricSkel};

//! The machine: preflight checks, leftovers of other plugins, and the changes that Cambric made and how they are
//! undone.

pub mod footprint;
pub mod kernel_objects;
pub mod kube_proxy;
pub mod preflight;
pub mod programs;
pub mod uninstall;

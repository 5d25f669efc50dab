//! The machine itself: what it must have before Cambric can work on it, what other plugins have left on it, what Cambric has changed
//! on it and how that is put back.

pub mod footprint;
pub mod kube_proxy;
pub mod preflight;
pub mod programs;
pub mod uninstall;

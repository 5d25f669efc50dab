//! Cambric's node daemon: addresses, programs and the records that tie them together.

pub mod attachment;
pub mod datapath;

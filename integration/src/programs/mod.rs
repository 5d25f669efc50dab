//! The programs alone, run by `BPF_PROG_TEST_RUN` on packets built by a library, in a namespace of the calling thread's
//! own: two local endpoints, an uplink with a default route, and whatever a test adds.

mod bench;
mod knobs;
mod maps;
mod names;
mod pool;
mod services;

pub use self::{
    bench::{Bench, DROP, FAR4, FAR6, Local, NODE4, NODE6, PASS, REDIRECT, Ran, Tally, ip},
    knobs::Knobs,
    services::Served,
};

//! What a client gets of a service that several servers stand behind, when all of them share one core. The servers are
//! always the same ones, so that only the way to them differs.

mod load;
mod options;
mod run;
mod server;

pub use self::{
    load::{join, ready},
    options::Options,
    run::run,
    server::Server,
};

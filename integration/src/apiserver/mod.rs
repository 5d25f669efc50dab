//! An API server for tests: it speaks as much of the Kubernetes protocol as a client of lists, watches and single objects
//! meets, over TLS, with bearer tokens; and it can misbehave in every way that a client has to survive.

mod answers;
mod asked;
mod behaviour;
mod bodies;
mod lists;
mod objects;
mod paths;
mod rbac;
mod selectors;
mod serve;
mod server;
mod shared;
mod tls;
mod watches;
mod writes;

pub use self::{
    behaviour::{Behaviour, Compresses},
    objects::{Objects, Streaming},
    rbac::Right,
    server::ApiServer,
    shared::Requests,
};

//! The daemon's socket: it reads and writes frames. [`Service`] answers the requests.

mod connection;
#[cfg(test)]
mod fuzz;
mod idle_connections;
mod limits;
mod listen;
mod replies;
mod serve;
mod service;
#[cfg(test)]
mod tests;

pub use self::{
    limits::Limits,
    listen::{ListenError, SocketFile, listen},
    replies::Replies,
    serve::serve,
    service::Service,
};

//! Where connections to services may go, as the Service API says it: documents in, answers out, naively.

pub mod asked;
mod documents;
pub mod generate;

pub use self::documents::{Client, Documents, Here, Served};

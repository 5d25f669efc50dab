//! Ports that have a name.

use std::sync::Arc;

/// A named port of a container, or of a host endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// Its name.
    pub name: Arc<str>,
    /// IP protocol number.
    pub protocol: u8,
    /// Its number.
    pub port: u16,
}

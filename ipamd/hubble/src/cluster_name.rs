//! The name of this cluster, as far as clients ask for one: there is no other.

/// The name, as Hubble has it where none is configured.
pub const CLUSTER: &str = "default";

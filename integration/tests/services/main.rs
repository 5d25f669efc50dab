//! Services, seen from pods, from the node and from outside.

mod addresses;
mod manifests;

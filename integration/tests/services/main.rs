//! Services, seen from pods, from the node and from outside.

mod addresses;
mod backends;
mod host_ports;
mod manifests;
mod outside;
mod shop;
mod two_nodes;
mod under_change;

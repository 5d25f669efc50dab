//! Services, seen from pods, from the node and from outside.

mod addresses;
mod affinity;
mod backends;
mod bounds;
mod chained;
mod direct_return;
mod ended;
mod health;
mod host_ports;
mod manifests;
mod named_by_policy;
mod outside;
mod own_connections;
mod shop;
mod ties;
mod told;
mod two_nodes;
mod under_change;

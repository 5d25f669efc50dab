//! Several nodes, each with its own daemon: their pods reach each other with their own addresses, by every way of routing,
//! under policy and through services, while nodes come, go and change.

mod changes;
mod masquerade;
mod mtu;
mod origins;
mod policy;
mod reach;
mod scene;
mod second;
mod services;
mod strangers;
mod uplinks;
mod uplinks_followed;

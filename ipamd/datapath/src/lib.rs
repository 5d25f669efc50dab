//! The programs and maps in the kernel. Everything is pinned and keeps working without the daemon; this crate creates,
//! reads and repairs it.

mod attachments;
mod batch;
mod changes;
mod config;
mod conntrack;
mod counters;
mod datapath;
mod deny;
mod dns;
mod domains;
mod endpoints;
mod error;
mod events;
mod hosts;
mod load;
mod machines;
mod map_error;
mod map_use;
mod maps;
mod masquerade;
mod open;
mod origins;
mod policy;
mod repairs;
mod routes;
mod run;
mod services;
pub mod socket_termination;
mod sync;
mod uplinks;
mod values;
mod writes;

pub use self::{
    config::DatapathConfig,
    conntrack::Swept,
    datapath::Datapath,
    deny::{DenyList, DenySets, DenyUse},
    dns::{DnsName, DnsUse, Resolver},
    error::DatapathError,
    hosts::HostLink,
    load::{fib_lookup_flags, probe_attach_mode},
    map_error::MapError,
    map_use::nearly_full,
    policy::PolicyTables,
    repairs::Repairs,
    routes::RouteCounts,
    services::{ExternalSettings, ServiceTables, TranslatedSocket, TranslatedSockets},
};

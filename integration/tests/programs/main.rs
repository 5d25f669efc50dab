//! The programs by `BPF_PROG_TEST_RUN`: one packet, then the whole change of the packet, the counters and the tables.

mod ageing;
mod answers;
mod blind;
mod delivery;
mod endings;
mod errors;
mod fragments;
mod icmp;
mod malformed;
mod marks;
mod masquerade;
mod packets;
mod policy;
mod ports;
mod pressure;
mod random_services;
mod services;
mod services_bounds;
mod share;
mod stack;
mod stage;
mod stamps;
mod states;
mod way_out;
mod ways_kept;
mod weight;

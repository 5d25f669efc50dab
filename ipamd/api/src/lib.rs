//! What the CNI plugin and `cambricctl` share with the daemon: the requests and replies of the unix socket
//! ([`wire`], [`policy`], [`host`], [`port_mapping`], [`services`]), their framing ([`frame`]), a blocking client ([`client`]), and
//! the names both sides derive from an attachment ([`key`]) or a namespace ([`netns`]).
//!
//! The protocol: one unix stream socket; every message is a frame of a 4-byte big-endian length and that many
//! bytes of JSON. A request carries the protocol `version`; unknown fields are ignored, unknown requests are
//! refused. A connection may carry any number of requests, answered in order.

pub mod client;
pub mod files;
pub mod frame;
pub mod host;
pub mod key;
pub mod mac;
pub mod netns;
pub mod policy;
pub mod port_mapping;
pub mod services;
pub mod wire;

pub use client::{Client, ClientError};
pub use key::{AttachmentKey, MAX_NAME};
pub use mac::MacAddr;
pub use port_mapping::PortMapping;
pub use wire::{ApiError, ErrorKind, PROTOCOL_VERSION, Reply, Request};

/// Where the daemon listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/cambric/ipamd.sock";

/// What an interface's MTU can be: IPv6 needs 1280 bytes; more than 65535 does not fit an IP packet.
pub const MTU: std::ops::RangeInclusive<u32> = 1280..=65_535;

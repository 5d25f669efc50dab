//! What holds unless the configuration says otherwise.

use std::{ops::RangeInclusive, time::Duration};

/// Where the configuration is looked for unless `--config` says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/cambric/ipamd.toml";
/// Where the records are kept unless the configuration says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/cambric";
/// Where programs, maps and links are pinned unless the configuration says otherwise, below the node's root.
pub const DEFAULT_BPFFS: &str = "sys/fs/bpf/cambric";

/// Assigned to VXLAN by IANA.
pub(super) const DEFAULT_VXLAN_PORT: u16 = 4789;
/// Other nodes, name servers and clients may know a deleted pod's address for as long.
pub(super) const ADDRESS_REST: Duration = Duration::from_mins(1);
/// The names of a Kubernetes cluster's own services and pods, unless it was made with another domain.
pub(super) const CLUSTER_DOMAIN: &str = "*.cluster.local";
/// Seconds: clients connect a while after they have asked, and some keep an address longer than its lifetime.
pub(super) const DNS_LEAST_TTL: u32 = 60;
/// 0xca3a: no number that another network plugin uses by default.
pub(super) const DEFAULT_VXLAN_ID: u32 = 51_770;
pub(super) const DEFAULT_MASQUERADE_PORTS: RangeInclusive<u16> = 10_000..=29_999;

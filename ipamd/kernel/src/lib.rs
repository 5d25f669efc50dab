//! The kernel beside BPF: routes, links, addresses and sockets by netlink, sysctls, and the names of netfilter's
//! objects.

pub mod kernel_files;
pub mod link_reaper;
pub mod netfilter;
pub mod netlink;
pub mod processes;
pub mod sysctl;

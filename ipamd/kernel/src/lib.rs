//! What Cambric asks of the kernel beside its programs: routes, links, addresses and sockets by netlink, settings below `/proc/sys`, and
//! what netfilter has, by name.

pub mod kernel_files;
pub mod link_reaper;
pub mod netfilter;
pub mod netlink;
pub mod processes;
pub mod sysctl;

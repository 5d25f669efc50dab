//! Whether kube-proxy runs.

use ipamd_kernel::processes;

/// The number of a process of that name in the network namespace of the caller.
pub fn process() -> Option<u32> {
    processes::named(|name| name == "kube-proxy").first().map(|process| process.number)
}

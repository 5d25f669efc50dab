//! Preflight: what a machine must have before Cambric can work on it, and what it should have. It changes nothing.

mod bpffs;
mod checks;
mod finding;
mod kube_proxy;
mod other_plugins;
mod subject;

pub use bpffs::{MountError, mount_bpffs, mount_bpffs_of_node, unmount_bpffs_of_node};
pub use checks::cgroup_root;
pub use finding::{Finding, Outcome};
pub use subject::{OverlayPort, Subject};

/// Looks at everything.
pub fn check(subject: &Subject) -> Vec<Finding> {
    let mut findings = vec![
        checks::kernel(),
        checks::btf(),
        checks::capabilities(),
        checks::bpf(subject.attach),
        checks::jit(),
        bpffs::check(&subject.bpffs),
        checks::cgroup(subject.cgroup.as_deref()),
        checks::forwarding(),
        kube_proxy::check(),
    ];
    findings.extend(subject.masquerade_ports.as_ref().map(checks::masquerade_ports));
    findings.extend(other_plugins::check(subject));
    findings
}

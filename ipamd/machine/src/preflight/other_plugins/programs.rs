//! BPF programs of another network plugin that are still attached to interfaces that stay, or to the cgroup: Cambric's
//! share these places with them, and they would judge and translate its packets.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    fs::File,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use bpf::attach::{CGROUP_HOOKS, Direction, cgroup_programs, program_name, tcx_attachments};
use ipamd_api::key::is_host_ifname;

use super::{
    interfaces,
    network::Network,
    phrases::{counted, in_words, once_gone},
    pins::{self, Pins},
    plugin::Plugin,
};
use crate::preflight::{checks::cgroup_root, finding::Finding};
use ipamd_kernel::{
    kernel_files,
    netlink::{Hook, Link, Socket},
};

pub(super) const NAME: &str = "programs";
/// Where a node has its bpffs by custom.
const BPFFS: &str = "/sys/fs/bpf";
/// How many are named.
const NAMED: usize = 6;

/// A program of somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Program {
    name: String,
    at: AttachPoint,
}

/// Where a program is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
enum AttachPoint {
    /// By a tcx link of this number, or by none if it is 0.
    Tcx { ifname: String, hook: Hook, link: u32 },
    /// By a filter of a clsact discipline.
    Filter { ifname: String, hook: Hook, preference: u32, handle: u32 },
    /// By XDP.
    Xdp { ifname: String },
    /// To a hook of a cgroup; with the program's number.
    Cgroup { path: PathBuf, hook: &'static str, program: u32 },
}

impl fmt::Display for AttachPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcx { ifname, hook, .. } => write!(f, "at the {hook} of {ifname} (tcx)"),
            Self::Filter { ifname, hook, .. } => write!(f, "at the {hook} of {ifname} (clsact)"),
            Self::Xdp { ifname } => write!(f, "at {ifname} (XDP)"),
            Self::Cgroup { path, hook, .. } => write!(f, "at {hook} of {}", path.display()),
        }
    }
}

impl AttachPoint {
    /// What takes the program away.
    fn removal(&self) -> String {
        match self {
            Self::Tcx { ifname, hook, link: 0 } => format!("bpftool net detach tcx_{hook} dev {ifname}"),
            Self::Tcx { link, .. } => format!("bpftool link detach id {link}"),
            Self::Filter { ifname, hook, preference, handle } => {
                format!("tc filter delete dev {ifname} {hook} pref {preference} handle {handle:#x} bpf")
            }
            // The one turns off what runs in the driver, the other what runs behind it.
            Self::Xdp { ifname } => {
                format!("ip link set dev {ifname} xdp off && ip link set dev {ifname} xdpgeneric off")
            }
            // If a link holds it, it goes with the link's pin.
            Self::Cgroup { path, hook, program } => {
                format!("bpftool cgroup detach {} {hook} id {program} || true", path.display())
            }
        }
    }
}

pub(super) fn check(socket: &mut Socket, network: &Network, cgroup: Option<&Path>) -> Vec<(Plugin, Finding)> {
    let mut programs = Vec::new();
    of_interfaces(socket, network, &mut programs);
    of_cgroup(cgroup_root(cgroup).as_deref(), &mut programs);
    judge(programs, pins::read(&kernel_files::of_node(BPFFS)))
}

/// What is attached to the interfaces that stay. What this kernel does not tell, it does not have.
fn of_interfaces(socket: &mut Socket, network: &Network, programs: &mut Vec<Program>) {
    let mut names = Names::default();
    let qdiscs = socket.qdiscs().unwrap_or_default();
    for link in network.links.iter().filter(|link| stays(link)) {
        let ifname = || link.name.clone();
        for (direction, hook) in [(Direction::Ingress, Hook::Ingress), (Direction::Egress, Hook::Egress)] {
            for (program, by) in tcx_attachments(link.index, direction).unwrap_or_default() {
                names.note(program, programs, || AttachPoint::Tcx { ifname: ifname(), hook, link: by });
            }
        }
        let clsact = |kind: &str| matches!(kind, "clsact" | "ingress");
        if qdiscs.iter().any(|qdisc| qdisc.ifindex == link.index && clsact(&qdisc.kind)) {
            for filter in socket.filters(link.index).unwrap_or_default() {
                let (hook, preference, handle) = (filter.hook, filter.preference, filter.handle);
                let at = || AttachPoint::Filter { ifname: ifname(), hook, preference, handle };
                names.note(filter.program, programs, at);
            }
        }
        if let Some(program) = link.xdp {
            names.note(program, programs, || AttachPoint::Xdp { ifname: ifname() });
        }
    }
}

/// Whether an interface neither is another plugin's nor leads to an endpoint of Cambric's.
fn stays(link: &Link) -> bool {
    interfaces::owner(link).is_none()
        && Plugin::of_pod_interface(&link.name, &link.kind).is_none()
        && !(link.veth && is_host_ifname(&link.name))
}

fn of_cgroup(root: Option<&Path>, programs: &mut Vec<Program>) {
    let Some(path) = root else { return };
    let Ok(cgroup) = File::open(path) else { return };
    let mut names = Names::default();
    for (hook, kind) in CGROUP_HOOKS {
        for program in cgroup_programs(cgroup.as_fd(), kind).unwrap_or_default() {
            names.note(program, programs, || AttachPoint::Cgroup { path: path.to_owned(), hook, program });
        }
    }
}

/// Names of programs by their numbers: one is attached to many interfaces.
#[derive(Debug, Default)]
struct Names(HashMap<u32, Option<String>>);

impl Names {
    /// Notes the program if it is another plugin's.
    fn note(&mut self, program: u32, programs: &mut Vec<Program>, at: impl FnOnce() -> AttachPoint) {
        let name = self
            .0
            .entry(program)
            .or_insert_with(|| program_name(program).filter(|name| Plugin::of_program(name).is_some()));
        programs.extend(name.as_ref().map(|name| Program { name: name.clone(), at: at() }));
    }
}

fn judge(programs: Vec<Program>, mut pinned: BTreeMap<Plugin, Pins>) -> Vec<(Plugin, Finding)> {
    let mut attached: BTreeMap<Plugin, Vec<Program>> = BTreeMap::new();
    for program in programs {
        if let Some(plugin) = Plugin::of_program(&program.name) {
            attached.entry(plugin).or_default().push(program);
        }
    }
    let mut findings = Vec::new();
    for plugin in Plugin::ALL {
        let programs = attached.remove(&plugin).unwrap_or_default();
        let pins = pinned.remove(&plugin).unwrap_or_default();
        if programs.is_empty() && pins == Pins::default() {
            continue;
        }
        let mut parts =
            programs.iter().take(NAMED).map(|it| format!("{} {}", it.name, it.at)).collect::<Vec<_>>();
        if programs.len() > NAMED {
            parts.push(format!("{} more", counted(programs.len() - NAMED, "program")));
        }
        if pins.count > 0 {
            parts.push(format!("{} below {BPFFS}", counted(pins.count, "pin")));
        }
        let mut removals = programs.iter().map(|program| program.at.removal()).collect::<Vec<_>>();
        removals.extend(pins.removals(Path::new(BPFFS)));
        let detail = format!("{} {}", plugin.has_left(), in_words(&parts));
        findings.push((plugin, Finding::warning(NAME, detail, once_gone(plugin, &removals))));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &str, at: AttachPoint) -> Program {
        Program { name: name.into(), at }
    }

    #[test]
    fn programs_are_named_with_their_places_and_what_takes_them_away() {
        let ifname = || "eth0".to_owned();
        let programs = vec![
            program("cali_tc_preambl", AttachPoint::Tcx { ifname: ifname(), hook: Hook::Ingress, link: 12 }),
            program("cali_tc_preambl", AttachPoint::Tcx { ifname: ifname(), hook: Hook::Egress, link: 0 }),
            program(
                "cali_tc_preambl",
                AttachPoint::Filter {
                    ifname: "lo".into(),
                    hook: Hook::Egress,
                    preference: 49_152,
                    handle: 1,
                },
            ),
            program("xdp_cali_entry", AttachPoint::Xdp { ifname: ifname() }),
            program(
                "calico_connect_",
                AttachPoint::Cgroup { path: "/sys/fs/cgroup".into(), hook: "connect4", program: 7 },
            ),
        ];
        let findings = judge(programs, BTreeMap::new());
        assert_eq!(findings.len(), 1);
        assert_eq!(
            findings[0].1.detail,
            "Calico has left cali_tc_preambl at the ingress of eth0 (tcx), cali_tc_preambl at the egress of eth0 (tcx), \
             cali_tc_preambl at the egress of lo (clsact), xdp_cali_entry at eth0 (XDP) and calico_connect_ at connect4 of \
             /sys/fs/cgroup"
        );
        assert_eq!(
            findings[0].1.remedy,
            "once Calico is gone from this node: bpftool link detach id 12; bpftool net detach tcx_egress dev eth0; tc filter \
             delete dev lo egress pref 49152 handle 0x1 bpf; ip link set dev eth0 xdp off && ip link set dev eth0 xdpgeneric off; bpftool cgroup detach \
             /sys/fs/cgroup connect4 id 7 || true"
        );
    }

    #[test]
    fn many_are_counted_and_pins_without_programs_are_told_of() {
        let at = || AttachPoint::Xdp { ifname: "eth0".into() };
        let programs = (0..9).map(|_| program("cil_xdp_entry", at())).collect();
        let pins = Pins { count: 1, folders: ["tcx".to_owned()].into(), ..Pins::default() };
        let findings = judge(programs, BTreeMap::from([(Plugin::Calico, pins)]));
        assert_eq!(
            findings[0].1.to_string(),
            "programs: Calico has left 1 pin below /sys/fs/bpf; once Calico is gone from this node: rm -rf /sys/fs/bpf/tcx"
        );
        assert!(findings[1].1.detail.ends_with("and 3 programs more"), "{}", findings[1].1);
        assert_eq!(judge(Vec::new(), BTreeMap::new()), []);
    }
}

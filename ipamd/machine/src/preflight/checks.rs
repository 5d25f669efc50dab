//! The single checks. Each reads one thing, and has a function beside it that judges what was read.

use std::{
    fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use bpf::attach::{Direction, tcx_programs};
use ipamd_api::wire::AttachMode;
use nix::{
    sys::{
        statfs::{CGROUP2_SUPER_MAGIC, statfs},
        utsname::uname,
    },
    unistd::{AccessFlags, access},
};

use super::finding::Finding;
use ipamd_kernel::kernel_files;

/// The oldest kernel whose verifier and helpers the programs are written for.
const OLDEST_KERNEL: (u32, u32) = (5, 12);
/// Where a cgroup v2 hierarchy is mounted: alone, or beside the old one.
const CGROUPS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// `lo`, which every namespace has, at this index.
const LOOPBACK: u32 = 1;

pub(super) fn kernel() -> Finding {
    match uname() {
        Ok(name) => judge_kernel(&name.release().to_string_lossy()),
        Err(error) => Finding::failure("kernel", format!("its version cannot be read: {error}"), ""),
    }
}

fn judge_kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let (major, minor) = OLDEST_KERNEL;
    match (numbers.next(), numbers.next()) {
        (Some(found), Some(foundling)) if (found, foundling) >= OLDEST_KERNEL => {
            Finding::ok("kernel", format!("Linux {release}"))
        }
        _ => Finding::failure(
            "kernel",
            format!("Linux {release} is older than {major}.{minor}"),
            format!("run Linux {major}.{minor} or newer"),
        ),
    }
}

pub(super) fn btf() -> Finding {
    let path = Path::new("/sys/kernel/btf/vmlinux");
    if path.exists() {
        Finding::ok("btf", "the kernel describes its types")
    } else {
        Finding::warning(
            "btf",
            format!("{} does not exist", path.display()),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF, as those of distributions are",
        )
    }
}

pub(super) fn capabilities() -> Finding {
    judge_capabilities(&fs::read_to_string("/proc/self/status").unwrap_or_default())
}

fn judge_capabilities(status: &str) -> Finding {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let Some(effective) = effective else {
        return Finding::failure("capabilities", "they cannot be read from /proc/self/status", "mount /proc");
    };
    let has = |bit: u32| effective >> bit & 1 == 1;
    // CAP_SYS_ADMIN is needed besides CAP_BPF: only with it can a bpffs be mounted and namespaces be entered.
    let needed = [("CAP_NET_ADMIN", has(12)), ("CAP_SYS_ADMIN", has(21)), ("CAP_BPF", has(39) || has(21))];
    let missing = needed.iter().filter(|(_, has)| !has).map(|(name, _)| *name).collect::<Vec<_>>();
    if missing.is_empty() {
        Finding::ok("capabilities", "CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_BPF or its older equivalent")
    } else {
        Finding::failure(
            "capabilities",
            format!("{} missing", missing.join(", ")),
            "run as root, or privileged",
        )
    }
}

pub(super) fn bpf(wanted: Option<AttachMode>) -> Finding {
    judge_bpf(tcx_programs(LOOPBACK, Direction::Ingress).map_err(|error| error.source().kind()).err(), wanted)
}

/// `refused` is why the kernel did not list the tcx programs of an interface, if it did not.
fn judge_bpf(refused: Option<io::ErrorKind>, wanted: Option<AttachMode>) -> Finding {
    match (refused, wanted) {
        (Some(io::ErrorKind::PermissionDenied), _) => Finding::failure(
            "bpf",
            "the kernel does not let this process use BPF",
            "run as root, outside of a sandbox that forbids the bpf system call",
        ),
        (Some(io::ErrorKind::Unsupported), _) => Finding::failure(
            "bpf",
            "the kernel has no BPF",
            "use a kernel built with CONFIG_BPF_SYSCALL, as those of distributions are",
        ),
        (None, Some(AttachMode::Clsact)) => {
            Finding::ok("bpf", "clsact, as configured (the kernel has tcx too)")
        }
        (None, _) => Finding::ok("bpf", "programs are attached by tcx"),
        (Some(_), Some(AttachMode::Tcx)) => Finding::failure(
            "bpf",
            "the kernel has no tcx, which the key attach asks for",
            "set attach to auto or clsact, or run Linux 6.6 or newer",
        ),
        (Some(_), _) => Finding::ok("bpf", "programs are attached by clsact (tcx comes with Linux 6.6)"),
    }
}

pub(super) fn jit() -> Finding {
    // A kernel that always compiles may not have the switch at all.
    match fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").as_deref().map(str::trim) {
        Ok("0") => {
            Finding::warning("jit", "BPF programs are interpreted", "sysctl net.core.bpf_jit_enable=1")
        }
        _ => Finding::ok("jit", "BPF programs are compiled"),
    }
}

pub(super) fn cgroup(configured: Option<&Path>) -> Finding {
    judge_cgroup(configured, is_v2)
}

fn is_v2(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// Where the root of the cgroup v2 hierarchy is: as configured, or where one is mounted.
pub fn cgroup_root(configured: Option<&Path>) -> Option<PathBuf> {
    configured.map_or_else(|| mounted_cgroup(is_v2), |path| Some(path.to_owned()))
}

fn mounted_cgroup(is_v2: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    CGROUPS.iter().map(kernel_files::of_node).find(|path| is_v2(path))
}

fn judge_cgroup(configured: Option<&Path>, is_v2: impl Fn(&Path) -> bool) -> Finding {
    if let Some(path) = configured {
        return if is_v2(path) {
            Finding::ok("cgroup", format!("cgroup v2 at {}", path.display()))
        } else {
            Finding::failure(
                "cgroup",
                format!("{} is no cgroup v2 hierarchy", path.display()),
                "correct the key cgroup, or leave it out",
            )
        };
    }
    match mounted_cgroup(is_v2) {
        Some(path) => Finding::ok("cgroup", format!("cgroup v2 at {}", path.display())),
        None => Finding::warning(
            "cgroup",
            "no cgroup v2 hierarchy is mounted",
            "services will need one: mount -t cgroup2 none /sys/fs/cgroup/unified",
        ),
    }
}

pub(super) fn forwarding() -> Finding {
    let path = kernel_files::of_node(Path::new("/proc/sys").join(ipamd_plan::FORWARDING_V4));
    let value = fs::read_to_string(&path).map(|value| value.trim().to_owned());
    judge_forwarding(value.ok().as_deref(), access(&path, AccessFlags::W_OK).is_ok())
}

fn judge_forwarding(value: Option<&str>, writable: bool) -> Finding {
    match (value, writable) {
        (Some("1"), _) => Finding::ok("forwarding", "IPv4 is forwarded"),
        (Some(_), true) => Finding::ok("forwarding", "IPv4 is not forwarded yet; the daemon switches it on"),
        _ => Finding::failure(
            "forwarding",
            "IPv4 is not forwarded, and the daemon may not switch it on",
            "sysctl net.ipv4.ip_forward=1, or make /proc/sys writable",
        ),
    }
}

pub(super) fn masquerade_ports(ports: &RangeInclusive<u16>) -> Finding {
    judge_ports(ports, &fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default())
}

fn judge_ports(ports: &RangeInclusive<u16>, local: &str) -> Finding {
    let mut bounds = local.split_whitespace().map_while(|bound| bound.parse::<u16>().ok());
    let (first, last) = (ports.start(), ports.end());
    match (bounds.next(), bounds.next()) {
        (Some(low), Some(high)) if low <= *last && *first <= high => Finding::warning(
            "masquerade-ports",
            format!("{first}-{last} overlaps the ports {low}-{high} that the node's own connections take"),
            "choose others by the key masquerade-ports, or change net.ipv4.ip_local_port_range",
        ),
        _ => Finding::ok("masquerade-ports", format!("{first}-{last} are nobody else's")),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::finding::Outcome::{Failure, Ok, Warning},
        *,
    };

    #[test]
    fn kernels_are_compared_by_number() {
        for (release, outcome) in [
            ("5.15.0-28-amd64", Ok),
            ("6.1.0", Ok),
            ("10.2", Ok),
            ("5.9.16", Failure),
            ("4.19.0", Failure),
            ("5", Failure),
            ("strange", Failure),
        ] {
            assert_eq!(judge_kernel(release).outcome, outcome, "{release}");
        }
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(judge_capabilities("CapEff:\t000001ffffffffff\n").outcome, Ok);
        // All but CAP_NET_ADMIN.
        assert_eq!(judge_capabilities("CapEff:\t000001ffffffefff\n").detail, "CAP_NET_ADMIN missing");
        assert_eq!(
            judge_capabilities("CapEff:\t0000000000000000\n").detail,
            "CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_BPF missing"
        );
        assert_eq!(judge_capabilities("").outcome, Failure);
    }

    #[test]
    fn tcx_is_needed_only_where_it_is_asked_for() {
        let invalid = Some(io::ErrorKind::InvalidInput);
        assert_eq!(judge_bpf(invalid, None).outcome, Ok);
        assert_eq!(judge_bpf(invalid, Some(AttachMode::Clsact)).outcome, Ok);
        assert_eq!(judge_bpf(invalid, Some(AttachMode::Tcx)).outcome, Failure);
        assert_eq!(judge_bpf(None, Some(AttachMode::Tcx)).outcome, Ok);
        assert_eq!(judge_bpf(Some(io::ErrorKind::PermissionDenied), None).outcome, Failure);
    }

    #[test]
    fn a_cgroup_is_found_where_it_is_or_missed_where_it_was_named() {
        let unified = |path: &Path| path.ends_with("unified");
        assert_eq!(judge_cgroup(None, unified).detail, "cgroup v2 at /sys/fs/cgroup/unified");
        assert_eq!(judge_cgroup(None, |_| false).outcome, Warning);
        assert_eq!(judge_cgroup(Some(Path::new("/c")), |_| false).outcome, Failure);
    }

    #[test]
    fn forwarding_must_be_on_or_possible() {
        assert_eq!(judge_forwarding(Some("1"), false).outcome, Ok);
        assert_eq!(judge_forwarding(Some("0"), true).outcome, Ok);
        assert_eq!(judge_forwarding(Some("0"), false).outcome, Failure);
        assert_eq!(judge_forwarding(None, false).outcome, Failure);
    }

    #[test]
    fn overlapping_ports_are_worth_a_look() {
        assert_eq!(judge_ports(&(10_000..=29_999), "32768\t60999\n").outcome, Ok);
        assert_eq!(judge_ports(&(10_000..=32_768), "32768\t60999\n").outcome, Warning);
        assert_eq!(judge_ports(&(10_000..=29_999), "1024 65535").outcome, Warning);
        assert_eq!(judge_ports(&(10_000..=29_999), "").outcome, Ok);
    }
}

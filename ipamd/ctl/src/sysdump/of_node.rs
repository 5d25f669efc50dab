//! What the node itself tells, whether or not the daemon lives: the kernel's tables, its settings, files, programs of the node.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
use ipamd_config::Locations;
use ipamd_kernel::{kernel_files, netlink, processes};
use ipamd_machine::{
    kernel_objects,
    preflight::{self, Subject},
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use super::{
    item::{Absent, Item},
    room::Room,
};

/// Files of the kernel, of any node.
const PROC: [&str; 13] = [
    "version",
    "cmdline",
    "uptime",
    "loadavg",
    "meminfo",
    "mounts",
    "net/dev",
    "net/snmp",
    "net/snmp6",
    "net/netstat",
    "net/softnet_stat",
    "net/sockstat",
    "modules",
];

/// Settings below `/proc/sys` that Cambric depends on or sets; `*` is any name.
const SYSCTLS: [&str; 26] = [
    "kernel/osrelease",
    "kernel/unprivileged_bpf_disabled",
    "kernel/bpf_stats_enabled",
    "kernel/pid_max",
    "fs/inotify/max_user_instances",
    "fs/inotify/max_user_watches",
    "fs/file-max",
    "net/core/bpf_jit_enable",
    "net/core/bpf_jit_harden",
    "net/core/bpf_jit_limit",
    "net/core/netdev_max_backlog",
    "net/core/somaxconn",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_local_reserved_ports",
    "net/ipv4/neigh/default/gc_thresh*",
    "net/ipv6/neigh/default/gc_thresh*",
    "net/ipv6/route/max_size",
    "net/ipv4/conf/*/rp_filter",
    "net/ipv4/conf/*/forwarding",
    "net/ipv4/conf/*/accept_local",
    "net/ipv4/conf/*/proxy_arp",
    "net/ipv6/conf/*/disable_ipv6",
    "net/ipv6/conf/*/forwarding",
    "net/ipv6/conf/*/accept_ra",
    "net/netfilter/nf_conntrack_*",
];

/// Programs of the node that tell more than the kernel's tables do, where they are.
const COMMANDS: [(&str, &[&str]); 12] = [
    ("ip-link", &["ip", "-details", "-statistics", "link"]),
    ("ip-address", &["ip", "address"]),
    ("ip-route-4", &["ip", "-4", "route", "show", "table", "all"]),
    ("ip-route-6", &["ip", "-6", "route", "show", "table", "all"]),
    ("ip-rule-4", &["ip", "-4", "rule"]),
    ("ip-rule-6", &["ip", "-6", "rule"]),
    ("tc-qdisc", &["tc", "-statistics", "qdisc"]),
    ("bpftool-net", &["bpftool", "net"]),
    ("nft", &["nft", "--terse", "list", "ruleset"]),
    ("iptables", &["iptables-save", "--counters"]),
    ("ip6tables", &["ip6tables-save", "--counters"]),
    ("unit", &["systemctl", "--no-pager", "status", "cambric-ipamd"]),
];

/// So many lines of the log.
const LOG_LINES: &str = "50000";

/// How many entries a listing of a directory has at most.
const LISTED: usize = 10_000;

/// All that is asked of the node. `config` is the daemon's configuration file.
pub(super) fn items(locations: &Locations, config: &Path, metrics: Option<SocketAddr>) -> Vec<Item> {
    let mut items = vec![journal()];
    items.extend(["metrics", "healthz", "readyz"].map(|page| answer(metrics, page)));
    items.push(file("configuration/ipamd.toml", config.to_owned()));
    items.extend(network_configurations(locations));
    items.push(preflight_findings(Subject::from(locations)));
    items.push(Item::new("node/process.txt", process));
    items.extend(netlink::Table::ALL.map(|table| {
        Item::new(format!("kernel/{}.txt", table.name()), move |room: &mut Room| {
            let entries = netlink::Socket::open()?.table(table)?;
            Ok(entries.iter().try_for_each(|entry| room.line(entry))?)
        })
    }));
    items.push(Item::new("kernel/programs.jsonl", |room| lines(kernel_objects::programs()?, room)));
    items.push(Item::new("kernel/maps.jsonl", |room| lines(kernel_objects::maps()?, room)));
    items.push(Item::new("kernel/program-links.jsonl", |room| lines(kernel_objects::links()?, room)));
    items.push(listing("kernel/pins.txt", locations.bpffs.clone()));
    items.push(listing("node/records.txt", locations.state_dir.clone()));
    items.push(Item::new("kernel/sysctls.txt", sysctls));
    items.extend(PROC.map(|name| {
        file(&format!("kernel/proc/{}.txt", name.replace('/', "-")), Path::new("/proc").join(name))
    }));
    items.push(file("node/os-release", "/etc/os-release".into()));
    items.extend(COMMANDS.map(|(name, words)| {
        Item::new(format!("commands/{name}.txt"), move |room: &mut Room| run(words, room))
    }));
    items
}

fn lines<T: Serialize>(values: impl Iterator<Item = T>, room: &mut Room) -> anyhow::Result<()> {
    for value in values {
        room.line(serde_json::to_string(&value)?)?;
    }
    Ok(())
}

fn file(path: &str, of: PathBuf) -> Item {
    Item::new(path, move |room| {
        let opened = File::open(&of);
        if opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Err(Absent(format!("there is no {}", of.display())).into());
        }
        let doing = || format!("read {}", of.display());
        io::copy(&mut BufReader::new(opened.with_context(doing)?), room).with_context(doing)?;
        Ok(())
    })
}

/// What runtimes find: each network configuration, of others, too.
fn network_configurations(locations: &Locations) -> Vec<Item> {
    let folder = locations.cni.conf_dir.clone().unwrap_or_else(|| "/etc/cni/net.d".into());
    let is_configuration =
        |path: &PathBuf| path.extension().is_some_and(|it| it == "conflist" || it == "conf" || it == "json");
    let mut found: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|it| it.path())
        .filter(is_configuration)
        .collect();
    found.sort();
    let name = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.chars().take(50).map(|it| if it.is_ascii_graphic() { it } else { '_' }).collect::<String>()
    };
    found.into_iter().take(50).map(|path| file(&format!("configuration/cni/{}", name(&path)), path)).collect()
}

fn preflight_findings(subject: Subject) -> Item {
    Item::new("node/preflight.json", move |room| {
        Ok(room.line(serde_json::to_string_pretty(&preflight::check(&subject))?)?)
    })
}

/// The daemon's process: what it may use and does use, and where its threads are. Its environment is left out.
fn process(room: &mut Room) -> anyhow::Result<()> {
    let found = processes::named(|name| name == "cambric-ipamd");
    if found.is_empty() {
        return Err(Absent("no cambric-ipamd runs here".to_owned()).into());
    }
    for process in found {
        let folder = PathBuf::from(format!("/proc/{}", process.number));
        let command = fs::read(folder.join("cmdline")).unwrap_or_default();
        let words: Vec<_> = command.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        room.line(format!("process {}: {}", process.number, words.join(" ").trim_end()))?;
        for name in ["status", "limits", "cgroup", "io", "schedstat"] {
            if let Ok(text) = fs::read_to_string(folder.join(name)) {
                room.line(format!("--- {name}\n{text}"))?;
            }
        }
        room.line("--- threads")?;
        for task in fs::read_dir(folder.join("task")).into_iter().flatten().flatten() {
            let of_thread =
                |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default().trim().to_owned();
            let (name, waits_in, stack) = (of_thread("comm"), of_thread("wchan"), of_thread("stack"));
            room.line(format!("{} {name} {waits_in}\n{stack}", task.file_name().to_string_lossy()))?;
        }
    }
    Ok(())
}

/// The paths below a directory, with mode, size and time; nothing of what is in them.
fn listing(path: &str, of: PathBuf) -> Item {
    Item::new(path, move |room| {
        let mut left = vec![of.clone()];
        let mut listed = 0;
        while let Some(folder) = left.pop() {
            let entries = match fs::read_dir(&folder) {
                Err(error) if folder == of && error.kind() == io::ErrorKind::NotFound => {
                    return Err(Absent(format!("there is no {}", of.display())).into());
                }
                entries => entries.with_context(|| format!("list {}", folder.display()))?,
            };
            for entry in entries.flatten() {
                listed += 1;
                if listed > LISTED {
                    bail!("only the first {LISTED} entries are listed");
                }
                let (path, found) = (entry.path(), entry.metadata());
                let Ok(found) = found else { continue };
                room.line(format!(
                    "{:o} {} {} {}",
                    found.mode(),
                    found.size(),
                    found.mtime(),
                    path.display()
                ))?;
                if found.is_dir() {
                    left.push(path);
                }
            }
        }
        Ok(())
    })
}

fn sysctls(room: &mut Room) -> anyhow::Result<()> {
    let settings = kernel_files::of_node("/proc/sys");
    let mut found = BTreeMap::new();
    for pattern in SYSCTLS {
        for path in matching(&settings, pattern) {
            let value =
                fs::read_to_string(&path).map_or_else(|error| error.to_string(), |it| it.trim().to_owned());
            found.insert(path.strip_prefix(&settings).unwrap_or(&path).to_owned(), value);
        }
    }
    if found.is_empty() {
        bail!("there is nothing below {}", settings.display());
    }
    Ok(found.iter().try_for_each(|(path, value)| room.line(format!("{} = {value}", path.display())))?)
}

/// The files that a pattern stands for.
fn matching(root: &Path, pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![root.to_owned()];
    for part in pattern.split('/') {
        let Some((begin, _)) = part.split_once('*') else {
            for path in &mut found {
                path.push(part);
            }
            continue;
        };
        let inside = found.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
        found = inside
            .filter(|it| it.file_name().to_str().is_some_and(|name| name.starts_with(begin)))
            .map(|it| it.path())
            .collect();
    }
    found.retain(|path| path.is_file());
    found
}

/// What the daemon's HTTP server answers.
fn answer(from: Option<SocketAddr>, page: &'static str) -> Item {
    Item::new(format!("daemon/{page}.txt"), move |room| {
        let Some(address) = from else {
            return Err(Absent(
                "the configuration has no key metrics; --metrics names the address".to_owned(),
            )
            .into());
        };
        let doing = || format!("ask http://{address}/{page}");
        let mut stream = TcpStream::connect_timeout(&address, room.left()).with_context(doing)?;
        stream.set_read_timeout(Some(room.left()))?;
        stream.set_write_timeout(Some(room.left()))?;
        write!(stream, "GET /{page} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
            .with_context(doing)?;
        io::copy(&mut stream, room).with_context(doing)?;
        Ok(())
    })
}

/// The newest lines of the daemon's log.
fn journal() -> Item {
    Item::new("logs/journal.txt", |room| {
        let words = ["journalctl", "--no-pager", "--unit=cambric-ipamd", "--output=short-iso-precise", "--lines", LOG_LINES];
        match run(&words, room) {
            Err(error) if error.is::<Absent>() => Err(Absent(
                "there is no journalctl here; the daemon's log is where its standard error goes (of a pod: kubectl logs)".to_owned(),
            )
            .into()),
            ran => ran,
        }
    })
    .keeping_the_last()
}

/// Runs a program of the node. What it says on standard error comes behind, and is the reason if it fails.
fn run(words: &[&str], room: &mut Room) -> anyhow::Result<()> {
    let [program, arguments @ ..] = words else { return Ok(()) };
    let mut command = Command::new(program);
    let spawned =
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match spawned {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Absent(format!("there is no {program} here")).into());
        }
        spawned => spawned.with_context(|| format!("run {program}"))?,
    };
    let errors = child.stderr.take().map(|mut from| {
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = from.by_ref().take(64 << 10).read_to_string(&mut text);
            // What else it says is not wanted, and must not stop it.
            let _ = io::copy(&mut from, &mut io::sink());
            text
        })
    });
    let copied = child.stdout.take().map(|from| copy_in_time(from, room));
    if copied.is_some_and(|it| it.is_err()) {
        let _ = child.kill();
    }
    let status = child.wait()?;
    let errors = errors.and_then(|it| it.join().ok()).unwrap_or_default();
    if !status.success() {
        bail!("{program} ended with {status}: {}", errors.trim());
    }
    if !errors.trim().is_empty() {
        room.line(format!("--- standard error\n{}", errors.trim_end()))?;
    }
    Ok(())
}

/// Copies what a program says until it ends or the item's time is over.
fn copy_in_time(mut from: impl Read + AsFd, room: &mut Room) -> io::Result<()> {
    let mut some = [0; 8192];
    loop {
        let patience = PollTimeout::try_from(room.left()).unwrap_or(PollTimeout::MAX);
        let said = poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], patience)?;
        if said == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match from.read(&mut some)? {
            0 => return Ok(()),
            length => room.write_all(&some[..length])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sysdump::{
        item::{Outcome, take},
        room::Keep,
    };

    const LONG: Duration = Duration::from_mins(10);

    #[test]
    fn settings_are_found_by_their_patterns() {
        let root = tempfile::tempdir().unwrap();
        for name in
            ["conf/eth0/rp_filter", "conf/lo/rp_filter", "conf/lo/other", "gc_thresh1", "gc_thresh2", "gc_x"]
        {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "1\n").unwrap();
        }
        let found = |pattern: &str| {
            let mut found = matching(root.path(), pattern);
            found.sort();
            found
                .iter()
                .map(|it| it.strip_prefix(root.path()).unwrap().display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(found("conf/*/rp_filter"), ["conf/eth0/rp_filter", "conf/lo/rp_filter"]);
        assert_eq!(found("gc_thresh*"), ["gc_thresh1", "gc_thresh2"]);
        assert!(found("conf/none").is_empty());
    }

    #[test]
    fn a_program_that_is_missing_is_absent_and_one_that_fails_says_why() {
        let mut room = Room::new(100, Keep::First, LONG);
        assert!(run(&["no-such-program-here"], &mut room).unwrap_err().is::<Absent>());
        run(&["sh", "-c", "echo said; echo warned >&2"], &mut room).unwrap();
        assert_eq!(String::from_utf8(room.close().0).unwrap(), "said\n--- standard error\nwarned\n");
        let error = run(&["sh", "-c", "echo why >&2; exit 3"], &mut room).unwrap_err().to_string();
        assert!(error.starts_with("sh ended with") && error.ends_with(": why"), "{error}");
    }

    #[test]
    fn a_listing_tells_nothing_of_what_is_in_the_files() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(root.path().join("a/b"), "hunter2").unwrap();
        let (report, content) = take(listing("x", root.path().to_owned()), 10_000, LONG);
        let content = String::from_utf8(content).unwrap();
        assert_eq!(report.outcome, Outcome::Taken);
        assert!(
            content.contains(" 7 ") && content.contains("/a/b\n") && !content.contains("hunter2"),
            "{content}"
        );
        let (report, _) = take(listing("x", root.path().join("none")), 10_000, LONG);
        assert_eq!(report.outcome, Outcome::Absent);
    }
}

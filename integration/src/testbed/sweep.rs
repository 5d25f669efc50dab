//! Removes what runs that were killed left behind.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Once,
};

use nix::{
    mount::{MsFlags, mount},
    sys::{
        signal::{Signal, kill},
        statfs::{BPF_FS_MAGIC, statfs},
    },
    unistd::Pid,
};

use super::names::{NAMED, PREFIX, remove_netns};

/// Where programs are pinned.
pub(super) const BPFFS: &str = "/sys/fs/bpf";

/// Sweeps, once for this process, and mounts the bpffs.
pub(super) fn once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if !statfs(BPFFS).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC) {
            let _ = mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>);
        }
        end_daemons();
        for path in left_in(Path::new(NAMED)) {
            remove_netns(&path);
        }
        for folder in [Path::new(BPFFS), &std::env::temp_dir()] {
            for path in left_in(folder) {
                let _ = fs::remove_dir_all(path);
            }
        }
    });
}

fn left_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_left)).collect()
}

/// Whether a name was given by a process that is no more.
fn is_left(name: &str) -> bool {
    let owner = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split('-').next())
        .and_then(|pid| pid.parse::<u32>().ok());
    owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

fn end_daemons() {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let command_line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command_line = String::from_utf8_lossy(&command_line);
        let mut words = command_line.split('\0');
        if words.next().is_some_and(|program| program.ends_with("/cambric-ipamd"))
            && words.flat_map(|word| word.split('/')).any(is_left)
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

//! Processes in this network namespace.

use std::fs;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its name, of at most fifteen bytes.
    pub name: String,
    /// Its number.
    pub number: u32,
}

/// The processes in the network namespace of the caller whose names `wanted` holds for. Those that this process cannot
/// see, from within a container for example, are not found.
pub fn named(wanted: impl Fn(&str) -> bool) -> Vec<Process> {
    let Ok(here) = fs::read_link("/proc/thread-self/ns/net") else { return Vec::new() };
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found = processes
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(entry.path().join("comm")).ok()?.trim_end().to_owned();
            let there = || fs::read_link(entry.path().join("ns/net")).ok();
            (wanted(&name) && there().as_ref() == Some(&here)).then_some(Process { name, number })
        })
        .collect::<Vec<_>>();
    found.sort_unstable();
    found
}

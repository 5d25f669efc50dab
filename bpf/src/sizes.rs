//! How large the maps are made, which share the node's memory.

use std::fs;

/// Entries of the maps that all endpoints share; each number is that of one family's map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Flows that are remembered. They take their memory at once, as the next three do.
    pub conntrack: u32,
    /// Sockets that were led to a backend.
    pub sockets: u32,
    /// Clients that are sent to the same backend again.
    pub affinities: u32,
    /// Datagrams in pieces that are under way.
    pub fragments: u32,
    /// Addresses of nodes, and prefixes that are not masqueraded.
    pub prefixes: u32,
}

/// Those that the configuration names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestedSizes {
    /// See [`MapSizes::conntrack`].
    pub conntrack: Option<u32>,
    /// See [`MapSizes::sockets`].
    pub sockets: Option<u32>,
    /// See [`MapSizes::affinities`].
    pub affinities: Option<u32>,
    /// See [`MapSizes::fragments`].
    pub fragments: Option<u32>,
    /// See [`MapSizes::prefixes`].
    pub prefixes: Option<u32>,
}

/// What a machine has of what sizes follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Bytes of memory that may be used.
    pub memory: u64,
    /// Processors.
    pub processors: u32,
}

/// Memory for which one flow of each family is remembered: with all that follows of it, some 1% of it is taken.
const MEMORY_PER_FLOW: u64 = 64 * 1024;
const LEAST_FLOWS: u32 = 32_768;
const MOST_FLOWS: u32 = 1_048_576;
/// Each processor keeps some entries of an LRU map free for itself.
const FLOWS_PER_PROCESSOR: u32 = 4_096;
/// Less of these is not worth saving.
const LEAST_FRAGMENTS: u32 = 8_192;
const LEAST_PREFIXES: u32 = 65_536;

impl Machine {
    /// This one. What cannot be read is taken for little.
    pub fn here() -> Self {
        let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
        let limit =
            limits.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
        let memory =
            fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_memory(&text)).unwrap_or(0);
        let processors =
            libbpf_rs::num_possible_cpus().ok().and_then(|count| count.try_into().ok()).unwrap_or(1);
        Self { memory: limit.fold(memory, u64::min), processors }
    }
}

/// Bytes, from `/proc/meminfo`.
fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

impl MapSizes {
    /// What is asked for; the rest follows the machine, and the number of flows.
    pub fn new(requested: &RequestedSizes, machine: Machine) -> Self {
        let by_memory = (machine.memory / MEMORY_PER_FLOW).next_power_of_two();
        let by_processors = machine.processors.saturating_mul(FLOWS_PER_PROCESSOR).next_power_of_two();
        let by_machine = u32::try_from(by_memory).unwrap_or(MOST_FLOWS).clamp(LEAST_FLOWS, MOST_FLOWS);
        let conntrack = requested.conntrack.unwrap_or(by_machine.max(by_processors));
        Self {
            conntrack,
            sockets: requested.sockets.unwrap_or((conntrack / 2).max(1)),
            affinities: requested.affinities.unwrap_or((conntrack / 2).max(1)),
            fragments: requested.fragments.unwrap_or((conntrack / 4).max(LEAST_FRAGMENTS)),
            prefixes: requested.prefixes.unwrap_or(conntrack.max(LEAST_PREFIXES)),
        }
    }

    /// How many entries of flows may be of those that nobody has gone on from: the other half is kept for those that are established.
    pub fn waiting(&self) -> u32 {
        (self.conntrack / 2).max(1)
    }
}

/// How much the tables hold, where that is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicySizes {
    /// Entries of one endpoint's policy map.
    pub entries: u32,
    /// Addresses of each family whose class is known.
    pub addresses: u32,
    /// Prefixes of each family whose class is known.
    pub prefixes: u32,
    /// Rules that are counted apart.
    pub rules: u32,
}

impl Default for PolicySizes {
    fn default() -> Self {
        Self { entries: 16_384, addresses: 131_072, prefixes: 65_536, rules: 16_384 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn on(memory: u64, processors: u32) -> MapSizes {
        MapSizes::new(&RequestedSizes::default(), Machine { memory, processors })
    }

    #[test]
    fn sizes_follow_memory_and_processors_within_bounds() {
        let flows = |memory, processors| on(memory, processors).conntrack;
        assert_eq!(flows(GIB / 2, 1), LEAST_FLOWS);
        assert_eq!(flows(2 * GIB, 2), 32_768);
        // What a machine of 8 GiB says it has.
        assert_eq!(flows(8 * GIB - 300_000_000, 4), 131_072);
        assert_eq!(flows(32 * GIB, 8), 524_288);
        assert_eq!(flows(4_096 * GIB, 8), MOST_FLOWS);
        assert_eq!(flows(2 * GIB, 64), 262_144, "each of many processors keeps some free");
        assert_eq!(flows(u64::MAX / 2, 1), MOST_FLOWS);
    }

    #[test]
    fn the_maps_of_the_programs_are_those_of_a_machine_of_8_gib() {
        let defaults = [include_str!("../progs/maps.h"), include_str!("../progs/maps_service.h")].concat();
        let defined = |name: &str| -> u32 {
            let line =
                defaults.lines().find_map(|line| line.strip_prefix(&format!("#define {name} "))).unwrap();
            line.parse().unwrap()
        };
        let sizes = on(8 * GIB, 4);
        assert_eq!(sizes.conntrack, defined("CONNTRACK_ENTRIES"));
        assert_eq!(sizes.waiting(), defined("WAITING_ENTRIES"));
        assert_eq!(sizes.sockets, defined("SOCKET_ENTRIES"));
        assert_eq!(sizes.affinities, defined("AFFINITY_ENTRIES"));
        assert_eq!(sizes.fragments, defined("FRAGMENT_ENTRIES"));
        assert_eq!(sizes.prefixes, defined("PREFIX_ENTRIES"));
    }

    #[test]
    fn what_is_asked_for_is_taken_and_leads_the_rest() {
        let requested =
            RequestedSizes { conntrack: Some(2_048), fragments: Some(64), ..RequestedSizes::default() };
        let sizes = MapSizes::new(&requested, Machine { memory: 64 * GIB, processors: 8 });
        assert_eq!((sizes.conntrack, sizes.sockets, sizes.affinities), (2_048, 1_024, 1_024));
        assert_eq!((sizes.fragments, sizes.prefixes), (64, LEAST_PREFIXES));
    }

    #[test]
    fn memory_is_read_in_kibibytes() {
        assert_eq!(total_memory("MemFree: 1 kB\nMemTotal:       16384 kB\n"), Some(16 << 20));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
    }
}

//! Errors of maps in words: which map, what it holds, how full it is, and what to do. The kernel's error numbers have
//! texts about argument lists and devices.

use std::fmt;

use ipamd_api::wire::MapUse;
use libbpf_rs::{ErrorKind, MapCore, MapHandle, MapType};
use nix::errno::Errno;

use super::batch;

/// The description of a map for errors and warnings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct About {
    /// What is in it.
    pub holds: &'static str,
    /// What an operator can do when it fills; `None` if it has a place for everything or if the least used entries make
    /// room.
    pub advice: Option<&'static str>,
}

/// The description of each map by its name. Inner maps have the name of their array, or `policy`.
pub(super) fn about(map: &str) -> About {
    let (holds, advice) = match map {
        "conntrack4" | "conntrack6" => {
            ("connections", Some("raise --conntrack-size, or the least used connections are forgotten"))
        }
        "endpoints4" | "endpoints6" => {
            ("addresses of this node's endpoints", Some("no more endpoints fit on this node"))
        }
        "host_ends" => ("interfaces of this node's endpoints", Some("no more endpoints fit on this node")),
        "connections4" | "connections6" => (
            "sockets that are led to backends",
            Some(
                "raise --conntrack-size, or sockets outlive their backends and see them in place of the service",
            ),
        ),
        "no_masquerade4" | "no_masquerade6" => (
            "prefixes that are not masqueraded",
            Some("raise --prefix-size, or nodes that join are not known"),
        ),
        "machines4" | "machines6" | "node_macs4" | "node_macs6" => {
            ("addresses of nodes", Some("raise --prefix-size, or nodes that join are not known"))
        }
        "node_prefixes4" | "node_prefixes6" => {
            ("prefixes of nodes", Some("raise --prefix-size, or nodes that join are not known"))
        }
        "frontends4" | "frontends6" => (
            "addresses and ports of services",
            Some("no more services fit: remove services, or ports and addresses of theirs"),
        ),
        "members4" | "members6" => (
            "backends of services",
            Some("no more backends fit: remove services, or endpoints and ports of theirs"),
        ),
        "source_ranges4" | "source_ranges6" => (
            "source ranges of services",
            Some("no more source ranges fit: remove some from loadBalancerSourceRanges"),
        ),
        "namespaces" => (
            "network namespaces whose sockets are led to services",
            Some("no more containers fit whose sockets are led to services"),
        ),
        "peers4" | "peers6" => (
            "addresses that policies tell apart",
            Some("raise --policy-addresses, or have policies select fewer pods"),
        ),
        "ranges4" | "ranges6" => (
            "prefixes that policies tell apart",
            Some("raise --policy-prefixes, or have policies name fewer prefixes"),
        ),
        "policy" => (
            "the policy of one endpoint",
            Some("raise --policy-entries, or have fewer policies, ports and peers select one pod"),
        ),
        "policies" => ("policies of endpoints", Some("no more endpoints fit on this node")),
        "hits" => ("counters of policy rules", Some("raise --policy-rules")),
        "uplinks" => ("uplinks", Some("name fewer interfaces (--uplink)")),
        "postures" => ("how endpoints are policed", None),
        "sets" | "backends4" | "backends6" | "lookup_tables" => ("backends of services", None),
        "fragments4" | "fragments6" => ("datagrams in pieces", None),
        "affinities4" | "affinities6" => ("clients with an affinity", None),
        "sockets4" | "sockets6" => ("sockets that were led to backends", None),
        "waiting4" | "waiting6" => (
            "connections that are not confirmed",
            Some(
                "raise --conntrack-size, or find who opens so many (cambricctl ct list): the oldest are forgotten",
            ),
        ),
        _ => ("what the programs keep", None),
    };
    About { holds, advice }
}

/// Why a map could not be made, read or written.
#[derive(Debug, PartialEq, Eq)]
pub struct MapError {
    map: String,
    reason: Reason,
}

#[derive(Debug, PartialEq, Eq)]
enum Reason {
    /// Every entry is taken.
    Full { entries: u32 },
    /// It has places of numbers, and this one is beyond.
    NoPlace { entries: u32 },
    /// The kernel has no memory for it.
    NoMemory { used: Option<MapUse> },
    /// The kernel makes none so large.
    TooLarge { entries: u32 },
    /// The daemon may not.
    Denied,
    /// Somebody else was at the same place.
    Busy,
    /// Anything else, as the kernel calls it.
    Refused(Errno),
    /// The library did not even ask the kernel.
    Said(String),
}

impl MapError {
    /// A write of an entry was refused.
    pub(super) fn written(map: &MapHandle, name: &str, errno: Errno) -> Self {
        let entries = map.max_entries();
        let reason = match (errno, map.map_type()) {
            (Errno::E2BIG | Errno::ENOSPC | Errno::ERANGE, kind) if has_places(kind) => {
                Reason::NoPlace { entries }
            }
            // A hash says the first, a trie the second.
            (Errno::E2BIG | Errno::ENOSPC, _) => Reason::Full { entries },
            (Errno::ENOMEM, kind) => {
                Reason::NoMemory { used: (!has_places(kind)).then(|| used(map)).flatten() }
            }
            (errno, _) => Reason::of(errno),
        };
        Self { map: name.to_owned(), reason }
    }

    /// None of its entries is free.
    pub(super) fn full(name: &str, entries: u32) -> Self {
        Self { map: name.to_owned(), reason: Reason::Full { entries } }
    }

    /// A map of so many entries could not be made.
    pub(super) fn made(name: &str, entries: u32, error: &libbpf_rs::Error) -> Self {
        let reason = match error.kind() {
            ErrorKind::TooBig | ErrorKind::InvalidInput => Reason::TooLarge { entries },
            _ => Reason::said(error),
        };
        Self { map: name.to_owned(), reason }
    }

    /// A map could not be read, opened or asked for what it is.
    pub(super) fn used(name: &str, error: &libbpf_rs::Error) -> Self {
        Self { map: name.to_owned(), reason: Reason::said(error) }
    }

    /// It could not be mapped into memory.
    pub(super) fn mapped(name: &str, errno: Errno) -> Self {
        Self { map: name.to_owned(), reason: Reason::of(errno) }
    }
}

impl Reason {
    fn of(errno: Errno) -> Self {
        match errno {
            Errno::ENOMEM => Self::NoMemory { used: None },
            Errno::EPERM | Errno::EACCES => Self::Denied,
            Errno::EBUSY | Errno::EAGAIN | Errno::EINTR | Errno::EDEADLK => Self::Busy,
            errno => Self::Refused(errno),
        }
    }

    fn said(error: &libbpf_rs::Error) -> Self {
        match error.kind() {
            ErrorKind::OutOfMemory => Self::of(Errno::ENOMEM),
            ErrorKind::PermissionDenied => Self::of(Errno::EPERM),
            ErrorKind::WouldBlock | ErrorKind::Interrupted => Self::Busy,
            ErrorKind::TooBig => Self::Refused(Errno::E2BIG),
            _ => Self::Said(format!("{error:#}")),
        }
    }
}

/// Whether a map has a place for each number, and no more.
fn has_places(kind: MapType) -> bool {
    matches!(kind, MapType::Array | MapType::PercpuArray | MapType::ArrayOfMaps)
}

/// How much of a map is in use, as far as that can be counted.
fn used(map: &MapHandle) -> Option<MapUse> {
    let mut entries = 0;
    let counted = batch::each_entry(map, |_, _| {
        entries += 1;
        true
    });
    counted.ok().map(|()| MapUse { entries, capacity: map.max_entries().into() })
}

impl std::error::Error for MapError {}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let About { holds, advice } = about(&self.map);
        let name = format!("the map {} ({holds})", self.map);
        match &self.reason {
            Reason::Full { entries } => {
                write!(f, "{name} is full: all of its {entries} entries are in use")?;
                advice.map_or(Ok(()), |advice| write!(f, "; {advice}"))
            }
            Reason::NoPlace { entries } => {
                write!(f, "{name} has {entries} places, and what is to be written is beyond them")?;
                advice.map_or(Ok(()), |advice| write!(f, "; {advice}"))
            }
            Reason::NoMemory { used } => {
                write!(f, "the kernel has no memory for {name}")?;
                if let Some(MapUse { entries, capacity }) = used {
                    write!(f, ", of which {entries} of {capacity} entries are in use")?;
                }
                write!(
                    f,
                    "; free memory on the node, or raise the memory limit of the daemon's control group"
                )
            }
            Reason::TooLarge { entries } => {
                write!(
                    f,
                    "the kernel makes no map {} ({holds}) of {entries} entries; lower its size",
                    self.map
                )
            }
            Reason::Denied => write!(
                f,
                "the kernel does not let the daemon use {name}; it needs root or CAP_BPF and CAP_NET_ADMIN (see `cambricctl preflight`)"
            ),
            Reason::Busy => {
                write!(f, "{name} was in use by others at the same place; it is tried again")
            }
            Reason::Refused(errno) => {
                write!(f, "the kernel refuses the use of {name} with {errno:?}; see the kernel's log (dmesg)")
            }
            Reason::Said(said) => write!(f, "cannot use {name}: {said}"),
        }
    }
}

/// Why programs or maps could not be loaded, in words where the kernel's own mislead.
pub(super) fn load(error: &libbpf_rs::Error) -> String {
    match error.kind() {
        ErrorKind::OutOfMemory => "the kernel has no memory for them and their maps; lower --conntrack-size, free memory on the \
             node, or raise the memory limit of the daemon's control group"
            .to_owned(),
        ErrorKind::TooBig => {
            "a program or a map is larger than this kernel takes; lower --conntrack-size, or use a newer kernel".to_owned()
        }
        ErrorKind::PermissionDenied => {
            "the kernel does not let the daemon; it needs root or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON".to_owned()
        }
        _ => format!("{error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(map: &str, reason: Reason) -> String {
        MapError { map: map.to_owned(), reason }.to_string()
    }

    #[test]
    fn a_full_map_is_told_with_its_size_its_purpose_and_what_to_do() {
        assert_eq!(
            said("machines4", Reason::Full { entries: 65_536 }),
            "the map machines4 (addresses of nodes) is full: all of its 65536 entries are in use; raise --prefix-size, or nodes \
             that join are not known"
        );
        assert_eq!(
            said("policy", Reason::NoMemory { used: Some(MapUse { entries: 7, capacity: 16 }) }),
            "the kernel has no memory for the map policy (the policy of one endpoint), of which 7 of 16 entries are in use; free \
             memory on the node, or raise the memory limit of the daemon's control group"
        );
    }

    /// Every number that the kernel's maps answer a write with, and some that they do not.
    #[test]
    fn no_refusal_is_told_by_the_text_of_its_number() {
        let errnos = (1..=133).map(Errno::from_raw).filter(|errno| *errno != Errno::UnknownErrno);
        for errno in errnos {
            for reason in
                [Reason::of(errno), Reason::said(&libbpf_rs::Error::from_raw_os_error(errno as i32))]
            {
                // What the library says of numbers that no map answers with may be its own.
                if let Reason::Said(_) = reason {
                    continue;
                }
                let said = said("endpoints4", reason);
                assert!(!said.contains(errno.desc()) && !said.contains("os error"), "{errno:?}: {said}");
                assert!(said.contains("the map endpoints4 (addresses of this node's endpoints)"), "{said}");
            }
        }
        for errno in [Errno::E2BIG, Errno::ENOMEM, Errno::EPERM] {
            let error = libbpf_rs::Error::from_raw_os_error(errno as i32);
            for said in [MapError::made("peers4", 7, &error).to_string(), load(&error)] {
                assert!(!said.contains(errno.desc()) && !said.contains("os error"), "{errno:?}: {said}");
            }
        }
    }

    #[test]
    fn each_map_that_the_programs_have_is_known_and_can_say_what_to_do_when_it_fills() {
        let sources =
            [include_str!("../../../bpf/progs/maps.h"), include_str!("../../../bpf/progs/maps_service.h")]
                .concat();
        let mut known = 0;
        for line in sources.lines() {
            let ended = line.strip_prefix("} ").and_then(|line| line.strip_suffix(" SEC(\".maps\");"));
            let service = line.strip_prefix("SERVICE_MAP(").and_then(|line| line.split_once(','));
            let Some(name) = ended.or(service.map(|(name, _)| name)) else { continue };
            let fills = service.is_some_and(|(_, rest)| {
                rest.contains("_HASH") && !rest.contains("LRU") || rest.contains("LPM")
            });
            assert!(!fills || about(name).advice.is_some(), "{name} can be full, and nothing is said of it");
            known += 1;
        }
        assert!(known > 30, "only {known} maps were found");
    }
}

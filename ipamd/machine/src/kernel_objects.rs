//! Programs, maps and links of the whole machine, as the kernel lists them: everybody's, because programs of others may be
//! what a report is about.

use std::{ffi::OsStr, io};

use libbpf_rs::query::{LinkInfoIter, MapInfoIter, ProgInfoIter, ProgInfoQueryOptions};
use nix::unistd::geteuid;
use serde::Serialize;

/// A program.
#[derive(Clone, Debug, Serialize)]
pub struct Program {
    /// Its number.
    pub id: u32,
    /// Its name, of at most fifteen bytes.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// A digest of its instructions.
    pub tag: String,
    /// Seconds from the machine's start to its loading.
    pub loaded_at_seconds: u64,
    /// The maps that it uses.
    pub maps: Vec<u32>,
    /// Instructions that the verifier walked.
    pub verified_instructions: u32,
    /// How often it ran, and for how long, where `kernel.bpf_stats_enabled` has that counted.
    pub runs: u64,
    /// See [`Self::runs`].
    pub run_nanoseconds: u64,
    /// Runs that were left out because it ran already.
    pub recursion_misses: u64,
}

/// A map.
#[derive(Clone, Debug, Serialize)]
pub struct Map {
    /// Its number.
    pub id: u32,
    /// Its name, of at most fifteen bytes.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// Bytes.
    pub key_size: u32,
    /// Bytes.
    pub value_size: u32,
    /// Room for so many entries.
    pub max_entries: u32,
    /// `map_flags`.
    pub flags: u32,
}

/// A link: what attaches a program.
#[derive(Clone, Debug, Serialize)]
pub struct Link {
    /// Its number.
    pub id: u32,
    /// The program.
    pub program: u32,
    /// Where, in the kernel's terms.
    pub at: String,
}

/// All programs.
///
/// # Errors
/// That only root is told.
pub fn programs() -> io::Result<impl Iterator<Item = Program>> {
    only_root()?;
    Ok(ProgInfoIter::with_query_opts(ProgInfoQueryOptions::default().include_map_ids(true)).map(|info| {
        Program {
            id: info.id,
            name: name(&info.name),
            kind: format!("{:?}", info.ty),
            tag: format!("{:016x}", u64::from_be_bytes(info.tag.0)),
            loaded_at_seconds: info.load_time.as_secs(),
            maps: info.map_ids,
            verified_instructions: info.verified_insns,
            runs: info.run_cnt,
            run_nanoseconds: info.run_time_ns,
            recursion_misses: info.recursion_misses,
        }
    }))
}

/// All maps.
///
/// # Errors
/// That only root is told.
pub fn maps() -> io::Result<impl Iterator<Item = Map>> {
    only_root()?;
    Ok(MapInfoIter::default().map(|info| Map {
        id: info.id,
        name: name(&info.name),
        kind: format!("{:?}", info.ty),
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
        flags: info.map_flags,
    }))
}

/// All links.
///
/// # Errors
/// That only root is told.
pub fn links() -> io::Result<impl Iterator<Item = Link>> {
    only_root()?;
    Ok(LinkInfoIter::default().map(|info| Link {
        id: info.id,
        program: info.prog_id,
        at: format!("{:?}", info.info),
    }))
}

/// The iterators end at a refusal as at the end of the list, so it is told apart before.
fn only_root() -> io::Result<()> {
    if geteuid().is_root() { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

fn name(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}

//! The loaded program and its maps.

use std::{
    collections::BTreeMap,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use bpf::{
    DenySkelBuilder,
    attach::{XdpMode, program_id},
    layout::{Denied4, Denied6, DenyCount, Plain},
};
use ipnetwork::IpNetwork;
use libbpf_rs::{
    MapCore, MapFlags, MapHandle,
    skel::{OpenSkel, Skel, SkelBuilder},
};

use super::{super::error::DatapathError, super::maps::TypedMap, super::writes, entries::Entries};

/// So many entries one system call writes.
const CHUNK: usize = 4096;
/// In place of a number: what the maps have is not known.
const UNKNOWN: u32 = u32::MAX;

/// The loaded program, and what its maps have.
#[derive(Debug)]
pub(super) struct Program {
    native: Loaded,
    generic: Loaded,
    deny4: TypedMap<Denied4, u32>,
    deny6: TypedMap<Denied6, u32>,
    counts: MapHandle,
    written: BTreeMap<IpNetwork, u32>,
}

/// One form of it, and the kernel's number of that.
#[derive(Debug)]
struct Loaded {
    program: OwnedFd,
    id: u32,
}

impl Loaded {
    fn of(program: BorrowedFd<'_>) -> Result<Self, DatapathError> {
        let program = program
            .try_clone_to_owned()
            .map_err(|error| DatapathError::Load(libbpf_rs::Error::from(error)))?;
        Ok(Self { id: program_id(program.as_fd())?, program })
    }
}

impl Program {
    /// Loads it with empty maps.
    pub fn load() -> Result<Self, DatapathError> {
        let mut object = MaybeUninit::uninit();
        let open = DenySkelBuilder::default().open(&mut object).map_err(DatapathError::Load)?;
        let skeleton = open.load().map_err(DatapathError::Load)?;
        let mut maps = BTreeMap::new();
        for map in skeleton.object().maps() {
            let name = map.name().to_string_lossy().into_owned();
            let handle = MapHandle::try_from(&map).map_err(DatapathError::map(&name))?;
            maps.insert(name, handle);
        }
        let name = "deny_counts";
        let counts = maps.remove(name).ok_or_else(|| DatapathError::Layout { map: name.to_owned() })?;
        Ok(Self {
            native: Loaded::of(skeleton.progs.deny_native.as_fd())?,
            generic: Loaded::of(skeleton.progs.deny_generic.as_fd())?,
            deny4: TypedMap::take(&mut maps, "deny4")?,
            deny6: TypedMap::take(&mut maps, "deny6")?,
            counts,
            written: BTreeMap::new(),
        })
    }

    /// The form of it that runs in that mode, and the kernel's number of that.
    pub fn of(&self, mode: XdpMode) -> (BorrowedFd<'_>, u32) {
        let loaded = match mode {
            XdpMode::Native => &self.native,
            XdpMode::Generic => &self.generic,
        };
        (loaded.program.as_fd(), loaded.id)
    }

    /// Makes the maps have these entries: first those that are new, then those that go, so that no prefix is let through between.
    pub fn write(&mut self, entries: &Entries) -> Result<(), DatapathError> {
        let new = entries.0.iter().filter(|(prefix, number)| self.written.get(*prefix) != Some(*number));
        let new: Vec<_> = new.map(|(prefix, number)| (*prefix, *number)).collect();
        for chunk in new.chunks(CHUNK) {
            // If the write fails, some may be there.
            self.written.extend(chunk.iter().map(|(prefix, _)| (*prefix, UNKNOWN)));
            self.deny4.put_all(chunk.iter().filter_map(|(prefix, number)| match prefix {
                IpNetwork::V4(it) => {
                    Some((Denied4 { bits: it.prefix().into(), address: it.network().octets() }, *number))
                }
                IpNetwork::V6(_) => None,
            }))?;
            self.deny6.put_all(chunk.iter().filter_map(|(prefix, number)| match prefix {
                IpNetwork::V6(it) => {
                    Some((Denied6 { bits: it.prefix().into(), address: it.network().octets() }, *number))
                }
                IpNetwork::V4(_) => None,
            }))?;
            self.written.extend(chunk.iter().copied());
        }
        let gone: Vec<_> =
            self.written.keys().filter(|prefix| !entries.0.contains_key(*prefix)).copied().collect();
        for prefix in gone {
            match prefix {
                IpNetwork::V4(it) => self
                    .deny4
                    .remove(&Denied4 { bits: it.prefix().into(), address: it.network().octets() })?,
                IpNetwork::V6(it) => self
                    .deny6
                    .remove(&Denied6 { bits: it.prefix().into(), address: it.network().octets() })?,
            }
            self.written.remove(&prefix);
        }
        Ok(())
    }

    /// Frames and bytes that the set of that number has dropped.
    pub fn count(&self, number: u32) -> Result<(u64, u64), DatapathError> {
        let per_cpu = self
            .counts
            .lookup_percpu(number.as_bytes(), MapFlags::ANY)
            .map_err(DatapathError::map("deny_counts"))?;
        let counts = per_cpu.iter().flatten().filter_map(|bytes| DenyCount::from_bytes(bytes));
        Ok(counts.fold((0, 0), |(packets, bytes), it| (packets + it.packets, bytes + it.bytes)))
    }

    /// Lets the count of that number begin anew.
    pub fn reset_count(&self, number: u32) -> Result<(), DatapathError> {
        let processors = libbpf_rs::num_possible_cpus().map_err(DatapathError::map("deny_counts"))?;
        let zeros = vec![0; size_of::<DenyCount>() * processors];
        Ok(writes::put(&self.counts, "deny_counts", number.as_bytes(), &zeros)?)
    }
}

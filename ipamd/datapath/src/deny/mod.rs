//! Deny sets: frames from their prefixes are dropped at the uplinks by XDP, before the kernel makes packets of them.
//!
//! The program has its own maps. An earlier daemon's program stays attached with its maps until this daemon knows every set: then the new
//! program, whose maps are filled, takes its place in the link, and no frame passes between the two.

mod entries;
mod links;
mod program;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bpf::attach::Pins;
use ipamd_model::deny::DenyMode;
use ipnetwork::IpNetwork;

pub use self::entries::DenySets;
use self::{
    entries::{Entries, Numbers},
    links::Links,
    program::Program,
};
use super::{error::DatapathError, repairs::Repairs};

/// What one set has dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenyUse {
    /// Its name.
    pub name: String,
    /// Its prefixes, and those that no set may deny.
    pub prefixes: u64,
    /// Frames that were dropped since the daemon began to count them.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The deny sets in the kernel.
#[derive(Debug)]
pub struct DenyList {
    links: Links,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: not every set is known yet, and what an earlier daemon put in force stays.
    wanted: Option<Wanted>,
    numbers: Numbers,
    /// `None` while nothing is denied.
    program: Option<Program>,
    /// By name and index; `None` before the first pass.
    uplinks: Option<Vec<(String, u32)>>,
}

#[derive(Debug)]
struct Wanted {
    entries: Entries,
    /// How many prefixes each set has.
    sizes: BTreeMap<String, u64>,
}

impl DenyList {
    /// Nothing is loaded until there is a set.
    pub(super) fn new(pins: &Pins, mode: DenyMode) -> Self {
        Self { links: Links::new(pins.clone(), mode), state: Mutex::default() }
    }

    /// Puts these sets in force, except for prefixes in `exempt`, which no set may deny. Sets that are the same cost nothing.
    ///
    /// # Errors
    /// The program or its maps; what was in force stays as far as it was not changed, and [`Self::attach`] tries again.
    pub fn set(&self, sets: &DenySets, exempt: &BTreeSet<IpNetwork>) -> Result<(), DatapathError> {
        let mut state = self.state();
        let entries = entries::compile(sets, exempt, &mut state.numbers);
        let sizes = sets.iter().map(|(name, prefixes)| (name.clone(), prefixes.len() as u64)).collect();
        state.wanted = Some(Wanted { entries, sizes });
        state.write()?;
        let Some(uplinks) = state.uplinks.clone() else { return Ok(()) };
        self.attach_to(&mut state, &uplinks).1.into_iter().next().map_or(Ok(()), Err)
    }

    /// Attaches the program to these uplinks, by name and index, and to no other interface; detaches it from all where nothing is denied.
    /// Returns what was repaired, and what could not be done.
    pub fn attach(&self, uplinks: &[(String, u32)]) -> (Repairs, Vec<DatapathError>) {
        let mut state = self.state();
        if let Err(error) = state.write() {
            return (Repairs::new(), vec![error]);
        }
        let done = self.attach_to(&mut state, uplinks);
        state.uplinks = Some(uplinks.to_vec());
        done
    }

    fn attach_to(&self, state: &mut State, uplinks: &[(String, u32)]) -> (Repairs, Vec<DatapathError>) {
        if state.wanted.is_none() {
            return (Repairs::new(), Vec::new());
        }
        let Some(program) = &state.program else {
            return (Repairs::new(), self.links.detach_but(&BTreeSet::new()).err().into_iter().collect());
        };
        let known = state.uplinks.as_deref().unwrap_or_default();
        self.links.attach(program, uplinks, known)
    }

    /// What each set has dropped, by name.
    ///
    /// # Errors
    /// The counts cannot be read.
    pub fn uses(&self) -> Result<Vec<DenyUse>, DatapathError> {
        let state = self.state();
        let (Some(program), Some(wanted)) = (&state.program, &state.wanted) else { return Ok(Vec::new()) };
        let uses = wanted.sizes.iter().map(|(name, prefixes)| {
            let (packets, bytes) = program.count(state.numbers.of(name))?;
            Ok(DenyUse { name: name.clone(), prefixes: *prefixes, packets, bytes })
        });
        uses.collect()
    }

    /// How the program is attached, by the uplinks' names.
    pub fn attached(&self) -> BTreeMap<String, DenyMode> {
        self.links.modes()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Writes what is wanted and not in the maps.
    fn write(&mut self) -> Result<(), DatapathError> {
        let Some(wanted) = &self.wanted else { return Ok(()) };
        if wanted.entries.deny_nothing() {
            self.program = None;
            return Ok(());
        }
        let program = match &mut self.program {
            Some(program) => program,
            none => none.insert(Program::load()?),
        };
        for number in self.numbers.take_new() {
            program.reset_count(number)?;
        }
        program.write(&wanted.entries)
    }
}

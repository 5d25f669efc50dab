//! Deny sets: frames from their prefixes are dropped at the uplinks by XDP, before the kernel makes packets of them.
//!
//! The program has its own maps. An earlier daemon's program stays attached with its maps until this daemon knows every set: then the new
//! program, whose maps are filled, takes its place in the link, and no frame passes between the two.

mod entries;
mod links;
mod program;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError, TryLockError},
};

use bpf::attach::Pins;
use ipamd_model::deny::DenyMode;
use ipnetwork::IpNetwork;

pub use self::entries::DenySets;
use self::{
    entries::{EXEMPT, Entries, Numbers},
    links::Links,
    program::Program,
};
use super::{error::DatapathError, repairs::Repairs};

/// In place of a set: frames with so many VLAN tags that the program does not look behind them are dropped.
const TOO_MANY_TAGS: &str = "more than 8 VLAN tags";

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
    /// What [`Self::uses`] said last: while large sets are written nobody waits to be told.
    told: Mutex<Vec<DenyUse>>,
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
        Self { links: Links::new(pins.clone(), mode), state: Mutex::default(), told: Mutex::default() }
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

    /// Whether an earlier daemon's program is attached, and this one's is not.
    pub fn has_former(&self) -> bool {
        self.state().program.is_none() && self.links.are_pinned()
    }

    /// What each set has dropped, by name; while sets are written, what it was before.
    ///
    /// # Errors
    /// The counts cannot be read.
    pub fn uses(&self) -> Result<Vec<DenyUse>, DatapathError> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(told.clone()),
        };
        *told = state.uses()?;
        Ok(told.clone())
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
    fn uses(&self) -> Result<Vec<DenyUse>, DatapathError> {
        let (Some(program), Some(wanted)) = (&self.program, &self.wanted) else { return Ok(Vec::new()) };
        let named =
            wanted.sizes.iter().map(|(name, prefixes)| (name.as_str(), *prefixes, self.numbers.of(name)));
        let uses = named.chain([(TOO_MANY_TAGS, 0, EXEMPT)]).map(|(name, prefixes, number)| {
            let (packets, bytes) = program.count(number)?;
            Ok(DenyUse { name: name.to_owned(), prefixes, packets, bytes })
        });
        let mut uses = uses.collect::<Result<Vec<_>, DatapathError>>()?;
        uses.retain(|it| it.name != TOO_MANY_TAGS || it.packets > 0);
        Ok(uses)
    }

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

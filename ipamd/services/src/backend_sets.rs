//! Sets of backends: allocating their space in the tables, filling them, and freeing the space.

use super::{
    maglev,
    range_allocator::RangeAllocator,
    tables::{Backend, Choice, Family, Limits, SetNumber, SetValue, TableError, Tables},
};

/// The tables have no space for a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no room for {wanted} more {what}")]
pub(super) struct NoRoom {
    wanted: usize,
    what: &'static str,
}

/// Why a set could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum FillError {
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    #[error(transparent)]
    Table(#[from] TableError),
}

/// The free space of the tables.
#[derive(Debug)]
pub(super) struct TableSpace {
    sets: RangeAllocator,
    backends: [RangeAllocator; 2],
    lookups: RangeAllocator,
}

/// A set of backends and its space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BackendSet {
    pub number: SetNumber,
    pub value: SetValue,
    /// Index of the first backend, and their number.
    pub backends: (u32, u32),
}

impl TableSpace {
    /// Everything is free.
    pub fn new(limits: Limits) -> Self {
        let backends = || RangeAllocator::new(0, limits.backends);
        Self {
            // Frontends without a set have number 0.
            sets: RangeAllocator::new(1, limits.sets.saturating_sub(1)),
            backends: [backends(), backends()],
            lookups: RangeAllocator::new(0, limits.lookups),
        }
    }

    /// Adopts a set that an earlier daemon left in the tables; `None` if its space is not free.
    pub fn adopt(
        &mut self,
        tables: &dyn Tables,
        family: Family,
        number: SetNumber,
    ) -> Result<Option<BackendSet>, TableError> {
        let value = tables.set(number);
        let backends = if value.choice == Choice::Maglev {
            let places = tables.lookups(value.first, value.count.into())?;
            let first = places.iter().copied().min().unwrap_or(0);
            let last = places.iter().copied().max().unwrap_or(0);
            (first, (last - first).saturating_add(1))
        } else {
            (value.first, value.count.into())
        };
        Ok(self.claim(family, number, value, backends))
    }

    fn claim(
        &mut self,
        family: Family,
        number: SetNumber,
        value: SetValue,
        backends: (u32, u32),
    ) -> Option<BackendSet> {
        if !self.sets.claim(number.0, 1) {
            return None;
        }
        let of_family = &mut self.backends[family as usize];
        let claimed = backends.1 == 0 || of_family.claim(backends.0, backends.1);
        let claimed_lookups = claimed
            && (value.choice != Choice::Maglev || self.lookups.claim(value.first, value.count.into()));
        if !claimed_lookups {
            if claimed {
                of_family.give(backends.0, backends.1);
            }
            self.sets.give(number.0, 1);
            return None;
        }
        Some(BackendSet { number, value, backends })
    }

    /// Writes backends into newly allocated space and returns the set, which is not in force yet. It keeps the number
    /// of `old`, whose space the caller frees.
    pub fn fill(
        &mut self,
        tables: &mut dyn Tables,
        family: Family,
        old: Option<&BackendSet>,
        backends: &[(Backend, u32)],
        consistent: bool,
        elsewhere: bool,
    ) -> Result<BackendSet, FillError> {
        let no_room = |what| move || NoRoom { wanted: backends.len(), what };
        let count = u32::try_from(backends.len()).unwrap_or(u32::MAX);
        let length = u16::try_from(count)
            .map_err(|_| NoRoom { wanted: backends.len(), what: "backends of one port" })?;
        let of_family = &mut self.backends[family as usize];
        let first = match count {
            0 => 0,
            _ => of_family.take(count).ok_or_else(no_room("backends"))?,
        };
        let mut value = SetValue { first, count: length, choice: Choice::RoundRobin, elsewhere };
        if consistent && count > 0 {
            value.choice = Choice::Rendezvous;
            if maglev::by_table(backends.len()) {
                let Some(at) = self.lookups.take(maglev::PLACES.into()) else {
                    of_family.give(first, count);
                    return Err(no_room("places of look-up tables")().into());
                };
                let names: Vec<_> = backends.iter().map(|(backend, _)| *backend).collect();
                let places: Vec<_> =
                    maglev::table(&names).into_iter().map(|place| first + u32::from(place)).collect();
                tables.put_lookups(at, &places)?;
                value = SetValue { first: at, count: maglev::PLACES, choice: Choice::Maglev, elsewhere };
            }
        }
        let number = match old {
            Some(old) => old.number,
            None => {
                if let Some(number) = self.sets.take(1) {
                    SetNumber(number)
                } else {
                    let set = BackendSet { number: SetNumber(0), value, backends: (first, count) };
                    self.empty(family, &set);
                    return Err(no_room("sets of backends")().into());
                }
            }
        };
        tables.put_backends(family, first, backends)?;
        Ok(BackendSet { number, value, backends: (first, count) })
    }

    /// Frees the space of a set that is no longer in force, but not its number.
    pub fn empty(&mut self, family: Family, set: &BackendSet) {
        self.backends[family as usize].give(set.backends.0, set.backends.1);
        if set.value.choice == Choice::Maglev {
            self.lookups.give(set.value.first, set.value.count.into());
        }
    }

    /// Frees the space and the number of a set.
    pub fn release(&mut self, family: Family, set: &BackendSet) {
        self.empty(family, set);
        self.sets.give(set.number.0, 1);
    }
}

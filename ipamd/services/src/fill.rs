//! Sets of backends, from taking places for them to giving the places back.

use super::{
    consistent,
    places::Places,
    tables::{Backend, Choice, Family, Limits, SetNumber, SetValue, TableError, Tables},
};

/// There is no room for a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no room for {wanted} more {what}")]
pub(super) struct NoRoom {
    wanted: usize,
    what: &'static str,
}

/// Why a set could not be filled.
#[derive(Debug, thiserror::Error)]
pub(super) enum FillError {
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    #[error(transparent)]
    Table(#[from] TableError),
}

/// What is free in the tables.
#[derive(Debug)]
pub(super) struct Room {
    sets: Places,
    backends: [Places; 2],
    lookups: Places,
}

/// A set with its places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filled {
    pub number: SetNumber,
    pub value: SetValue,
    /// Where its backends are, and how many.
    pub backends: (u32, u32),
}

impl Room {
    /// All of it is free.
    pub fn new(limits: Limits) -> Self {
        let backends = || Places::new(0, limits.backends);
        Self {
            // Number 0 is what frontends have that need none.
            sets: Places::new(1, limits.sets.saturating_sub(1)),
            backends: [backends(), backends()],
            lookups: Places::new(0, limits.lookups),
        }
    }

    /// Takes over a set that an earlier daemon left in the tables; `None` if it cannot be.
    pub fn adopt(
        &mut self,
        tables: &dyn Tables,
        family: Family,
        number: SetNumber,
    ) -> Result<Option<Filled>, TableError> {
        let value = tables.set(number);
        let backends = if value.choice == Choice::Table {
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
    ) -> Option<Filled> {
        if !self.sets.claim(number.0, 1) {
            return None;
        }
        let of_family = &mut self.backends[family as usize];
        let claimed = backends.1 == 0 || of_family.claim(backends.0, backends.1);
        let claimed_lookups =
            claimed && (value.choice != Choice::Table || self.lookups.claim(value.first, value.count.into()));
        if !claimed_lookups {
            if claimed {
                of_family.give(backends.0, backends.1);
            }
            self.sets.give(number.0, 1);
            return None;
        }
        Some(Filled { number, value, backends })
    }

    /// Writes backends into places of their own, and says what the set is to be then; it is not in force yet. Takes the
    /// number of `old`, whose places are the caller's to give back.
    pub fn fill(
        &mut self,
        tables: &mut dyn Tables,
        family: Family,
        old: Option<&Filled>,
        backends: &[(Backend, u32)],
        consistent: bool,
        elsewhere: bool,
    ) -> Result<Filled, FillError> {
        let no_room = |what| move || NoRoom { wanted: backends.len(), what };
        let count = u32::try_from(backends.len()).unwrap_or(u32::MAX);
        let length = u16::try_from(count)
            .map_err(|_| NoRoom { wanted: backends.len(), what: "backends of one port" })?;
        let of_family = &mut self.backends[family as usize];
        let first = match count {
            0 => 0,
            _ => of_family.take(count).ok_or_else(no_room("backends"))?,
        };
        let mut value = SetValue { first, count: length, choice: Choice::Turns, elsewhere };
        if consistent && count > 0 {
            value.choice = Choice::Score;
            if consistent::by_table(backends.len()) {
                let Some(at) = self.lookups.take(consistent::PLACES.into()) else {
                    of_family.give(first, count);
                    return Err(no_room("places of look-up tables")().into());
                };
                let names: Vec<_> = backends.iter().map(|(backend, _)| *backend).collect();
                let places: Vec<_> =
                    consistent::table(&names).into_iter().map(|place| first + u32::from(place)).collect();
                tables.put_lookups(at, &places)?;
                value = SetValue { first: at, count: consistent::PLACES, choice: Choice::Table, elsewhere };
            }
        }
        let number = match old {
            Some(old) => old.number,
            None => {
                if let Some(number) = self.sets.take(1) {
                    SetNumber(number)
                } else {
                    let filled = Filled { number: SetNumber(0), value, backends: (first, count) };
                    self.empty(family, &filled);
                    return Err(no_room("sets of backends")().into());
                }
            }
        };
        tables.put_backends(family, first, backends)?;
        Ok(Filled { number, value, backends: (first, count) })
    }

    /// Gives the places of a set back that is no longer in force, but not its number.
    pub fn empty(&mut self, family: Family, filled: &Filled) {
        self.backends[family as usize].give(filled.backends.0, filled.backends.1);
        if filled.value.choice == Choice::Table {
            self.lookups.give(filled.value.first, filled.value.count.into());
        }
    }

    /// Gives all of a set back.
    pub fn release(&mut self, family: Family, filled: &Filled) {
        self.empty(family, filled);
        self.sets.give(filled.number.0, 1);
    }
}

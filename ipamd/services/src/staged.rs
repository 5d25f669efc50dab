//! Writes that wait for each other: what is found comes before what leads to it, and what leads somewhere goes first.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use super::{
    allowance::What,
    fill::{Filled, Room},
    tables::{
        Family, FrontendKey, FrontendValue, Member, PortRow, ServiceNumber, SetNumber, SetValue, TableError,
        Tables,
    },
};
use ipamd_model::concerned::Concerned;

/// The source ranges of a service, as they were and as they are to be.
#[derive(Debug)]
pub(super) struct Ranges {
    pub service: ServiceNumber,
    pub old: Box<[IpNetwork]>,
    pub new: Box<[IpNetwork]>,
}

/// Writes that are to be made together.
#[derive(Debug, Default)]
pub(super) struct Staged {
    pub members: Vec<(ServiceNumber, Member)>,
    pub sets: Vec<(SetNumber, SetValue)>,
    pub source_ranges: Vec<Ranges>,
    /// What is to be at each; `None`: nothing. Of what is staged for a key the last counts.
    pub frontends: BTreeMap<FrontendKey, Option<FrontendValue>>,
    /// Ports that no backend in the node's own namespace has any more.
    pub unmarked: Vec<u16>,
    /// Sets whose places are out of force then: the first keep their numbers.
    pub emptied: Vec<(Family, Filled)>,
    pub released: Vec<(Family, Filled)>,
    /// The flows that may have to go elsewhere.
    pub diverts: Concerned,
    /// What the tables have less of then.
    pub given_up: Vec<(Family, What, usize)>,
    /// Why what is here is not the whole.
    pub failed: Option<TableError>,
}

impl Staged {
    /// What was read; `None`, and the error kept, if it could not be.
    pub fn note<T>(&mut self, read: Result<T, TableError>) -> Option<T> {
        read.map_err(|error| self.failed = Some(error)).ok()
    }

    /// Makes the writes.
    pub fn commit(&mut self, tables: &mut dyn Tables, room: &mut Room) -> Result<(), TableError> {
        let staged = std::mem::take(self);
        if let Some(error) = staged.failed {
            return Err(error);
        }
        if !staged.members.is_empty() {
            tables.put_members(&staged.members)?;
        }
        for (number, value) in &staged.sets {
            tables.put_set(*number, *value);
        }
        for Ranges { service, old, new } in &staged.source_ranges {
            tables.put_source_ranges(*service, old, new)?;
        }
        let there = |(key, value): (&FrontendKey, &Option<FrontendValue>)| value.map(|value| (*key, value));
        let put: Vec<_> = staged.frontends.iter().filter_map(there).collect();
        if !put.is_empty() {
            tables.put_frontends(&put)?;
        }
        let gone: Vec<_> =
            staged.frontends.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| *key).collect();
        if !gone.is_empty() {
            tables.remove_frontends(&gone)?;
        }
        for port in staged.unmarked {
            tables.mark_port(PortRow::OfBackends, port, false);
        }
        for (family, filled) in &staged.emptied {
            room.empty(*family, filled);
        }
        for (family, filled) in &staged.released {
            tables.put_set(filled.number, SetValue::default());
            room.release(*family, filled);
        }
        tables.raise_epoch(&staged.diverts)
    }
}

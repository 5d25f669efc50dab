//! Writes that are collected and then made in an order that keeps every packet right: members and sets come before the
//! frontends that lead to them, and frontends are removed before what they lead to.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use super::{
    allowance::Resource,
    backend_sets::{BackendSet, TableSpace},
    tables::{
        Family, FrontendKey, FrontendValue, Member, PortRow, ServiceNumber, SetNumber, SetValue, TableError,
        Tables,
    },
};
use ipamd_model::concerned::Concerned;

/// The old and the new source ranges of a service.
#[derive(Debug)]
pub(super) struct Ranges {
    pub service: ServiceNumber,
    pub old: Box<[IpNetwork]>,
    pub new: Box<[IpNetwork]>,
}

/// The collected writes.
#[derive(Debug, Default)]
pub(super) struct StagedWrites {
    pub members: Vec<(ServiceNumber, Member)>,
    pub sets: Vec<(SetNumber, SetValue)>,
    pub source_ranges: Vec<Ranges>,
    /// The new value of each frontend; `None` removes it. The last write of a key counts.
    pub frontends: BTreeMap<FrontendKey, Option<FrontendValue>>,
    /// Ports on which no process of the node is a backend any more.
    pub unmarked: Vec<u16>,
    /// Sets whose space is freed after the writes. Those in `emptied` keep their numbers.
    pub emptied: Vec<(Family, BackendSet)>,
    pub released: Vec<(Family, BackendSet)>,
    /// The flows that may have to go to another backend.
    pub concerned: Concerned,
    /// What is freed in the tables after the writes, for the accounts.
    pub given_up: Vec<(Family, Resource, usize)>,
    /// The error that makes these writes incomplete.
    pub failed: Option<TableError>,
}

impl StagedWrites {
    /// The value that was read; `None`, with the error kept, if it could not be read.
    pub fn ok_or_fail<T>(&mut self, read: Result<T, TableError>) -> Option<T> {
        read.map_err(|error| self.failed = Some(error)).ok()
    }

    /// Makes the writes. Returns what they have freed, for the accounts.
    pub fn commit(
        self,
        tables: &mut dyn Tables,
        space: &mut TableSpace,
    ) -> Result<Vec<(Family, Resource, usize)>, TableError> {
        let staged = self;
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
        for (family, set) in &staged.emptied {
            space.empty(*family, set);
        }
        for (family, set) in &staged.released {
            tables.put_set(set.number, SetValue::default());
            space.release(*family, set);
        }
        tables.raise_epoch(&staged.concerned)?;
        Ok(staged.given_up)
    }
}

//! The ledger of the tables: what each owner has there, and who waits for what.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::IpAddr,
};

use super::{
    allowance::Allowance,
    backend_sets::TableSpace,
    claimed_frontends::ClaimedFrontends,
    draining::DrainingBackend,
    inherited_tables::InheritedTables,
    owner::Owner,
    port::Programmed,
    port_marks::PortMarks,
    staged_writes::StagedWrites,
    tables::{FrontendKey, Limits, PortRow, ServiceNumber},
};

/// Everything that is known of the tables. A rebuild starts with a new ledger, so nothing of the old one is left over.
#[derive(Debug)]
pub(super) struct Ledger {
    pub space: TableSpace,
    /// The namespaces' use of the tables.
    pub allowance: Allowance,
    pub programmed: BTreeMap<Owner, Vec<Programmed>>,
    pub owners: HashMap<FrontendKey, ServiceNumber>,
    /// The frontends that services claim, programmed or not.
    pub claimed: ClaimedFrontends,
    /// The number of services that have a cluster address.
    pub addresses: HashMap<IpAddr, u32>,
    pub served: PortMarks,
    pub of_backends: PortMarks,
    pub draining: VecDeque<DrainingBackend>,
    pub staged: StagedWrites,
    pub inherited: Option<InheritedTables>,
    /// Owners that did not get all they want, because there is no space or another has the port.
    pub unsatisfied: BTreeSet<Owner>,
    /// The unsatisfied owner that was tried last.
    retried: Option<Owner>,
    /// Owners that wait for a frontend that another has.
    pub waiting: HashMap<FrontendKey, BTreeSet<Owner>>,
    /// Frontends that were freed and may have waiting owners.
    pub freed: Vec<FrontendKey>,
    last_number: u32,
}

impl Ledger {
    /// The ledger of empty tables.
    pub fn new(limits: Limits) -> Self {
        Self {
            space: TableSpace::new(limits),
            allowance: Allowance::new(limits),
            programmed: BTreeMap::new(),
            owners: HashMap::new(),
            claimed: ClaimedFrontends::default(),
            addresses: HashMap::new(),
            served: PortMarks::new(PortRow::Served),
            of_backends: PortMarks::new(PortRow::OfBackends),
            draining: VecDeque::new(),
            staged: StagedWrites::default(),
            inherited: None,
            unsatisfied: BTreeSet::new(),
            retried: None,
            waiting: HashMap::new(),
            freed: Vec::new(),
            last_number: 0,
        }
    }

    /// Takes over from the ledger before a rebuild what must go on: numbers are not given twice, and retries keep their
    /// turn.
    pub fn continues(self, before: &mut Self) -> Self {
        let last_number = self.last_number.max(before.last_number);
        Self { last_number, retried: before.retried.take(), ..self }
    }

    /// Skips the numbers up to this one, which are in use.
    pub fn skip_numbers(&mut self, highest: u32) {
        self.last_number = self.last_number.max(highest);
    }

    /// A number that no port had before.
    pub fn next_number(&mut self) -> ServiceNumber {
        self.last_number += 1;
        ServiceNumber(self.last_number)
    }

    /// Removes an owner from the lists of those that wait.
    pub fn stop_waiting(&mut self, owner: &Owner, known: &[Programmed]) {
        self.unsatisfied.remove(owner);
        for frontend in known.iter().flat_map(|port| &port.plan.frontends) {
            if let Some(waiting) = self.waiting.get_mut(&frontend.key) {
                waiting.remove(owner);
                if waiting.is_empty() {
                    self.waiting.remove(&frontend.key);
                }
            }
        }
    }

    /// Removes the first owner that waits for a frontend, and returns it.
    pub fn pop_first_waiting(&mut self, key: &FrontendKey) -> Option<Owner> {
        let waiting = self.waiting.get_mut(key)?;
        let first = waiting.pop_first();
        if waiting.is_empty() {
            self.waiting.remove(key);
        }
        first
    }

    /// The next unsatisfied owners, in turn.
    pub fn next_unsatisfied(&mut self, most: usize) -> Vec<Owner> {
        let after = self.retried.take();
        let behind = |owner: &&Owner| after.as_ref().is_none_or(|after| *owner > after);
        let mut next: Vec<_> = self.unsatisfied.iter().filter(behind).take(most).cloned().collect();
        let rest = most.min(self.unsatisfied.len()) - next.len();
        next.extend(self.unsatisfied.iter().take(rest).cloned());
        next.dedup();
        self.retried = next.last().cloned();
        next
    }
}

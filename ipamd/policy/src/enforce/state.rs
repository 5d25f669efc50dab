//! Everything behind the lock: the cluster, what is written of it, what is left out, and the tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipamd_api::AttachmentKey;

use super::{
    cluster::Cluster,
    compaction::Compaction,
    left_out::LeftOut,
    slots::{EndpointSlot, SlotAllocator},
    write_error::WriteError,
    write_tables::write_tables,
    writes::Writes,
    written::Written,
};
use crate::{
    compile::policy_inputs::LocalEndpoint,
    tables::{TableError, Tables},
};

/// How many patterns of DNS names may have a number that no map has.
const TRIED_DOMAINS: usize = 1024;

/// An endpoint whose ADD returned before its policy was written, and then writing failed.
#[derive(Debug)]
pub(super) struct Closed {
    pub endpoint: LocalEndpoint,
    pub slot: Arc<EndpointSlot>,
    pub reason: String,
}

/// Everything behind the lock.
#[derive(Debug)]
pub(super) struct State {
    pub tables: Box<dyn Tables>,
    pub cluster: Cluster,
    pub written: Written,
    pub left_out: LeftOut,
    /// Endpoints whose policy is not in the tables: all their packets are dropped.
    pub closed: BTreeMap<AttachmentKey, Closed>,
    /// Slots are also assigned without the lock.
    pub slots: Arc<SlotAllocator>,
    pub started: bool,
    /// The error of the last write, if it failed: the tables must be rebuilt.
    pub failure: Option<String>,
    pub compaction: Compaction,
}

impl State {
    pub fn new(tables: Box<dyn Tables>) -> Self {
        Self {
            tables,
            cluster: Cluster::default(),
            written: Written::default(),
            left_out: LeftOut::default(),
            closed: BTreeMap::new(),
            slots: Arc::default(),
            started: false,
            failure: None,
            compaction: Compaction::default(),
        }
    }

    /// Writes the tables so that they match the cluster. `concerned` are the endpoints whose rules may have changed.
    pub fn write_tables(&mut self, concerned: &BTreeSet<AttachmentKey>) -> Result<Writes, WriteError> {
        write_tables(concerned, &mut self.cluster, &mut self.written, &mut *self.tables)
    }

    /// Frees the numbers of rules that no endpoint has any more.
    pub fn forget_rules(&mut self) {
        let used = self.written.endpoints.values().flat_map(|it| it.rules.ids()).collect();
        self.cluster.names.retain(&used);
    }

    /// Frees the numbers of patterns of DNS names that no map has, if many have been tried in vain.
    pub fn forget_domains(&mut self) {
        let (domains, used) = (&mut self.cluster.domains, &self.written.domains);
        if domains.count() > domains.in_tables().len() + used.len() + TRIED_DOMAINS {
            domains.forget(|id| used.contains_key(&id));
        }
    }

    /// Remembers that a write failed, so that the tables are rebuilt.
    pub fn failed(&mut self, error: &TableError) {
        tracing::error!(%error, "cannot write the policy tables; trying again");
        self.failure = Some(error.to_string());
    }
}

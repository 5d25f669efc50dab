//! A port of an owner: as the plan wants it, and as it is in the tables.

use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::{
    backend_sets::BackendSet,
    plan::{Frontend, Plan},
    tables::{Family, FrontendValue, ServiceNumber},
};

/// Which port of an owner, in which family.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PortKey {
    pub name: Arc<str>,
    pub protocol: u8,
    pub family: Family,
}

/// A port as the plan wants it.
#[derive(Debug)]
pub(super) struct Wanted {
    pub key: PortKey,
    pub plan: Plan,
    pub source_ranges: Box<[IpNetwork]>,
}

/// A port as it is in the tables.
#[derive(Debug)]
pub(super) struct Programmed {
    pub key: PortKey,
    pub number: ServiceNumber,
    pub plan: Plan,
    pub source_ranges: Box<[IpNetwork]>,
    /// The frontends of the plan that are its own. Others may have some.
    pub frontends: Box<[(Frontend, FrontendValue)]>,
    /// Sets for round robin, by [`super::plan::Scope`].
    pub round_robin: [Option<BackendSet>; 2],
    /// The set for connections from outside, which is chosen from by the client's address.
    pub outside: Option<BackendSet>,
    /// Connections that went to backends which have left its sets.
    pub hits: u64,
    /// What could not be done: a sentence for each problem.
    pub problems: Vec<String>,
}

impl Programmed {
    /// A port that has nothing in the tables yet.
    pub fn new(key: PortKey, number: ServiceNumber) -> Self {
        Self {
            key,
            number,
            plan: Plan { frontends: Vec::new(), members: Vec::new(), affinity: 0, problems: Vec::new() },
            source_ranges: Box::default(),
            frontends: Box::default(),
            round_robin: [None, None],
            outside: None,
            hits: 0,
            problems: Vec::new(),
        }
    }
}

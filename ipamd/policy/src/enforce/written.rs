//! What is in the set of the tables in force, as it was written.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    sync::Arc,
};

use ipamd_api::AttachmentKey;
use ipnetwork::IpNetwork;

use super::{compiled::Compiled, written_peers::Peers};
use crate::{
    compile::rules::SharedRules,
    tables::{Posture, Tables},
};
use ipamd_model::domain::DomainId;

/// The policy of an endpoint as the tables have it.
#[derive(Debug)]
pub(super) struct InForce {
    pub rules: SharedRules,
    pub posture: Posture,
}

/// The content of one set of the tables. A rebuild begins with an empty one.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub peers: Peers,
    /// The policy maps by their rules.
    pub maps: HashMap<SharedRules, Compiled>,
    /// The patterns of DNS names that they have entries of, each with the number of maps that do.
    pub domains: BTreeMap<DomainId, usize>,
    /// The endpoints that have a posture.
    pub endpoints: BTreeMap<AttachmentKey, InForce>,
    /// Addresses and prefixes whose class may differ from the class in the tables.
    pub touched: BTreeSet<IpNetwork>,
    /// This set is in force.
    pub in_force: bool,
}

impl Written {
    /// The rules of an endpoint.
    pub fn rules(&self, key: &AttachmentKey) -> Option<&SharedRules> {
        self.endpoints.get(key).map(|it| &it.rules)
    }

    /// Adds a policy map that is in the tables.
    pub fn add_map(&mut self, compiled: Compiled) {
        for domain in &compiled.domains {
            *self.domains.entry(*domain).or_default() += 1;
        }
        self.maps.insert(Arc::clone(&compiled.rules), compiled);
    }

    /// Releases an endpoint's use of these rules. The map of rules that nobody uses any more is retired.
    pub fn release_rules(&mut self, rules: &SharedRules, tables: &mut dyn Tables) {
        let Some(compiled) = self.maps.get_mut(rules) else { return };
        compiled.users = compiled.users.saturating_sub(1);
        if compiled.users > 0 {
            return;
        }
        if let Some(map) = compiled.map {
            tables.retire_map(map);
        }
        let compiled = self.maps.remove(rules);
        for domain in compiled.iter().flat_map(|compiled| &compiled.domains) {
            if let Entry::Occupied(mut uses) = self.domains.entry(*domain) {
                *uses.get_mut() -= 1;
                if *uses.get() == 0 {
                    uses.remove();
                }
            }
        }
    }

    /// Retires all policy maps, because this set is not in force, or no longer.
    pub fn retire_maps(&self, tables: &mut dyn Tables) {
        for map in self.maps.values().filter_map(|compiled| compiled.map) {
            tables.retire_map(map);
        }
    }
}

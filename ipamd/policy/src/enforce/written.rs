//! What is in the set of the tables in force, as it was written.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipamd_api::AttachmentKey;
use ipnetwork::IpNetwork;

use super::{compiled::Compiled, written_peers::Peers};
use crate::{
    compile::rules::SharedRules,
    tables::{Posture, Tables},
};

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
    /// The endpoints that have a posture.
    pub endpoints: BTreeMap<AttachmentKey, InForce>,
    /// Addresses and prefixes whose class may differ from the class in the tables.
    pub touched: BTreeSet<IpNetwork>,
}

impl Written {
    /// The rules of an endpoint.
    pub fn rules(&self, key: &AttachmentKey) -> Option<&SharedRules> {
        self.endpoints.get(key).map(|it| &it.rules)
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
        self.maps.remove(rules);
    }

    /// Retires all policy maps, because this set is not in force, or no longer.
    pub fn retire_maps(&self, tables: &mut dyn Tables) {
        for map in self.maps.values().filter_map(|compiled| compiled.map) {
            tables.retire_map(map);
        }
    }
}

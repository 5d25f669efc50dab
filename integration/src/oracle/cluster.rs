//! A cluster: what its documents and the endpoints of this node tell.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    document::{metadata, text},
    inventory::{Inventory, Local},
    policy::Policy,
    tier::Tier,
};

/// A cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Whom addresses belong to.
    pub inventory: Inventory,
    /// The tiers, by name.
    pub tiers: BTreeMap<String, Tier>,
    /// All policies.
    pub policies: Vec<Policy>,
}

impl Cluster {
    /// Reads a cluster's documents, and adds this node's endpoints.
    pub fn new<'a>(
        documents: impl IntoIterator<Item = &'a Value>,
        locals: impl IntoIterator<Item = &'a Local>,
    ) -> Self {
        let mut cluster =
            Self { inventory: Inventory::default(), tiers: Tier::built_in(), policies: Vec::new() };
        for document in documents {
            cluster.read(document);
        }
        cluster.inventory.add_locals(locals);
        cluster
    }

    fn read(&mut self, document: &Value) {
        if self.inventory.read(document) {
            return;
        }
        match text(document, "kind") {
            "Tier" => {
                self.tiers.insert(metadata(document, "name").to_owned(), Tier::read(document));
            }
            _ => self.policies.push(Policy::read(document)),
        }
    }
}

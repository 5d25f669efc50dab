//! A cluster as its sources tell it.

use std::{
    collections::BTreeSet,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
};

use serde_json::Value;

use super::pools::NAMES;
use crate::oracle::{document::text, inventory::Local};

/// A cluster as its sources tell it.
#[derive(Clone)]
pub struct Scene {
    /// Its documents, each id once.
    pub documents: Vec<Value>,
    /// The endpoints of this node.
    pub locals: Vec<Local>,
    /// The addresses of this node.
    pub node_addresses: Vec<IpAddr>,
    /// What endpoints were told of names.
    pub told: Told,
}

/// The DNS names that endpoints were told: any, by a number that all of them follow from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told(pub u64);

impl Told {
    /// The names that an endpoint was told to have an address.
    pub fn names(self, local: &Local, address: IpAddr) -> Vec<String> {
        let mut hasher = DefaultHasher::new();
        (self.0, &local.container, address).hash(&mut hasher);
        // A die for each name.
        let dice = hasher.finish().to_be_bytes();
        let picked = NAMES.iter().zip(dice).filter(|(_, die)| die % 4 == 0);
        // The programs keep so many.
        picked.take(4).map(|(name, _)| (*name).to_owned()).collect()
    }
}

/// A line for each thing.
impl fmt::Debug for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.documents.iter().try_for_each(|document| writeln!(f, "{document}"))?;
        self.locals.iter().try_for_each(|local| writeln!(f, "{local:?}"))?;
        writeln!(f, "node: {:?}, {:?}", self.node_addresses, self.told)
    }
}

impl Scene {
    /// A scene in which each thing is there once: of several, the first.
    pub(super) fn new(
        documents: Vec<Value>,
        locals: Vec<Local>,
        node_addresses: Vec<IpAddr>,
        told: Told,
    ) -> Self {
        let mut seen = BTreeSet::new();
        let documents = documents.into_iter().filter(|document| seen.insert(id(document))).collect();
        Self { documents, locals, node_addresses, told }
    }
}

/// What tells a document from others.
pub fn id(document: &Value) -> [String; 4] {
    let metadata = &document["metadata"];
    [
        text(document, "apiVersion"),
        text(document, "kind"),
        text(metadata, "namespace"),
        text(metadata, "name"),
    ]
    .map(str::to_owned)
}

//! Clusters that change: documents put and removed, in batches, and endpoints that come and go.

use std::{collections::BTreeSet, fmt};

use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::Value;

use super::{
    documents::{document, pod, scene},
    scene::{Scene, id},
};
use crate::oracle::inventory::Local;

/// A change.
#[derive(Clone)]
pub enum Step {
    /// Documents are put, new ones or in place of others; and some that are there are removed, all at once.
    Change {
        /// What is put.
        put: Vec<Value>,
        /// Which of those that are there are removed before.
        remove: Vec<Index>,
    },
    /// An endpoint comes, or is told anew, maybe of other labels.
    Admit(Local),
    /// An endpoint goes.
    Dismiss(Index),
    /// The enforcer clears away what is out of use.
    Tidy,
}

/// A line for each thing.
impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Change { put, remove } => {
                write!(f, "remove {remove:?}, put {}", Value::from(put.clone()))
            }
            Self::Admit(local) => f.debug_tuple("admit").field(local).finish(),
            Self::Dismiss(index) => write!(f, "dismiss {index:?}"),
            Self::Tidy => write!(f, "tidy"),
        }
    }
}

impl Step {
    /// Which of so many documents it removes.
    pub fn removed<'a>(&self, documents: &'a [Value]) -> Vec<&'a Value> {
        let Self::Change { remove, .. } = self else { return Vec::new() };
        if documents.is_empty() {
            return Vec::new();
        }
        let removed = remove.iter().map(|it| it.index(documents.len())).collect::<BTreeSet<_>>();
        removed.into_iter().map(|at| &documents[at]).collect()
    }
}

impl Scene {
    /// Takes a step.
    pub fn take(&mut self, step: &Step) {
        match step {
            Step::Change { put, .. } => {
                let gone = step.removed(&self.documents).into_iter().map(id);
                let gone = gone.chain(put.iter().map(id)).collect::<BTreeSet<_>>();
                self.documents.retain(|document| !gone.contains(&id(document)));
                let mut seen = BTreeSet::new();
                let first = put.iter().filter(|document| seen.insert(id(document)));
                self.documents.extend(first.cloned());
            }
            Step::Admit(local) => {
                self.locals.retain(|it| it.container != local.container);
                self.locals.push(local.clone());
            }
            Step::Dismiss(index) => {
                if !self.locals.is_empty() {
                    self.locals.remove(index.index(self.locals.len()));
                }
            }
            Step::Tidy => {}
        }
    }
}

/// A small cluster, and what becomes of it.
pub fn story() -> BoxedStrategy<(Scene, Vec<Step>)> {
    let some =
        vec(prop_oneof![5 => document(), 2 => pod().prop_filter_map("no document", |(told, _)| told)], 0..=3);
    let endpoint = pod().prop_filter_map("no endpoint", |(_, local)| local);
    let step = prop_oneof![
        6 => (some, vec(any::<Index>(), 0..=2)).prop_map(|(put, remove)| Step::Change { put, remove }),
        2 => endpoint.prop_map(Step::Admit),
        1 => any::<Index>().prop_map(Step::Dismiss),
        1 => Just(Step::Tidy),
    ];
    (scene(4), vec(step, 1..=12)).boxed()
}

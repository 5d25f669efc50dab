//! The parts in which changes are tried. What does not fit together is split until it does.

use std::{collections::BTreeMap, sync::Arc};

use ipamd_model::objects::Change;

/// Changes that are tried together.
#[derive(Debug)]
pub(super) struct Part {
    pub changes: Vec<Change>,
    /// They are half of the changes of one namespace that did not fit together.
    pub is_half: bool,
}

/// The parts of a change that are still to be tried, one at a time. Between two tries all that is in force is whole,
/// and others may have the lock.
#[derive(Debug, Default)]
pub(super) struct Parts(Vec<Part>);

impl Parts {
    /// A single part with all changes.
    pub fn of(changes: Vec<Change>) -> Self {
        Self(vec![Part { changes, is_half: false }])
    }

    /// The next part.
    pub fn next(&mut self) -> Option<Part> {
        self.0.pop()
    }

    /// Splits changes that do not fit together: by namespace, or, if they are of one namespace, into halves.
    pub fn split(&mut self, mut changes: Vec<Change>) {
        let first = changes.first().map(Change::id).and_then(|id| id.namespace);
        if changes.iter().all(|it| it.id().namespace == first) {
            let rest = changes.split_off(changes.len() / 2);
            self.0.extend([rest, changes].map(|changes| Part { changes, is_half: true }));
            return;
        }
        // Objects without a namespace come first, because others depend on them.
        let mut namespaces: BTreeMap<Option<Arc<str>>, Vec<Change>> = BTreeMap::new();
        for change in changes {
            namespaces.entry(change.id().namespace).or_default().push(change);
        }
        self.0.extend(namespaces.into_values().rev().map(|changes| Part { changes, is_half: false }));
    }

    /// All changes that were not tried, in order.
    pub fn rest(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.0).into_iter().rev().flat_map(|part| part.changes).collect()
    }
}

//! The summary of the tree, kept up from change to change.

use std::collections::BTreeMap;

use ipamd_runtime::digest::weight;

use super::format::{self, Batch, Summary};

/// What each record weighs, and the summary that follows from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    weights: BTreeMap<String, u64>,
    pub summary: Summary,
}

impl Ledger {
    /// Counts a record in; whether the tree changes by it.
    pub(super) fn put(&mut self, key: &str, value: &[u8]) -> bool {
        // It says what the records are, and is none.
        if key == format::META {
            return true;
        }
        let weight = weight(key, value);
        let before = self.weights.insert(key.to_owned(), weight);
        if before == Some(weight) {
            return false;
        }
        match before {
            Some(before) => self.summary.digest = self.summary.digest.wrapping_sub(before),
            None if format::is_attachment(key) => self.summary.attachments += 1,
            None => {}
        }
        self.summary.digest = self.summary.digest.wrapping_add(weight);
        true
    }

    /// Counts a record out; whether the tree changes by it.
    fn remove(&mut self, key: &str) -> bool {
        let Some(weight) = self.weights.remove(key) else { return false };
        if format::is_attachment(key) {
            self.summary.attachments -= 1;
        }
        self.summary.digest = self.summary.digest.wrapping_sub(weight);
        true
    }

    /// Counts a batch; gives those of its changes that change something.
    pub(super) fn count(&mut self, batch: &mut Batch) -> Vec<(String, Option<Vec<u8>>)> {
        let mut changes = std::mem::take(&mut batch.changes);
        if !changes.is_empty() {
            self.summary.sequence += 1;
        }
        changes.retain(|(key, value)| match value {
            Some(value) => self.put(key, value),
            None => self.remove(key),
        });
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::attachment, *};

    #[test]
    fn the_summary_follows_from_the_content_not_from_the_way_there() {
        let mut long_way = Ledger::default();
        for id in ["a", "b", "c"] {
            let mut batch = Batch::new();
            batch.put(&attachment(id, &["10.0.0.9"])).unwrap();
            assert_eq!(long_way.count(&mut batch).len(), 1);
        }
        let mut batch = Batch::new();
        batch.remove(&attachment("c", &[]).key);
        batch.remove(&attachment("unknown", &[]).key);
        batch.put(&attachment("a", &["10.0.0.2"])).unwrap();
        batch.put(&attachment("b", &["10.0.0.9"])).unwrap();
        assert_eq!(long_way.count(&mut batch).len(), 2, "two of four change something");

        let mut straight = Ledger::default();
        let mut batch = Batch::new();
        batch.put(&attachment("b", &["10.0.0.9"])).unwrap();
        batch.put(&attachment("a", &["10.0.0.2"])).unwrap();
        straight.count(&mut batch);
        assert_eq!(long_way.summary, Summary { sequence: 4, ..straight.summary });
        assert_eq!(straight.summary.attachments, 2);
    }

    #[test]
    fn an_empty_batch_is_not_counted() {
        let mut ledger = Ledger::default();
        assert!(ledger.count(&mut Batch::new()).is_empty());
        assert_eq!(ledger.summary, Summary::default());
    }
}

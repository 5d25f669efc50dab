//! The queue of changes of the cluster. A few changes are applied together, as they came. Many are applied in pieces,
//! each namespace in its turn, so a tenant that changes ten thousand objects delays another's change by one piece at
//! most.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

use ipamd_model::objects::{Change, ObjectId};

/// Up to this many changes are applied together, whatever their namespaces.
const WHOLE: usize = 500;
/// At most this many changes of one namespace are applied at a time.
const PIECE: usize = 1_000;

/// The order of changes within a namespace: removals last, so that what replaces an object is there before the object
/// goes.
type Turn = (bool, u64);

/// What waits of one namespace, or of none.
#[derive(Debug, Default)]
struct Queue {
    changes: BTreeMap<Turn, Change>,
    /// The last word about each object.
    turns: HashMap<ObjectId, Turn>,
}

impl Queue {
    fn push(&mut self, number: u64, change: Change) {
        let turn = (matches!(change, Change::Remove(_)), number);
        if let Some(before) = self.turns.insert(change.id(), turn) {
            self.changes.remove(&before);
        }
        self.changes.insert(turn, change);
    }

    fn piece(&mut self) -> Vec<Change> {
        let mut piece = Vec::with_capacity(PIECE.min(self.changes.len()));
        while piece.len() < PIECE
            && let Some((_, change)) = self.changes.pop_first()
        {
            self.turns.remove(&change.id());
            piece.push(change);
        }
        piece
    }
}

/// Changes that wait.
#[derive(Debug, Default)]
pub struct Backlog {
    /// By namespace. What is in none says what the others are, and comes first.
    queues: BTreeMap<Option<Arc<str>>, Queue>,
    /// Whose piece came last.
    last: Option<Arc<str>>,
    number: u64,
    /// A few that came when nothing else waited.
    whole: Vec<Change>,
}

impl Backlog {
    /// Has changes wait, behind those of the same namespaces.
    pub fn push(&mut self, changes: Vec<Change>) {
        if self.is_empty() && changes.len() <= WHOLE {
            self.whole = changes;
            return;
        }
        for change in std::mem::take(&mut self.whole).into_iter().chain(changes) {
            self.number += 1;
            let queue = self.queues.entry(change.id().namespace).or_default();
            queue.push(self.number, change);
        }
    }

    /// All that waits.
    pub fn waiting(&self) -> impl Iterator<Item = &Change> {
        self.whole.iter().chain(self.queues.values().flat_map(|queue| queue.changes.values()))
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.queues.is_empty()
    }

    /// The changes that are to be put in force next, together.
    pub fn pop(&mut self) -> Option<Vec<Change>> {
        if !self.whole.is_empty() {
            return Some(std::mem::take(&mut self.whole));
        }
        let after = (Bound::Excluded(self.last.clone()), Bound::Unbounded);
        let next = match self.queues.get(&None) {
            Some(_) => None,
            None => self.queues.range(after).chain(&self.queues).next()?.0.clone(),
        };
        let queue = self.queues.get_mut(&next)?;
        let piece = queue.piece();
        if queue.changes.is_empty() {
            self.queues.remove(&next);
        }
        if next.is_some() {
            self.last = next;
        }
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipamd_model::{
        labels::Labels,
        objects::{Kind, Namespace, Object, ServiceAccount},
    };

    fn put(namespace: &str, name: usize) -> Change {
        let (namespace, name) = (namespace.into(), format!("a{name}").into());
        Change::Put(Object::ServiceAccount(ServiceAccount { namespace, name, labels: Labels::default() }))
    }

    fn gone(namespace: &str, name: usize) -> Change {
        Change::Remove(ObjectId::namespaced(Kind::ServiceAccount, namespace, &format!("a{name}")))
    }

    /// The namespaces of the pieces, with how many changes of it each has.
    fn pieces(backlog: &mut Backlog) -> Vec<(String, usize)> {
        std::iter::from_fn(|| backlog.pop())
            .map(|piece| {
                let namespace = piece.first().and_then(|it| it.id().namespace);
                assert!(piece.iter().all(|it| it.id().namespace == namespace), "one namespace's");
                (namespace.as_deref().unwrap_or("-").to_owned(), piece.len())
            })
            .collect()
    }

    #[test]
    fn a_few_changes_come_whole_and_in_their_order() {
        let mut backlog = Backlog::default();
        let few = vec![gone("a", 1), put("b", 1), put("a", 1)];
        backlog.push(few.clone());
        assert_eq!((backlog.pop(), backlog.pop()), (Some(few), None));
        assert!(backlog.is_empty() && backlog.waiting().next().is_none());
    }

    #[test]
    fn of_many_each_namespace_comes_in_its_turn() {
        let mut backlog = Backlog::default();
        let space = Change::Put(Object::Namespace(Namespace {
            name: "c".into(),
            labels: Labels::default(),
            denied: Ok(None),
        }));
        let many = (0..2_500).map(|at| put("b", at)).chain([put("c", 1), put("a", 1), space]);
        backlog.push(many.collect());
        assert_eq!(backlog.pop().map(|it| it.len()), Some(1), "what is in no namespace");
        assert_eq!(backlog.pop().map(|it| it.len()), Some(1), "a");
        assert_eq!(backlog.pop().map(|it| it.len()), Some(1_000), "some of b");
        // What comes meanwhile waits for its turn, and not for all of b.
        backlog.push(vec![put("d", 1), put("a", 2)]);
        let of = |name: &str, count: usize| (name.to_owned(), count);
        let rest = [of("c", 1), of("d", 1), of("a", 1), of("b", 1_000), of("b", 500)];
        assert_eq!(backlog.waiting().count(), 1_503);
        assert_eq!(pieces(&mut backlog), rest);
        assert!(backlog.is_empty());
    }

    #[test]
    fn the_last_word_about_an_object_counts_and_what_goes_comes_last() {
        let mut backlog = Backlog::default();
        backlog.push((0..WHOLE).map(|at| put("a", at)).chain([gone("a", 9_999), put("a", 8_000)]).collect());
        backlog.push(vec![gone("a", 0), put("a", 9_999), gone("a", 1), put("a", 1)]);
        let piece = backlog.pop().unwrap();
        assert_eq!(piece.len(), WHOLE + 2, "each object once");
        assert_eq!(piece.last(), Some(&gone("a", 0)));
        assert!(piece.contains(&put("a", 9_999)) && piece.contains(&put("a", 1)));
        assert!(!piece.contains(&put("a", 0)) && !piece.contains(&gone("a", 9_999)));
    }
}

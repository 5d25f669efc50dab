//! Which objects of a resource are known, and in which state: enough to see what a list changes.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use super::seen::Seen;

/// Whether an object is in another state than it was, as far as Cambric looks at it: a node's heartbeat is no news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Changed,
    Known,
}

/// The objects of one resource.
#[derive(Debug, Default)]
pub(super) struct Keys {
    known: HashMap<Box<str>, Known>,
    /// Of the list that is told now, or was told last.
    list: u32,
    /// Whether a list was told to its end.
    whole: bool,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    version: Version,
    /// A hash of what tells it from others that had its name.
    uid: u64,
    /// A hash of what is kept of it.
    content: u64,
    /// The list that had it last.
    list: u32,
    /// It was asked for: the watch may tell of older states still.
    asked: bool,
}

/// A resource version. Numbers can be compared, which the API has promised since Kubernetes 1.35; other texts are told
/// apart by a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Number(u64),
    Hash(u64),
}

impl Version {
    fn is_older_than(self, other: Self) -> bool {
        matches!((self, other), (Self::Number(this), Self::Number(other)) if this < other)
    }
}

impl Keys {
    /// A list begins.
    pub fn begin(&mut self) {
        self.list = self.list.wrapping_add(1);
    }

    /// An object is in the list.
    pub fn listed(&mut self, seen: &Seen) -> News {
        self.note(seen, false)
    }

    /// An object is new or has changed.
    pub fn seen(&mut self, seen: &Seen) -> News {
        self.note(seen, false)
    }

    /// The state of an object was asked for.
    pub fn asked_for(&mut self, seen: &Seen) -> News {
        self.note(seen, true)
    }

    /// An object is gone, in its last state. It is no news that one is gone which had the name before the one that is known.
    pub fn gone(&mut self, seen: &Seen) -> News {
        let key = seen.key();
        let Some(known) = self.known.get(&key) else { return News::Known };
        let is_former = known.uid != self.hasher.hash_one(seen.uid());
        if is_former || known.asked && self.version(seen.version()).is_older_than(known.version) {
            return News::Known;
        }
        self.known.remove(&key);
        News::Changed
    }

    /// The list has ended. Returns which objects were not in it. One that was asked for may be newer than the list, which a
    /// server that lags tells of.
    pub fn done(&mut self, version: Option<&str>) -> Vec<Box<str>> {
        self.whole = true;
        let list = self.list;
        let of = version.map(|it| self.version(it));
        let is_newer = |it: &Known| it.asked && of.is_some_and(|of| of.is_older_than(it.version));
        let gone = self.known.iter().filter(|(_, it)| it.list != list && !is_newer(it));
        let gone: Vec<_> = gone.map(|it| it.0.clone()).collect();
        for key in &gone {
            self.known.remove(key);
        }
        gone
    }

    /// Whether no object is known.
    pub fn are_none(&self) -> bool {
        self.known.is_empty()
    }

    /// Whether a list was told to its end.
    pub fn are_whole(&self) -> bool {
        self.whole
    }

    fn note(&mut self, seen: &Seen, asked: bool) -> News {
        let version = self.version(seen.version());
        let content = self.hasher.hash_one(&seen.body);
        let uid = self.hasher.hash_one(seen.uid());
        let list = self.list;
        let Some(known) = self.known.get_mut(&seen.key()) else {
            self.known.insert(seen.key(), Known { version, uid, content, list, asked });
            return News::Changed;
        };
        known.list = list;
        if known.asked && version.is_older_than(known.version) {
            return News::Known;
        }
        known.asked = asked;
        known.version = version;
        known.uid = uid;
        if known.content == content {
            return News::Known;
        }
        known.content = content;
        News::Changed
    }

    fn version(&self, text: &str) -> Version {
        text.parse().map_or_else(|_| Version::Hash(self.hasher.hash_one(text)), Version::Number)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(name: &str, version: &str) -> Seen {
        of_content(name, version, version)
    }

    fn of_content(name: &str, version: &str, content: &str) -> Seen {
        Seen::of(
            json!({"metadata": {"name": name, "resourceVersion": version, "labels": {"content": content}}}),
        )
    }

    #[test]
    fn a_list_tells_what_is_new_what_has_changed_and_what_is_gone() {
        let mut keys = Keys::default();
        keys.begin();
        for name in ["a", "b", "c"] {
            assert_eq!(keys.listed(&seen(name, "1")), News::Changed);
        }
        assert!(!keys.are_whole());
        assert!(keys.done(None).is_empty());
        assert!(keys.are_whole());
        keys.begin();
        assert_eq!(keys.listed(&seen("a", "1")), News::Known);
        assert_eq!(keys.listed(&seen("b", "x")), News::Changed);
        assert_eq!(&*keys.done(Some("2")), ["c".into()]);
        assert_eq!(keys.gone(&seen("a", "2")), News::Changed);
        assert_eq!(keys.gone(&seen("a", "2")), News::Known);
        assert_eq!(keys.seen(&seen("a", "1")), News::Changed);
    }

    #[test]
    fn another_version_of_the_same_is_no_news() {
        let mut keys = Keys::default();
        keys.begin();
        assert_eq!(keys.listed(&of_content("a", "1", "x")), News::Changed);
        assert_eq!(keys.seen(&of_content("a", "2", "x")), News::Known);
        assert_eq!(keys.seen(&of_content("a", "3", "y")), News::Changed);
        // What was asked for may be older than what the watch told already, and is the same.
        assert_eq!(keys.asked_for(&of_content("a", "3", "y")), News::Known);
        assert_eq!(keys.seen(&of_content("a", "2", "x")), News::Known);
    }

    #[test]
    fn an_older_state_does_not_follow_one_that_was_asked_for() {
        let mut keys = Keys::default();
        keys.begin();
        assert_eq!(keys.asked_for(&seen("a", "10")), News::Changed);
        assert_eq!(keys.seen(&seen("a", "9")), News::Known);
        assert_eq!(keys.seen(&seen("a", "10")), News::Known);
        // A server that was restored from a backup counts from an earlier number.
        assert_eq!(keys.seen(&seen("a", "5")), News::Changed);
        assert!(keys.done(None).is_empty());
    }

    fn of_uid(name: &str, version: &str, uid: &str) -> Seen {
        Seen::of(json!({"metadata": {"name": name, "resourceVersion": version, "uid": uid}}))
    }

    /// A pod of a StatefulSet is made anew under its name; its container asks for it, and the watch lags behind.
    #[test]
    fn the_end_of_the_former_bearer_of_a_name_is_not_that_of_the_one_that_was_asked_for() {
        let mut keys = Keys::default();
        keys.begin();
        assert_eq!(keys.listed(&of_uid("web-0", "1", "old")), News::Changed);
        assert!(keys.done(Some("1")).is_empty());
        assert_eq!(keys.asked_for(&of_uid("web-0", "10", "new")), News::Changed);
        assert_eq!(keys.seen(&of_uid("web-0", "7", "old")), News::Known);
        assert_eq!(keys.gone(&of_uid("web-0", "8", "old")), News::Known);
        // A list of a server that lags is no other matter, with the old one in it or without.
        for has_old in [true, false] {
            keys.begin();
            if has_old {
                assert_eq!(keys.listed(&of_uid("web-0", "7", "old")), News::Known);
            }
            assert!(keys.done(Some("9")).is_empty());
        }
        assert_eq!(keys.seen(&of_uid("web-0", "9", "new")), News::Known);
        assert_eq!(keys.gone(&of_uid("web-0", "12", "new")), News::Changed);
        // One that is not in a list which is newer is gone.
        assert_eq!(keys.asked_for(&of_uid("web-1", "13", "u")), News::Changed);
        keys.begin();
        assert_eq!(&*keys.done(Some("14")), ["web-1".into()]);
    }
}

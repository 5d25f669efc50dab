//! The known objects of a resource with hashes of their state. They show what a new list changes, without keeping the
//! objects.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use super::pruned_object::PrunedObject;

/// Whether an object differs from its known state in what Cambric reads. A node's heartbeat is no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delta {
    Changed,
    Unchanged,
}

/// The objects of one resource.
#[derive(Debug, Default)]
pub(super) struct ObjectVersions {
    known: HashMap<Box<str>, Known>,
    /// The number of the current or last list.
    list: u16,
    /// Whether a list was told to its end.
    complete: bool,
    hasher: RandomState,
}

/// What is known of an object, in little room: there is one of these for each pod of the cluster.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// A number, or a hash of another text.
    version: u64,
    /// A hash of its pruned body.
    content: u64,
    /// A hash of its UID.
    uid: u32,
    /// The last list that had it. Lists follow each other, so two of the same number are the same.
    list: u16,
    is_number: bool,
    /// The state comes from a lookup by name, so the watch may still send older states.
    looked_up: bool,
}

impl Known {
    fn version(&self) -> Version {
        if self.is_number { Version::Number(self.version) } else { Version::Hash(self.version) }
    }

    fn set_version(&mut self, version: Version) {
        (self.version, self.is_number) = version.parts();
    }
}

/// A resource version. Numbers can be compared (guaranteed since Kubernetes 1.35); other texts are compared for
/// equality by a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Number(u64),
    Hash(u64),
}

impl Version {
    /// Its number or hash, and whether it is a number.
    fn parts(self) -> (u64, bool) {
        match self {
            Self::Number(number) => (number, true),
            Self::Hash(hash) => (hash, false),
        }
    }

    fn is_older_than(self, other: Self) -> bool {
        matches!((self, other), (Self::Number(this), Self::Number(other)) if this < other)
    }
}

impl ObjectVersions {
    /// A list begins.
    pub fn start_list(&mut self) {
        self.list = self.list.wrapping_add(1);
    }

    /// An object is in the list.
    pub fn listed(&mut self, pruned: &PrunedObject) -> Delta {
        self.update(pruned, false)
    }

    /// An object is new or has changed.
    pub fn updated(&mut self, pruned: &PrunedObject) -> Delta {
        self.update(pruned, false)
    }

    /// A lookup by name returned this state.
    pub fn looked_up(&mut self, pruned: &PrunedObject) -> Delta {
        self.update(pruned, true)
    }

    /// An object was deleted, with its last state. The deletion of an earlier object of the same name is ignored.
    pub fn deleted(&mut self, pruned: &PrunedObject) -> Delta {
        let key = pruned.key();
        let Some(known) = self.known.get(&key) else { return Delta::Unchanged };
        let is_former = known.uid != self.uid(pruned);
        if is_former || known.looked_up && self.version(pruned.version()).is_older_than(known.version()) {
            return Delta::Unchanged;
        }
        self.known.remove(&key);
        Delta::Changed
    }

    /// The list is complete. Returns the objects that were not in it. An object from a lookup may be newer than the
    /// list of a server that lags; it stays.
    pub fn finish_list(&mut self, version: Option<&str>) -> Vec<Box<str>> {
        self.complete = true;
        let list = self.list;
        let of = version.map(|it| self.version(it));
        let is_newer = |it: &Known| it.looked_up && of.is_some_and(|of| of.is_older_than(it.version()));
        let gone = self.known.iter().filter(|(_, it)| it.list != list && !is_newer(it));
        let gone: Vec<_> = gone.map(|it| it.0.clone()).collect();
        for key in &gone {
            self.known.remove(key);
        }
        gone
    }

    /// Whether no object is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Whether a list was told to its end.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    fn update(&mut self, pruned: &PrunedObject, looked_up: bool) -> Delta {
        let version = self.version(pruned.version());
        let content = self.hasher.hash_one(&pruned.body);
        let uid = self.uid(pruned);
        let list = self.list;
        let Some(known) = self.known.get_mut(&pruned.key()) else {
            let (version, is_number) = version.parts();
            self.known.insert(pruned.key(), Known { version, content, uid, list, is_number, looked_up });
            return Delta::Changed;
        };
        known.list = list;
        if known.looked_up && version.is_older_than(known.version()) {
            return Delta::Unchanged;
        }
        known.looked_up = looked_up;
        known.set_version(version);
        known.uid = uid;
        if known.content == content {
            return Delta::Unchanged;
        }
        known.content = content;
        Delta::Changed
    }

    fn uid(&self, pruned: &PrunedObject) -> u32 {
        // Half of the hash tells two objects of one name apart.
        (self.hasher.hash_one(pruned.uid()) >> 32) as u32
    }

    fn version(&self, text: &str) -> Version {
        text.parse().map_or_else(|_| Version::Hash(self.hasher.hash_one(text)), Version::Number)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pruned(name: &str, version: &str) -> PrunedObject {
        of_content(name, version, version)
    }

    fn of_content(name: &str, version: &str, content: &str) -> PrunedObject {
        PrunedObject::of(
            json!({"metadata": {"name": name, "resourceVersion": version, "labels": {"content": content}}}),
        )
    }

    #[test]
    fn a_list_tells_what_is_new_what_has_changed_and_what_is_gone() {
        let mut versions = ObjectVersions::default();
        versions.start_list();
        for name in ["a", "b", "c"] {
            assert_eq!(versions.listed(&pruned(name, "1")), Delta::Changed);
        }
        assert!(!versions.is_complete());
        assert!(versions.finish_list(None).is_empty());
        assert!(versions.is_complete());
        versions.start_list();
        assert_eq!(versions.listed(&pruned("a", "1")), Delta::Unchanged);
        assert_eq!(versions.listed(&pruned("b", "x")), Delta::Changed);
        assert_eq!(&*versions.finish_list(Some("2")), ["c".into()]);
        assert_eq!(versions.deleted(&pruned("a", "2")), Delta::Changed);
        assert_eq!(versions.deleted(&pruned("a", "2")), Delta::Unchanged);
        assert_eq!(versions.updated(&pruned("a", "1")), Delta::Changed);
    }

    #[test]
    fn another_version_of_the_same_is_no_news() {
        let mut versions = ObjectVersions::default();
        versions.start_list();
        assert_eq!(versions.listed(&of_content("a", "1", "x")), Delta::Changed);
        assert_eq!(versions.updated(&of_content("a", "2", "x")), Delta::Unchanged);
        assert_eq!(versions.updated(&of_content("a", "3", "y")), Delta::Changed);
        // What was asked for may be older than what the watch told already, and is the same.
        assert_eq!(versions.looked_up(&of_content("a", "3", "y")), Delta::Unchanged);
        assert_eq!(versions.updated(&of_content("a", "2", "x")), Delta::Unchanged);
    }

    #[test]
    fn an_older_state_does_not_follow_one_that_was_asked_for() {
        let mut versions = ObjectVersions::default();
        versions.start_list();
        assert_eq!(versions.looked_up(&pruned("a", "10")), Delta::Changed);
        assert_eq!(versions.updated(&pruned("a", "9")), Delta::Unchanged);
        assert_eq!(versions.updated(&pruned("a", "10")), Delta::Unchanged);
        // A server that was restored from a backup counts from an earlier number.
        assert_eq!(versions.updated(&pruned("a", "5")), Delta::Changed);
        assert!(versions.finish_list(None).is_empty());
    }

    fn of_uid(name: &str, version: &str, uid: &str) -> PrunedObject {
        PrunedObject::of(json!({"metadata": {"name": name, "resourceVersion": version, "uid": uid}}))
    }

    /// A pod of a StatefulSet is made anew under its name; its container asks for it, and the watch lags behind.
    #[test]
    fn the_end_of_the_former_bearer_of_a_name_is_not_that_of_the_one_that_was_asked_for() {
        let mut versions = ObjectVersions::default();
        versions.start_list();
        assert_eq!(versions.listed(&of_uid("web-0", "1", "old")), Delta::Changed);
        assert!(versions.finish_list(Some("1")).is_empty());
        assert_eq!(versions.looked_up(&of_uid("web-0", "10", "new")), Delta::Changed);
        assert_eq!(versions.updated(&of_uid("web-0", "7", "old")), Delta::Unchanged);
        assert_eq!(versions.deleted(&of_uid("web-0", "8", "old")), Delta::Unchanged);
        // A list of a server that lags is no other matter, with the old one in it or without.
        for has_old in [true, false] {
            versions.start_list();
            if has_old {
                assert_eq!(versions.listed(&of_uid("web-0", "7", "old")), Delta::Unchanged);
            }
            assert!(versions.finish_list(Some("9")).is_empty());
        }
        assert_eq!(versions.updated(&of_uid("web-0", "9", "new")), Delta::Unchanged);
        assert_eq!(versions.deleted(&of_uid("web-0", "12", "new")), Delta::Changed);
        // One that is not in a list which is newer is gone.
        assert_eq!(versions.looked_up(&of_uid("web-1", "13", "u")), Delta::Changed);
        versions.start_list();
        assert_eq!(&*versions.finish_list(Some("14")), ["web-1".into()]);
    }
}

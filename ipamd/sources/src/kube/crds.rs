//! The CustomResourceDefinitions of the resources that do not come with Kubernetes: which of them are installed.

use std::collections::{BTreeSet, HashMap};

use tokio::sync::watch::{Receiver, Sender};

use super::{
    resources::{RESOURCES, Resource},
    watch_event::{EventSink, SinkClosed, WatchEvent},
};

/// Whether the CRD of a resource exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Presence {
    /// Not known: an aggregated API server may serve the resource.
    #[default]
    Unknown,
    Absent,
    Present,
}

/// The known state of the CRDs of all optional resources.
#[derive(Debug)]
pub(super) struct Crds {
    of: HashMap<String, Sender<Presence>>,
    /// The CRDs in the current list.
    listed: BTreeSet<Box<str>>,
}

impl Crds {
    pub fn new() -> Self {
        let optional = RESOURCES.iter().filter(|it| it.optional);
        let of = optional.map(|it| (it.definition(), Sender::default())).collect();
        Self { of, listed: BTreeSet::new() }
    }

    /// The state of a resource's CRD, if it has one.
    pub fn watch(&self, resource: &Resource) -> Option<Receiver<Presence>> {
        self.of.get(&resource.definition()).map(Sender::subscribe)
    }

    /// A CRD was added, changed or removed.
    fn note(&self, name: &str, presence: Presence) {
        if let Some(definition) = self.of.get(name) {
            definition.send_replace(presence);
        }
    }
}

impl EventSink for Crds {
    async fn accept(&mut self, event: WatchEvent) -> Result<(), SinkClosed> {
        self.take(event);
        Ok(())
    }
}

impl Crds {
    fn take(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::ListStarted => self.listed.clear(),
            WatchEvent::Listed(pruned) => {
                self.note(&pruned.key(), Presence::Present);
                self.listed.insert(pruned.key());
            }
            WatchEvent::Applied(pruned) => self.note(&pruned.key(), Presence::Present),
            WatchEvent::Deleted(pruned) => {
                self.listed.remove(&pruned.key());
                self.note(&pruned.key(), Presence::Absent);
            }
            WatchEvent::ListFinished(_) => {
                for (name, definition) in &self.of {
                    if !self.listed.contains(name.as_str()) {
                        definition.send_if_modified(|it| {
                            std::mem::replace(it, Presence::Absent) != Presence::Absent
                        });
                    }
                }
            }
            // What appears now is not told of.
            WatchEvent::Failed(_) | WatchEvent::Expired(_) | WatchEvent::NotFound(..) => {
                for definition in self.of.values() {
                    definition.send_if_modified(|it| {
                        let was_absent = *it == Presence::Absent;
                        if was_absent {
                            *it = Presence::Unknown;
                        }
                        false
                    });
                }
            }
            WatchEvent::Alive => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kube::pruned_object::PrunedObject;
    use ipamd_model::objects::Kind;

    #[test]
    fn a_definition_is_absent_only_where_a_whole_list_does_not_have_it() {
        let mut crds = Crds::new();
        let tiers = Resource::of(Kind::Tier);
        let of = crds.watch(tiers).unwrap();
        let definition = || PrunedObject::of(json!({"metadata": {"name": tiers.definition()}}));
        assert_eq!(*of.borrow(), Presence::Unknown);
        let mut after = |event| {
            crds.take(event);
            *of.borrow()
        };
        assert_eq!(after(WatchEvent::ListStarted), Presence::Unknown);
        assert_eq!(after(WatchEvent::Listed(definition())), Presence::Present);
        assert_eq!(after(WatchEvent::ListFinished("1".into())), Presence::Present);
        assert_eq!(after(WatchEvent::Failed(String::new())), Presence::Present);
        assert_eq!(after(WatchEvent::Deleted(definition())), Presence::Absent);
        assert_eq!(after(WatchEvent::Failed(String::new())), Presence::Unknown);
        after(WatchEvent::ListStarted);
        assert_eq!(after(WatchEvent::ListFinished("2".into())), Presence::Absent);
        assert_eq!(after(WatchEvent::Applied(definition())), Presence::Present);
        assert!(crds.watch(Resource::of(Kind::Pod)).is_none());
    }
}

//! Which of the resources that do not come with Kubernetes are installed, by their definitions.

use std::collections::{BTreeSet, HashMap};

use tokio::sync::watch::{Receiver, Sender};

use super::{
    reflector::{Audience, Told, Unheard},
    resources::{RESOURCES, Resource},
};

/// Whether a resource is defined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Presence {
    /// Nobody has told of it: another API server may serve it.
    #[default]
    Unknown,
    Absent,
    Present,
}

/// What is known of the definitions of all resources that may be missing.
#[derive(Debug)]
pub(super) struct Definitions {
    of: HashMap<String, Sender<Presence>>,
    /// In the list that is told now.
    listed: BTreeSet<Box<str>>,
}

impl Definitions {
    pub fn new() -> Self {
        let optional = RESOURCES.iter().filter(|it| it.optional);
        let of = optional.map(|it| (it.definition(), Sender::default())).collect();
        Self { of, listed: BTreeSet::new() }
    }

    /// Follows the definition of a resource, if it has one.
    pub fn follow(&self, resource: &Resource) -> Option<Receiver<Presence>> {
        self.of.get(&resource.definition()).map(Sender::subscribe)
    }

    /// It has appeared, changed or gone.
    fn note(&self, name: &str, presence: Presence) {
        if let Some(definition) = self.of.get(name) {
            definition.send_replace(presence);
        }
    }
}

impl Audience for Definitions {
    async fn hear(&mut self, told: Told) -> Result<(), Unheard> {
        self.take(told);
        Ok(())
    }
}

impl Definitions {
    fn take(&mut self, told: Told) {
        match told {
            Told::Begin => self.listed.clear(),
            Told::Listed(seen) => {
                self.note(&seen.key(), Presence::Present);
                self.listed.insert(seen.key());
            }
            Told::Put(seen) => self.note(&seen.key(), Presence::Present),
            Told::Gone(seen) => {
                self.listed.remove(&seen.key());
                self.note(&seen.key(), Presence::Absent);
            }
            Told::Done(_) => {
                for (name, definition) in &self.of {
                    if !self.listed.contains(name.as_str()) {
                        definition.send_if_modified(|it| {
                            std::mem::replace(it, Presence::Absent) != Presence::Absent
                        });
                    }
                }
            }
            // What appears now is not told of.
            Told::Trouble(_) | Told::Expired(_) | Told::Missing(..) => {
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
            Told::Answered => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kube::seen::Seen;
    use ipamd_model::objects::Kind;

    #[test]
    fn a_definition_is_absent_only_where_a_whole_list_does_not_have_it() {
        let mut definitions = Definitions::new();
        let tiers = Resource::of(Kind::Tier);
        let of = definitions.follow(tiers).unwrap();
        let definition = || Seen::of(json!({"metadata": {"name": tiers.definition()}}));
        assert_eq!(*of.borrow(), Presence::Unknown);
        let mut after = |told| {
            definitions.take(told);
            *of.borrow()
        };
        assert_eq!(after(Told::Begin), Presence::Unknown);
        assert_eq!(after(Told::Listed(definition())), Presence::Present);
        assert_eq!(after(Told::Done("1".into())), Presence::Present);
        assert_eq!(after(Told::Trouble(String::new())), Presence::Present);
        assert_eq!(after(Told::Gone(definition())), Presence::Absent);
        assert_eq!(after(Told::Trouble(String::new())), Presence::Unknown);
        after(Told::Begin);
        assert_eq!(after(Told::Done("2".into())), Presence::Absent);
        assert_eq!(after(Told::Put(definition())), Presence::Present);
        assert!(definitions.follow(Resource::of(Kind::Pod)).is_none());
    }
}

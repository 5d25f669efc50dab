//! What is known of the connection to the API server, for whoever asks how old the cluster's state is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use ipamd_api::wire::ClusterStatus;

use super::{
    cache::CopyState,
    resources::{RESOURCES, Resource},
};
use crate::{SourceCounts, SourceState};
use ipamd_runtime::steady::Age;

/// The state of the connection.
#[derive(Debug)]
pub(super) struct Contact {
    server: String,
    copy: CopyState,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Resources that have been listed as a whole since the start.
    listed: BTreeSet<String>,
    /// Resources that the server does not tell of now, since when, and why.
    troubles: BTreeMap<String, (Age, String)>,
    counts: BTreeMap<String, SourceCounts>,
    /// When the last daemon heard of the server; while this one has not.
    inherited: Option<Age>,
    /// Whether the copy of the last state is in use.
    by_copy: bool,
}

impl Contact {
    pub fn new(server: String, inherited: Option<SystemTime>, copy: CopyState) -> Self {
        // The clock of the day is asked once: whoever sets it makes nothing older from here on.
        let inherited = inherited.map(|at| Age::of(at.elapsed().map_or(0, |age| age.as_secs())));
        Self { server, copy, state: Mutex::new(State { inherited, ..State::default() }) }
    }

    pub fn server(&self) -> &str {
        &self.server
    }

    /// A resource is told of; `whole` if everything of it is known now. Returns whether that ends a trouble.
    pub fn heard(&self, resource: &Resource, whole: bool) -> bool {
        let mut state = self.state();
        let name = resource.to_string();
        let ended = state.troubles.remove(&name).is_some();
        if whole {
            state.counts.entry(name.clone()).or_default().lists += 1;
            state.listed.insert(name);
        }
        ended
    }

    /// A resource is not told of; `expired` if the server has forgotten what happened since. Returns whether that is news.
    pub fn trouble(&self, resource: &Resource, why: String, expired: bool) -> bool {
        let mut state = self.state();
        let counts = state.counts.entry(resource.to_string()).or_default();
        let counter = if expired { &mut counts.expired } else { &mut counts.failures };
        *counter += 1;
        let known =
            state.troubles.entry(resource.to_string()).or_insert_with(|| (Age::default(), String::new()));
        let is_news = known.1 != why;
        known.1 = why;
        is_news
    }

    /// The copy of the last state is in use until the server has told everything.
    pub fn goes_by_copy(&self) {
        self.state().by_copy = true;
    }

    /// Until when the state is known to be the server's, by the clock of the day: now if all is well.
    pub fn known_until(&self) -> Option<SystemTime> {
        SystemTime::now().checked_sub(Duration::from_secs(self.age()?))
    }

    /// How many seconds ago the state was known to be the server's.
    fn age(&self) -> Option<u64> {
        let state = self.state();
        if state.listed.len() < RESOURCES.len() {
            return state.inherited.filter(|_| state.by_copy).map(Age::seconds);
        }
        Some(state.troubles.values().map(|(age, _)| age.seconds()).max().unwrap_or(0))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The oldest trouble in words, of those as old the first by name, with the resource that it is about, and how many others there are.
    fn trouble(&self) -> Option<String> {
        let (resource, (_, why)) = self.troubles.iter().rev().max_by_key(|(_, (age, _))| age.seconds())?;
        let others = match self.troubles.len() - 1 {
            0 => String::new(),
            count => format!(" (and {count} more)"),
        };
        Some(format!("{resource}{others}: {why}"))
    }
}

impl SourceState for Contact {
    fn status(&self) -> ClusterStatus {
        let age = self.age();
        let state = self.state();
        let waiting = RESOURCES.iter().map(ToString::to_string).filter(|it| !state.listed.contains(it));
        ClusterStatus {
            source: format!("kube {}", self.server),
            live: state.troubles.is_empty() && state.listed.len() == RESOURCES.len(),
            age_seconds: age,
            unlisted: waiting.collect(),
            trouble: state.trouble(),
        }
    }

    fn problem(&self) -> Option<String> {
        self.copy.problem()
    }

    fn counts(&self) -> Vec<(String, SourceCounts)> {
        self.state().counts.iter().map(|(resource, counts)| (resource.clone(), *counts)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipamd_model::objects::Kind;

    #[test]
    fn the_age_is_that_of_the_oldest_trouble() {
        let long_ago = SystemTime::now() - Duration::from_secs(100);
        let contact = Contact::new("https://a".into(), Some(long_ago), CopyState::default());
        assert_eq!((contact.status().live, contact.status().age_seconds), (false, None));
        contact.goes_by_copy();
        assert!(contact.status().age_seconds.is_some_and(|age| (100..110).contains(&age)));
        for resource in &RESOURCES {
            assert!(!contact.heard(resource, true));
        }
        let status = contact.status();
        assert_eq!((status.live, status.age_seconds, status.trouble), (true, Some(0), None));

        let pods = Resource::of(Kind::Pod);
        assert!(contact.trouble(pods, "refused".into(), false));
        assert!(!contact.trouble(pods, "refused".into(), false));
        assert!(contact.trouble(pods, "reset".into(), false));
        let status = contact.status();
        assert_eq!((status.live, status.trouble.as_deref()), (false, Some("pods: reset")));
        let tiers = Resource::of(Kind::Tier);
        assert!(contact.trouble(tiers, "refused".into(), false));
        let trouble = contact.status().trouble;
        assert_eq!(trouble.as_deref(), Some("pods (and 1 more): reset"));
        assert!(contact.heard(tiers, false));
        assert!(contact.heard(pods, false));
        assert!(contact.status().live);
        contact.trouble(pods, "expired".into(), true);
        let counts = contact.counts().into_iter().find(|it| it.0 == "pods").unwrap().1;
        assert_eq!(counts, SourceCounts { lists: 1, expired: 1, failures: 3 });
    }
}

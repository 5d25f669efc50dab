//! How up to date the state of the cluster is: failures of lists and watches, and the age of the state.

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
use ipamd_runtime::monotonic::Age;

/// The status of lists and watches.
#[derive(Debug)]
pub(super) struct SyncStatus {
    server: String,
    copy: CopyState,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Resources that have been listed as a whole since the start.
    listed: BTreeSet<String>,
    /// Resources whose list or watch fails now, since when, and why.
    failures: BTreeMap<String, (Age, String)>,
    counts: BTreeMap<String, SourceCounts>,
    /// When the last daemon was last in contact with the server; used until this one is.
    inherited: Option<Age>,
    /// Whether the copy of the cluster's state is in use.
    from_copy: bool,
}

impl SyncStatus {
    pub fn new(server: String, inherited: Option<SystemTime>, copy: CopyState) -> Self {
        // The wall clock is read once. If somebody sets it later, no age changes.
        let inherited = inherited.map(|at| Age::of(at.elapsed().map_or(0, |age| age.as_secs())));
        Self { server, copy, state: Mutex::new(State { inherited, ..State::default() }) }
    }

    pub fn server(&self) -> &str {
        &self.server
    }

    /// A list or watch of the resource works; `whole` if a list is complete. Returns whether that ends a failure.
    pub fn mark_healthy(&self, resource: &Resource, whole: bool) -> bool {
        let mut state = self.state();
        let name = resource.to_string();
        let ended = state.failures.remove(&name).is_some();
        if whole {
            state.counts.entry(name.clone()).or_default().lists += 1;
            state.listed.insert(name);
        }
        ended
    }

    /// A list or watch of the resource failed; `expired` for a 410. Returns whether the reason is new.
    pub fn mark_failed(&self, resource: &Resource, why: String, expired: bool) -> bool {
        let mut state = self.state();
        let counts = state.counts.entry(resource.to_string()).or_default();
        let counter = if expired { &mut counts.expired } else { &mut counts.failures };
        *counter += 1;
        let known =
            state.failures.entry(resource.to_string()).or_insert_with(|| (Age::default(), String::new()));
        let is_news = known.1 != why;
        known.1 = why;
        is_news
    }

    /// The copy of the cluster's state is in use until all lists are complete.
    pub fn uses_copy(&self) {
        self.state().from_copy = true;
    }

    /// The wall-clock time until which the state is known to be up to date: now if all is well.
    pub fn fresh_until(&self) -> Option<SystemTime> {
        SystemTime::now().checked_sub(Duration::from_secs(self.age()?))
    }

    /// The age of the state in seconds.
    fn age(&self) -> Option<u64> {
        let state = self.state();
        if state.listed.len() < RESOURCES.len() {
            return state.inherited.filter(|_| state.from_copy).map(Age::seconds);
        }
        Some(state.failures.values().map(|(age, _)| age.seconds()).max().unwrap_or(0))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The oldest failure in words, with its resource and the number of other failures.
    fn trouble(&self) -> Option<String> {
        let (resource, (_, why)) = self.failures.iter().rev().max_by_key(|(_, (age, _))| age.seconds())?;
        let others = match self.failures.len() - 1 {
            0 => String::new(),
            count => format!(" (and {count} more)"),
        };
        Some(format!("{resource}{others}: {why}"))
    }
}

impl SourceState for SyncStatus {
    fn status(&self) -> ClusterStatus {
        let age = self.age();
        let state = self.state();
        let waiting = RESOURCES.iter().map(ToString::to_string).filter(|it| !state.listed.contains(it));
        ClusterStatus {
            source: format!("kube {}", self.server),
            live: state.failures.is_empty() && state.listed.len() == RESOURCES.len(),
            age_seconds: age,
            unlisted: waiting.collect(),
            trouble: state.trouble(),
            ..ClusterStatus::default()
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
        let sync = SyncStatus::new("https://a".into(), Some(long_ago), CopyState::default());
        assert_eq!((sync.status().live, sync.status().age_seconds), (false, None));
        sync.uses_copy();
        assert!(sync.status().age_seconds.is_some_and(|age| (100..110).contains(&age)));
        for resource in &RESOURCES {
            assert!(!sync.mark_healthy(resource, true));
        }
        let status = sync.status();
        assert_eq!((status.live, status.age_seconds, status.trouble), (true, Some(0), None));

        let pods = Resource::of(Kind::Pod);
        assert!(sync.mark_failed(pods, "refused".into(), false));
        assert!(!sync.mark_failed(pods, "refused".into(), false));
        assert!(sync.mark_failed(pods, "reset".into(), false));
        let status = sync.status();
        assert_eq!((status.live, status.trouble.as_deref()), (false, Some("pods: reset")));
        let tiers = Resource::of(Kind::Tier);
        assert!(sync.mark_failed(tiers, "refused".into(), false));
        let trouble = sync.status().trouble;
        assert_eq!(trouble.as_deref(), Some("pods (and 1 more): reset"));
        assert!(sync.mark_healthy(tiers, false));
        assert!(sync.mark_healthy(pods, false));
        assert!(sync.status().live);
        sync.mark_failed(pods, "expired".into(), true);
        let counts = sync.counts().into_iter().find(|it| it.0 == "pods").unwrap().1;
        assert_eq!(counts, SourceCounts { lists: 1, expired: 1, failures: 3 });
    }
}

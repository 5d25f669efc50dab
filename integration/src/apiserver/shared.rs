//! What all connections share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::Instant,
};

use tokio::sync::watch;

use super::{behaviour::Behaviour, objects::Objects, rbac::Right};

/// What the server has been asked so far: method, path and query.
pub type Requests = Vec<String>;

/// What all connections share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub objects: Mutex<Objects>,
    pub behaviour: Mutex<Behaviour>,
    pub requests: Mutex<Requests>,
    /// What containers of pods have printed, by the pod's key.
    pub logs: Mutex<BTreeMap<String, String>>,
    /// Which rights the requests used.
    pub used: Mutex<BTreeSet<Right>>,
    /// In which versions of HTTP they came.
    pub spoken: Mutex<BTreeSet<String>>,
    /// How many answers were compressed.
    pub compressed: AtomicUsize,
    /// Which requests were refused because they were too many, and when they may come again.
    pub refused: Mutex<BTreeMap<String, Instant>>,
    /// How many came before.
    pub early: AtomicUsize,
    /// Counts changes, for whoever waits for one.
    pub changes: watch::Sender<u64>,
    /// Counts the times that all watches were ended.
    pub ended: watch::Sender<u64>,
}

impl Shared {
    pub fn objects(&self) -> MutexGuard<'_, Objects> {
        locked(&self.objects)
    }

    pub fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        locked(&self.behaviour)
    }
}

/// What is behind a lock, also of a thread that has panicked.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

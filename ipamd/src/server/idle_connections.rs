//! Idle connections. When all places are taken, the one that has been idle longest is closed, so that idle clients keep
//! nobody out.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;

/// The idle connections, by how long they have been so.
#[derive(Debug, Default)]
pub(super) struct IdleConnections(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// In the order in which they became idle.
    waiting: BTreeMap<u64, Arc<Notify>>,
}

/// An idle connection, until it is dropped.
#[derive(Debug)]
pub(super) struct IdleConnection<'a> {
    idle: &'a IdleConnections,
    number: u64,
    closed: Arc<Notify>,
}

impl IdleConnections {
    /// Registers a connection that has become idle.
    pub fn add(&self) -> IdleConnection<'_> {
        let closed = Arc::new(Notify::new());
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.waiting.insert(number, Arc::clone(&closed));
        IdleConnection { idle: self, number, closed }
    }

    /// Closes the connection that has been idle longest; `false` if none is idle.
    pub fn close_oldest(&self) -> bool {
        let oldest = self.state().waiting.pop_first();
        oldest.is_some_and(|(_, closed)| {
            closed.notify_one();
            true
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IdleConnection<'_> {
    /// Returns when it is to be closed.
    pub async fn closed(&self) {
        self.closed.notified().await;
    }
}

impl Drop for IdleConnection<'_> {
    fn drop(&mut self) {
        self.idle.state().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_is_closed_first_and_who_is_busy_is_not() {
        let idle = IdleConnections::default();
        let (busy, first, second) = (idle.add(), idle.add(), idle.add());
        drop(busy);
        assert!(idle.close_oldest());
        first.closed().await;
        assert!(idle.close_oldest());
        second.closed().await;
        assert!(!idle.close_oldest(), "nobody is left");
    }
}

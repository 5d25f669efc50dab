//! A lock that large changes hold for a long time, with a queue beside it for those who must not wait for them: who comes and goes is
//! put into the queue, and whoever has the lock next takes it in. So nobody who adds or deletes a pod waits for such a change.

use std::{
    mem,
    ops::{Deref, DerefMut},
    sync::{
        Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// State that can take in what has waited for it.
pub trait TakeIn {
    /// What waits.
    type Waiting;

    /// Takes it in.
    fn take_in(&mut self, waiting: Self::Waiting);
}

/// State behind a lock, and what waits to be taken in.
#[derive(Debug)]
pub struct QueuedLock<S: TakeIn> {
    state: Mutex<S>,
    /// Whoever waits for the state has this, so that who has just had it comes behind.
    next: Mutex<()>,
    queue: Mutex<Vec<S::Waiting>>,
    /// Somebody waits for the state to take the queue in.
    taking: AtomicBool,
    changes: Mutex<Changes>,
}

/// For how long changes of the cluster have had the state.
#[derive(Debug, Default)]
struct Changes {
    ended: Duration,
    /// Since when the present one has it.
    since: Option<Instant>,
    /// The longest of them.
    longest: Duration,
}

/// The state, held by a change of the cluster until this is dropped.
#[derive(Debug)]
pub struct Changing<'a, S: TakeIn> {
    // This field comes first: others have the state only when the change is no longer counted.
    _counted: Counted<'a>,
    state: MutexGuard<'a, S>,
}

#[derive(Debug)]
struct Counted<'a>(&'a Mutex<Changes>);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let mut changes = locked(self.0);
        if let Some(since) = changes.since.take() {
            let held = since.elapsed();
            changes.ended += held;
            changes.longest = changes.longest.max(held);
        }
    }
}

impl<S: TakeIn> Deref for Changing<'_, S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.state
    }
}

impl<S: TakeIn> DerefMut for Changing<'_, S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.state
    }
}

/// What is behind a lock, also of a thread that has panicked.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: TakeIn> QueuedLock<S> {
    /// Nothing waits yet.
    pub fn new(state: S) -> Self {
        Self {
            state: Mutex::new(state),
            next: Mutex::default(),
            queue: Mutex::default(),
            taking: AtomicBool::new(false),
            changes: Mutex::default(),
        }
    }

    /// The state with all that waited for it, after all who have waited for it longer.
    pub fn lock(&self) -> MutexGuard<'_, S> {
        let mut state = {
            let _next = locked(&self.next);
            locked(&self.state)
        };
        self.take_in(&mut state);
        state
    }

    /// The state as it is, unless somebody has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, S>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The state for a change of the cluster.
    pub fn change(&self) -> Changing<'_, S> {
        let state = self.lock();
        self.counted(state)
    }

    /// The same, unless somebody has it.
    pub fn try_change(&self) -> Option<Changing<'_, S>> {
        self.try_lock().map(|state| self.counted(state))
    }

    fn counted<'a>(&'a self, state: MutexGuard<'a, S>) -> Changing<'a, S> {
        locked(&self.changes).since = Some(Instant::now());
        Changing { _counted: Counted(&self.changes), state }
    }

    /// For how long changes of the cluster have had the state, all together. Who waits for it learns by two of these for what.
    pub fn time_of_changes(&self) -> Duration {
        let changes = locked(&self.changes);
        changes.ended + changes.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The longest time for which a change of the cluster has had the state without a break.
    pub fn longest_change(&self) -> Duration {
        locked(&self.changes).longest
    }

    /// Has something wait until the state is to be had: for [`Self::take`], or for whoever has it next.
    pub fn push(&self, waiting: S::Waiting) {
        locked(&self.queue).push(waiting);
    }

    /// Takes in what waits, in its order.
    pub fn take_in(&self, state: &mut S) {
        for waiting in mem::take(&mut *locked(&self.queue)) {
            state.take_in(waiting);
        }
    }

    /// Takes in what waits, unless somebody has the state.
    pub fn try_take(&self) {
        if let Some(mut state) = self.try_lock() {
            self.take_in(&mut state);
        }
    }

    /// Whether somebody should call [`Self::take`]: nobody else is about to.
    pub fn needs_taking(&self) -> bool {
        !locked(&self.queue).is_empty() && !self.taking.swap(true, Ordering::AcqRel)
    }

    /// Waits for the state, and takes in what waits for it.
    pub fn take(&self) {
        loop {
            drop(self.lock());
            self.taking.store(false, Ordering::Release);
            // What came since may have counted on this.
            if !self.needs_taking() {
                return;
            }
        }
    }

    /// Whether somebody waits for the state. For tests.
    #[doc(hidden)]
    pub fn is_awaited(&self) -> bool {
        self.next.try_lock().is_err()
    }

    /// Whether something waits in the queue. For tests.
    #[doc(hidden)]
    pub fn waits(&self) -> bool {
        !locked(&self.queue).is_empty() || self.taking.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use ipamd_waiting::time_passes;

    use super::*;

    const A_WHILE: Duration = Duration::from_millis(2);
    const TIME: &str = "time is what is counted";

    #[derive(Debug, Default)]
    struct Numbers(Vec<u32>);

    impl TakeIn for Numbers {
        type Waiting = u32;

        fn take_in(&mut self, waiting: u32) {
            self.0.push(waiting);
        }
    }

    #[test]
    fn what_waits_is_taken_in_in_its_order_by_whoever_has_the_state_next() {
        let lock = QueuedLock::new(Numbers::default());
        {
            let mut change = lock.change();
            lock.push(1);
            lock.push(2);
            assert!(lock.waits() && lock.try_lock().is_none() && lock.try_change().is_none());
            lock.try_take();
            change.0.push(0);
        }
        assert_eq!(lock.try_lock().unwrap().0, [0], "who only looks takes nothing in");
        assert_eq!(lock.lock().0, [0, 1, 2]);
        assert!(!lock.needs_taking(), "there is nothing left");
        lock.push(3);
        assert!(lock.needs_taking() && !lock.needs_taking(), "one is enough");
        lock.take();
        assert!(!lock.waits());
        lock.push(4);
        lock.try_take();
        assert_eq!(lock.lock().0, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn who_waits_comes_between_two_turns_of_a_change() {
        let lock = Arc::new(QueuedLock::new(Numbers::default()));
        let turn = lock.change();
        let waits = {
            let lock = Arc::clone(&lock);
            thread::spawn(move || lock.lock().0.push(1))
        };
        while !lock.is_awaited() {
            thread::yield_now();
        }
        drop(turn);
        assert_eq!(lock.change().0, [1]);
        waits.join().unwrap();
    }

    #[test]
    fn the_time_of_all_changes_is_counted_and_of_nothing_else() {
        let lock = QueuedLock::new(Numbers::default());
        let state = lock.lock();
        time_passes(A_WHILE, TIME);
        drop(state);
        assert_eq!(lock.time_of_changes(), Duration::ZERO);
        for turn in 1..=2 {
            let change = lock.change();
            time_passes(A_WHILE, TIME);
            assert!(lock.time_of_changes() >= A_WHILE * turn, "it is under way");
            drop(change);
        }
        let all = lock.time_of_changes();
        let longest = lock.longest_change();
        assert!(longest >= A_WHILE && longest < all);
        time_passes(A_WHILE, TIME);
        assert_eq!(lock.time_of_changes(), all);
    }
}

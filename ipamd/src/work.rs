//! Counts what a thread does, for tests that ask how work grows with what it is done on. Wall time would say it as well, but of the
//! machine, too. Nothing is counted in a daemon.

#[cfg(test)]
thread_local! {
    static DONE: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// So many steps are done.
#[inline]
pub fn step(count: usize) {
    #[cfg(test)]
    DONE.set(DONE.get() + count);
    #[cfg(not(test))]
    let _ = count;
}

/// How many steps something takes.
#[cfg(test)]
pub fn of(work: impl FnOnce()) -> usize {
    let before = DONE.get();
    work();
    DONE.get() - before
}

//! Counts what a thread does, for tests that ask how work grows with what it is done on. Wall time would say it as well, but of the
//! machine, too. A daemon counts as well, one addition a step, and asks nobody.

use std::cell::Cell;

thread_local! {
    static DONE: Cell<usize> = const { Cell::new(0) };
}

/// So many steps are done.
#[inline]
pub fn step(count: usize) {
    DONE.set(DONE.get().wrapping_add(count));
}

/// How many steps something takes.
pub fn of(work: impl FnOnce()) -> usize {
    let before = DONE.get();
    work();
    DONE.get().wrapping_sub(before)
}

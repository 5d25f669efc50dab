//! A counter of work steps per thread, for tests of how work grows with its input. Wall time would depend on the
//! machine too. In the daemon it costs one addition per step.

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

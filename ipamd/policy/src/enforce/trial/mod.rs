//! Staged policies on trial: what would be in force with them, and which flows that would judge otherwise.
//!
//! The staged set is a second `State`, on tables in memory. It is made of the cluster in force when there is something to try, and
//! then told what that was told. Nothing of it exists while there is no staged policy.

mod compare;
mod judging;
mod listing;
pub(super) mod otherwise;
pub(super) mod overlay;
pub(super) mod progress;
mod staged_set;
pub(super) mod tally;

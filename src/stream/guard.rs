//! Guards of the loop that the simulation breaks one at a time, to prove that it would notice (see
//! `tests/it/simulation/defects.rs`). In a release build every guard is a constant `true`.

use std::cell::Cell;

/// A check of the loop that an invariant rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// A record below the position is skipped (POS-1).
    FoldOnce,
    /// The state is published only after the commit returned success (TXN-2).
    PublishAfterCommit,
    /// A parked state is used again only where the group stands (POS-2).
    ParkedAtCommitted,
    /// The scores of a partition that comes back are read again (ALR-1).
    ParkedScoresReadAgain,
    /// A restore schedules every user.
    TimersRestored,
    /// A restore schedules the end of every open alert (ALR-2).
    DeadlinesRestored,
    /// What outputs say of a user who was erased is taken back (ERA-1).
    ForgottenTakenBack,
    /// A batch that is dropped gives its due users back.
    TimersGivenBack,
}

thread_local! {
    /// The guard that is off on this thread: a run of the simulation stays on one.
    static BROKEN: Cell<Option<Guard>> = const { Cell::new(None) };
}

/// Whether `guard` does its work; always, outside of the simulation.
#[inline]
pub(super) fn holds(guard: Guard) -> bool {
    !cfg!(debug_assertions) || BROKEN.get() != Some(guard)
}

/// Turns `guard` off on this thread, and all others on. Without effect in a release build.
#[doc(hidden)]
pub fn break_on_this_thread(guard: Option<Guard>) {
    BROKEN.set(guard);
}

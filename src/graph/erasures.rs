//! Erasures that are remembered, so that late events do not bring a user back.

use std::collections::{BTreeSet, HashMap};

use super::{Progress, hash::NameHashBuilder};
use crate::event::View;

/// One remembered erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ErasureEntry {
    /// The view it was asked for in.
    pub view: View,
    /// [`TextHasher::of`](crate::event::TextHasher::of) the user's id: the id itself is not kept.
    pub user_hash: u64,
    /// When it was asked for, milliseconds since the Unix epoch.
    pub time_ms: i64,
}

/// The erasures of one partition. Each view's are a function of its own topic: they are added, and forgotten, by its records
/// alone (DET-1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Erasures {
    views: [OfView; View::COUNT],
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct OfView {
    by_user: HashMap<u64, i64, NameHashBuilder>,
    by_time: BTreeSet<(i64, u64)>,
}

impl OfView {
    fn insert(&mut self, user_hash: u64, time_ms: i64) {
        if let Some(before_ms) = self.by_user.insert(user_hash, time_ms) {
            self.by_time.remove(&(before_ms, user_hash));
        }
        self.by_time.insert((time_ms, user_hash));
    }
}

impl Erasures {
    /// The erasures of a snapshot.
    pub fn of(entries: impl IntoIterator<Item = ErasureEntry>) -> Self {
        let mut erasures = Self::default();
        for entry in entries {
            erasures.views[entry.view.index()].insert(entry.user_hash, entry.time_ms);
        }
        erasures
    }

    /// All of them, sorted.
    pub fn to_vec(&self) -> Vec<ErasureEntry> {
        let of = |view: View| {
            let by_user = &self.views[view.index()].by_user;
            by_user.iter().map(move |(user_hash, time_ms)| ErasureEntry {
                view,
                user_hash: *user_hash,
                time_ms: *time_ms,
            })
        };
        let mut entries: Vec<_> = View::ALL.into_iter().flat_map(of).collect();
        entries.sort_unstable();
        entries
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.views.iter().all(|view| view.by_user.is_empty())
    }

    /// Whether an event of `time_ms` is older than an erasure of its user.
    pub fn covers(&self, view: View, user_hash: u64, time_ms: i64) -> bool {
        self.views[view.index()].by_user.get(&user_hash).is_some_and(|erased_ms| time_ms < *erased_ms)
    }

    /// The time of a user's last erasure that was asked for in every view.
    pub(super) fn complete_ms(&self, user_hash: u64) -> Option<i64> {
        self.views.iter().map(|view| view.by_user.get(&user_hash).copied()).min().flatten()
    }

    /// Whether an erasure asked for at `time_ms` says nothing new.
    pub(super) fn knows(&self, view: View, user_hash: u64, time_ms: i64) -> bool {
        self.views[view.index()].by_user.get(&user_hash).is_some_and(|erased_ms| time_ms <= *erased_ms)
    }

    /// Remembers an erasure, and forgets those of the view that the topic's event time is past by more than `memory_ms`.
    pub(super) fn note(&mut self, entry: ErasureEntry, progress: &Progress, memory_ms: i64) {
        let ErasureEntry { view, user_hash, time_ms } = entry;
        let of_view = &mut self.views[view.index()];
        of_view.insert(user_hash, time_ms);
        let Some(newest_ms) = progress.newest_ms[view.index()] else { return };
        let oldest_ms = newest_ms.saturating_sub(memory_ms);
        while let Some(&(time_ms, user_hash)) = of_view.by_time.first()
            && time_ms < oldest_ms
        {
            of_view.by_time.pop_first();
            of_view.by_user.remove(&user_hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(newest_ms: i64) -> Progress {
        Progress { newest_ms: [Some(newest_ms); View::COUNT], ..Progress::default() }
    }

    #[test]
    fn an_erasure_covers_what_is_older_in_its_view_until_it_is_forgotten() {
        let mut erasures = Erasures::default();
        let entry = ErasureEntry { view: View::Search, user_hash: 7, time_ms: 1_000 };
        erasures.note(entry, &progress(1_000), 500);
        assert!(erasures.covers(View::Search, 7, 999));
        assert!(!erasures.covers(View::Search, 7, 1_000), "a new user");
        assert!(!erasures.covers(View::Click, 7, 999), "another topic has its own record");
        assert!(erasures.knows(View::Search, 7, 1_000) && !erasures.knows(View::Search, 7, 1_001));
        assert_eq!(Erasures::of(erasures.to_vec()), erasures);

        erasures.note(ErasureEntry { user_hash: 8, ..entry }, &progress(1_500), 500);
        assert!(erasures.covers(View::Search, 7, 999));
        erasures.note(ErasureEntry { user_hash: 9, time_ms: 1_400, ..entry }, &progress(1_501), 500);
        assert!(!erasures.covers(View::Search, 7, 999) && !erasures.covers(View::Search, 8, 999));
        assert_eq!(erasures.to_vec().len(), 1, "memory is bounded by time");
    }

    #[test]
    fn asked_again_the_later_time_counts() {
        let mut erasures = Erasures::default();
        for time_ms in [1_000, 2_000] {
            erasures.note(ErasureEntry { view: View::Click, user_hash: 7, time_ms }, &progress(0), 500);
        }
        assert!(erasures.covers(View::Click, 7, 1_999));
        assert_eq!(erasures.to_vec().len(), 1);
    }
}

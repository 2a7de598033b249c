//! What happened in a run: it must be something.

use std::collections::BTreeMap;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) crash_count: u64,
    pub(super) stop_count: u64,
    pub(super) abort_count: u64,
    pub(super) rebalance_count: u64,
    pub(super) jump_count: u64,
    pub(super) restore_count: u64,
    pub(super) snapshot_restore_count: u64,
    pub(super) damage_count: u64,
    pub(super) full_disk_count: u64,
    pub(super) torn_write_count: u64,
    pub(super) score_count: u64,
    pub(super) due_score_count: u64,
    pub(super) alert_count: u64,
    pub(super) right_count: u64,
    pub(super) wrong_count: u64,
    pub(super) erasure_count: u64,
    pub(super) taken_back_count: u64,
    /// By reason.
    pub(super) dead_letters: BTreeMap<String, u64>,
}

impl Outcome {
    pub(super) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.counts().into_iter().zip(other.clone().counts()) {
            *mine += *theirs;
        }
        for (reason, count) in &other.dead_letters {
            *self.dead_letters.entry(reason.clone()).or_default() += count;
        }
    }

    /// Taken apart field by field, so that a new one cannot be forgotten here.
    fn counts(&mut self) -> [&mut u64; 17] {
        let Self {
            crash_count,
            stop_count,
            abort_count,
            rebalance_count,
            jump_count,
            restore_count,
            snapshot_restore_count,
            damage_count,
            full_disk_count,
            torn_write_count,
            score_count,
            due_score_count,
            alert_count,
            right_count,
            wrong_count,
            erasure_count,
            taken_back_count,
            dead_letters: _,
        } = self;
        [
            crash_count,
            stop_count,
            abort_count,
            rebalance_count,
            jump_count,
            restore_count,
            snapshot_restore_count,
            damage_count,
            full_disk_count,
            torn_write_count,
            score_count,
            due_score_count,
            alert_count,
            right_count,
            wrong_count,
            erasure_count,
            taken_back_count,
        ]
    }

    /// A simulation in which nothing happens proves nothing: each of these happens in `run_count` runs at least as often.
    pub(super) fn check_is_eventful(&mut self, run_count: u64) {
        let least = run_count / 5;
        let text = format!("{self:?}");
        for count in self.counts() {
            assert!(*count >= least, "{text}");
        }
        for reason in
            ["late", "future_time", "invalid_json", "tombstone", "missing_key", "key_mismatch", "scoring_failed"]
        {
            assert!(self.dead_letters.get(reason).is_some_and(|count| *count > 0), "no `{reason}`: {text}");
        }
    }
}

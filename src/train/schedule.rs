//! At which moments of a history users become examples, and which later moments say what came of them.

use super::history::History;
use crate::event::DAY_MS;

/// What is predicted, in days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizons {
    /// A user is scored and trained on when active within this many days before the moment.
    pub history_days: u32,
    /// Days without activity that count as churn.
    pub churn_days: u32,
    /// Days in which a purchase counts.
    pub purchase_days: u32,
}

impl Horizons {
    /// The churn horizon in milliseconds.
    pub fn churn_ms(&self) -> i64 {
        i64::from(self.churn_days) * DAY_MS
    }

    /// The purchase horizon in milliseconds.
    pub fn purchase_ms(&self) -> i64 {
        i64::from(self.purchase_days) * DAY_MS
    }

    /// The history window in milliseconds.
    pub fn history_ms(&self) -> i64 {
        i64::from(self.history_days) * DAY_MS
    }
}

/// One moment at which users become examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cutoff {
    /// The moment: only what is before it is seen.
    pub at_ms: i64,
    /// Whether the churn horizon ends within the history.
    pub knows_churn: bool,
    /// Whether the purchase horizon ends within the history.
    pub knows_purchase: bool,
}

/// All moments of a history that training looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// The end of the history (exclusive).
    pub end_ms: i64,
    /// The horizons labels are made with. Shorter than asked for when the history is too short for them.
    pub horizons: Horizons,
    /// Whether the horizons had to be shortened.
    pub shortened: bool,
    /// Moments with at least one label, ascending.
    pub cutoffs: Vec<Cutoff>,
}

/// Cutoffs at most; older ones say less about the next month and cost as much.
const MAX_CUTOFFS: usize = 40;
/// Days between cutoffs at most, so that users are seen at every weekday distance from their rhythm.
const MAX_STEP_MS: i64 = 7 * DAY_MS;

impl Schedule {
    /// Plans for a history from `first_ms` up to `end_ms` (exclusive). A history of less than a day has no cutoffs.
    pub fn new(first_ms: i64, end_ms: i64, horizons: Horizons) -> Self {
        let span_ms = end_ms - first_ms;
        let mut used = horizons;
        // Half the history at least is kept to look back on, and half of the rest lets two cutoffs be told apart.
        let longest_days = u32::try_from((span_ms / 3) / DAY_MS).unwrap_or(0).max(1);
        used.churn_days = used.churn_days.min(longest_days);
        used.purchase_days = used.purchase_days.min(longest_days);
        let (churn_ms, purchase_ms) = (used.churn_ms(), used.purchase_ms());
        let earliest_ms = first_ms + used.history_ms().min(span_ms / 3);
        let room_ms = end_ms - churn_ms.min(purchase_ms) - earliest_ms;
        let step_ms = (room_ms / 12).clamp(DAY_MS, MAX_STEP_MS);
        let (long_ms, short_ms) = (churn_ms.max(purchase_ms), churn_ms.min(purchase_ms));
        let mut moments: Vec<i64> = Vec::new();
        let mut at_ms = end_ms - long_ms;
        while at_ms >= earliest_ms && moments.len() < MAX_CUTOFFS {
            moments.push(at_ms);
            at_ms -= step_ms;
        }
        let mut at_ms = end_ms - short_ms;
        while at_ms > end_ms - long_ms && at_ms >= earliest_ms {
            moments.push(at_ms);
            at_ms -= step_ms;
        }
        moments.sort_unstable();
        let cutoffs = moments
            .into_iter()
            .map(|at_ms| Cutoff {
                at_ms,
                knows_churn: at_ms + churn_ms <= end_ms,
                knows_purchase: at_ms + purchase_ms <= end_ms,
            })
            .collect();
        Self { end_ms, horizons: used, shortened: used != horizons, cutoffs }
    }

    /// Moves every cutoff back to the newest moment at which `history` shows whole graphs.
    #[must_use]
    pub fn shown_by(self, history: &impl History) -> Self {
        let (churn_ms, purchase_ms) = (self.horizons.churn_ms(), self.horizons.purchase_ms());
        let shown = self.cutoffs.iter().filter_map(|cutoff| history.shown_at(cutoff.at_ms));
        let mut cutoffs: Vec<Cutoff> = shown
            .map(|at_ms| Cutoff {
                at_ms,
                knows_churn: at_ms + churn_ms <= self.end_ms,
                knows_purchase: at_ms + purchase_ms <= self.end_ms,
            })
            .collect();
        cutoffs.dedup();
        Self { cutoffs, ..self }
    }

    /// Moments at which graphs must be looked at, ascending: cutoffs, ends of their horizons, and the end.
    pub fn moments(&self) -> Vec<i64> {
        let (churn_ms, purchase_ms) = (self.horizons.churn_ms(), self.horizons.purchase_ms());
        let mut moments: Vec<i64> = self
            .cutoffs
            .iter()
            .flat_map(|cutoff| [cutoff.at_ms, cutoff.at_ms + churn_ms, cutoff.at_ms + purchase_ms])
            .filter(|at_ms| *at_ms <= self.end_ms)
            .chain([self.end_ms])
            .collect();
        moments.sort_unstable();
        moments.dedup();
        moments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: Horizons = Horizons { history_days: 90, churn_days: 30, purchase_days: 7 };

    #[test]
    fn labels_end_within_the_history() {
        let schedule = Schedule::new(0, 334 * DAY_MS, TASK);
        assert!(!schedule.shortened);
        assert_eq!(schedule.cutoffs.iter().filter(|cutoff| cutoff.knows_churn).count(), 31);
        let newest = schedule.cutoffs.last().unwrap();
        assert_eq!((newest.at_ms, newest.knows_churn, newest.knows_purchase), (327 * DAY_MS, false, true));
        for cutoff in &schedule.cutoffs {
            assert_eq!(cutoff.knows_churn, cutoff.at_ms + 30 * DAY_MS <= schedule.end_ms);
            assert!(cutoff.knows_purchase && cutoff.at_ms >= 90 * DAY_MS);
        }
        assert!(schedule.moments().is_sorted() && schedule.moments().last() == Some(&schedule.end_ms));
    }

    #[test]
    fn a_short_history_shortens_the_horizons_and_says_so() {
        let schedule = Schedule::new(0, 30 * DAY_MS, TASK);
        assert!(schedule.shortened);
        assert_eq!(schedule.horizons.churn_days, 10);
        assert!(schedule.cutoffs.iter().any(|cutoff| cutoff.knows_churn));
        assert!(Schedule::new(0, DAY_MS / 2, TASK).cutoffs.is_empty());
    }
}

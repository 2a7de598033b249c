//! The last score of every user.

use std::sync::Arc;

use dashmap::DashMap;

use super::{AlertState, OpenAlert};
use crate::{
    event::{Positions, TextHashBuilder, UserId},
    score::{ATTENTION_NAMES, Probability},
};

/// The last committed score of one user: what the next decision, a reader and a restart need, and no more. Factors, reasons
/// and lists are in the outputs; for a reader they are computed afresh from the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct UserScore {
    /// P(no activity in the churn horizon after the moment).
    pub churn_probability: Probability,
    /// P(at least one purchase in the purchase horizon after the moment).
    pub purchase_probability: Probability,
    /// Days of the churn horizon.
    pub churn_days: u32,
    /// Days of the purchase horizon.
    pub purchase_days: u32,
    /// Value expected in the churn horizon if the user stays, minor units.
    pub value_at_stake_minor: u64,
    /// Weights of the fusion layer, in the order of [`ATTENTION_NAMES`].
    pub attention: [f32; ATTENTION_NAMES.len()],
    /// The moment the score stands for, milliseconds since the Unix epoch.
    pub as_of_ms: i64,
    /// The user's newest event at that moment.
    pub event_ms: i64,
    /// How far the partition had read.
    pub positions: Positions,
    /// Hash of both recommendation lists, in order: a new record is written when it changes.
    pub lists_hash: u64,
    /// What the alerts have said so far.
    pub alert: AlertState,
    /// Alerts that are neither right nor wrong yet, oldest first.
    pub open_alerts: Box<[OpenAlert]>,
    /// The bundle that answered.
    pub model_version: Arc<str>,
}

impl UserScore {
    /// When the horizon of the first open alert has passed, milliseconds since the Unix epoch.
    pub fn settles_ms(&self) -> Option<i64> {
        self.open_alerts.iter().map(OpenAlert::end_ms).min()
    }
}

/// The last committed scores of a partition. Written by its stream thread after each commit, read by anyone.
#[derive(Debug, Default)]
pub struct ScoreBook {
    scores: DashMap<UserId, Arc<UserScore>, TextHashBuilder>,
}

impl ScoreBook {
    /// The last score of `user`.
    pub fn get(&self, user: &str) -> Option<Arc<UserScore>> {
        self.scores.get(user).map(|score| Arc::clone(&score))
    }

    /// Replaces the last score of `user`. Only after the commit, and for restore.
    pub fn insert(&self, user: UserId, score: Arc<UserScore>) {
        self.scores.insert(user, score);
    }

    /// Forgets `user`. Returns whether there was a score.
    pub fn remove(&self, user: &str) -> bool {
        self.scores.remove(user).is_some()
    }

    /// Number of users with a score.
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// Whether no user has a score.
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    /// Calls `visit` with every last score, in no order.
    pub fn for_each(&self, mut visit: impl FnMut(&UserId, &UserScore)) {
        self.scores.iter().for_each(|entry| visit(entry.key(), entry.value()));
    }

    /// All last scores, in no order; the scores are shared.
    pub fn to_vec(&self) -> Vec<(UserId, Arc<UserScore>)> {
        self.scores.iter().map(|entry| (entry.key().clone(), Arc::clone(entry.value()))).collect()
    }
}

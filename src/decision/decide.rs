//! From a score to what is written about it.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::{AlertState, DecisionParams, RiskLevel, Transition, UserScore};
use crate::{
    event::Positions,
    graph::UserGraph,
    score::{RankedItem, Scored},
};

/// What is decided about one user.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The score to remember and to write.
    pub score: UserScore,
    /// The alert to write, if any.
    pub alert: Option<AlertDraft>,
    /// Whether the lists differ from the ones written last.
    pub recommendations_changed: bool,
}

/// An alert before its reasons are known: those cost tens of scores, so they are asked for alerts only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlertDraft {
    /// What it says.
    pub transition: Transition,
    /// The level before.
    pub previous_level: RiskLevel,
    /// The level now.
    pub level: RiskLevel,
    /// The alert's number for its user, counted from 1.
    pub sequence: u32,
}

/// Where a partition stands when something is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What was read, the batch at hand included.
    pub positions: Positions,
    /// Event time, milliseconds since the Unix epoch; in live use close to the wall clock.
    pub watermark_ms: i64,
}

/// Decides what to write about a user scored at `as_of_ms`. `previous` is the user's last committed score. Pure: equal
/// inputs decide equally in every run.
pub fn decide(
    previous: Option<&UserScore>,
    scored: &Scored,
    graph: &UserGraph,
    as_of_ms: i64,
    standing: Standing,
    params: &DecisionParams,
) -> Decision {
    let before = previous.map_or_else(AlertState::default, |score| score.alert);
    let thresholds = params.thresholds(&scored.model);
    let (after, transition) =
        before.after(scored.churn_probability, as_of_ms, standing.watermark_ms, &thresholds, params);
    let alert = transition.map(|transition| AlertDraft {
        transition,
        previous_level: before.level,
        level: after.level,
        sequence: after.alert_count,
    });
    let lists_hash = lists_hash(scored, params.list_length);
    let score = UserScore {
        churn_probability: scored.churn_probability,
        purchase_probability: scored.purchase_probability,
        churn_days: scored.model.churn_days,
        purchase_days: scored.model.purchase_days,
        value_at_stake_minor: scored.value_at_stake_minor,
        attention: scored.attention,
        as_of_ms,
        event_ms: graph.last_event_ms().unwrap_or(as_of_ms),
        positions: standing.positions,
        lists_hash,
        alert: after,
        model_version: Arc::clone(&scored.model.version),
    };
    Decision { recommendations_changed: previous.is_none_or(|score| score.lists_hash != lists_hash), score, alert }
}

fn lists_hash(scored: &Scored, list_length: usize) -> u64 {
    let mut bytes = Vec::with_capacity(list_length * 16 + 8);
    let mut add = |list: &[RankedItem]| {
        for place in list.iter().take(list_length) {
            bytes.extend_from_slice(&place.item.0.to_le_bytes());
        }
        bytes.extend_from_slice(&u64::MAX.to_le_bytes());
    };
    add(&scored.items);
    add(&scored.discoveries);
    xxh3_64(&bytes)
}

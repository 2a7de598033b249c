//! From a score to what is written about it.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::{
    AlertState, DecisionParams, OpenAlert, Outcomes, RiskLevel, Subject, Transition, UserScore, alert::alert_hash,
    outcome::settle,
};
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
    /// Alerts that turned out right or wrong; they are no longer in the score.
    pub outcomes: Outcomes,
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
    /// Event time up to which nothing that is in the log is unread, milliseconds since the Unix epoch: an alert whose horizon
    /// passed by then is settled. Moves with the events alone, also in live use.
    pub settle_ms: i64,
}

/// Decides what to write about a user scored at `as_of_ms`. `previous` is the user's last committed score. Pure: equal
/// inputs decide equally in every run.
pub fn decide(
    subject: Subject<'_>,
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
    let raised = alert.filter(|alert| alert.transition != Transition::Recovered).map(|alert| OpenAlert {
        id: alert_hash(subject, alert.sequence, as_of_ms),
        transition: alert.transition,
        level: alert.level,
        raised_ms: as_of_ms,
        churn_days: scored.model.churn_days,
        churn_probability: scored.churn_probability,
        last_activity_ms: graph.last_activity_ms(),
        returned_ms: None,
        model_version: Arc::clone(&scored.model.version),
    });
    let open = previous.map_or(&[][..], |score| &score.open_alerts);
    let (open_alerts, outcomes) = settle(open, raised, graph, params.activity, standing.settle_ms);
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
        open_alerts,
        model_version: Arc::clone(&scored.model.version),
    };
    let recommendations_changed = previous.is_none_or(|score| score.lists_hash != lists_hash);
    Decision { score, alert, outcomes, recommendations_changed }
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

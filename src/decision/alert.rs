//! When a user's risk is worth a word: a small state machine with hysteresis and a cooldown, in event time.

use std::{fmt, str::FromStr};

use xxhash_rust::xxh3::xxh3_128;

use super::Subject;
use crate::{
    event::DAY_MS,
    graph::{GraphParams, KindSet},
    score::{ModelInfo, Probability},
};

/// What the alerts of a user have said so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RiskLevel {
    /// Nothing, or that the user has recovered.
    #[default]
    Calm,
    /// That the user is at risk.
    AtRisk,
    /// That the user is at high risk.
    HighRisk,
}

impl RiskLevel {
    /// All levels, rising.
    pub const ALL: [Self; 3] = [Self::Calm, Self::AtRisk, Self::HighRisk];

    /// The name used on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::AtRisk => "at_risk",
            Self::HighRisk => "high_risk",
        }
    }
}

impl fmt::Display for RiskLevel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A level name that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown risk level `{0}`")]
pub struct UnknownRiskLevel(String);

impl FromStr for RiskLevel {
    type Err = UnknownRiskLevel;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|level| level.name() == name).ok_or_else(|| UnknownRiskLevel(name.to_owned()))
    }
}

/// What an alert says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transition {
    /// From calm to at risk, or to high risk at once.
    Entered,
    /// From at risk to high risk.
    Escalated,
    /// Back to calm.
    Recovered,
}

impl Transition {
    /// All transitions.
    pub const ALL: [Self; 3] = [Self::Entered, Self::Escalated, Self::Recovered];

    /// The name used on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Entered => "entered",
            Self::Escalated => "escalated",
            Self::Recovered => "recovered",
        }
    }
}

/// Where the levels begin and end. Enter ≤ escalate, recover < enter: between recover and enter nothing is said, so a score
/// that swings around one value does not alert on every swing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Churn probability from which a calm user is at risk.
    pub enter: f32,
    /// Churn probability from which a user is at high risk.
    pub escalate: f32,
    /// Churn probability below which a user has recovered.
    pub recover: f32,
}

/// Settings of decisions. Thresholds that are `None` follow the bundle that answered.
#[derive(Debug, Clone, PartialEq)]
pub struct DecisionParams {
    /// See [`Thresholds::enter`]; `None`: the bundle's own threshold.
    pub enter_threshold: Option<f32>,
    /// See [`Thresholds::escalate`]; `None`: half way from the enter threshold to 1.
    pub escalate_threshold: Option<f32>,
    /// See [`Thresholds::recover`]; `None`: 0.6 of the enter threshold.
    pub recover_threshold: Option<f32>,
    /// Event time between two alerts of one user, milliseconds. A recovery is told at once, and counts as an alert for the
    /// one after it.
    pub cooldown_ms: i64,
    /// How far back the moment of an alert may lie, in event time, milliseconds. `None`: as far as it likes, for a replay of
    /// history. In live use an alert about months ago helps nobody: a first start over old history tells what is due now.
    pub max_alert_age_ms: Option<i64>,
    /// Places of each recommendation list.
    pub list_length: usize,
    /// Kinds of events that count as activity, as everywhere: what proves an alert wrong.
    pub activity: KindSet,
}

impl Default for DecisionParams {
    fn default() -> Self {
        Self {
            enter_threshold: None,
            escalate_threshold: None,
            recover_threshold: None,
            cooldown_ms: 7 * DAY_MS,
            max_alert_age_ms: None,
            list_length: 20,
            activity: GraphParams::default().activity,
        }
    }
}

impl DecisionParams {
    /// The thresholds for scores of `model`. Whatever the configuration mixes with the bundle's own, the order of
    /// [`Thresholds`] holds: an explicit enter threshold moves the others out of its way.
    pub fn thresholds(&self, model: &ModelInfo) -> Thresholds {
        let enter = self.enter_threshold.unwrap_or(model.churn_threshold.get());
        let escalate = self.escalate_threshold.unwrap_or(0.5 + 0.5 * enter).max(enter);
        let recover = self.recover_threshold.unwrap_or(0.6 * enter).min(enter);
        Thresholds { enter, escalate, recover }
    }

    /// Whether an alert dated `as_of_ms` comes too late to be told, with event time at `watermark_ms`.
    pub fn is_too_old(&self, as_of_ms: i64, watermark_ms: i64) -> bool {
        self.max_alert_age_ms.is_some_and(|max_ms| watermark_ms.saturating_sub(as_of_ms) > max_ms)
    }
}

/// What is remembered of a user's alerts. Travels inside each `scores` record, and is restored from there (ALR-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AlertState {
    /// What the alerts have said so far.
    pub level: RiskLevel,
    /// Alerts so far; the sequence number of the newest, counted from 1.
    pub alert_count: u32,
    /// Event time of the newest alert, milliseconds since the Unix epoch.
    pub last_alert_ms: Option<i64>,
}

impl AlertState {
    /// The state after a score of `churn` at `as_of_ms`, and what is to be said, with event time at `watermark_ms`. During the
    /// cooldown, and for a moment too far back, the level stays, so that what is suppressed now is said at the next score,
    /// if it still holds. A recovery is always told.
    #[must_use]
    pub fn after(
        self,
        churn: Probability,
        as_of_ms: i64,
        watermark_ms: i64,
        thresholds: &Thresholds,
        params: &DecisionParams,
    ) -> (Self, Option<Transition>) {
        let churn = churn.get();
        let (level, transition) = match self.level {
            RiskLevel::Calm if churn >= thresholds.escalate => (RiskLevel::HighRisk, Transition::Entered),
            RiskLevel::Calm if churn >= thresholds.enter => (RiskLevel::AtRisk, Transition::Entered),
            RiskLevel::AtRisk if churn >= thresholds.escalate => (RiskLevel::HighRisk, Transition::Escalated),
            RiskLevel::AtRisk | RiskLevel::HighRisk if churn < thresholds.recover => {
                (RiskLevel::Calm, Transition::Recovered)
            }
            _ => return (self, None),
        };
        let is_cooling =
            self.last_alert_ms.is_some_and(|last_ms| as_of_ms.saturating_sub(last_ms) < params.cooldown_ms);
        if (is_cooling || params.is_too_old(as_of_ms, watermark_ms)) && transition != Transition::Recovered {
            return (self, None);
        }
        let state = Self { level, alert_count: self.alert_count.saturating_add(1), last_alert_ms: Some(as_of_ms) };
        (state, Some(transition))
    }
}

/// The id of a user's alert number `alert_count`, raised for the moment `raised_ms`: 32 hexadecimal digits, equal in every run.
/// A user who was erased or evicted is counted from 1 again, so the number alone would repeat.
pub fn alert_id(subject: Subject<'_>, alert_count: u32, raised_ms: i64) -> String {
    format!("{:032x}", alert_hash(subject, alert_count, raised_ms))
}

/// [`alert_id`] as a number.
pub(super) fn alert_hash(subject: Subject<'_>, alert_count: u32, raised_ms: i64) -> u128 {
    let mut bytes = b"alert\0".to_vec();
    bytes.extend_from_slice(&alert_count.to_le_bytes());
    bytes.extend_from_slice(&raised_ms.to_le_bytes());
    bytes.extend_from_slice(&subject.erased_ms.unwrap_or(i64::MIN).to_le_bytes());
    bytes.extend_from_slice(subject.user.as_str().as_bytes());
    xxh3_128(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{PartitionId, UserId};

    const THRESHOLDS: Thresholds = Thresholds { enter: 0.5, escalate: 0.75, recover: 0.3 };

    /// Scores of successive days against what is said of them, with a cooldown of `cooldown_days`.
    fn check(cooldown_days: i64, days: &[(f32, Option<&str>)]) {
        let mut state = AlertState::default();
        for ((churn, expected), day) in days.iter().zip(0..) {
            let churn = Probability::new(*churn).unwrap();
            let transition;
            let params = DecisionParams { cooldown_ms: cooldown_days * DAY_MS, ..DecisionParams::default() };
            (state, transition) = state.after(churn, day * DAY_MS, day * DAY_MS, &THRESHOLDS, &params);
            assert_eq!(transition.map(Transition::name), *expected, "day {day}");
        }
    }

    #[test]
    fn a_user_enters_escalates_and_recovers() {
        check(0, &[(0.1, None), (0.5, Some("entered")), (0.8, Some("escalated")), (0.2, Some("recovered"))]);
    }

    #[test]
    fn a_user_can_enter_at_high_risk_at_once() {
        check(0, &[(0.9, Some("entered")), (0.95, None), (0.29, Some("recovered"))]);
    }

    #[test]
    fn nothing_is_said_between_the_thresholds() {
        check(0, &[(0.6, Some("entered")), (0.4, None), (0.55, None), (0.31, None), (0.7, None)]);
    }

    #[test]
    fn what_the_cooldown_suppressed_is_said_after_it() {
        check(
            2,
            &[(0.6, Some("entered")), (0.8, None), (0.8, Some("escalated")), (0.1, Some("recovered")), (0.6, None)],
        );
    }

    #[test]
    fn a_recovery_does_not_wait() {
        check(9, &[(0.6, Some("entered")), (0.1, Some("recovered")), (0.9, None)]);
    }

    /// A live first start over old history: each score with its day and the day event time stands at.
    #[test]
    fn an_alert_about_long_ago_is_not_told_until_it_is_due_again() {
        let params = DecisionParams { max_alert_age_ms: Some(7 * DAY_MS), cooldown_ms: 0, ..DecisionParams::default() };
        let mut state = AlertState::default();
        for (churn, day, watermark_day, expected) in [
            (0.9, 10, 400, None),
            (0.9, 392, 400, None),
            (0.9, 393, 400, Some("entered")),
            (0.1, 394, 800, Some("recovered")),
            (0.6, 799, 800, Some("entered")),
            (0.9, 800, 900, None),
        ] {
            let churn = Probability::new(churn).unwrap();
            let transition;
            (state, transition) = state.after(churn, day * DAY_MS, watermark_day * DAY_MS, &THRESHOLDS, &params);
            assert_eq!(transition.map(Transition::name), expected, "day {day}");
        }
        assert_eq!((state.level, state.alert_count), (RiskLevel::AtRisk, 3));
    }

    #[test]
    fn thresholds_follow_the_bundle_and_keep_their_order() {
        let model = ModelInfo {
            version: "v".into(),
            churn_days: 30,
            purchase_days: 7,
            churn_threshold: Probability::new(0.4).unwrap(),
        };
        let close = |left: f32, right: f32| (left - right).abs() < 1e-6;
        let own = DecisionParams::default().thresholds(&model);
        assert!(close(own.enter, 0.4) && close(own.escalate, 0.7) && close(own.recover, 0.24), "{own:?}");
        let mixed =
            DecisionParams { escalate_threshold: Some(0.2), recover_threshold: Some(0.9), ..Default::default() };
        let mixed = mixed.thresholds(&model);
        assert!(close(mixed.escalate, 0.4) && close(mixed.recover, 0.4), "{mixed:?}");
    }

    #[test]
    fn alert_ids_are_stable() {
        let users = ["u1", "u2"].map(UserId::new);
        let id = |user: usize, count, raised_ms, erased_ms| {
            alert_id(Subject { user: &users[user], partition: PartitionId(0), erased_ms }, count, raised_ms)
        };
        let first = id(0, 1, 7, None);
        assert_eq!(first.len(), 32);
        assert_eq!(first, id(0, 1, 7, None));
        for other in [id(0, 2, 7, None), id(1, 1, 7, None), id(0, 1, 8, None), id(0, 1, 7, Some(7))] {
            assert_ne!(first, other);
        }
    }
}

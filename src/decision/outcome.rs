//! What became of alerts: each is told right or wrong once its horizon has passed, exactly once.
//!
//! An alert is right when no activity of its user lies after `raised_ms` and before `raised_ms` + the churn horizon: the
//! label that the model learns from (`train::labels`), read off the graph. Open alerts travel inside the user's record of
//! `scores`, so a restart has them back, and an outcome is committed with the score that no longer holds its alert (ALR-2).

use std::sync::Arc;

use smallvec::SmallVec;

use super::{RiskLevel, Transition};
use crate::{
    event::DAY_MS,
    graph::{KindSet, UserGraph, first_activity_ms},
    score::Probability,
};

/// Open alerts kept a user at most (LIM-1). With the cooldown and the horizon of the defaults there are five at most.
pub const MAX_OPEN_ALERTS: usize = 8;

/// An alert whose horizon has not passed yet.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenAlert {
    /// The alert's id as a number; see [`alert_id`](super::alert_id).
    pub id: u128,
    /// What it said: entered or escalated.
    pub transition: Transition,
    /// The level it told of.
    pub level: RiskLevel,
    /// The moment it was raised for, milliseconds since the Unix epoch.
    pub raised_ms: i64,
    /// The churn horizon of the model that raised it.
    pub churn_days: u32,
    /// What the model said.
    pub churn_probability: Probability,
    /// The user's newest activity when it was raised, milliseconds since the Unix epoch.
    pub last_activity_ms: Option<i64>,
    /// The first activity seen after it was raised and before its horizon had passed, milliseconds since the Unix epoch.
    pub returned_ms: Option<i64>,
    /// The model that raised it.
    pub model_version: Arc<str>,
}

impl OpenAlert {
    /// When its horizon has passed, milliseconds since the Unix epoch.
    pub fn end_ms(&self) -> i64 {
        self.raised_ms.saturating_add(i64::from(self.churn_days) * DAY_MS)
    }
}

/// Whether an alert was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// No activity until the horizon had passed.
    Right,
    /// There was activity.
    Wrong,
    /// Closed before its horizon had passed, because the user had [`MAX_OPEN_ALERTS`] younger ones.
    Unknown,
}

impl Verdict {
    /// All verdicts.
    pub const ALL: [Self; 3] = [Self::Right, Self::Wrong, Self::Unknown];

    /// The name used on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Wrong => "wrong",
            Self::Unknown => "unknown",
        }
    }
}

/// What became of one alert.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The alert.
    pub alert: OpenAlert,
    /// Whether it was right.
    pub verdict: Verdict,
    /// Event time at which that was known, milliseconds since the Unix epoch: the end of its horizon, or, for one that was
    /// closed early, the moment of the alert that took its place.
    pub settled_ms: i64,
}

/// Outcomes of one decision: seldom more than one.
pub type Outcomes = SmallVec<[Outcome; 1]>;

/// Takes open alerts on: notes who came back, adds the alert `raised` now, and settles those whose horizon passed at or before
/// `settle_ms`. What is left is open still.
pub(super) fn settle(
    open: &[OpenAlert],
    raised: Option<OpenAlert>,
    graph: &UserGraph,
    activity: KindSet,
    settle_ms: i64,
) -> (Box<[OpenAlert]>, Outcomes) {
    let mut outcomes = Outcomes::new();
    if open.is_empty() && raised.is_none() {
        return (Box::default(), outcomes);
    }
    let raised_ms = raised.as_ref().map(|alert| alert.raised_ms);
    let mut left: Vec<OpenAlert> = Vec::with_capacity(open.len() + 1);
    left.extend(open.iter().cloned().chain(raised));
    for alert in &mut left {
        // Topics are read each at its own pace, so what is seen later may have happened earlier.
        let seen_ms = first_activity_ms(graph, activity, alert.raised_ms, alert.end_ms());
        alert.returned_ms = alert.returned_ms.into_iter().chain(seen_ms).min();
    }
    left.retain(|alert| {
        let is_over = alert.end_ms() <= settle_ms;
        if is_over {
            let verdict = if alert.returned_ms.is_some() { Verdict::Wrong } else { Verdict::Right };
            outcomes.push(Outcome { alert: alert.clone(), verdict, settled_ms: alert.end_ms() });
        }
        !is_over
    });
    while left.len() > MAX_OPEN_ALERTS {
        // One that is known to be wrong can be told without loss; else the oldest goes.
        let place = left.iter().position(|alert| alert.returned_ms.is_some()).unwrap_or(0);
        let alert = left.remove(place);
        let verdict = if alert.returned_ms.is_some() { Verdict::Wrong } else { Verdict::Unknown };
        let settled_ms = raised_ms.unwrap_or_else(|| alert.end_ms());
        outcomes.push(Outcome { alert, verdict, settled_ms });
    }
    (left.into_boxed_slice(), outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Event, EventKind, View},
        graph::GraphParams,
    };

    const HORIZON_DAYS: u32 = 30;

    fn graph(days: &[f64], params: &GraphParams) -> UserGraph {
        let mut graph = UserGraph::default();
        for (day, event_id) in days.iter().zip(1..) {
            #[expect(clippy::cast_possible_truncation, reason = "whole milliseconds")]
            let time_ms = (day * 86_400_000.0) as i64;
            let event = Event {
                user: "u".into(),
                kind: EventKind::View,
                time_ms,
                event_id,
                session: None,
                query: None,
                lines: SmallVec::new(),
            };
            graph.view_mut(View::Click).fold(&event, params);
        }
        graph
    }

    fn alert(raised_day: i64) -> OpenAlert {
        OpenAlert {
            id: u128::from(raised_day.unsigned_abs()),
            transition: Transition::Entered,
            level: RiskLevel::AtRisk,
            raised_ms: raised_day * DAY_MS,
            churn_days: HORIZON_DAYS,
            churn_probability: Probability::clamped(0.7),
            last_activity_ms: Some(0),
            returned_ms: None,
            model_version: Arc::from("m"),
        }
    }

    /// What is said of one alert raised on day 10 (horizon: before day 40) of a user active on `days`.
    #[track_caller]
    fn check(days: &[f64], settle_day: i64, expected: Option<Verdict>, returned_day: Option<f64>) {
        let params = GraphParams::default();
        let graph = graph(days, &params);
        let (left, outcomes) = settle(&[alert(10)], None, &graph, params.activity, settle_day * DAY_MS);
        assert_eq!(outcomes.first().map(|outcome| outcome.verdict), expected);
        assert_eq!(left.len() + outcomes.len(), 1);
        let returned_ms = left.first().or(outcomes.first().map(|outcome| &outcome.alert)).unwrap().returned_ms;
        #[expect(clippy::cast_precision_loss, reason = "days")]
        let found = returned_ms.map(|time_ms| time_ms as f64 / 86_400_000.0);
        assert_eq!(found, returned_day);
    }

    #[test]
    fn an_alert_is_settled_when_its_horizon_has_passed_and_not_before() {
        check(&[1.0, 10.0], 39, None, None);
        check(&[1.0, 10.0], 40, Some(Verdict::Right), None);
        check(&[1.0, 10.0, 20.5], 39, None, Some(20.5));
        check(&[1.0, 10.0, 20.5], 90, Some(Verdict::Wrong), Some(20.5));
    }

    #[test]
    fn what_comes_at_the_end_or_after_it_is_too_late_to_matter() {
        check(&[1.0, 40.0], 40, Some(Verdict::Right), None);
        check(&[1.0, 39.5, 41.0], 41, Some(Verdict::Wrong), Some(39.5));
        check(&[1.0, 41.0, 55.0], 55, Some(Verdict::Right), None);
        // Both in one batch, the one before the end first.
        check(&[1.0, 15.25, 18.0, 60.0], 60, Some(Verdict::Wrong), Some(15.25));
    }

    #[test]
    fn the_active_days_answer_when_the_ring_has_spilled() {
        let params = GraphParams { ring_capacity: 8, ..GraphParams::default() };
        let mut days = vec![1.0, 20.5];
        days.extend((0..40).map(|number| 50.0 + f64::from(number) / 4.0));
        let graph = graph(&days, &params);
        let (_, outcomes) = settle(&[alert(10)], None, &graph, params.activity, 60 * DAY_MS);
        assert_eq!(outcomes[0].verdict, Verdict::Wrong);
        assert_eq!(outcomes[0].alert.returned_ms, Some(20 * DAY_MS), "to the day");
    }

    #[test]
    fn open_alerts_are_bounded_and_none_is_lost() {
        let params = GraphParams::default();
        let graph = graph(&[1.0], &params);
        let mut open: Box<[OpenAlert]> = Box::default();
        let mut told = Vec::new();
        for day in 2..22 {
            let (left, outcomes) = settle(&open, Some(alert(day)), &graph, params.activity, day * DAY_MS);
            assert!(left.len() <= MAX_OPEN_ALERTS);
            told.extend(outcomes.into_iter().map(|outcome| (outcome.alert.id, outcome.verdict)));
            open = left;
        }
        let (left, outcomes) = settle(&open, None, &graph, params.activity, 99 * DAY_MS);
        assert!(left.is_empty());
        told.extend(outcomes.into_iter().map(|outcome| (outcome.alert.id, outcome.verdict)));
        assert_eq!(told.iter().map(|(id, _)| *id).collect::<Vec<_>>(), (2..22).collect::<Vec<u128>>());
        assert_eq!(told.iter().filter(|(_, verdict)| *verdict == Verdict::Unknown).count(), 12);
        assert!(told[12..].iter().all(|(_, verdict)| *verdict == Verdict::Right));
    }
}

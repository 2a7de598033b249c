//! Alerts of one user under any sequence of probabilities.

use std::collections::HashSet;

use proptest::prelude::*;
use undercurrent::{
    decision::{AlertState, DecisionParams, RiskLevel, Subject, Thresholds, Transition, alert_id},
    event::{PartitionId, UserId},
    score::Probability,
};

fn thresholds() -> impl Strategy<Value = Thresholds> {
    (0.05_f32..0.95, 0.0_f32..1.0, 0.0_f32..1.0).prop_map(|(enter, up, down)| Thresholds {
        enter,
        escalate: enter + (1.0 - enter) * up,
        recover: enter * down,
    })
}

proptest! {
    #[test]
    fn transitions_alternate_legally_and_ids_never_repeat(
        scores in prop::collection::vec((0.0_f32..=1.0, 0_i64..5_000), 0..200),
        thresholds in thresholds(),
        cooldown_ms in 0_i64..20_000,
    ) {
        let user = UserId::new("u1");
        let params = DecisionParams { cooldown_ms, ..DecisionParams::default() };
        let mut state = AlertState::default();
        let (mut as_of_ms, mut level) = (0, RiskLevel::Calm);
        let mut last_alert_ms: Option<i64> = None;
        let mut ids = HashSet::new();
        for (churn, step_ms) in scores {
            as_of_ms += step_ms;
            let churn = Probability::new(churn).unwrap();
            let before = state;
            let transition;
            (state, transition) = state.after(churn, as_of_ms, as_of_ms, &thresholds, &params);
            let Some(transition) = transition else {
                prop_assert_eq!(state, before);
                continue;
            };
            let legal = match transition {
                Transition::Entered => level == RiskLevel::Calm && state.level != RiskLevel::Calm,
                Transition::Escalated => level == RiskLevel::AtRisk && state.level == RiskLevel::HighRisk,
                Transition::Recovered => level != RiskLevel::Calm && state.level == RiskLevel::Calm,
            };
            prop_assert!(legal, "{:?} from {} to {}", transition, level, state.level);
            let waited_ms = last_alert_ms.map_or(i64::MAX, |last_ms| as_of_ms - last_ms);
            prop_assert!(transition == Transition::Recovered || waited_ms >= cooldown_ms);
            prop_assert_eq!(state.alert_count, before.alert_count + 1);
            let subject = Subject { user: &user, partition: PartitionId(0), erased_ms: None };
            let is_new = ids.insert(alert_id(subject, state.alert_count, 0));
            prop_assert!(is_new);
            (level, last_alert_ms) = (state.level, Some(as_of_ms));
        }
    }

    #[test]
    fn risk_that_stays_is_told_once_the_cooldown_is_over(thresholds in thresholds(), cooldown_ms in 1_i64..20_000) {
        let certain = Probability::new(1.0).unwrap();
        let entered = Probability::new(thresholds.enter).unwrap();
        prop_assume!(thresholds.enter < thresholds.escalate);
        let params = DecisionParams { cooldown_ms, ..DecisionParams::default() };
        let (state, first) = AlertState::default().after(entered, 0, 0, &thresholds, &params);
        let (waiting, none) = state.after(certain, cooldown_ms - 1, cooldown_ms, &thresholds, &params);
        let (_, second) = waiting.after(certain, cooldown_ms, cooldown_ms, &thresholds, &params);
        prop_assert_eq!((first, none, second), (Some(Transition::Entered), None, Some(Transition::Escalated)));
    }
}

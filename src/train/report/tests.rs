use std::collections::BTreeMap;

use super::{Baseline, ReportFacts, ReportInput, ReportUser, page};
use crate::train::metrics::ListMetrics;

/// 200 users, the risk of user `i` grows with `i`; those with `i % 10 >= 10 - i / 25` left.
fn input() -> ReportInput {
    let users = (0..200_u32)
        .map(|index| {
            let risk = f64::from(index) / 200.0;
            ReportUser {
                user_id: format!("<user {index}>"),
                labels: [index % 10 >= 10 - index / 25, index % 3 == 0],
                probabilities: [risk, 1.0 - risk],
                baselines: [
                    vec![Some(f64::from(index % 7)), None, Some(risk)],
                    vec![Some(f64::from(index % 5)), None, Some(1.0 - risk)],
                ],
                churn_a_week_before: (index % 2 == 0).then_some(risk),
                silent_days: f64::from(index % 40),
                known_days: f64::from(index),
                purchase_count: u64::from(index % 20),
                value_at_stake_minor: 1_000,
                category: Some(if index % 2 == 0 { "fruit & veg".to_owned() } else { "bread".to_owned() }),
                first_month: "2017-03".to_owned(),
                active_ages: vec![index % 40, 60, 400],
                factors: vec![super::Factor { name: "recency_days".to_owned(), value: None, effect: -0.5 }],
                attention: vec![0.25, 0.75],
            }
        })
        .collect();
    let list = ListMetrics { count: 10, recall_at_20: 0.25, ndcg_at_10: 0.3, hit_at_20: 0.5 };
    ReportInput {
        title: "a <shop>".to_owned(),
        cutoff_ms: 1_512_000_000_000,
        seed: 7,
        history_days: 90,
        churn_days: 30,
        purchase_days: 7,
        baselines: ["sevens", "silent", "part"]
            .map(|name| Baseline { name: name.to_owned(), thresholds: [3.0, 2.0], is_member: name == "part" })
            .to_vec(),
        thresholds: [0.5, 0.5],
        users,
        lists: BTreeMap::from([("items".to_owned(), BTreeMap::from([("model".to_owned(), list)]))]),
        attention_names: vec!["sequence".to_owned(), "context".to_owned()],
        ..ReportInput::default()
    }
}

#[test]
fn the_counts_add_up() {
    let input = input();
    let facts = ReportFacts::of(&input);
    let left = input.users.iter().filter(|user| user.labels[0]).count();
    let churn = &facts.heads[0];
    let c = churn.confusion;
    assert_eq!(c.true_positives + c.false_negatives, left);
    assert_eq!(c.true_positives + c.false_positives + c.false_negatives + c.true_negatives, 200);
    let names: Vec<&str> = churn.models.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["model", "part", "sevens"], "a baseline without answers is left out");
    assert_eq!(churn.roc[1].name, "sevens", "a member is no rival");
    assert!((churn.gains.last().unwrap().gain - 1.0).abs() < 1e-12, "all are found among all");
    assert_eq!(churn.calibration.iter().map(|bin| bin.count).sum::<usize>(), 200);
    assert_eq!(churn.roc[0].points.last(), Some(&[1.0, 1.0]));
    assert_eq!(facts.money.iter().map(|row| row.at_stake_minor).sum::<u64>(), 200_000);
    let by_history: usize = churn.segments.iter().filter(|row| row.by == "history").map(|row| row.metrics.count).sum();
    assert_eq!(by_history, 200);
    assert_eq!(facts.explained.len(), 5);
    assert!((facts.attention["sequence"][0] - 0.25).abs() < 1e-6);
}

#[test]
fn an_alert_row_says_who_is_new_and_how_far_ahead() {
    let facts = ReportFacts::of(&input());
    let own = facts.alerts.iter().find(|row| row.chosen).unwrap();
    assert_eq!(own.user_count, 100);
    // Odd users were not scored a week before; even ones had the same risk.
    assert_eq!(own.new_count, 50);
    let right: Vec<u32> = (100..200_u32).filter(|index| index % 10 >= 10 - index / 25).collect();
    let right_count = u32::try_from(right.len()).unwrap();
    assert!((own.precision - f64::from(right_count) / 100.0).abs() < 1e-12);
    let mut ahead: Vec<f64> = right.iter().map(|index| (30.0 - f64::from(index % 40)).max(0.0)).collect();
    ahead.sort_unstable_by(f64::total_cmp);
    let middle = f64::midpoint(ahead[(ahead.len() - 1) / 2], ahead[ahead.len() / 2]);
    assert!((own.days_ahead.unwrap() - middle).abs() < 1e-9);
    assert!(facts.alerts.windows(2).all(|pair| pair[0].threshold > pair[1].threshold));
}

#[test]
fn the_page_stands_alone_and_escapes_what_is_foreign() {
    let html = page(&ReportFacts::of(&input()));
    for outside in ["http://", "https://", "<script", "<link", "<img", "url("] {
        assert!(!html.contains(outside), "`{outside}` in the page");
    }
    assert!(!html.contains("<user") && html.contains("&lt;user"));
    assert!(!html.contains("NaN") && !html.contains("inf\""));
    let json = serde_json::to_string(&ReportFacts::of(&input())).unwrap();
    assert!(json.contains("\"sevens\""));
}

#[test]
fn nobody_leaving_is_no_reason_to_fail() {
    let mut input = input();
    for user in &mut input.users {
        user.labels = [false, false];
    }
    let html = page(&ReportFacts::of(&input));
    assert!(html.contains("–") && !html.contains("NaN"));
    input.users.truncate(3);
    assert!(!page(&ReportFacts::of(&input)).contains("NaN"));
}

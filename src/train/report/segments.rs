//! Groups of users a report looks at apart.

use std::collections::BTreeMap;

use super::facts::{ReportUser, SegmentRow};
use crate::train::metrics::{BinaryMetrics, auc_interval};

/// Groups of one kind shown at most, largest first.
const GROUPS: usize = 8;
/// Users a group must have to be shown: below it an interval says nothing.
const USERS: usize = 30;
/// Users known for fewer days are new.
const NEW_DAYS: f64 = 60.0;

/// The model within each group.
pub(super) fn rows(users: &[ReportUser], head: usize, threshold: f64, rounds: usize, seed: u64) -> Vec<SegmentRow> {
    let heavy = heavy_count(users);
    let history = |user: &ReportUser| {
        Some(if user.known_days < NEW_DAYS {
            "new (known less than 60 days)".to_owned()
        } else if user.purchase_count >= heavy {
            format!("heavy ({heavy} bought lines or more)")
        } else {
            format!("regular (fewer than {heavy} bought lines)")
        })
    };
    let category = |user: &ReportUser| user.category.clone();
    let month = |user: &ReportUser| (!user.first_month.is_empty()).then(|| user.first_month.clone());
    let mut found = grouped("history", users, &history, head, threshold, rounds, seed);
    found.extend(grouped("category", users, &category, head, threshold, rounds, seed));
    found.extend(grouped("first month", users, &month, head, threshold, rounds, seed));
    found
}

/// The purchases a user of the upper quarter has at least; 1 when nobody bought.
fn heavy_count(users: &[ReportUser]) -> u64 {
    let mut counts: Vec<u64> = users.iter().map(|user| user.purchase_count).collect();
    counts.sort_unstable();
    counts.get(counts.len() * 3 / 4).copied().unwrap_or(1).max(1)
}

fn grouped(
    by: &'static str,
    users: &[ReportUser],
    group_of: &dyn Fn(&ReportUser) -> Option<String>,
    head: usize,
    threshold: f64,
    rounds: usize,
    seed: u64,
) -> Vec<SegmentRow> {
    let mut groups: BTreeMap<String, Vec<&ReportUser>> = BTreeMap::new();
    for user in users {
        if let Some(name) = group_of(user) {
            groups.entry(name).or_default().push(user);
        }
    }
    let mut sized: Vec<(String, Vec<&ReportUser>)> =
        groups.into_iter().filter(|(_, members)| members.len() >= USERS).collect();
    sized.sort_by(|left, right| right.1.len().cmp(&left.1.len()).then_with(|| left.0.cmp(&right.0)));
    sized.truncate(GROUPS);
    sized
        .into_iter()
        .map(|(name, members)| {
            let labels: Vec<bool> = members.iter().map(|user| user.labels[head]).collect();
            let scores: Vec<f64> = members.iter().map(|user| user.probabilities[head]).collect();
            SegmentRow {
                by,
                name,
                metrics: BinaryMetrics::of(&labels, &scores, threshold),
                roc_auc_interval: auc_interval(&labels, &scores, rounds, seed),
            }
        })
        .collect()
}

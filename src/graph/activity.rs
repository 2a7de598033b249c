//! Whether a user came back, and when: activity between two moments, as far as a bounded graph says it.

use super::{KindSet, UserGraph, ViewGraph};
use crate::event::DAY_MS;

/// The first activity after `after_ms` and before `end_ms`, milliseconds since the Unix epoch, to the second.
///
/// Where a ring has spilled since `after_ms` the active days answer: whole days between the two moments. Open alerts are looked at
/// after every batch that holds an event of their user, so the ring nearly always has what happened since.
pub fn first_activity_ms(graph: &UserGraph, activity: KindSet, after_ms: i64, end_ms: i64) -> Option<i64> {
    if graph.last_activity_ms().is_none_or(|last_ms| last_ms <= after_ms) {
        return None;
    }
    let in_view = |view: &ViewGraph| first_in_view(view, activity, after_ms, end_ms);
    graph.views().filter_map(|(_, view)| in_view(view)).min()
}

fn first_in_view(view: &ViewGraph, activity: KindSet, after_ms: i64, end_ms: i64) -> Option<i64> {
    let within = |time_ms: &i64| (after_ms + 1..end_ms).contains(time_ms);
    let last_ms = Some(view.summary().last_activity_ms).filter(within);
    let mut entries = view.ring().filter(|entry| activity.contains(entry.kind));
    let in_ring = entries.find_map(|entry| Some(i64::from(entry.time_s) * 1_000).filter(within));
    let first_ms = in_ring.into_iter().chain(last_ms).min();
    if view.settled().is_none() {
        return first_ms;
    }
    let whole_day = |day: i32| {
        let start_ms = i64::from(day) * DAY_MS;
        Some(start_ms).filter(|start_ms| within(start_ms) && start_ms + DAY_MS <= end_ms)
    };
    let in_days = view.days().iter().filter_map(whole_day).min();
    // The day of what the ring knows begins before it.
    match (first_ms, in_days) {
        (Some(first_ms), Some(day_ms)) if first_ms.div_euclid(DAY_MS) * DAY_MS <= day_ms => Some(first_ms),
        (first_ms, in_days) => in_days.or(first_ms),
    }
}

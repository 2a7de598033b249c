//! When a silent user is due for a new score, and the moment a score stands for. Pure functions of the graph and of the
//! partition's watermark, so every run over the same events asks for the same scores.

use smallvec::SmallVec;

use super::UserGraph;
use crate::event::DAY_MS;

/// Silences at which a user is due, in halves of the typical gap.
const LEVELS_HALF_GAPS: [i64; 7] = [2, 3, 4, 6, 8, 12, 16];
/// After this long a silence a user is not scored again until an event comes.
pub const MAX_SILENCE_DAYS: i64 = 180;
/// The typical gap of a user with fewer than two gaps.
pub const DEFAULT_GAP_DAYS: i64 = 7;
/// Bounds of the typical gap.
pub const GAP_RANGE_DAYS: (i64, i64) = (1, 30);
/// Newest gaps that count.
const RECENT_GAPS: usize = 16;

/// The user's typical gap between active days: the median of the newest 16 gaps (of two middle ones the lower), at least
/// 1 and at most 30 days; 7 days with fewer than two gaps.
pub fn typical_gap_ms(graph: &UserGraph) -> i64 {
    let newest: SmallVec<[i32; RECENT_GAPS + 1]> = graph.newest_activity_days().take(RECENT_GAPS + 1).collect();
    let mut gaps: SmallVec<[i64; RECENT_GAPS]> =
        newest.windows(2).map(|pair| i64::from(pair[0]) - i64::from(pair[1])).collect();
    if gaps.len() < 2 {
        return DEFAULT_GAP_DAYS * DAY_MS;
    }
    gaps.sort_unstable();
    gaps[(gaps.len() - 1) / 2].clamp(GAP_RANGE_DAYS.0, GAP_RANGE_DAYS.1) * DAY_MS
}

/// The instants at which the user is due while silent, rising: `last + gap × {1, 1.5, 2, 3, 4, 6, 8}` up to 180 days of
/// silence, where `last` is the newest activity (the newest event for a user without activity). Empty for an empty graph.
pub fn levels_ms(graph: &UserGraph) -> SmallVec<[i64; LEVELS_HALF_GAPS.len()]> {
    let Some(last_ms) = graph.last_activity_ms().or_else(|| graph.last_event_ms()) else { return SmallVec::new() };
    let gap_ms = typical_gap_ms(graph);
    LEVELS_HALF_GAPS
        .into_iter()
        .map(|halves| gap_ms * halves / 2)
        .filter(|silence_ms| *silence_ms <= MAX_SILENCE_DAYS * DAY_MS)
        .map(|silence_ms| last_ms.saturating_add(silence_ms))
        .collect()
}

/// The first due instant after `after_ms`, milliseconds since the Unix epoch.
pub fn next_due_ms(graph: &UserGraph, after_ms: i64) -> Option<i64> {
    levels_ms(graph).into_iter().find(|level_ms| *level_ms > after_ms)
}

/// The moment a score of this graph stands for when the partition's watermark is at `watermark_ms`: the newest event, or
/// the last due instant that the watermark has reached, whichever is later. `None` for an empty graph.
pub fn as_of_ms(graph: &UserGraph, watermark_ms: i64) -> Option<i64> {
    moment(graph, watermark_ms).map(|moment| moment.as_of_ms)
}

/// A moment of scoring and what comes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// See [`as_of_ms`].
    pub as_of_ms: i64,
    /// The first due instant after it; see [`next_due_ms`].
    pub next_due_ms: Option<i64>,
}

/// [`as_of_ms`] and the [`next_due_ms`] after it, for the price of one.
pub fn moment(graph: &UserGraph, watermark_ms: i64) -> Option<Moment> {
    let last_ms = graph.last_event_ms()?;
    let levels_ms = levels_ms(graph);
    let reached_ms = levels_ms.iter().copied().take_while(|level_ms| *level_ms <= watermark_ms).last();
    let as_of_ms = reached_ms.map_or(last_ms, |level_ms| level_ms.max(last_ms));
    Some(Moment { as_of_ms, next_due_ms: levels_ms.into_iter().find(|level_ms| *level_ms > as_of_ms) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Event, EventKind},
        graph::GraphParams,
    };

    /// A user with these events: kind and time in days.
    fn user(events: &[(EventKind, f64)]) -> UserGraph {
        let mut graph = UserGraph::default();
        for ((kind, day), event_id) in events.iter().zip(1..) {
            let event = Event {
                user: "u".into(),
                kind: *kind,
                time_ms: ms(*day),
                event_id,
                session: None,
                query: None,
                lines: SmallVec::new(),
            };
            graph.view_mut(kind.view()).fold(&event, &GraphParams::default());
        }
        graph
    }

    #[expect(clippy::cast_possible_truncation, reason = "whole milliseconds")]
    fn ms(day: f64) -> i64 {
        (day * 86_400_000.0) as i64
    }

    fn views(days: &[f64]) -> UserGraph {
        user(&days.iter().map(|day| (EventKind::View, *day)).collect::<Vec<_>>())
    }

    #[track_caller]
    fn check(graph: &UserGraph, watermark_day: f64, as_of_day: f64, next_due_day: Option<f64>) {
        assert_eq!(as_of_ms(graph, ms(watermark_day)), Some(ms(as_of_day)));
        assert_eq!(next_due_ms(graph, ms(watermark_day)), next_due_day.map(ms));
        let moment = moment(graph, ms(watermark_day)).unwrap();
        assert_eq!(moment.as_of_ms, ms(as_of_day));
        assert_eq!(moment.next_due_ms, next_due_ms(graph, moment.as_of_ms));
    }

    #[test]
    fn a_new_user_is_due_by_weeks() {
        let graph = views(&[100.25]);
        check(&graph, 100.25, 100.25, Some(107.25));
        check(&graph, 107.25, 107.25, Some(110.75));
        check(&graph, 109.0, 107.25, Some(110.75));
        check(&graph, 156.25, 156.25, None);
        check(&graph, 1_000.0, 156.25, None);
    }

    #[test]
    fn a_known_user_is_due_by_the_median_gap() {
        // Gaps 2, 4, 3, 40: of the two middle ones the lower.
        let graph = views(&[100.0, 102.0, 106.0, 109.0, 149.0]);
        assert_eq!(typical_gap_ms(&graph), 3 * DAY_MS);
        check(&graph, 151.0, 149.0, Some(152.0));
        check(&graph, 155.0, 155.0, Some(158.0));
    }

    #[test]
    fn gaps_are_bounded_and_silence_ends() {
        assert_eq!(typical_gap_ms(&views(&[100.0, 200.0, 300.0])), 30 * DAY_MS);
        // 30 × 8 is past 180 days, 30 × 6 is not.
        check(&views(&[100.0, 200.0, 300.0]), 900.0, 480.0, None);
        assert_eq!(typical_gap_ms(&views(&[100.0, 100.1, 100.9])), DEFAULT_GAP_DAYS * DAY_MS, "one day, no gap");
    }

    #[test]
    fn silence_counts_from_activity_and_scores_never_stand_before_an_event() {
        let graph = user(&[(EventKind::Purchase, 100.0), (EventKind::Other, 108.0)]);
        check(&graph, 107.5, 108.0, Some(110.5));
        check(&graph, 110.5, 110.5, Some(114.0));
    }

    #[test]
    fn views_count_together() {
        let graph = user(&[(EventKind::View, 100.0), (EventKind::Search, 105.0), (EventKind::Purchase, 110.0)]);
        assert_eq!(typical_gap_ms(&graph), 5 * DAY_MS);
    }

    #[test]
    fn an_empty_graph_is_never_due() {
        assert_eq!(as_of_ms(&UserGraph::default(), i64::MAX), None);
        assert_eq!(next_due_ms(&UserGraph::default(), 0), None);
    }
}

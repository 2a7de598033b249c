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
    let days = graph.activity_days();
    let newest: SmallVec<[i32; RECENT_GAPS + 1]> = days.iter().take(RECENT_GAPS + 1).collect();
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
    let last_ms = graph.last_event_ms()?;
    let reached_ms = levels_ms(graph).into_iter().take_while(|level_ms| *level_ms <= watermark_ms).last();
    Some(reached_ms.map_or(last_ms, |level_ms| level_ms.max(last_ms)))
}

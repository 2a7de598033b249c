//! Features of amounts over time: events, spend, baskets, when in the week and the day, and what came after a purchase.

#![expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "counts and amounts become features")]

use super::row::Row;
use crate::{
    event::{DAY_MS, EventKind, View},
    graph::{ExpandedGraph, ExpandedView, Totals, ViewSummary},
};

/// Windows over the weekly histories.
const WINDOWS_WEEKS: [usize; 5] = [1, 2, 4, 8, 16];

/// Appends all features of this file.
pub(super) fn put(row: &mut Row, graph: &ExpandedGraph, as_of_ms: i64) {
    for view in View::ALL {
        put_counts(row, view, graph.view(view).map(|graph| (graph.totals(), graph.summary())), as_of_ms);
    }
    put_spend(row, graph, as_of_ms);
    put_kinds(row, graph);
    put_calendar(row, graph, as_of_ms);
    put_since_purchase(row, graph);
    put_sessions(row, graph, as_of_ms);
}

fn put_counts(row: &mut Row, view: View, known: Option<(&Totals, &ViewSummary)>, as_of_ms: i64) {
    let totals = known.map(|(totals, _)| totals);
    let name = view.name();
    row.put(format_args!("{name}_events_ever"), "events", totals.map(|totals| totals.event_count as f64));
    row.put(
        format_args!("{name}_events_per_active_day"),
        "events",
        known.map(|(totals, summary)| totals.event_count as f64 / f64::from(summary.day_count.max(1))),
    );
    row.put(
        format_args!("{name}_lines_per_event"),
        "lines",
        totals.map(|totals| totals.line_count as f64 / (totals.event_count.max(1)) as f64),
    );
    for weeks in WINDOWS_WEEKS {
        let count = totals.map(|totals| week_sum(totals, &totals.week_event_count, as_of_ms, 0, weeks));
        row.put(format_args!("{name}_events_{weeks}w"), "events", count);
    }
}

fn put_spend(row: &mut Row, graph: &ExpandedGraph, as_of_ms: i64) {
    let view = graph.view(View::Purchase).filter(|view| view.totals().value_minor > 0);
    let totals = view.map(ExpandedView::totals);
    let spend = |from: usize, through: usize| {
        totals.map(|totals| week_sum(totals, &totals.week_value_minor, as_of_ms, from, through))
    };
    row.put(format_args!("spend_ever"), "minor units", totals.map(|totals| totals.value_minor as f64));
    for weeks in WINDOWS_WEEKS {
        row.put(format_args!("spend_{weeks}w"), "minor units", spend(0, weeks));
    }
    let trend = |weeks: usize| {
        spend(0, weeks).zip(spend(weeks, 2 * weeks)).map(|(new, old)| ((new + 100.0) / (old + 100.0)).ln())
    };
    row.put(format_args!("spend_trend_4w"), "log ratio", trend(4));
    row.put(format_args!("spend_trend_8w"), "log ratio", trend(8));
    let mean_day = view.map(|view| view.totals().value_minor as f64 / f64::from(view.summary().day_count.max(1)));
    row.put(format_args!("spend_per_active_day"), "minor units", mean_day);
    // The basket is what was bought on the day of the newest purchase: senders differ in how they cut orders.
    let last_day = view.map(|view| {
        let newest = view.ring().last().map_or(0, |entry| i64::from(entry.time_s) * 1_000 / DAY_MS);
        let same_day = |entry: &&crate::graph::RingEntry| i64::from(entry.time_s) * 1_000 / DAY_MS == newest;
        view.ring()
            .iter()
            .rev()
            .take_while(same_day)
            .fold((0.0, 0.0), |(value, lines), entry| (value + f64::from(entry.value_minor), lines + 1.0))
    });
    row.put(format_args!("last_basket"), "minor units", last_day.map(|(value, _)| value));
    row.put(format_args!("last_basket_lines"), "lines", last_day.map(|(_, lines)| lines));
    let against_mean = last_day.zip(mean_day).map(|((value, _), mean)| value / mean.max(1.0));
    row.put(format_args!("last_basket_against_mean"), "ratio", against_mean);
    row.put(
        format_args!("value_per_unit"),
        "minor units",
        totals.map(|totals| totals.value_minor as f64 / totals.quantity.max(1) as f64),
    );
}

/// See [`expected_value_minor`](super::expected_value_minor).
#[expect(clippy::cast_sign_loss, reason = "sums of amounts are not negative")]
pub(super) fn expected_value_minor(graph: &ExpandedGraph, as_of_ms: i64, horizon_days: i32) -> u64 {
    let Some(view) = graph.view(View::Purchase) else { return 0 };
    let totals = view.totals();
    let recent = week_sum(totals, &totals.week_value_minor, as_of_ms, 0, totals.week_value_minor.len());
    let known_days = (as_of_ms - view.summary().first_ms).max(0) as f64 / DAY_MS as f64;
    let days = known_days.clamp(14.0, 7.0 * totals.week_value_minor.len() as f64);
    (recent / days * f64::from(horizon_days)).round() as u64
}

fn put_kinds(row: &mut Row, graph: &ExpandedGraph) {
    let mut counts = [0.0; EventKind::ALL.len()];
    for view in View::ALL.into_iter().filter_map(|view| graph.view(view)) {
        for (sum, count) in counts.iter_mut().zip(view.totals().kind_count) {
            *sum += f64::from(count);
        }
    }
    let total: f64 = counts.iter().sum();
    for (kind, count) in EventKind::ALL.into_iter().zip(counts) {
        row.put(format_args!("kind_share_{}", kind.name()), "share", (total > 0.0).then(|| count / total));
    }
}

/// When in the week and day the user is active, and how much of their week lies right ahead.
fn put_calendar(row: &mut Row, graph: &ExpandedGraph, as_of_ms: i64) {
    let (mut weekdays, mut dayparts) = ([0.0; 7], [0.0; 4]);
    for view in View::ALL.into_iter().filter_map(|view| graph.view(view)) {
        let totals = view.totals();
        for (sum, count) in weekdays.iter_mut().zip(totals.weekday_count) {
            *sum += f64::from(count);
        }
        for (sum, count) in dayparts.iter_mut().zip(totals.daypart_count) {
            *sum += f64::from(count);
        }
    }
    let total: f64 = weekdays.iter().sum();
    let share = |count: f64| (total > 0.0).then(|| count / total);
    for (weekday, count) in weekdays.iter().enumerate() {
        row.put(format_args!("weekday_share_{weekday}"), "share", share(*count));
    }
    for (daypart, count) in dayparts.iter().enumerate() {
        row.put(format_args!("daypart_share_{daypart}"), "share", share(*count));
    }
    let today = weekday(as_of_ms);
    let ahead = weekdays[(today + 1) % 7] + weekdays[(today + 2) % 7] + weekdays[(today + 3) % 7];
    row.put(format_args!("weekday_share_next_3"), "share", share(ahead));
}

/// What the user did after the newest purchase: interest that was not met.
fn put_since_purchase(row: &mut Row, graph: &ExpandedGraph) {
    let bought_s = graph.view(View::Purchase).and_then(|view| view.ring().last()).map_or(0, |entry| entry.time_s);
    let count = |view: View, kinds: &[EventKind]| {
        graph.view(view).map(|view| {
            let later = view.ring().iter().rev().take_while(|entry| entry.time_s > bought_s);
            later.filter(|entry| kinds.contains(&entry.kind)).count() as f64
        })
    };
    let carts = count(View::Click, &[EventKind::CartAdd]);
    row.put(format_args!("views_since_purchase"), "events", count(View::Click, &[EventKind::View]));
    row.put(format_args!("cart_adds_since_purchase"), "events", carts);
    row.put(format_args!("cart_removes_since_purchase"), "events", count(View::Click, &[EventKind::CartRemove]));
    row.put(format_args!("others_since_purchase"), "events", count(View::Click, &[EventKind::Other]));
    row.put(format_args!("searches_since_purchase"), "events", count(View::Search, &[EventKind::Search]));
}

/// Sessions by silence: how long the newest one was and how many there were lately.
fn put_sessions(row: &mut Row, graph: &ExpandedGraph, as_of_ms: i64) {
    let mut times: Vec<i64> = View::ALL
        .into_iter()
        .filter_map(|view| graph.view(view))
        .flat_map(|view| view.ring().iter().map(|entry| i64::from(entry.time_s)))
        .collect();
    times.sort_unstable();
    let now_s = as_of_ms / 1_000;
    let is_start = |index: usize| index == 0 || times[index] - times[index - 1] > 1_800;
    let starts: Vec<usize> = (0..times.len()).filter(|index| is_start(*index)).collect();
    let newest = starts.last().copied();
    row.put(format_args!("last_session_events"), "events", newest.map(|start| (times.len() - start) as f64));
    let length = newest.map(|start| (times[times.len() - 1] - times[start]) as f64 / 60.0);
    row.put(format_args!("last_session_minutes"), "minutes", length);
    for days in [7, 30] {
        let since = now_s - days * 86_400;
        let recent = starts.iter().rev().take_while(|start| times[**start] >= since).count();
        row.put(format_args!("recent_sessions_{days}d"), "sessions", newest.map(|_| recent as f64));
    }
}

/// Sum of the weeks `from..through` before the moment (0 is the moment's week); `weekly` is newest first.
fn week_sum<T: Copy + Into<f64>>(totals: &Totals, weekly: &[T; 16], as_of_ms: i64, from: usize, through: usize) -> f64 {
    let silent_weeks = i64::from(week_of(as_of_ms)) - i64::from(totals.week_newest);
    let silent_weeks = usize::try_from(silent_weeks.max(0)).unwrap_or(usize::MAX);
    let place = |week: usize| week.saturating_sub(silent_weeks).min(weekly.len());
    let (start, end) = (place(from), place(through));
    weekly[start..end.max(start)].iter().map(|count| (*count).into()).sum()
}

/// Number of the week (weeks since the epoch, UTC).
fn week_of(time_ms: i64) -> i32 {
    time_ms.div_euclid(7 * DAY_MS) as i32
}

/// Day of the week, Monday 0, UTC.
pub(super) fn weekday(time_ms: i64) -> usize {
    usize::try_from((time_ms.div_euclid(DAY_MS) + 3).rem_euclid(7)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_was_a_thursday() {
        assert_eq!(weekday(0), 3);
        assert_eq!(weekday(-1), 2);
        assert_eq!(weekday(4 * DAY_MS), 0);
    }

    #[test]
    fn weeks_are_counted_from_the_moment_not_from_the_newest_event() {
        let mut totals = Totals { week_newest: 100, ..Totals::default() };
        totals.week_event_count[0] = 3;
        totals.week_event_count[1] = 5;
        let sum = |week: i64, from, through| {
            let as_of_ms = week * 7 * DAY_MS;
            week_sum(&totals, &totals.week_event_count, as_of_ms, from, through)
        };
        for (week, from, through, expected) in [
            (100, 0, 1, 3.0),
            (100, 0, 2, 8.0),
            (102, 0, 2, 0.0),
            (102, 0, 3, 3.0),
            (102, 2, 4, 8.0),
            (500, 0, 16, 0.0),
        ] {
            assert!((sum(week, from, through) - expected).abs() < 1e-9, "week {week}, {from}..{through}");
        }
    }
}

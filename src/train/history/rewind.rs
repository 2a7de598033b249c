//! An earlier graph from a later one, as far as a bounded graph can say it exactly.
//!
//! A graph keeps its recent lines with their times (the ring) and only sums of what is older (the settled part). So it can
//! be taken back to a moment that its ring reaches, and to no earlier one. What comes out says exactly which events there
//! had been: counts, active days, items bought. It is not bit-equal to the graph of that time where the ring has spilled
//! since: what the spill evicted is gone, so features are read from a graph that had not to be taken back far.

use std::sync::Arc;

use crate::{
    event::{DAY_MS, View},
    graph::{DayBits, GraphParams, RingEntry, Settled, UserGraph, ViewGraph, ViewSummary, day_of},
};

/// What a graph says of an earlier moment.
#[derive(Debug, Clone, PartialEq)]
pub enum Rewound {
    /// Nothing happened since: the graph itself.
    Same,
    /// The graph as it was.
    Earlier(UserGraph),
    /// There was no event yet.
    Nothing,
    /// The ring does not reach back so far.
    Unknown,
}

/// Takes `graph` back to what was known before every event at or after `moment_ms` (milliseconds since the Unix epoch).
///
/// Lines are kept by the second, so at a moment within a second in which something happened the answer is
/// [`Rewound::Unknown`]; instants of the result (`last_ms`, `last_activity_ms`) are exact to the second.
///
/// One thing escapes: an event that came so late that it was older than everything in a ring that had spilled already.
/// It is taken for what it is where the settled part still has its node, and else for as old as the ring is.
pub fn rewound(graph: &UserGraph, moment_ms: i64, params: &GraphParams) -> Rewound {
    if graph.last_event_ms().is_none_or(|last_ms| last_ms < moment_ms) {
        return Rewound::Same;
    }
    let mut views: [Option<Arc<ViewGraph>>; View::COUNT] = Default::default();
    for view in View::ALL {
        let Some(shared) = graph.shared_view(view) else { continue };
        let summary = shared.summary();
        if summary.last_ms < moment_ms {
            views[view.index()] = Some(Arc::clone(shared));
        } else if summary.first_ms < moment_ms {
            let Some(earlier) = rewound_view(shared, moment_ms, params) else { return Rewound::Unknown };
            views[view.index()] = Some(Arc::new(earlier));
        }
    }
    let earlier = UserGraph::from_views(views);
    if earlier.is_empty() { Rewound::Nothing } else { Rewound::Earlier(earlier) }
}

/// A view with events on both sides of the moment; `None` when it cannot say which.
fn rewound_view(view: &ViewGraph, moment_ms: i64, params: &GraphParams) -> Option<ViewGraph> {
    let moment_s = moment_ms.div_euclid(1_000);
    let within_second = moment_ms.rem_euclid(1_000) != 0;
    let mut parts = view.to_parts();
    let time_of = |entry: &RingEntry| i64::from(entry.time_s);
    if within_second && parts.ring.iter().any(|entry| time_of(entry) == moment_s) {
        return None;
    }
    let oldest_s = parts.ring.first().map(time_of)?;
    if let Some(settled) = parts.settled.as_deref()
        && (oldest_s >= moment_s || settled_newest_s(settled) >= moment_s)
    {
        return None;
    }
    let kept = parts.ring.partition_point(|entry| time_of(entry) < moment_s);
    let removed = parts.ring.split_off(kept);
    let is_activity = |entry: &&RingEntry| params.activity.contains(entry.kind);
    let events = |entries: &[RingEntry]| entries.iter().filter(|entry| entry.opens_event).count();
    let active = |entries: &[RingEntry]| entries.iter().filter(|entry| entry.opens_event).filter(is_activity).count();
    let summary = &mut parts.summary;
    summary.event_count = less(summary.event_count, events(&removed))?;
    summary.activity_count = less(summary.activity_count, active(&removed))?;
    summary.last_ms = parts.ring.last().map(time_of)? * 1_000;
    if summary.last_activity_ms >= moment_ms {
        summary.last_activity_ms = match parts.ring.iter().rev().find(is_activity) {
            Some(entry) => time_of(entry) * 1_000,
            None if parts.settled.is_none() => ViewSummary::NEVER_MS,
            None => return None,
        };
    }
    // A day stays active by what stays of it in the ring; the day the ring begins in may have been active before.
    let day = |entry: &RingEntry| day_of(time_of(entry) * 1_000);
    let mut gone: Vec<i32> = removed.iter().filter(is_activity).map(day).collect();
    gone.dedup();
    gone.retain(|gone| !parts.ring.iter().filter(is_activity).any(|entry| day(entry) == *gone));
    if parts.settled.is_some() && gone.iter().any(|gone| i64::from(*gone) * (DAY_MS / 1_000) <= oldest_s) {
        return None;
    }
    if !gone.is_empty() {
        let mut days: Vec<i32> = parts.days.iter().filter(|day| !gone.contains(day)).collect();
        days.reverse();
        parts.summary.day_count = less(parts.summary.day_count, gone.len())?;
        parts.days = DayBits::default();
        for day in days {
            parts.days.set(day);
        }
    }
    Some(ViewGraph::from_parts(parts))
}

/// The newest time that the settled part names, seconds since the Unix epoch; `i64::MIN` when it names none.
fn settled_newest_s(settled: &Settled) -> i64 {
    settled.nodes.iter().map(|node| i64::from(node.last_s)).max().unwrap_or(i64::MIN)
}

/// A counter without what was removed; `None` for a counter that has stopped at its end, or never counted it.
fn less(counter: u32, removed: usize) -> Option<u32> {
    if counter == u32::MAX && removed > 0 {
        return None;
    }
    counter.checked_sub(u32::try_from(removed).ok()?)
}

//! Building a partition's state: newest snapshot, then the input log up to the committed positions, then the last scores.
//!
//! Nothing is scored here. What was scored before the restart is in the `scores` topic, and what was due and not yet
//! scored comes up again by itself, because due times are a function of the graphs.

use tracing::error;

use super::{
    GapPolicy, PartitionHandle, Sink, SnapshotStore, Source, StreamError, StreamParams,
    fold::FoldContext,
    guard::{self, Guard},
    outputs,
    timers::Timers,
};
use crate::{
    decision::ScoreBook,
    event::{Offset, PartitionId, Positions, View},
    graph::{PartitionState, WriteSet, due},
    metrics as names,
};

/// What a restore made.
pub(super) struct Restored {
    pub(super) handle: PartitionHandle,
    pub(super) timers: Timers,
    /// Records folded again.
    pub(super) record_count: u64,
    /// Whether a snapshot shortened it.
    pub(super) from_snapshot: bool,
    /// Where reading goes on: the committed positions, or past a gap that is accepted.
    pub(super) start: Positions,
    /// Stored scores that could not be read. Their users are scored again.
    pub(super) unreadable_score_count: u64,
}

/// Restores `partition` at `committed`.
pub(super) fn restore_blocking<L: Source + Sink>(
    log: &mut L,
    snapshots: &mut dyn SnapshotStore,
    fold: FoldContext<'_>,
    params: &StreamParams,
    partition: PartitionId,
    committed: Positions,
) -> Result<Restored, StreamError> {
    let end = log.end_blocking(partition)?;
    if !committed.at_or_before(&end) {
        return Err(StreamError::LogShrank { partition, committed, end });
    }
    let loaded = snapshots
        .load_blocking(partition, &committed)
        .map_err(|message| StreamError::Snapshot { partition, message })?;
    let from_snapshot = loaded.is_some();
    let state = loaded.unwrap_or_else(|| PartitionState::new(partition));
    let from = state.progress().next_offsets;
    debug_assert!(from.at_or_before(&committed), "POS-2: snapshot at {from}, committed {committed}");
    let earliest = log.earliest_blocking(partition)?;
    let from = after_gap(params, partition, from, committed, earliest)?;
    // What comes next may be gone too, however well the state is known. A topic of which nothing was read has no gap.
    let unread = |view| if committed.get(view) == Offset(0) { earliest.get(view) } else { committed.get(view) };
    let start = after_gap(params, partition, Positions(View::ALL.map(unread)), end, earliest)?;

    let mut record_count = 0;
    log.replay_blocking(partition, from, committed, &mut |batch| {
        record_count += batch.len() as u64;
        fold.fold_into(&state, batch, |changed| snapshots.replayed(partition, changed));
    })?;
    finish_at(&state, committed);
    debug_assert_eq!(
        state.progress().next_offsets,
        committed,
        "POS-2: a restored state stands at the committed positions"
    );

    let handle = PartitionHandle::new(state, ScoreBook::default());
    let (timers, unreadable_score_count) = read_scores_blocking(log, &handle)?;
    Ok(Restored { handle, timers, record_count, from_snapshot, start, unreadable_score_count })
}

/// Reads the last scores of a partition into its book and schedules its users anew. Returns also how many stored scores could
/// not be read.
pub(super) fn read_scores_blocking<L: Sink>(
    log: &mut L,
    handle: &PartitionHandle,
) -> Result<(Timers, u64), StreamError> {
    let mut unreadable_score_count = 0;
    log.read_scores_blocking(handle.state.partition(), &mut |key, payload| {
        if !outputs::restore_into(&handle.scores, key, payload) {
            unreadable_score_count += 1;
        }
    })?;
    Ok((timers_of(&handle.state, &handle.scores), unreadable_score_count))
}

/// Aborted records and markers at the end of a range are passed without being delivered.
pub(super) fn finish_at(state: &PartitionState, committed: Positions) {
    let mut write_set = WriteSet::on(state);
    for view in View::ALL {
        let last = Offset(committed.get(view).0 - 1);
        if last.0 >= 0 && !write_set.progress().has_folded(view, last) {
            write_set.skip(view, last);
        }
    }
    write_set.publish(state);
}

/// Where reading `[from, to)` begins: at `from`, unless retention has passed it.
fn after_gap(
    params: &StreamParams,
    partition: PartitionId,
    from: Positions,
    to: Positions,
    earliest: Positions,
) -> Result<Positions, StreamError> {
    let mut begin = from;
    for view in View::ALL {
        let (state, there) = (from.get(view), earliest.get(view).min(to.get(view)));
        if state >= there {
            continue;
        }
        let earliest = earliest.get(view);
        match params.gap {
            GapPolicy::Refuse => return Err(StreamError::Gap { partition, view, state, earliest }),
            GapPolicy::Accept => {
                error!(%partition, view = view.name(), %state, %earliest, "records are gone: going on without them");
                let gone = u64::try_from(there.0 - state.0).unwrap_or(0);
                metrics::counter!(names::STREAM_GAP_RECORDS, "view" => view.name()).increment(gone);
                begin.set(view, there);
            }
        }
    }
    Ok(begin)
}

/// Schedules every user: at the next due instant after its last score, or at once when it has none; and at the end of its
/// first open alert.
fn timers_of(state: &PartitionState, scores: &ScoreBook) -> Timers {
    let mut timers = Timers::default();
    if guard::holds(Guard::DeadlinesRestored) {
        scores.for_each(|user, score| {
            if let Some(end_ms) = score.settles_ms() {
                timers.deadlines.schedule(user, end_ms);
            }
        });
    }
    if !guard::holds(Guard::TimersRestored) {
        return timers;
    }
    state.graphs.for_each(|user, graph| {
        let due_ms = match scores.get(user.as_str()) {
            Some(score) => due::next_due_ms(graph, score.as_of_ms),
            None => graph.last_event_ms(),
        };
        if let Some(due_ms) = due_ms {
            timers.due.schedule(user, due_ms);
        }
    });
    timers
}

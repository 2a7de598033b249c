//! A partition's state at any positions, read from the input log by itself: for audits. Nothing is committed, and no group
//! is joined.

use super::{LogError, RecordBatch, Source, StreamError, fold::FoldContext, restore::finish_at};
use crate::{
    event::{Decoder, PartitionId, Positions, View},
    graph::{GraphParams, PartitionState},
};

/// An input log that can be read again.
pub trait InputLog {
    /// The first offset still in the log of each topic.
    fn earliest_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError>;

    /// Reads `[from, to)` of `partition` in batches, as [`Source::replay_blocking`] does.
    fn replay_blocking(
        &mut self,
        partition: PartitionId,
        from: Positions,
        to: Positions,
        visit: &mut dyn FnMut(&RecordBatch),
    ) -> Result<(), LogError>;
}

impl<L: Source> InputLog for L {
    fn earliest_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError> {
        Source::earliest_blocking(self, partition)
    }

    fn replay_blocking(
        &mut self,
        partition: PartitionId,
        from: Positions,
        to: Positions,
        visit: &mut dyn FnMut(&RecordBatch),
    ) -> Result<(), LogError> {
        Source::replay_blocking(self, partition, from, to, visit)
    }
}

/// Folds the records from where `state` stands up to `to` (exclusive) into it, without scoring, and returns how many they
/// were. `to` must be at or after the state's positions in every topic.
pub fn advance_blocking(
    log: &mut dyn InputLog,
    decoder: &Decoder,
    params: &GraphParams,
    state: &PartitionState,
    to: Positions,
) -> Result<u64, StreamError> {
    let (partition, from) = (state.partition(), state.progress().next_offsets);
    debug_assert!(from.at_or_before(&to), "a state at {from} cannot go back to {to}");
    let earliest = log.earliest_blocking(partition)?;
    for view in View::ALL {
        let (state, earliest) = (from.get(view), earliest.get(view));
        if state < earliest && state < to.get(view) {
            return Err(StreamError::Gap { partition, view, state, earliest });
        }
    }
    let fold = FoldContext { decoder, params };
    let mut record_count = 0;
    log.replay_blocking(partition, from, to, &mut |batch| {
        record_count += batch.len() as u64;
        fold.fold_into(state, batch, |_| ());
    })?;
    finish_at(state, to);
    Ok(record_count)
}

//! Records to graphs: decoding, POS-1, dead letters. The same for the loop and for a restore.

use std::sync::Arc;

use super::{
    Record, RecordBatch,
    guard::{self, Guard},
};
use crate::{
    event::{CleaningCounts, Decoded, Decoder, RawRecord, Reason, Reject, UserId},
    graph::{FoldOutcome, GraphParams, PartitionState, UserGraph, WriteSet},
};

/// What is constant while folding.
#[derive(Debug, Clone, Copy)]
pub(super) struct FoldContext<'a> {
    pub(super) decoder: &'a Decoder,
    pub(super) params: &'a GraphParams,
}

/// What became of one record.
#[derive(Debug)]
pub(super) enum Folded {
    /// It was handled before this batch (POS-1).
    Before,
    /// It is in the graph, or was there before by its event id.
    Done,
    /// It was not folded and goes to the dead letters.
    Rejected(Reject),
}

impl FoldContext<'_> {
    /// Decodes a record and folds it into `write_set`, which stands on `state`. Whatever happens, the position moves past it.
    pub(super) fn fold(
        &self,
        write_set: &mut WriteSet,
        state: &PartitionState,
        record: &Record<'_>,
        counts: &mut CleaningCounts,
    ) -> Folded {
        let (view, offset) = (record.origin.view, record.origin.offset);
        if write_set.progress().has_folded(view, offset) && guard::holds(Guard::FoldOnce) {
            return Folded::Before;
        }
        let raw = RawRecord { key: record.key, payload: record.payload, timestamp_ms: record.timestamp_ms };
        let event = match self.decoder.decode_record(view, &raw, counts) {
            Ok(Decoded::Event(event)) => event,
            Ok(Decoded::Erasure(erasure)) => {
                write_set.erase(state, view, offset, &erasure, self.params);
                return Folded::Done;
            }
            Err(reject) => {
                write_set.skip(view, offset);
                return Folded::Rejected(reject);
            }
        };
        let reason = match write_set.fold(state, view, offset, &event, self.params) {
            FoldOutcome::Folded => return Folded::Done,
            FoldOutcome::Duplicate => Reason::Duplicate,
            FoldOutcome::Late => Reason::Late,
            FoldOutcome::Erased => Reason::Erased,
        };
        counts.add_reject(reason);
        if reason.is_dead_letter() {
            Folded::Rejected(Reject::new(reason, "timestamp", format!("the event is of {} ms", event.time_ms)))
        } else {
            Folded::Done
        }
    }

    /// Folds a whole batch of one partition into its state: for a restore, where rejected records were dealt with before.
    /// `changed` sees the users it changed.
    pub(super) fn fold_into(
        &self,
        state: &PartitionState,
        batch: &RecordBatch,
        changed: impl FnOnce(&[(UserId, Arc<UserGraph>)]),
    ) {
        let mut write_set = WriteSet::on(state);
        // Counted when they were folded the first time.
        let mut counts = CleaningCounts::default();
        for record in batch.iter() {
            debug_assert_eq!(record.origin.partition, state.partition(), "a restore reads one partition");
            self.fold(&mut write_set, state, &record, &mut counts);
        }
        changed(write_set.users());
        write_set.publish(state);
    }
}

//! Ingestion: a batch of events becomes durable in one write.

use std::collections::{BTreeMap, HashSet};

use super::{
    EmbeddedError, EmbeddedLog,
    chunk::{ChunkBuilder, ChunkRecord, encode_headers},
    store::{CHUNK_BYTES, CHUNK_RECORDS, Topic},
};
use crate::{
    decision::{FIRST_ORIGIN_HEADER, FirstOrigin},
    event::{Offset, Origin, PartitionId, View},
    stream::partitioner::partition_of,
};

/// An event to append, already checked by the codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewRecord<'a> {
    /// The view whose topic takes it.
    pub view: View,
    /// The user id; decides the partition.
    pub key: &'a [u8],
    /// The event as it was sent.
    pub payload: &'a [u8],
    /// The event's id, by which a repetition is recognised; `None` appends always.
    pub event_id: Option<u64>,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is durable at this place.
    At(Origin),
    /// An event with its id is in the log already: nothing was written.
    Repeated,
}

impl EmbeddedLog {
    /// Appends `records` in one atomic, durable write and says for each, in order, what became of it. Blocks for the
    /// time of one disk synchronisation. After an error nothing was appended, or, when the disk failed in the middle,
    /// the log takes no further writes until it is opened again; sending the batch again is safe either way.
    pub fn append_blocking(&self, records: &[NewRecord<'_>]) -> Result<Vec<Appended>, EmbeddedError> {
        self.append(records, |_| &[])
    }

    /// The same for records that were refused once: each says where it stood first, so that another refusal is one of the
    /// same dead letter.
    pub fn append_redriven_blocking(
        &self,
        records: &[(NewRecord<'_>, FirstOrigin)],
    ) -> Result<Vec<Appended>, EmbeddedError> {
        let header = |first: &FirstOrigin| encode_headers(&[(FIRST_ORIGIN_HEADER, first.to_header())]);
        let headers: Vec<Vec<u8>> = records.iter().map(|(_, first)| header(first)).collect();
        let records: Vec<NewRecord<'_>> = records.iter().map(|(record, _)| *record).collect();
        self.append(&records, |index| &headers[index])
    }

    fn append<'a>(
        &self,
        records: &[NewRecord<'_>],
        headers_of: impl Fn(usize) -> &'a [u8],
    ) -> Result<Vec<Appended>, EmbeddedError> {
        let timestamp_ms = self.clock.now_ms();
        let mut state = self.lock();
        let mut batch = self.batch();
        let mut chunks: BTreeMap<(View, PartitionId), (ChunkBuilder, Offset)> = BTreeMap::new();
        let mut outcomes = Vec::with_capacity(records.len());
        let mut fresh_ids = HashSet::new();
        let mut sequence = state.next_sequence;
        for (index, record) in records.iter().enumerate() {
            if let Some(id) = record.event_id
                && (state.recent.contains(id) || !fresh_ids.insert(id))
            {
                outcomes.push(Appended::Repeated);
                continue;
            }
            let partition = partition_of(record.key, self.params.partition_count);
            let topic = Topic::Input(record.view);
            let (chunk, next) = chunks
                .entry((record.view, partition))
                .or_insert_with(|| (ChunkBuilder::default(), state.end(topic, partition)));
            let offset = *next;
            chunk.push(&ChunkRecord {
                offset,
                sequence,
                timestamp_ms,
                event_id: record.event_id.unwrap_or(0),
                key: Some(record.key),
                payload: Some(record.payload),
                headers: headers_of(index),
            });
            sequence += 1;
            *next = Offset(offset.0 + 1);
            if chunk.byte_count() >= CHUNK_BYTES || chunk.record_count() >= CHUNK_RECORDS {
                self.put_chunk(&mut batch, (topic, partition), chunk);
            }
            outcomes.push(Appended::At(Origin { view: record.view, partition, offset }));
        }
        if chunks.is_empty() {
            return Ok(outcomes);
        }
        for (&(view, partition), (chunk, next)) in &mut chunks {
            self.put_chunk(&mut batch, (Topic::Input(view), partition), chunk);
            self.put_end(&mut batch, Topic::Input(view), partition, *next);
        }
        batch.commit()?;
        for ((view, partition), (_, next)) in chunks {
            state.ends.insert((Topic::Input(view), partition), next);
        }
        state.next_sequence = sequence;
        state.append_count += 1;
        for (record, outcome) in records.iter().zip(&outcomes) {
            if let (Some(id), Appended::At(_)) = (record.event_id, outcome) {
                state.recent.insert(id);
            }
        }
        drop(state);
        self.signal_append();
        Ok(outcomes)
    }
}

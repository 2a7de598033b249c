//! Reading outputs: `tail`, the API and the restore.

use super::{
    EmbeddedError, EmbeddedLog,
    chunk::{ChunkRecord, decode_headers},
    store::{Topic, chunk_key, reader_of},
};
use crate::{
    event::{Offset, PartitionId},
    stream::OutputTopic,
};

/// A committed output record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOutput {
    /// Its own offset.
    pub offset: Offset,
    /// When it was committed, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The key; empty means none.
    pub key: Vec<u8>,
    /// The payload; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Headers, in order.
    pub headers: Vec<(String, String)>,
}

impl EmbeddedLog {
    /// The first offset and the (exclusive) end of an output topic's partition.
    pub fn output_range(&self, topic: OutputTopic, partition: PartitionId) -> (Offset, Offset) {
        let state = self.lock();
        (state.first(Topic::Output(topic), partition), state.end(Topic::Output(topic), partition))
    }

    /// At most `max_records` committed records from offset `from` on, in order. Offsets have gaps where superseded scores
    /// were dropped, so go on at the last offset + 1; an empty answer means that there is nothing more yet.
    pub fn read_outputs(
        &self,
        topic: OutputTopic,
        partition: PartitionId,
        from: Offset,
        max_records: usize,
    ) -> Result<Vec<ReadOutput>, EmbeddedError> {
        let (first, end) = self.output_range(topic, partition);
        let mut next = from.max(first);
        let mut found = Vec::new();
        while found.len() < max_records && next < end {
            let Some(mut reader) = self.chunk_at(Topic::Output(topic), partition, next)? else { break };
            while let Some((record, after)) = reader.peek()? {
                if found.len() >= max_records || record.offset >= end {
                    return Ok(found);
                }
                next = Offset(record.offset.0 + 1);
                found.push(owned(&record)?);
                reader.move_to(after);
            }
        }
        Ok(found)
    }

    /// Calls `visit` with every committed record of an output topic's partition, oldest first.
    pub(super) fn each_output(
        &self,
        topic: OutputTopic,
        partition: PartitionId,
        mut visit: impl FnMut(&ChunkRecord<'_>),
    ) -> Result<(), EmbeddedError> {
        let range = chunk_key(partition, Offset(0))..chunk_key(partition, Offset(i64::MAX));
        for guard in self.keyspace(Topic::Output(topic)).range(range) {
            reader_of(guard)?.each(&mut visit)?;
        }
        Ok(())
    }
}

fn owned(record: &ChunkRecord<'_>) -> Result<ReadOutput, EmbeddedError> {
    let headers = decode_headers(record.headers)
        .ok_or_else(|| EmbeddedError::Corrupt { what: format!("the headers of output {}", record.offset) })?;
    Ok(ReadOutput {
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        key: record.key.unwrap_or_default().to_vec(),
        payload: record.payload.map(<[u8]>::to_vec),
        headers,
    })
}

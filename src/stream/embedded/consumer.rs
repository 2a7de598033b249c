//! The `Source` and `Sink` of one stream thread over the shared log.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    EmbeddedError, EmbeddedLog,
    chunk::{ChunkBuilder, ChunkReader, ChunkRecord, encode_headers, header_in},
    store::{CHUNK_BYTES, CHUNK_RECORDS, Topic},
};
use crate::{
    decision::FIRST_ORIGIN_HEADER,
    event::{Offset, Origin, PartitionId, Positions, View},
    stream::{
        BatchLimits, Commit, Disposition, LogError, OutputRecord, OutputTopic, Polled, Record, RecordBatch, Sink,
        Source,
    },
};

/// Records a replay hands out at once.
const REPLAY_BATCH_RECORDS: usize = 4_096;

/// Reads some partitions of the log and commits what becomes of them. Partitions are given back when it is dropped.
pub struct EmbeddedConsumer {
    log: Arc<EmbeddedLog>,
    partitions: Vec<PartitionId>,
    announced: bool,
    cursors: BTreeMap<(PartitionId, View), Cursor>,
    /// Appends seen before the last look, so that one that comes between a look and a wait ends the wait.
    seen_appends: u64,
}

/// Where one topic partition is read.
struct Cursor {
    next: Offset,
    /// Exclusive end of what may be read, as of the current poll.
    end: Offset,
    chunk: Option<ChunkReader>,
}

impl EmbeddedLog {
    /// Gives `partitions` to one consumer.
    pub fn consumer(self: &Arc<Self>, partitions: &[PartitionId]) -> Result<EmbeddedConsumer, EmbeddedError> {
        let mut state = self.lock();
        for &partition in partitions {
            if u32::try_from(partition.0).is_ok_and(|number| number < self.partition_count()) {
                if state.taken.contains(&partition) {
                    return Err(EmbeddedError::Taken { partition });
                }
            } else {
                return Err(EmbeddedError::NoPartition { partition, partition_count: self.partition_count() });
            }
        }
        state.taken.extend(partitions);
        drop(state);
        Ok(EmbeddedConsumer {
            log: Arc::clone(self),
            partitions: partitions.to_vec(),
            announced: false,
            cursors: BTreeMap::new(),
            seen_appends: 0,
        })
    }
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        let mut state = self.log.lock();
        for partition in &self.partitions {
            state.taken.remove(partition);
        }
    }
}

impl Cursor {
    /// The arrival number of the next record, loading its chunk when needed; `None` at the end.
    fn head(&mut self, log: &EmbeddedLog, partition: PartitionId, view: View) -> Result<Option<u64>, EmbeddedError> {
        if self.next >= self.end {
            return Ok(None);
        }
        let spent = match &self.chunk {
            Some(reader) => reader.peek()?.is_none(),
            None => true,
        };
        if spent {
            self.chunk = log.chunk_at(Topic::Input(view), partition, self.next)?;
        }
        let Some(reader) = &self.chunk else { return Ok(None) };
        let head = reader.peek()?;
        Ok(head.filter(|(record, _)| record.offset < self.end).map(|(record, _)| record.sequence))
    }

    /// Copies records into `batch` while `go_on` says so (it is told the record's arrival number).
    fn copy(
        &mut self,
        (partition, view): (PartitionId, View),
        batch: &mut RecordBatch,
        mut go_on: impl FnMut(&RecordBatch, u64) -> bool,
    ) -> Result<(), EmbeddedError> {
        let Some(reader) = &mut self.chunk else { return Ok(()) };
        while let Some((record, after)) = reader.peek()? {
            if record.offset >= self.end || !go_on(batch, record.sequence) {
                break;
            }
            let origin = Origin { view, partition, offset: record.offset };
            let ChunkRecord { timestamp_ms, key, payload, .. } = record;
            let first_origin = header_in(record.headers, FIRST_ORIGIN_HEADER);
            batch.push_record(&Record { origin, timestamp_ms, key, payload, first_origin });
            self.next = Offset(record.offset.0 + 1);
            reader.move_to(after);
        }
        Ok(())
    }
}

impl EmbeddedConsumer {
    /// Copies what is there, in the order of arrival over all topics; true when a bound was reached.
    fn collect(&mut self, limits: &BatchLimits, batch: &mut RecordBatch) -> Result<bool, EmbeddedError> {
        {
            let state = self.log.lock();
            self.seen_appends = state.append_count;
            for (&(partition, view), cursor) in &mut self.cursors {
                cursor.end = state.end(Topic::Input(view), partition);
            }
        }
        let is_full = |batch: &RecordBatch| batch.len() >= limits.max_records || batch.byte_count() >= limits.max_bytes;
        loop {
            if is_full(batch) {
                return Ok(true);
            }
            // The log whose head came first, and the head of the runner-up, up to which it may be read.
            let mut first: Option<(u64, (PartitionId, View))> = None;
            let mut until = u64::MAX;
            for (&place, cursor) in &mut self.cursors {
                let Some(sequence) = cursor.head(&self.log, place.0, place.1)? else { continue };
                match first {
                    Some((best, _)) if sequence > best => until = until.min(sequence),
                    Some((best, _)) => {
                        until = best;
                        first = Some((sequence, place));
                    }
                    None => first = Some((sequence, place)),
                }
            }
            let Some((_, place)) = first else { return Ok(false) };
            let Some(cursor) = self.cursors.get_mut(&place) else { return Ok(false) };
            cursor.copy(place, batch, |batch, sequence| sequence < until && !is_full(batch))?;
        }
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), EmbeddedError> {
        let log = &self.log;
        let mut grouped: BTreeMap<(OutputTopic, PartitionId), Vec<&OutputRecord>> = BTreeMap::new();
        for record in &commit.outputs {
            grouped.entry((record.topic, record.partition)).or_default().push(record);
        }
        for partition in grouped.keys().map(|(_, partition)| partition).chain(commit.positions.keys()) {
            if !self.partitions.contains(partition) {
                let partition_count = log.partition_count();
                return Err(EmbeddedError::NoPartition { partition: *partition, partition_count });
            }
        }
        let timestamp_ms = log.clock.now_ms();
        // Only this consumer writes to its partitions, so ends cannot move between here and the write.
        let mut ends: BTreeMap<(Topic, PartitionId), Offset> = {
            let state = log.lock();
            grouped
                .keys()
                .map(|&(topic, partition)| {
                    let topic = Topic::Output(topic);
                    ((topic, partition), state.end(topic, partition))
                })
                .collect()
        };
        let mut batch = log.batch();
        for ((topic, partition), records) in &grouped {
            let place = (Topic::Output(*topic), *partition);
            let Some(end) = ends.get_mut(&place) else { continue };
            let mut chunk = ChunkBuilder::default();
            for record in records {
                chunk.push(&ChunkRecord {
                    offset: *end,
                    sequence: 0,
                    timestamp_ms,
                    event_id: 0,
                    key: (!record.key.is_empty()).then_some(record.key.as_slice()),
                    payload: record.payload.as_deref(),
                    headers: &encode_headers(&record.headers),
                });
                *end = Offset(end.0 + 1);
                if chunk.byte_count() >= CHUNK_BYTES || chunk.record_count() >= CHUNK_RECORDS {
                    log.put_chunk(&mut batch, place, &mut chunk);
                }
            }
            log.put_chunk(&mut batch, place, &mut chunk);
            log.put_end(&mut batch, place.0, place.1, *end);
        }
        for (&partition, positions) in &commit.positions {
            log.put_positions(&mut batch, partition, positions);
        }
        batch.commit()?;
        log.lock().ends.extend(ends);
        log.signal_commit();
        Ok(())
    }
}

impl Source for EmbeddedConsumer {
    fn poll_blocking(&mut self, limits: &BatchLimits, batch: &mut RecordBatch) -> Result<Polled, LogError> {
        if !self.announced {
            self.announced = true;
            return Ok(Polled::Assigned(self.partitions.clone()));
        }
        let failed = |error| failure("read from the embedded log", &error);
        let mut full = self.collect(limits, batch).map_err(failed)?;
        if batch.is_empty() && limits.idle_wait_ms > 0 {
            self.log.wait_for_append(self.seen_appends, Duration::from_millis(limits.idle_wait_ms));
            full = self.collect(limits, batch).map_err(failed)?;
        }
        let deadline_ms = self.log.clock.now_ms().saturating_add_unsigned(limits.linger_ms);
        while !full && !batch.is_empty() {
            let left_ms = deadline_ms - self.log.clock.now_ms();
            let Some(left_ms) = u64::try_from(left_ms).ok().filter(|left| (1..=limits.linger_ms).contains(left)) else {
                break;
            };
            let seen = self.seen_appends;
            if self.log.wait_for_append(seen, Duration::from_millis(left_ms)) == seen {
                break;
            }
            full = self.collect(limits, batch).map_err(failed)?;
        }
        Ok(if batch.is_empty() { Polled::Idle } else { Polled::Records })
    }

    fn committed_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError> {
        self.log.committed(partition).map_err(|error| failure("read committed positions", &error))
    }

    fn earliest_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError> {
        Ok(self.log.earliest(partition))
    }

    fn end_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError> {
        Ok(self.log.ends(partition))
    }

    fn replay_blocking(
        &mut self,
        partition: PartitionId,
        from: Positions,
        to: Positions,
        visit: &mut dyn FnMut(&RecordBatch),
    ) -> Result<(), LogError> {
        let mut batch = RecordBatch::default();
        for view in View::ALL {
            let mut cursor = Cursor { next: from.get(view), end: to.get(view), chunk: None };
            let action = || format!("replay `{}` of partition {partition} up to offset {}", view.name(), to.get(view));
            let failed = |error| failure(&action(), &error);
            while cursor.head(&self.log, partition, view).map_err(failed)?.is_some() {
                cursor
                    .copy((partition, view), &mut batch, |batch, _| batch.len() < REPLAY_BATCH_RECORDS)
                    .map_err(failed)?;
                if batch.len() >= REPLAY_BATCH_RECORDS {
                    visit(&batch);
                    batch.clear();
                }
            }
            if cursor.next < cursor.end {
                let what = format!("the log ends at offset {} of {}", cursor.next, cursor.end);
                return Err(failed(EmbeddedError::Corrupt { what }));
            }
        }
        if !batch.is_empty() {
            visit(&batch);
        }
        Ok(())
    }

    fn start_at(&mut self, partition: PartitionId, positions: Positions) -> Result<(), LogError> {
        for view in View::ALL {
            let next = positions.get(view);
            self.cursors.insert((partition, view), Cursor { next, end: next, chunk: None });
        }
        Ok(())
    }
}

impl Sink for EmbeddedConsumer {
    fn commit_blocking(&mut self, commit: &Commit) -> Result<(), LogError> {
        self.commit(commit).map_err(|error| failure("commit to the embedded log", &error))
    }

    fn read_scores_blocking(
        &mut self,
        partition: PartitionId,
        visit: &mut dyn FnMut(&[u8], Option<&[u8]>),
    ) -> Result<(), LogError> {
        self.log
            .each_output(OutputTopic::Scores, partition, |record| visit(record.key.unwrap_or_default(), record.payload))
            .map_err(|error| failure("read scores from the embedded log", &error))
    }
}

/// A local disk does not fail for a while: every error ends the thread, and a restart reads what is durable.
fn failure(action: &str, error: &EmbeddedError) -> LogError {
    LogError { action: action.to_owned(), message: error.to_string(), disposition: Disposition::Fatal }
}

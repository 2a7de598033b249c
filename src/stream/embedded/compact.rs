//! Keeping the log small: superseded scores, old outputs, and inputs that a snapshot covers.

use std::collections::HashSet;

use xxhash_rust::xxh3::xxh3_128;

use super::{
    EmbeddedError, EmbeddedLog,
    chunk::ChunkBuilder,
    store::{Topic, base_of, chunk_key, reader_of},
};
use crate::{
    event::{Offset, PartitionId, Positions, View},
    stream::OutputTopic,
};

impl EmbeddedLog {
    /// Drops input records below `covered` by whole chunks: what the kept snapshots cover. Never what is not committed yet,
    /// nor the newest [`retain_input_records`](super::EmbeddedParams::retain_input_records). Returns how many records went.
    pub fn trim_inputs(&self, partition: PartitionId, covered: &Positions) -> Result<u64, EmbeddedError> {
        let committed = self.committed(partition)?;
        let (earliest, ends) = (self.earliest(partition), self.ends(partition));
        for view in View::ALL {
            let retained = ends.get(view).0.saturating_sub_unsigned(self.params.retain_input_records);
            let below = covered.get(view).min(committed.get(view)).min(Offset(retained));
            if below > earliest.get(view) {
                self.trim(Topic::Input(view), partition, below)?;
            }
        }
        let now = self.earliest(partition);
        Ok(View::ALL.map(|view| now.get(view).0.abs_diff(earliest.get(view).0)).iter().sum())
    }

    /// Drops what is due to be dropped: superseded scores, and outputs beyond
    /// [`retain_output_records`](super::EmbeddedParams::retain_output_records). Call it now and then, off the stream threads: it
    /// may read a whole topic. Readers and commits go on meanwhile. One caller at a time.
    pub fn maintain_blocking(&self) -> Result<(), EmbeddedError> {
        for partition in self.partitions() {
            for topic in OutputTopic::ALL.into_iter().filter(|topic| *topic != OutputTopic::Scores) {
                let (first, end) = self.output_range(topic, partition);
                let retain = self.params.retain_output_records;
                if end.0.abs_diff(first.0) > retain {
                    self.trim(Topic::Output(topic), partition, Offset(end.0.saturating_sub_unsigned(retain)))?;
                }
            }
            let (_, end) = self.output_range(OutputTopic::Scores, partition);
            let due = self.lock().compact_scores_at.get(&partition).is_none_or(|at| end >= *at);
            if due {
                let user_count = self.compact_scores(partition)?;
                let more = self.params.compact_after_records.max(2 * user_count);
                self.lock().compact_scores_at.insert(partition, Offset(end.0.saturating_add_unsigned(more)));
            }
        }
        Ok(())
    }

    /// Drops every score that a newer one of the same user supersedes, and returns the number of users who have one. Chunk by chunk from the
    /// newest, each replaced in one atomic write: a crash in between leaves some superseded records, which does no harm. A user who
    /// is gone (a tombstone) is kept for [`retain_output_records`](super::EmbeddedParams::retain_output_records), for readers, and at
    /// least until the compaction after the one that dropped what it takes back.
    fn compact_scores(&self, partition: PartitionId) -> Result<u64, EmbeddedError> {
        let topic = Topic::Output(OutputTopic::Scores);
        let (_, end) = self.output_range(OutputTopic::Scores, partition);
        let compacted = self.lock().compacted_scores_until.get(&partition).copied().unwrap_or_default();
        let gone_below = compacted.min(Offset(end.0.saturating_sub_unsigned(self.params.retain_output_records)));
        let (mut seen, mut user_count) = (HashSet::new(), 0);
        let range = chunk_key(partition, Offset(0))..chunk_key(partition, Offset(i64::MAX));
        for guard in self.keyspace(topic).range(range).rev() {
            let mut reader = reader_of(guard)?;
            let base = reader.base();
            let mut is_kept = Vec::new();
            let mut hashes = Vec::new();
            reader.clone().each(|record| {
                hashes.push((xxh3_128(record.key.unwrap_or_default()), record.payload.is_some()));
                is_kept.push(record.payload.is_some() || record.offset >= gone_below);
            })?;
            for ((hash, is_there), is_kept) in hashes.iter().zip(&mut is_kept).rev() {
                let is_newest = seen.insert(*hash);
                *is_kept &= is_newest;
                user_count += u64::from(is_newest && *is_there);
            }
            if is_kept.iter().all(|is_kept| *is_kept) {
                continue;
            }
            let mut kept = ChunkBuilder::default();
            let mut places = is_kept.iter();
            reader.each(|record| {
                if places.next() == Some(&true) {
                    kept.push(record);
                }
            })?;
            // Not synchronised with the disk: what a crash undoes is done again, and commits of the stream wait for nobody.
            let mut batch = self.unsynchronised_batch();
            let kept_base = kept.take();
            if kept_base.as_ref().is_none_or(|(kept_base, _)| *kept_base != base) {
                batch.remove(self.keyspace(topic), chunk_key(partition, base));
            }
            if let Some((kept_base, bytes)) = kept_base {
                batch.insert(self.keyspace(topic), chunk_key(partition, kept_base), bytes);
            }
            batch.commit()?;
        }
        self.lock().compacted_scores_until.insert(partition, end);
        // Not those who are gone: counted, they would put the next compaction off further each time.
        Ok(user_count)
    }

    fn trim(&self, topic: Topic, partition: PartitionId, below: Offset) -> Result<(), EmbeddedError> {
        let keyspace = self.keyspace(topic);
        let bases: Vec<Offset> = keyspace
            .range(chunk_key(partition, Offset(0))..=chunk_key(partition, below))
            .map(|guard| guard.key().map_err(EmbeddedError::from).and_then(|key| base_of(&key)))
            .collect::<Result<_, _>>()?;
        // The last chunk that starts at or below `below` may hold records above it.
        let Some((first, dropped)) = bases.split_last() else { return Ok(()) };
        if dropped.is_empty() {
            return Ok(());
        }
        let mut batch = self.batch();
        for base in dropped {
            batch.remove(keyspace, chunk_key(partition, *base));
        }
        self.put_first(&mut batch, topic, partition, *first);
        // Held during the write: readers that see the old first offset must still find its records.
        let mut state = self.lock();
        batch.commit()?;
        state.firsts.insert((topic, partition), *first);
        Ok(())
    }
}

//! A named reader of an output topic, whose positions are in the same database.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tracing::warn;

use super::{EmbeddedError, EmbeddedLog};
use crate::{
    event::{Offset, PartitionId},
    metrics as names,
    stream::{CommittedOutput, Disposition, LogError, OutputReader, OutputTopic, ReaderStart},
};

/// Records of a partition taken at once.
const PAGE_RECORDS: usize = 100;

/// Reads one output topic of the embedded log.
pub struct EmbeddedOutputReader {
    log: Arc<EmbeddedLog>,
    topic: OutputTopic,
    name: String,
    next: BTreeMap<PartitionId, Offset>,
}

impl EmbeddedOutputReader {
    /// The reader called `name`. Where it has no position yet, that of `start` is stored at once.
    pub fn open(
        log: &Arc<EmbeddedLog>,
        topic: OutputTopic,
        name: &str,
        start: ReaderStart,
    ) -> Result<Self, EmbeddedError> {
        for partition in log.partitions() {
            if log.reader_position(name, partition)?.is_none() {
                let (first, end) = log.output_range(topic, partition);
                let position = if start == ReaderStart::End { end } else { first };
                log.store_reader_position(name, partition, position)?;
            }
        }
        Ok(Self { log: Arc::clone(log), topic, name: name.to_owned(), next: BTreeMap::new() })
    }

    fn stored(&self, partition: PartitionId) -> Result<Offset, EmbeddedError> {
        Ok(self.log.reader_position(&self.name, partition)?.unwrap_or_default())
    }

    fn read(&mut self, wanted: &BTreeSet<PartitionId>) -> Result<Vec<CommittedOutput>, EmbeddedError> {
        let mut records = Vec::new();
        for (&partition, next) in self.next.iter_mut().filter(|(partition, _)| wanted.contains(partition)) {
            let (first, _) = self.log.output_range(self.topic, partition);
            if first > *next {
                let missing = first.0.abs_diff(next.0);
                warn!(%partition, missing, "records of an output topic were dropped before they were read");
                metrics::counter!(names::WEBHOOK_GAP).increment(missing);
            }
            for record in self.log.read_outputs(self.topic, partition, *next, PAGE_RECORDS)? {
                *next = Offset(record.offset.0 + 1);
                records.push(CommittedOutput { partition, offset: record.offset, payload: record.payload });
            }
            *next = first.max(*next);
        }
        Ok(records)
    }
}

impl OutputReader for EmbeddedOutputReader {
    fn follow_blocking(&mut self, partitions: &BTreeSet<PartitionId>) -> Result<(), LogError> {
        self.next.retain(|partition, _| partitions.contains(partition));
        for partition in partitions {
            if !self.next.contains_key(partition) {
                let stored = self.stored(*partition).map_err(|error| failed("reading a position", &error))?;
                self.next.insert(*partition, stored);
            }
        }
        Ok(())
    }

    fn read_blocking(&mut self, wanted: &BTreeSet<PartitionId>) -> Result<Vec<CommittedOutput>, LogError> {
        self.read(wanted).map_err(|error| failed("reading outputs", &error))
    }

    fn store_blocking(&mut self, partition: PartitionId, next: Offset) -> Result<(), LogError> {
        let stored = self.log.store_reader_position(&self.name, partition, next);
        stored.map_err(|error| failed("storing a position", &error))
    }

    fn forget(&mut self) {
        self.next.clear();
    }
}

fn failed(action: &str, error: &EmbeddedError) -> LogError {
    LogError { action: action.to_owned(), message: error.to_string(), disposition: Disposition::Retry }
}

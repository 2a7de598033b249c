//! Puts events into a log: what `send` and `demo` share.

use std::ops::Range;

use anyhow::Context;

use crate::{
    event::{Admitted, View},
    stream::{
        embedded::{Appended, EmbeddedLog, NewRecord},
        kafka::KafkaProducer,
    },
};

/// Admitted events in one arena, ready to be written together.
#[derive(Debug, Default)]
pub struct EventBatch {
    arena: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    view: View,
    event_id: u64,
    key: Range<usize>,
    payload: Range<usize>,
}

impl EventBatch {
    /// Copies one event into the batch.
    pub fn push(&mut self, admitted: &Admitted<'_>) {
        let key = self.copy(admitted.event.user.as_bytes());
        let payload = self.copy(&admitted.payload);
        self.entries.push(Entry { view: admitted.view(), event_id: admitted.event.event_id, key, payload });
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no event.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Drops the events and keeps the memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.entries.clear();
    }

    /// The events in the order they were pushed.
    pub fn records(&self) -> impl Iterator<Item = NewRecord<'_>> {
        self.entries.iter().map(|entry| NewRecord {
            view: entry.view,
            key: &self.arena[entry.key.clone()],
            payload: &self.arena[entry.payload.clone()],
            event_id: Some(entry.event_id),
        })
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        start..self.arena.len()
    }
}

/// Appends `batch` to the embedded log and returns how many of its events were there already. Blocks for one disk
/// synchronisation.
pub fn append_blocking(log: &EmbeddedLog, batch: &EventBatch) -> anyhow::Result<usize> {
    let records: Vec<NewRecord<'_>> = batch.records().collect();
    let outcomes = log.append_blocking(&records).context("cannot append events to the embedded log")?;
    Ok(outcomes.iter().filter(|outcome| **outcome == Appended::Repeated).count())
}

/// Sends `batch` to Kafka and waits until the brokers have it.
pub fn produce_blocking(producer: &KafkaProducer, batch: &EventBatch) -> anyhow::Result<()> {
    producer
        .send_batch(batch.records().map(|record| (record.view, record.key, record.payload)))
        .context("cannot send events to Kafka; sending them again folds nothing twice")?;
    Ok(())
}

//! The dead letters, read back, and sending records again, on either log.

use anyhow::Context;
use xxhash_rust::xxh3::xxh3_64;

use super::output_log::{OutputLog, Written};
use crate::{
    decision::{FirstOrigin, RestoreError, StoredDeadLetter, restore_dead_letter},
    event::View,
    stream::{
        OutputTopic,
        embedded::{Appended, EmbeddedLog, NewRecord},
        kafka::{KafkaParams, KafkaProducer},
    },
};

/// One record of topic `dead-letters`.
#[derive(Debug)]
pub struct Letter {
    /// The record.
    pub written: Written,
    /// What it says, or why it cannot be read.
    pub letter: Result<StoredDeadLetter, RestoreError>,
}

impl Letter {
    /// The place by which a person names it: `partition/offset`.
    pub fn place(&self) -> String {
        format!("{}/{}", self.written.partition, self.written.offset)
    }
}

/// A record to send again.
#[derive(Debug)]
pub struct Redriven {
    /// The view whose topic takes it.
    pub view: View,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its bytes.
    pub payload: Vec<u8>,
    /// Where it stood first.
    pub first: FirstOrigin,
    /// Where its dead letter stands: sending the same letter twice is recognised by it, where the log can.
    pub letter_place: String,
}

/// Calls `visit` with every dead letter there is now, each partition in order, until it answers false.
pub fn each_blocking(log: &OutputLog, visit: &mut dyn FnMut(Letter) -> anyhow::Result<bool>) -> anyhow::Result<()> {
    log.each_blocking(OutputTopic::DeadLetters, &mut |written| {
        let letter = restore_dead_letter(&written.json);
        visit(Letter { written, letter })
    })
}

/// Makes `records` durable in their input topics. Returns how many the log recognised as sent already.
pub fn redrive_blocking(log: &OutputLog, records: &[Redriven]) -> anyhow::Result<usize> {
    match log {
        OutputLog::Embedded(log) => append(log, records),
        OutputLog::Kafka(params) => produce(params, records).map(|()| 0),
    }
}

fn append(log: &EmbeddedLog, records: &[Redriven]) -> anyhow::Result<usize> {
    let mut appended: Vec<(NewRecord<'_>, FirstOrigin)> = Vec::with_capacity(records.len());
    for Redriven { view, key, payload, first, letter_place } in records {
        // Not the event's own id: the event is in the log already, under it, where it was refused.
        let id = xxh3_64(format!("redriven\0{letter_place}").as_bytes());
        let key = key.as_deref().unwrap_or_default();
        appended.push((NewRecord { view: *view, key, payload, event_id: Some(id) }, first.clone()));
    }
    let outcomes = log.append_redriven_blocking(&appended).context("cannot append to the embedded log")?;
    Ok(outcomes.iter().filter(|outcome| **outcome == Appended::Repeated).count())
}

fn produce(params: &KafkaParams, records: &[Redriven]) -> anyhow::Result<()> {
    let producer = KafkaProducer::open(params)?;
    for record in records {
        producer.redrive_blocking(record.view, record.key.as_deref(), &record.payload, &record.first)?;
    }
    producer.flush_blocking().context("cannot send to Kafka; sending again folds nothing twice")?;
    Ok(())
}

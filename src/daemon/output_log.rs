//! Reading what was committed to an output topic, from its beginning to where it ends now, on either log.

use std::sync::Arc;

use anyhow::Context;

use super::params;
use crate::{
    clock::SystemClock,
    config::{Config, LogKind},
    event::{Offset, PartitionId},
    stream::{
        InputLog, OutputTopic,
        embedded::EmbeddedLog,
        kafka::{KafkaInputs, KafkaParams, OutputTail, TailStart},
    },
};

/// Records taken from the embedded log at once.
const PAGE_RECORDS: usize = 1_000;
/// Milliseconds of one wait for a record of Kafka.
const WAIT_MS: u64 = 200;
/// Waits in a row without a record that mean the end: transaction markers take offsets too, so it may never be "seen".
const QUIET_WAITS: u32 = 10;

/// One committed output record that is no tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its partition.
    pub partition: PartitionId,
    /// Its own offset.
    pub offset: Offset,
    /// Its JSON.
    pub json: Vec<u8>,
}

/// The configured log, for reading it from outside of the daemon.
pub enum OutputLog {
    /// The embedded log: no daemon may have it open.
    Embedded(Arc<EmbeddedLog>),
    /// Kafka.
    Kafka(Box<KafkaParams>),
}

impl OutputLog {
    /// Opens the configured log.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        match config.input.log {
            LogKind::Embedded => {
                let log = EmbeddedLog::open(params::embedded(config), Arc::new(SystemClock)).context(
                    "cannot open the embedded log; it takes one process at a time, so stop the daemon first",
                )?;
                Ok(Self::Embedded(log))
            }
            LogKind::Kafka => Ok(Self::Kafka(Box::new(params::kafka(config)?))),
        }
    }

    /// Calls `visit` with every record of `topic` there is now, each partition in order, until it answers false.
    pub fn each_blocking(
        &self,
        topic: OutputTopic,
        visit: &mut dyn FnMut(Written) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        match self {
            Self::Embedded(log) => each_embedded(log, topic, visit),
            Self::Kafka(params) => each_kafka(params, topic, visit),
        }
    }

    /// The input topics, for reading them again.
    pub fn inputs(&self) -> anyhow::Result<Box<dyn InputLog>> {
        match self {
            Self::Embedded(log) => {
                let all: Vec<PartitionId> = log.partitions().collect();
                Ok(Box::new(log.consumer(&all).context("cannot read the embedded log")?))
            }
            Self::Kafka(params) => Ok(Box::new(KafkaInputs::open(params)?)),
        }
    }
}

fn each_embedded(
    log: &EmbeddedLog,
    topic: OutputTopic,
    visit: &mut dyn FnMut(Written) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    for partition in log.partitions() {
        let mut next = log.output_range(topic, partition).0;
        loop {
            let page = log.read_outputs(topic, partition, next, PAGE_RECORDS)?;
            let Some(last) = page.last() else { break };
            next = Offset(last.offset.0 + 1);
            for record in page {
                let Some(json) = record.payload else { continue };
                if !visit(Written { partition, offset: record.offset, json })? {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

fn each_kafka(
    params: &KafkaParams,
    topic: OutputTopic,
    visit: &mut dyn FnMut(Written) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let tail = OutputTail::open(params, &[topic], TailStart::Beginning)?;
    let mut missing: Vec<(i32, Offset)> = (0..).zip(tail.ends_blocking(topic)?).collect();
    missing.retain(|(_, end)| end.0 > 0);
    let mut quiet = 0;
    while !missing.is_empty() && quiet < QUIET_WAITS {
        let Some(record) = tail.next_blocking(WAIT_MS)? else {
            quiet += 1;
            continue;
        };
        quiet = 0;
        missing.retain(|(partition, end)| *partition != record.partition.0 || end.0 > record.offset.0 + 1);
        let Some(json) = record.payload else { continue };
        if !visit(Written { partition: record.partition, offset: record.offset, json })? {
            return Ok(());
        }
    }
    Ok(())
}

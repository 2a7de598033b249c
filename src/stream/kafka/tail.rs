//! Following the outputs: the command `tail`, and tests that read what was committed.

use rdkafka::{
    Message, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Headers},
};
use tracing::debug;

use super::{
    client::{Watch, reader_config},
    deadline::Deadline,
    error::{explain, fatal, heals_by_itself, request_error},
    params::KafkaParams,
    reader::{Place, watermarks},
    topics::check_topics,
};
use crate::{
    event::{Offset, PartitionId},
    stream::{LogError, OutputTopic},
};

/// Where a tail begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailStart {
    /// With the oldest record still there.
    Beginning,
    /// With what comes from now on.
    End,
}

/// One committed output record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailRecord {
    /// The topic.
    pub topic: OutputTopic,
    /// The partition.
    pub partition: PartitionId,
    /// The record's own offset.
    pub offset: Offset,
    /// When it was written, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The key; empty means none.
    pub key: Vec<u8>,
    /// The payload; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Headers, in order.
    pub headers: Vec<(String, String)>,
}

/// Reads committed outputs without a group: any number of tails see everything.
pub struct OutputTail {
    params: KafkaParams,
    consumer: BaseConsumer<Watch>,
    partition_count: i32,
    topics: Vec<OutputTopic>,
}

impl OutputTail {
    /// Starts reading all partitions of `topics`.
    pub fn open(params: &KafkaParams, topics: &[OutputTopic], start: TailStart) -> Result<Self, LogError> {
        let partition_count = check_topics(params)?;
        let consumer: BaseConsumer<Watch> = reader_config(params, &format!("{}-tail", params.group))
            .create_with_context(Watch::default())
            .map_err(|error| fatal("making the consumer", explain(&error)))?;
        let offset = match start {
            TailStart::Beginning => KafkaOffset::Beginning,
            TailStart::End => KafkaOffset::End,
        };
        let mut assignment = TopicPartitionList::new();
        for topic in topics {
            for partition in 0..partition_count {
                assignment
                    .add_partition_offset(params.topics.output(*topic), partition, offset)
                    .map_err(|error| fatal("starting to read outputs", explain(&error)))?;
            }
        }
        consumer.assign(&assignment).map_err(|error| fatal("starting to read outputs", explain(&error)))?;
        Ok(Self { params: params.clone(), consumer, partition_count, topics: topics.to_vec() })
    }

    /// The next record, or `None` when nothing came within `wait_ms`.
    pub fn next_blocking(&self, wait_ms: u64) -> Result<Option<TailRecord>, LogError> {
        let deadline = Deadline::after_ms(wait_ms);
        loop {
            match self.consumer.poll(deadline.remaining()) {
                Some(Ok(message)) => {
                    if let Some(topic) = self.output_named(message.topic()) {
                        return Ok(Some(tail_record(topic, &message)));
                    }
                }
                None | Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) if error.rdkafka_error_code().is_some_and(heals_by_itself) => {
                    debug!(%error, "tail consumer reports");
                }
                Some(Err(error)) => return Err(request_error("reading outputs", &error)),
            }
            if deadline.has_passed() {
                return Ok(None);
            }
        }
    }

    /// The end (exclusive) of the committed log of every partition of `topic`.
    pub fn ends_blocking(&self, topic: OutputTopic) -> Result<Vec<Offset>, LogError> {
        (0..self.partition_count)
            .map(|partition| {
                let place = Place { topic: self.params.topics.output(topic), partition };
                watermarks(&self.consumer, place, &self.params).map(|(_, high)| Offset(high))
            })
            .collect()
    }

    fn output_named(&self, name: &str) -> Option<OutputTopic> {
        self.topics.iter().copied().find(|topic| self.params.topics.output(*topic) == name)
    }
}

fn tail_record(topic: OutputTopic, message: &BorrowedMessage<'_>) -> TailRecord {
    TailRecord {
        topic,
        partition: PartitionId(message.partition()),
        offset: Offset(message.offset()),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
        key: message.key().unwrap_or_default().to_vec(),
        payload: message.payload().map(<[u8]>::to_vec),
        headers: message.headers().map(read_headers).unwrap_or_default(),
    }
}

fn read_headers<H: Headers>(headers: &H) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|header| {
            let value = header.value.map(String::from_utf8_lossy).unwrap_or_default();
            (header.key.to_owned(), value.into_owned())
        })
        .collect()
}

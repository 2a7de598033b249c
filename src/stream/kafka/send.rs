//! Producing input events: the command `send`, tests and benches.

use std::time::Duration;

use rdkafka::{
    message::{Header, OwnedHeaders, ToBytes},
    producer::{BaseProducer, BaseRecord, Producer},
};

use super::{
    client::{Watch, producer_config},
    deadline::Deadline,
    error::{explain, fatal, log_error},
    params::KafkaParams,
    topics::check_topics,
    writer::{drain, send_blocking},
};
use crate::{
    decision::{FIRST_ORIGIN_HEADER, FirstOrigin},
    event::View,
    stream::{Disposition, LogError},
};

/// An idempotent producer of input events, keyed by user and partitioned as every producer of the inputs must be.
pub struct KafkaProducer {
    params: KafkaParams,
    producer: BaseProducer<Watch>,
}

impl KafkaProducer {
    /// Checks the topics and connects.
    pub fn open(params: &KafkaParams) -> Result<Self, LogError> {
        check_topics(params)?;
        let producer = producer_config(params, &format!("{}-send", params.group))
            .create_with_context(Watch::default())
            .map_err(|error| fatal("making the producer", explain(&error)))?;
        Ok(Self { params: params.clone(), producer })
    }

    /// Queues one event; waits while the queue is full.
    pub fn send_blocking(&self, view: View, user: &[u8], payload: &[u8]) -> Result<(), LogError> {
        let topic = self.params.topics.input(view);
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).key(user.to_bytes()).payload(payload);
        send_blocking(&self.producer, record, self.deadline())
            .map_err(|error| log_error(format!("sending to `{topic}`"), explain(&error), Disposition::Abort))
    }

    /// Queues a record that was refused once, with where it stood first. Without a key it goes to its own partition.
    pub fn redrive_blocking(
        &self,
        view: View,
        key: Option<&[u8]>,
        payload: &[u8],
        first: &FirstOrigin,
    ) -> Result<(), LogError> {
        let topic = self.params.topics.input(view);
        let value = first.to_header();
        let header = Header { key: FIRST_ORIGIN_HEADER, value: Some(value.as_bytes()) };
        let record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(topic).payload(payload).headers(OwnedHeaders::new_with_capacity(1).insert(header));
        let record = match key {
            Some(key) => record.key(key),
            None => record.partition(first.partition.0),
        };
        send_blocking(&self.producer, record, self.deadline())
            .map_err(|error| log_error(format!("sending to `{topic}`"), explain(&error), Disposition::Abort))
    }

    /// Waits until the brokers have everything queued so far. An error means that some of it may be missing; sending all
    /// of it again is harmless, events are recognised by their ids.
    pub fn flush_blocking(&self) -> Result<(), LogError> {
        drain(&self.producer, self.deadline(), "delivering events")?;
        // Serves the failure reports of records that are no longer in flight.
        self.producer.poll(Duration::ZERO);
        match self.producer.context().take_failure() {
            None => Ok(()),
            Some(report) => Err(log_error("delivering events", report.text, Disposition::Abort)),
        }
    }

    /// Sends a batch of (view, user, payload) and waits until the brokers have all of it.
    pub fn send_batch<'a>(
        &self,
        events: impl IntoIterator<Item = (View, &'a [u8], &'a [u8])>,
    ) -> Result<usize, LogError> {
        let mut count = 0;
        for (view, user, payload) in events {
            self.send_blocking(view, user, payload)?;
            count += 1;
        }
        self.flush_blocking()?;
        Ok(count)
    }

    fn deadline(&self) -> Deadline {
        Deadline::after_ms(u64::from(self.params.timeouts.message_ms) + 1_000)
    }
}

//! Reading one partition of one topic to a known end, for restore.
//!
//! Transaction markers and aborted records take offsets but are never delivered, so 'the record before the end' may not
//! exist. The end is reached when a record at or past it shows up, or when the client reports the end of the partition:
//! it was made sure beforehand that the committed log goes at least that far.

use rdkafka::{
    Message, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::BorrowedMessage,
};
use tracing::debug;

use super::{
    client::{Watch, reader_config, uncommitted_config},
    deadline::Deadline,
    error::{fatal, heals_by_itself, log_error, request_error},
    params::KafkaParams,
};
use crate::stream::{Disposition, LogError};

/// How long one poll of the reader waits, so that the group's consumer is polled in between.
const STEP_MS: u64 = 50;
/// Records read between two calls of the keep-alive.
const KEEP_ALIVE_RECORDS: u32 = 10_000;

/// A consumer that is told what to read.
pub(super) struct Reader {
    consumer: BaseConsumer<Watch>,
    params: KafkaParams,
    client_id: String,
}

/// A place in a topic, for reading and for messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: i32,
}

impl Reader {
    pub(super) fn new(params: &KafkaParams, client_id: &str) -> Result<Self, LogError> {
        let client_id = format!("{client_id}-reader");
        let consumer = reader_config(params, &client_id)
            .create_with_context(Watch::default())
            .map_err(|error| request_error("making the restore consumer", &error))?;
        Ok(Self { consumer, params: params.clone(), client_id })
    }

    /// First and end offset (exclusive) of `place`, as far as the reader sees.
    pub(super) fn watermarks(&self, place: Place<'_>) -> Result<(i64, i64), LogError> {
        watermarks(&self.consumer, place, &self.params)
    }

    /// Waits until everything written to `place` so far is decided, committed or aborted: a transaction's markers reach
    /// its partitions one after the other, so offsets may be stable while its outputs are not yet.
    pub(super) fn settle(
        &self,
        place: Place<'_>,
        keep_alive: &mut dyn FnMut() -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let uncommitted: BaseConsumer<Watch> = uncommitted_config(&self.params, &self.client_id)
            .create_with_context(Watch::default())
            .map_err(|error| request_error("making a consumer for the log's end", &error))?;
        let (_, target) = watermarks(&uncommitted, place, &self.params)?;
        self.wait_for_end(place, target, keep_alive)
    }

    /// Waits until the committed log of `place` reaches `target` (exclusive).
    fn wait_for_end(
        &self,
        place: Place<'_>,
        target: i64,
        keep_alive: &mut dyn FnMut() -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        // The broker aborts a forgotten transaction after its timeout, and looks for such every 10 s by default.
        let deadline = Deadline::after_ms(u64::from(self.params.timeouts.transaction_ms) + 15_000);
        loop {
            let (_, committed_end) = watermarks(&self.consumer, place, &self.params)?;
            if committed_end >= target {
                return Ok(());
            }
            if deadline.has_passed() {
                let action =
                    format!("waiting for open transactions on `{}` partition {}", place.topic, place.partition);
                let message = format!("committed end is `{committed_end}` (exclusive), log end `{target}` (exclusive)");
                return Err(log_error(action, message, Disposition::Retry));
            }
            keep_alive()?;
        }
    }

    /// Reads `[from, to)`; without `to`, up to the end of the committed log. Calls `visit` for every record, in order, and
    /// `keep_alive` in between.
    pub(super) fn read(
        &self,
        place: Place<'_>,
        from: i64,
        to: Option<i64>,
        keep_alive: &mut dyn FnMut() -> Result<(), LogError>,
        visit: &mut dyn FnMut(&BorrowedMessage<'_>),
    ) -> Result<(), LogError> {
        if to.is_some_and(|to| from >= to) {
            return Ok(());
        }
        if let Some(to) = to {
            self.wait_for_end(place, to, keep_alive)?;
        }
        let action = || format!("reading `{}` partition {} from offset {from}", place.topic, place.partition);
        let mut assignment = TopicPartitionList::with_capacity(1);
        let start = if from == 0 { KafkaOffset::Beginning } else { KafkaOffset::Offset(from) };
        assignment
            .add_partition_offset(place.topic, place.partition, start)
            .and_then(|()| self.consumer.assign(&assignment))
            .map_err(|error| request_error(action(), &error))?;
        let result = self.read_assigned(from, to, &action, keep_alive, visit);
        self.consumer.unassign().map_err(|error| request_error(action(), &error))?;
        result
    }

    fn read_assigned(
        &self,
        from: i64,
        to: Option<i64>,
        action: &dyn Fn() -> String,
        keep_alive: &mut dyn FnMut() -> Result<(), LogError>,
        visit: &mut dyn FnMut(&BorrowedMessage<'_>),
    ) -> Result<(), LogError> {
        let silence_ms = u64::from(self.params.timeouts.start_ms);
        let mut silence = Deadline::after_ms(silence_ms);
        let mut next = from;
        let mut since_keep_alive = 0;
        loop {
            match self.consumer.poll(silence.remaining_at_most(STEP_MS)) {
                Some(Ok(message)) => {
                    if to.is_some_and(|to| message.offset() >= to) {
                        return Ok(());
                    }
                    // After a reconnect a fetch may begin before the position asked for.
                    if message.offset() >= next {
                        visit(&message);
                        next = message.offset() + 1;
                    }
                    since_keep_alive += 1;
                    if since_keep_alive < KEEP_ALIVE_RECORDS {
                        continue;
                    }
                    silence = Deadline::after_ms(silence_ms);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) if error.rdkafka_error_code().is_some_and(heals_by_itself) => {
                    debug!(%error, "restore consumer reports");
                }
                Some(Err(error)) => return Err(request_error(action(), &error)),
                None => {}
            }
            since_keep_alive = 0;
            keep_alive()?;
            if silence.has_passed() {
                let reason = self.consumer.context().take_last_error();
                let message = format!(
                    "nothing came for {silence_ms} ms at offset {next}{}",
                    reason.map(|report| format!("; {}", report.text)).unwrap_or_default()
                );
                return Err(log_error(action(), message, Disposition::Retry));
            }
        }
    }
}

/// First and end offset (exclusive) of `place`, as far as the client's isolation level sees.
pub(super) fn watermarks<C: rdkafka::consumer::ConsumerContext + 'static>(
    consumer: &BaseConsumer<C>,
    place: Place<'_>,
    params: &KafkaParams,
) -> Result<(i64, i64), LogError> {
    let deadline = Deadline::after_ms(u64::from(params.timeouts.request_ms));
    let action = || format!("asking for first and last offset of `{}` partition {}", place.topic, place.partition);
    loop {
        match consumer.fetch_watermarks(place.topic, place.partition, deadline.remaining()) {
            Ok((low, high)) if low >= 0 && high >= low => return Ok((low, high)),
            Ok((low, high)) => return Err(fatal(action(), format!("answer was `{low}` and `{high}`"))),
            Err(error) if !deadline.has_passed() && error.rdkafka_error_code().is_some_and(heals_by_itself) => {}
            Err(error) => return Err(request_error(action(), &error)),
        }
    }
}

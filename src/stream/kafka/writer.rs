//! Writing one micro-batch: the outputs and the positions, together.

use std::time::Duration;

use rdkafka::{
    TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer},
};
use tracing::{info, warn};

use super::{
    client::{Watch, producer_config, transactional_config},
    deadline::Deadline,
    error::{
        delivery_disposition, explain, fatal, heals_by_itself, log_error, means_fenced, request_error,
        transaction_disposition,
    },
    group::GroupContext,
    params::{Delivery, KafkaParams},
};
use crate::stream::{Disposition, LogError, OutputRecord};

/// How long a wait for answers sleeps at a time: short beside the milliseconds a broker takes.
const ANSWER_WAIT: Duration = Duration::from_micros(200);
/// How long one attempt to abort waits before delivery reports are served again: an abort cannot finish while they wait,
/// and only this thread serves them.
const ABORT_ATTEMPT_MS: u64 = 500;

/// The writing half of a [`KafkaLog`](super::KafkaLog).
pub(super) struct Writer {
    params: KafkaParams,
    /// Transactional id, and client id.
    thread_id: String,
    producer: BaseProducer<Watch>,
    /// Set when a commit's outcome became known only by asking again: a late request of the old producer must find a
    /// newer epoch, so the producer is made anew before the next transaction.
    must_renew: bool,
}

/// How far an attempt to commit got.
enum Outcome {
    Committed,
    /// Not committed, with the reason; the transaction is still open.
    Failed(LogError),
    /// Nothing more can be done with this producer: it is fenced, or the outcome stayed unknown.
    Lost(LogError),
    /// The brokers may have been asked to commit, and after that the client wants an abort.
    Unclear(LogError),
}

/// How an open transaction ended.
enum Ended {
    /// Without its records.
    Aborted,
    /// The brokers had ended it before; only they know how.
    Unknown,
}

impl Writer {
    /// Connects. With transactions, ends what a predecessor of the same id left open.
    pub(super) fn open(params: &KafkaParams, thread_id: &str) -> Result<Self, LogError> {
        let producer = make_producer(params, thread_id)?;
        Ok(Self { params: params.clone(), thread_id: thread_id.to_owned(), producer, must_renew: false })
    }

    /// Writes `outputs` and commits `offsets`; returns when the outcome is known.
    pub(super) fn write(
        &mut self,
        outputs: &[OutputRecord],
        offsets: &TopicPartitionList,
        consumer: &BaseConsumer<GroupContext>,
    ) -> Result<(), LogError> {
        match self.params.delivery {
            Delivery::ExactlyOnce => self.write_transaction(outputs, offsets, consumer),
            Delivery::AtLeastOnce => self.write_then_commit(outputs, offsets, consumer),
        }
    }

    fn write_transaction(
        &mut self,
        outputs: &[OutputRecord],
        offsets: &TopicPartitionList,
        consumer: &BaseConsumer<GroupContext>,
    ) -> Result<(), LogError> {
        if self.must_renew {
            self.renew()?;
        }
        // The coordinator counts from the first record, which comes later: it cannot end the transaction before this does.
        let timeout = Deadline::after_ms(u64::from(self.params.timeouts.transaction_ms));
        match self.try_transaction(outputs, offsets, consumer) {
            Err(error) if timeout.has_passed() && self.is_fenced() => {
                warn!(transactional_id = self.thread_id, %error, "the transaction outlived its timeout; asking the brokers what became of it");
                self.renew()?;
                self.resolve(LogError { disposition: Disposition::Abort, ..error }, offsets, consumer)
            }
            outcome => outcome,
        }
    }

    /// Whether the brokers refuse this producer's epoch. A newer process of the same id does that, and so does the coordinator
    /// when it ends a transaction that has outlived its timeout: nothing in the answer tells the two apart.
    fn is_fenced(&self) -> bool {
        self.producer.client().fatal_error().is_some_and(|(code, _)| means_fenced(code))
    }

    fn try_transaction(
        &mut self,
        outputs: &[OutputRecord],
        offsets: &TopicPartitionList,
        consumer: &BaseConsumer<GroupContext>,
    ) -> Result<(), LogError> {
        self.producer.begin_transaction().map_err(|error| self.transaction_error("beginning a transaction", &error))?;
        match self.fill_and_commit(outputs, offsets, consumer) {
            Outcome::Committed => Ok(()),
            Outcome::Lost(error) => Err(error),
            Outcome::Failed(error) if error.disposition == Disposition::Fatal => {
                // A record was refused for good: what is said is that, and the numbers of this producer have a hole now.
                self.must_renew = true;
                drop(self.abort());
                Err(error)
            }
            Outcome::Failed(error) => match self.abort()? {
                Ended::Aborted => Err(error),
                Ended::Unknown => self.resolve(error, offsets, consumer),
            },
            Outcome::Unclear(error) => {
                if let Ended::Aborted = self.abort()? {
                    self.must_renew = true;
                }
                self.resolve(error, offsets, consumer)
            }
        }
    }

    /// Success when the brokers hold the transaction for committed after all.
    fn resolve(
        &self,
        error: LogError,
        offsets: &TopicPartitionList,
        consumer: &BaseConsumer<GroupContext>,
    ) -> Result<(), LogError> {
        if is_committed(consumer, offsets, &self.params)? { Ok(()) } else { Err(error) }
    }

    /// Makes the producer anew: what the one before left open is ended, and its late requests are refused.
    fn renew(&mut self) -> Result<(), LogError> {
        info!(transactional_id = self.thread_id, "making the producer anew after a transaction of unknown outcome");
        self.producer = make_producer(&self.params, &self.thread_id)?;
        self.must_renew = false;
        Ok(())
    }

    fn fill_and_commit(
        &mut self,
        outputs: &[OutputRecord],
        offsets: &TopicPartitionList,
        consumer: &BaseConsumer<GroupContext>,
    ) -> Outcome {
        if let Err(error) = self.send_all(outputs).and_then(|()| self.send_offsets(offsets, consumer)) {
            return Outcome::Failed(error);
        }
        let action = "committing a transaction";
        let deadline = Deadline::after_ms(u64::from(self.params.timeouts.commit_resolve_ms));
        loop {
            let attempt = deadline.remaining_at_most(u64::from(self.params.timeouts.commit_attempt_ms));
            let Err(error) = self.producer.commit_transaction(attempt) else {
                return Outcome::Committed;
            };
            match transaction_disposition(&error) {
                // Whether the brokers were asked to commit before the client wanted an abort, it does not say.
                Disposition::Abort => return Outcome::Unclear(self.abortable(action, &error)),
                Disposition::Retry if !deadline.has_passed() => {
                    warn!(transactional_id = self.thread_id, %error, "outcome of a commit is unknown; asking again");
                    self.must_renew = true;
                }
                Disposition::Retry => {
                    let message = format!(
                        "its outcome is still unknown after {} ms ({error}); a restart resumes from what the brokers decided",
                        self.params.timeouts.commit_resolve_ms
                    );
                    return Outcome::Lost(fatal(action, message));
                }
                Disposition::Fatal if lost_track(&error) => return Outcome::Unclear(self.abortable(action, &error)),
                Disposition::Fatal => return Outcome::Lost(self.transaction_error(action, &error)),
            }
        }
    }

    /// Hands all records to the producer and waits until the brokers have them.
    fn send_all(&self, outputs: &[OutputRecord]) -> Result<(), LogError> {
        let deadline = Deadline::after_ms(u64::from(self.params.timeouts.message_ms) + 1_000);
        for output in outputs {
            self.send(output, deadline)?;
        }
        drain(&self.producer, deadline, "delivering outputs")?;
        self.producer.poll(Duration::ZERO);
        match self.producer.context().take_failure() {
            None => Ok(()),
            Some(report) => Err(log_error("delivering outputs", report.text, delivery_disposition(report.code))),
        }
    }

    fn send(&self, output: &OutputRecord, deadline: Deadline) -> Result<(), LogError> {
        let mut record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(self.params.topics.output(output.topic)).partition(output.partition.0);
        if !output.key.is_empty() {
            record = record.key(&output.key);
        }
        if let Some(payload) = &output.payload {
            record = record.payload(payload);
        }
        if !output.headers.is_empty() {
            let mut headers = OwnedHeaders::new_with_capacity(output.headers.len());
            for (key, value) in &output.headers {
                headers = headers.insert(Header { key, value: Some(value) });
            }
            record = record.headers(headers);
        }
        send_blocking(&self.producer, record, deadline).map_err(|error| {
            let disposition = error.rdkafka_error_code().map_or(Disposition::Abort, delivery_disposition);
            let action = format!("sending to `{}`", self.params.topics.output(output.topic));
            log_error(self.named(&action), self.with_report(&error), disposition)
        })
    }

    fn send_offsets(
        &self,
        offsets: &TopicPartitionList,
        consumer: &BaseConsumer<GroupContext>,
    ) -> Result<(), LogError> {
        let action = "adding offsets to a transaction";
        let deadline = Deadline::after_ms(u64::from(self.params.timeouts.transaction_ms));
        loop {
            // Fresh each time: it carries the group's generation, by which a member that was thrown out is refused.
            let group = consumer.group_metadata().ok_or_else(|| fatal(action, "the consumer has no group"))?;
            // One long attempt: unlike a commit, this call cannot be resumed after a timeout.
            let Err(error) = self.producer.send_offsets_to_transaction(offsets, &group, deadline.remaining()) else {
                return Ok(());
            };
            match transaction_disposition(&error) {
                Disposition::Retry if !deadline.has_passed() => {}
                Disposition::Retry | Disposition::Abort => return Err(self.abortable(action, &error)),
                Disposition::Fatal => return Err(self.transaction_error(action, &error)),
            }
        }
    }

    /// Ends the open transaction without its records. Where the brokers and this producer disagree on whether there is one,
    /// as after a coordinator that died in the middle, the producer is made anew, which ends whatever is open.
    fn abort(&mut self) -> Result<Ended, LogError> {
        let deadline = Deadline::after_ms(u64::from(self.params.timeouts.commit_resolve_ms));
        loop {
            let Err(error) = self.producer.abort_transaction(deadline.remaining_at_most(ABORT_ATTEMPT_MS)) else {
                // The records thrown away are reported as failures; they are this transaction's, not the next one's.
                while self.producer.in_flight_count() > 0 && !deadline.has_passed() {
                    serve(&self.producer);
                }
                drop(self.producer.context().take_failure());
                return Ok(Ended::Aborted);
            };
            if lost_track(&error) {
                warn!(transactional_id = self.thread_id, %error, "the brokers know of no such transaction; asking what they decided");
                self.renew()?;
                return Ok(Ended::Unknown);
            }
            if transaction_disposition(&error) != Disposition::Retry || deadline.has_passed() {
                return Err(fatal("aborting a transaction", explain(&error)));
            }
            serve(&self.producer);
        }
    }

    fn write_then_commit(
        &self,
        outputs: &[OutputRecord],
        offsets: &TopicPartitionList,
        consumer: &BaseConsumer<GroupContext>,
    ) -> Result<(), LogError> {
        self.send_all(outputs)?;
        consumer.commit(offsets, CommitMode::Sync).map_err(|error| match error.rdkafka_error_code() {
            // The group moved on without us, or the brokers are away: the batch is read again by whoever owns it.
            Some(RDKafkaErrorCode::IllegalGeneration | RDKafkaErrorCode::UnknownMemberId) => {
                log_error("committing offsets", explain(&error), Disposition::Abort)
            }
            Some(code) if heals_by_itself(code) => log_error("committing offsets", explain(&error), Disposition::Abort),
            _ => request_error("committing offsets", &error),
        })
    }

    fn abortable(&self, action: &str, error: &KafkaError) -> LogError {
        log_error(self.named(action), self.with_report(error), Disposition::Abort)
    }

    fn transaction_error(&self, action: &str, error: &KafkaError) -> LogError {
        log_error(self.named(action), self.with_report(error), transaction_disposition(error))
    }

    fn named(&self, action: &str) -> String {
        format!("{action} of `{}`", self.thread_id)
    }

    /// The error, and what the producer reported beside it.
    fn with_report(&self, error: &KafkaError) -> String {
        match self.producer.context().take_last_error() {
            Some(report) => format!("{}; {}", explain(error), report.text),
            None => explain(error),
        }
    }
}

/// Whether the brokers hold the transaction for ended, or for never begun: what became of it only they can say.
fn lost_track(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::InvalidTransactionalState)
}

/// Makes a producer; with transactions, waits until predecessors of the same id are fenced and their transaction ended.
fn make_producer(params: &KafkaParams, thread_id: &str) -> Result<BaseProducer<Watch>, LogError> {
    let config = match params.delivery {
        Delivery::ExactlyOnce => transactional_config(params, thread_id),
        Delivery::AtLeastOnce => producer_config(params, thread_id),
    };
    let producer: BaseProducer<Watch> =
        config.create_with_context(Watch::default()).map_err(|error| fatal("making the producer", explain(&error)))?;
    if params.delivery == Delivery::AtLeastOnce {
        return Ok(producer);
    }
    let action = format!("taking over transactional id `{thread_id}`");
    let deadline = Deadline::after_ms(u64::from(params.timeouts.start_ms));
    loop {
        let attempt = deadline.remaining_at_most(u64::from(params.timeouts.request_ms));
        let Err(error) = producer.init_transactions(attempt) else {
            return Ok(producer);
        };
        if transaction_disposition(&error) != Disposition::Retry || deadline.has_passed() {
            return Err(fatal(action, explain(&error)));
        }
    }
}

/// Queues one record; while the queue is full, serves what the brokers answered.
pub(super) fn send_blocking(
    producer: &BaseProducer<Watch>,
    record: BaseRecord<'_, [u8], [u8]>,
    deadline: Deadline,
) -> Result<(), KafkaError> {
    let mut record = record;
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) if !deadline.has_passed() => {
                record = returned;
                serve(producer);
            }
            Err((error, _)) => return Err(error),
        }
    }
}

/// Serves what the brokers answered, then leaves the processor to others for a moment.
fn serve(producer: &BaseProducer<Watch>) {
    producer.poll(Duration::ZERO);
    std::thread::sleep(ANSWER_WAIT);
}

/// Waits until nothing is queued or in flight.
///
/// `BaseProducer::flush` (and the flush inside `commit_transaction`) polls in steps of 100 ms and returns only at the end
/// of one: every commit would take 100 ms. A flush of zero cuts the linger, a poll of zero serves what is there. A poll of
/// 1 ms would do the same and spin for it: rdkafka waits whole milliseconds only, and asks again and again through the part
/// of one that is left.
pub(super) fn drain(producer: &BaseProducer<Watch>, deadline: Deadline, action: &str) -> Result<(), LogError> {
    while producer.in_flight_count() > 0 {
        if deadline.has_passed() {
            let message = format!("{} records are still in flight", producer.in_flight_count());
            return Err(log_error(action, message, Disposition::Abort));
        }
        match producer.flush(Duration::ZERO) {
            Ok(()) | Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)) => {}
            Err(error) => return Err(request_error(action, &error)),
        }
        serve(producer);
    }
    Ok(())
}

/// Whether `offsets` were the last that the group committed, by their text too: a batch of silent users moves no offset.
/// Waits for what is still undecided.
fn is_committed(
    consumer: &BaseConsumer<GroupContext>,
    offsets: &TopicPartitionList,
    params: &KafkaParams,
) -> Result<bool, LogError> {
    let committed = committed(consumer, offsets, params)?;
    Ok(offsets.elements().iter().all(|wanted| {
        committed
            .find_partition(wanted.topic(), wanted.partition())
            .is_some_and(|found| found.offset() == wanted.offset() && found.metadata() == wanted.metadata())
    }))
}

/// Fills in the group's committed offsets.
pub(super) fn committed(
    consumer: &BaseConsumer<GroupContext>,
    partitions: &TopicPartitionList,
    params: &KafkaParams,
) -> Result<TopicPartitionList, LogError> {
    let action = "asking for committed offsets";
    // Offsets of an open transaction are unstable; the brokers end one that was forgotten.
    let wait_ms = u64::from(params.timeouts.request_ms.max(params.timeouts.transaction_ms)) + 15_000;
    let deadline = Deadline::after_ms(wait_ms);
    loop {
        let attempt = deadline.remaining_at_most(u64::from(params.timeouts.request_ms));
        let result = consumer.committed_offsets(partitions.clone(), attempt).and_then(|found| {
            found.elements().iter().try_for_each(rdkafka::topic_partition_list::TopicPartitionListElem::error)?;
            Ok(found)
        });
        match result {
            Ok(found) => return Ok(found),
            Err(error) if !deadline.has_passed() && error.rdkafka_error_code().is_some_and(heals_by_itself) => {}
            Err(error) => return Err(request_error(action, &error)),
        }
    }
}

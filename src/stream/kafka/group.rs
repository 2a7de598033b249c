//! Membership in the consumer group: joining, and what the group gives and takes, in the order it happened.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode as Code},
    types::RDKafkaRespErr,
};
use tracing::{debug, warn};

use super::{
    client::{Watch, forward_log, group_config},
    error::{explain, fatal, heals_by_itself, request_error},
    lag::LagTable,
    params::{KafkaParams, TopicNames},
};
use crate::{
    event::{PartitionId, View},
    stream::LogError,
};

/// One rebalance event.
#[derive(Debug)]
pub(super) enum GroupEvent {
    /// These input partitions are ours now, paused.
    Assigned(Vec<(View, PartitionId)>),
    /// Everything is taken away.
    Revoked,
    /// The group could not be served; the text says why.
    Failed(String),
}

/// The context of a stream thread's consumer. Its callbacks run on that thread, inside `poll`.
pub(super) struct GroupContext {
    topics: TopicNames,
    lag: Arc<LagTable>,
    watch: Watch,
    /// Filled by the rebalance callback, emptied after the poll that ran it; one thread, so never contended.
    events: Mutex<VecDeque<GroupEvent>>,
    /// Whether `events` holds anything: read once a record, so without the lock.
    pending: AtomicBool,
}

impl GroupContext {
    pub(super) fn new(topics: TopicNames, lag: Arc<LagTable>) -> Self {
        Self { topics, lag, watch: Watch::default(), events: Mutex::default(), pending: AtomicBool::new(false) }
    }

    /// Whether an event waits.
    pub(super) fn has_event(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// Takes the oldest event.
    pub(super) fn take_event(&self) -> Option<GroupEvent> {
        let mut events = self.events.lock().ok()?;
        let event = events.pop_front();
        self.pending.store(!events.is_empty(), Ordering::Release);
        event
    }

    fn push(&self, event: GroupEvent) {
        if let Ok(mut events) = self.events.lock() {
            events.push_back(event);
            self.pending.store(true, Ordering::Release);
        }
    }
}

/// Takes the assignment and pauses it at once: nothing may be delivered before the loop has restored the state. The start
/// offset is a placeholder (one is needed, else librdkafka asks for the committed ones); the loop seeks.
fn assign_paused(consumer: &BaseConsumer<GroupContext>, assignment: &mut TopicPartitionList) -> Result<(), KafkaError> {
    assignment.set_all_offsets(Offset::Beginning)?;
    consumer.assign(assignment)?;
    consumer.pause(assignment)
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        forward_log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.watch.error(error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if let Err(error) = self.lag.update(statistics, |name| self.topics.view_of(name)) {
            warn!(%error, "librdkafka's statistics could not be read; lag is stale");
        }
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let outcome = if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let assigned = partitions
                .elements()
                .iter()
                .filter_map(|element| Some((self.topics.view_of(element.topic())?, PartitionId(element.partition()))))
                .collect();
            self.push(GroupEvent::Assigned(assigned));
            assign_paused(consumer, partitions)
        } else {
            self.push(GroupEvent::Revoked);
            consumer.unassign()
        };
        if let Err(error) = outcome {
            self.push(GroupEvent::Failed(error.to_string()));
        }
    }
}

/// A member of the group that has asked to read the input topics.
pub(super) fn member(
    params: &KafkaParams,
    thread_id: &str,
    lag: &Arc<LagTable>,
) -> Result<BaseConsumer<GroupContext>, LogError> {
    let context = GroupContext::new(params.topics.clone(), Arc::clone(lag));
    let consumer: BaseConsumer<GroupContext> = group_config(params, thread_id)
        .create_with_context(context)
        .map_err(|error| fatal("making the consumer", explain(&error)))?;
    let names: Vec<&str> = params.topics.inputs.iter().map(String::as_str).collect();
    consumer.subscribe(&names).map_err(|error| fatal("subscribing to the input topics", explain(&error)))?;
    Ok(consumer)
}

/// Errors that the consumer heals by itself are only noted.
pub(super) fn tolerate(error: &KafkaError) -> Result<(), LogError> {
    if error.rdkafka_error_code() == Some(Code::FencedInstanceId) {
        // The next poll joins anew, or ends; see `KafkaLog::rejoin`.
        return Ok(());
    }
    let heals = !matches!(error, KafkaError::MessageConsumptionFatal(_))
        && error.rdkafka_error_code().is_some_and(|code| {
            heals_by_itself(code)
                || matches!(
                    code,
                    // The member was thrown out for not polling; it gives its partitions up and joins again.
                    Code::PollExceeded | Code::UnknownMemberId | Code::IllegalGeneration | Code::AssignmentLost
                )
        });
    if heals {
        debug!(%error, "consumer reports");
        return Ok(());
    }
    Err(request_error("reading the input topics", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Disposition;

    #[test]
    fn only_what_heals_is_tolerated() {
        assert!(tolerate(&KafkaError::MessageConsumption(Code::AllBrokersDown)).is_ok());
        assert!(tolerate(&KafkaError::MessageConsumption(Code::PollExceeded)).is_ok());
        let error = tolerate(&KafkaError::MessageConsumption(Code::AutoOffsetReset)).unwrap_err();
        assert_eq!(error.disposition, Disposition::Fatal);
        assert!(tolerate(&KafkaError::MessageConsumptionFatal(Code::AllBrokersDown)).is_err());
        assert!(tolerate(&KafkaError::MessageConsumptionFatal(Code::FencedInstanceId)).is_ok(), "the poll sees to it");
    }
}

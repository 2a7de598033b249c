//! The log of one stream thread on Kafka.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rdkafka::{
    Message, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{BorrowedMessage, Headers},
};
use tracing::{info, warn};

use super::{
    deadline::Deadline,
    error::{explain, fatal, log_error},
    group::{GroupContext, GroupEvent, member, tolerate},
    inputs::read_inputs,
    lag::LagTable,
    layout::Layout,
    params::KafkaParams,
    reader::{Place, Reader, watermarks},
    topics::check_topics,
    writer::{Writer, committed},
};
use crate::{
    decision::FIRST_ORIGIN_HEADER,
    event::{Offset, Origin, PartitionId, Positions, View},
    stream::{
        BatchLimits, Commit, Disposition, LogError, OutputTopic, Polled, Record, RecordBatch, Sink, Source, next_after,
    },
};

/// Records that are here already and are taken between two looks at the clock.
const CLOCK_RECORDS: u32 = 64;
/// How long a wait for the cluster polls the group's consumer at a time.
const KEEP_ALIVE_MS: u64 = 20;

/// [`Source`] and [`Sink`] of one stream thread: a member of the group, and a (transactional) producer.
pub struct KafkaLog {
    params: KafkaParams,
    thread_id: String,
    consumer: BaseConsumer<GroupContext>,
    writer: Writer,
    owned: BTreeMap<PartitionId, Owned>,
    lag: Arc<LagTable>,
    layout: Layout,
    /// Until when a second fencing of the member is taken for a twin's; see [`Self::rejoin`].
    rejoined: Option<Deadline>,
    /// Tells commits apart that move no position, as those of silent users; begins anywhere.
    commit_count: u64,
}

/// A partition the group gave us.
#[derive(Debug, Clone, Copy)]
struct Owned {
    /// What to deliver next.
    next: Positions,
    flow: Flow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Paused until [`Source::start_at`].
    Restoring,
    /// To be moved to `next` and resumed by the next poll.
    Starting,
    /// Delivered by every poll.
    Flowing,
}

impl KafkaLog {
    /// Checks the topics, ends a predecessor's open transaction, and joins the group as stream thread `thread`.
    pub fn open(params: &KafkaParams, thread: usize) -> Result<Self, LogError> {
        let problems = params.problems();
        if !problems.is_empty() {
            return Err(fatal("reading the kafka settings", problems.join("; ")));
        }
        let partition_count = check_topics(params)?;
        let thread_id = params.thread_id(thread);
        let writer = Writer::open(params, &thread_id)?;
        let lag = Arc::new(LagTable::default());
        let consumer = member(params, &thread_id, &lag)?;
        info!(group = params.group, thread_id, partition_count, "joining the group");
        let layout = Layout { partition_count };
        Ok(Self {
            params: params.clone(),
            thread_id,
            consumer,
            writer,
            owned: BTreeMap::new(),
            lag,
            layout,
            rejoined: None,
            commit_count: rand::random(),
        })
    }

    /// Ends of the assigned input partitions, kept up to date while this log is polled.
    pub fn lag_table(&self) -> Arc<LagTable> {
        Arc::clone(&self.lag)
    }

    /// Whether the group knows another member by our instance id.
    fn is_fenced(&self) -> bool {
        self.consumer.client().fatal_error().is_some_and(|(code, _)| code == Code::FencedInstanceId)
    }

    /// Joins the group anew after it took another member for this instance, and gives up what was owned.
    ///
    /// A twin of this name does that; and so does a coordinator that dies while the member joins: what it gave it the next one
    /// may know, but not the member, who then comes with an id that is no longer the instance's. The two look alike. So it is
    /// tried once: a twin answers within a session by fencing this member again, and of two twins the older is the first to be
    /// fenced twice.
    fn rejoin(&mut self) -> Result<Polled, LogError> {
        let action = "staying in the group";
        if self.rejoined.is_some_and(|until| !until.has_passed()) {
            return Err(fatal(action, explain(&KafkaError::Global(Code::FencedInstanceId))));
        }
        warn!(thread_id = self.thread_id, "the group took another member for this instance; joining anew");
        self.rejoined = Some(Deadline::after_ms(2 * u64::from(self.params.timeouts.session_ms)));
        self.consumer = member(&self.params, &self.thread_id, &self.lag)?;
        Ok(Polled::Revoked(std::mem::take(&mut self.owned).into_keys().collect()))
    }

    /// What a member that was fenced asks for in vain is no reason to end: the next poll joins anew.
    fn unless_fenced(&self, error: LogError) -> LogError {
        if self.is_fenced() { LogError { disposition: Disposition::Abort, ..error } } else { error }
    }

    /// Turns the oldest waiting rebalance event into what the loop is told.
    fn take_group_event(&mut self) -> Result<Option<Polled>, LogError> {
        while let Some(event) = self.consumer.context().take_event() {
            match event {
                GroupEvent::Failed(message) => return Err(fatal("taking the group's assignment", message)),
                GroupEvent::Revoked => {
                    // Range is eager: whatever is revoked, it is everything.
                    let revoked: Vec<PartitionId> = std::mem::take(&mut self.owned).into_keys().collect();
                    if !revoked.is_empty() {
                        return Ok(Some(Polled::Revoked(revoked)));
                    }
                }
                GroupEvent::Assigned(assigned) => {
                    let partitions = whole_partitions(&assigned)
                        .map_err(|message| fatal("taking the group's assignment", message))?;
                    if partitions.is_empty() {
                        continue;
                    }
                    self.layout.check_now(&self.consumer, &self.params)?;
                    let fresh = Owned { next: Positions::default(), flow: Flow::Restoring };
                    self.owned.extend(partitions.iter().map(|partition| (*partition, fresh)));
                    return Ok(Some(Polled::Assigned(partitions)));
                }
            }
        }
        Ok(None)
    }

    /// Moves partitions to where they start, and lets their records flow.
    fn start_flowing(&mut self) -> Result<(), LogError> {
        if self.owned.values().all(|owned| owned.flow != Flow::Starting) {
            return Ok(());
        }
        let action = "moving to the start positions";
        let mut starts = TopicPartitionList::new();
        for (partition, owned) in self.owned.iter().filter(|(_, owned)| owned.flow == Flow::Starting) {
            for view in View::ALL {
                // Nothing was read: wherever the log begins now. The loop has seen to gaps before.
                let offset = match owned.next.get(view) {
                    Offset(0) => KafkaOffset::Beginning,
                    Offset(offset) => KafkaOffset::Offset(offset),
                };
                starts
                    .add_partition_offset(self.params.topics.input(view), partition.0, offset)
                    .map_err(|error| fatal(action, explain(&error)))?;
            }
        }
        let deadline = Deadline::after_ms(u64::from(self.params.timeouts.request_ms));
        while !self.seek(&starts, deadline)? {
            // The fetchers of a fresh assignment take a moment to exist. Polling instead would drop records of partitions
            // that flow already.
            std::thread::sleep(Duration::from_millis(2));
        }
        self.consumer.resume(&starts).map_err(|error| fatal(action, explain(&error)))?;
        for owned in self.owned.values_mut().filter(|owned| owned.flow == Flow::Starting) {
            owned.flow = Flow::Flowing;
        }
        Ok(())
    }

    /// Whether all partitions are now at their offset; `false` while one is not ready to be moved.
    fn seek(&self, starts: &TopicPartitionList, deadline: Deadline) -> Result<bool, LogError> {
        let action = "moving to the start positions";
        let result = self
            .consumer
            .seek_partitions(starts.clone(), deadline.remaining())
            .map_err(|error| fatal(action, explain(&error)))?;
        for element in result.elements() {
            let Err(error) = element.error() else { continue };
            let not_ready = matches!(
                error.rdkafka_error_code(),
                Some(Code::State | Code::PreviousInProgress | Code::InProgress | Code::OperationTimedOut)
            );
            if not_ready && !deadline.has_passed() {
                return Ok(false);
            }
            let place = format!("{action}: `{}` partition {}", element.topic(), element.partition());
            return Err(fatal(place, explain(&error)));
        }
        Ok(true)
    }

    /// Polls the group's consumer while something else is waited for. Nothing flows meanwhile, so no record is lost.
    fn keep_alive(consumer: &BaseConsumer<GroupContext>) -> Result<(), LogError> {
        if let Some(Err(error)) = consumer.poll(Duration::from_millis(KEEP_ALIVE_MS)) {
            tolerate(&error)?;
        }
        if consumer.context().has_event() || consumer.client().fatal_error().is_some() {
            return Err(log_error("restoring a partition", "the group is being rebalanced", Disposition::Abort));
        }
        Ok(())
    }

    /// Pauses what flows; it is moved back to where it was by the next poll.
    fn stop_flowing(&mut self) -> Result<(), LogError> {
        let mut stops = TopicPartitionList::new();
        for (partition, owned) in self.owned.iter_mut().filter(|(_, owned)| owned.flow == Flow::Flowing) {
            owned.flow = Flow::Starting;
            for view in View::ALL {
                stops.add_partition(self.params.topics.input(view), partition.0);
            }
        }
        if stops.count() > 0 {
            self.consumer.pause(&stops).map_err(|error| fatal("pausing for a restore", explain(&error)))?;
        }
        Ok(())
    }

    fn offsets_of(&mut self, positions: &BTreeMap<PartitionId, Positions>) -> Result<TopicPartitionList, LogError> {
        let mut offsets = TopicPartitionList::with_capacity(positions.len() * View::COUNT);
        self.commit_count = self.commit_count.wrapping_add(1);
        let mark = format!("{} commit={:016x}", self.layout, self.commit_count);
        for (partition, positions) in positions {
            for view in View::ALL {
                let mut offset = offsets.add_partition(self.params.topics.input(view), partition.0);
                offset
                    .set_offset(KafkaOffset::Offset(positions.get(view).0))
                    .map_err(|error| fatal("preparing offsets", explain(&error)))?;
                offset.set_metadata(&mark);
            }
        }
        Ok(offsets)
    }

    fn watermarks(&self, partition: PartitionId) -> Result<[(i64, i64); View::COUNT], LogError> {
        let mut found = [(0, 0); View::COUNT];
        for view in View::ALL {
            let place = Place { topic: self.params.topics.input(view), partition: partition.0 };
            found[view.index()] = watermarks(&self.consumer, place, &self.params)?;
        }
        Ok(found)
    }
}

impl Source for KafkaLog {
    fn poll_blocking(&mut self, limits: &BatchLimits, batch: &mut RecordBatch) -> Result<Polled, LogError> {
        debug_assert!(batch.is_empty(), "the caller clears the batch");
        if self.is_fenced() {
            return self.rejoin();
        }
        if let Some(event) = self.take_group_event()? {
            return Ok(event);
        }
        self.start_flowing()?;
        let mut deadline = Deadline::after_ms(limits.idle_wait_ms);
        let mut polls_without_wait = 0;
        while batch.len() < limits.max_records && batch.byte_count() < limits.max_bytes {
            let was_empty = batch.is_empty();
            // What is here already is taken without looking at the clock each time.
            let polled = match self.consumer.poll(Duration::ZERO) {
                None => {
                    polls_without_wait = 0;
                    let wait = deadline.whole_ms();
                    if wait.is_zero() { None } else { self.consumer.poll(wait) }
                }
                polled => {
                    polls_without_wait += 1;
                    polled
                }
            };
            match polled {
                Some(Ok(message)) => accept(&self.params, &mut self.owned, &message, batch),
                Some(Err(error)) => {
                    tolerate(&error)?;
                    if self.is_fenced() {
                        batch.clear();
                        return self.rejoin();
                    }
                }
                None => {}
            }
            if self.consumer.context().has_event() {
                batch.clear();
                if let Some(event) = self.take_group_event()? {
                    return Ok(event);
                }
            }
            if was_empty && !batch.is_empty() {
                deadline = Deadline::after_ms(limits.linger_ms);
            }
            if polls_without_wait % CLOCK_RECORDS == 0 && deadline.whole_ms().is_zero() {
                break;
            }
        }
        Ok(if batch.is_empty() { Polled::Idle } else { Polled::Records })
    }

    fn committed_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError> {
        let mut wanted = TopicPartitionList::with_capacity(View::COUNT);
        for view in View::ALL {
            wanted.add_partition(self.params.topics.input(view), partition.0);
        }
        let found = committed(&self.consumer, &wanted, &self.params).map_err(|error| self.unless_fenced(error))?;
        self.layout.check_committed(&found, partition, &self.params)?;
        let mut positions = Positions::default();
        for view in View::ALL {
            if let Some(element) = found.find_partition(self.params.topics.input(view), partition.0)
                && let KafkaOffset::Offset(offset) = element.offset()
            {
                positions.set(view, Offset(offset));
            }
        }
        Ok(positions)
    }

    fn earliest_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError> {
        Ok(Positions(self.watermarks(partition)?.map(|(low, _)| Offset(low))))
    }

    fn end_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError> {
        Ok(Positions(self.watermarks(partition)?.map(|(_, high)| Offset(high))))
    }

    /// For a partition that flows this is what the client last heard with its records: `lag_interval_ms` ago, or before the
    /// process was stopped and continued.
    fn known_end_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError> {
        if let Some(owned) = self.owned.get(&partition)
            && owned.flow == Flow::Flowing
            && let Some(ends) = self.lag.ends_of(partition)
        {
            // What was delivered since then is before the end too.
            return Ok(Positions(View::ALL.map(|view| ends.get(view).max(owned.next.get(view)))));
        }
        self.end_blocking(partition)
    }

    fn trouble(&self) -> Option<String> {
        self.lag.is_cut_off().then(|| format!("no broker of `{}` is connected", self.params.bootstrap))
    }

    fn replay_blocking(
        &mut self,
        partition: PartitionId,
        from: Positions,
        to: Positions,
        visit: &mut dyn FnMut(&RecordBatch),
    ) -> Result<(), LogError> {
        if to.at_or_before(&from) {
            return Ok(());
        }
        self.stop_flowing()?;
        let reader = Reader::new(&self.params, &self.thread_id)?;
        let consumer = &self.consumer;
        read_inputs(&reader, &self.params, partition, (from, to), &mut || Self::keep_alive(consumer), visit)
    }

    fn start_at(&mut self, partition: PartitionId, positions: Positions) -> Result<(), LogError> {
        // A partition that was revoked in the meantime needs no start; its event is on its way to the loop.
        if let Some(owned) = self.owned.get_mut(&partition) {
            *owned = Owned { next: positions, flow: Flow::Starting };
        }
        Ok(())
    }
}

impl Sink for KafkaLog {
    fn commit_blocking(&mut self, commit: &Commit) -> Result<(), LogError> {
        let mut positions = commit.positions.clone();
        for output in &commit.outputs {
            // Outputs of a partition are only written together with its offsets: that is what keeps a member that lost
            // the partition from writing to it. A score of a silent user comes without a record read.
            if let Some(owned) = self.owned.get(&output.partition) {
                positions.entry(output.partition).or_insert(owned.next);
            }
        }
        let offsets = self.offsets_of(&positions)?;
        self.writer.write(&commit.outputs, &offsets, &self.consumer)
    }

    fn read_scores_blocking(
        &mut self,
        partition: PartitionId,
        visit: &mut dyn FnMut(&[u8], Option<&[u8]>),
    ) -> Result<(), LogError> {
        self.stop_flowing()?;
        let reader = Reader::new(&self.params, &self.thread_id)?;
        let place = Place { topic: self.params.topics.output(OutputTopic::Scores), partition: partition.0 };
        let consumer = &self.consumer;
        let mut keep_alive = || Self::keep_alive(consumer);
        reader.settle(place, &mut keep_alive)?;
        reader.read(place, 0, None, &mut keep_alive, &mut |message| {
            if let Some(key) = message.key() {
                visit(key, message.payload());
            }
        })
    }
}

/// Takes a record into the batch, if its partition flows and it is not below what comes next (POS-1).
fn accept(
    params: &KafkaParams,
    owned: &mut BTreeMap<PartitionId, Owned>,
    message: &BorrowedMessage<'_>,
    batch: &mut RecordBatch,
) {
    let partition = PartitionId(message.partition());
    let Some(view) = params.topics.view_of(message.topic()) else { return };
    let Some(owned) = owned.get_mut(&partition) else { return };
    let offset = Offset(message.offset());
    if owned.flow != Flow::Flowing || offset < owned.next.get(view) {
        return;
    }
    owned.next.set(view, next_after(offset));
    batch.push_record(&record_of(Origin { view, partition, offset }, message));
}

pub(super) fn record_of<'a>(origin: Origin, message: &'a BorrowedMessage<'_>) -> Record<'a> {
    let first_origin = message.headers().and_then(|headers| {
        headers.iter().find(|header| header.key == FIRST_ORIGIN_HEADER).and_then(|header| header.value)
    });
    Record {
        origin,
        timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
        key: message.key(),
        payload: message.payload(),
        first_origin,
    }
}

/// The partitions of an assignment, each in all three topics.
fn whole_partitions(assigned: &[(View, PartitionId)]) -> Result<Vec<PartitionId>, String> {
    let mut views: BTreeMap<PartitionId, usize> = BTreeMap::new();
    for (_, partition) in assigned {
        *views.entry(*partition).or_default() += 1;
    }
    if let Some((partition, count)) = views.iter().find(|(_, count)| **count != View::COUNT) {
        return Err(format!(
            "partition {partition} came with {count} of {} input topics: their partition counts differ; give all topics \
             the same count, and start again from new topics, because a changed count moves users between partitions",
            View::COUNT
        ));
    }
    Ok(views.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_holds_whole_partitions() {
        let all = |partition| View::ALL.map(|view| (view, PartitionId(partition)));
        let whole: Vec<_> = all(1).into_iter().chain(all(0)).collect();
        assert_eq!(whole_partitions(&whole), Ok(vec![PartitionId(0), PartitionId(1)]));
        assert_eq!(whole_partitions(&[]), Ok(vec![]));
        assert!(whole_partitions(&whole[1..]).unwrap_err().contains("partition 1 came with 2 of 3"));
    }
}

//! A named reader of an output topic: partitions by assignment, positions as the committed offsets of a group of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rdkafka::{
    Message, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError, KafkaResult},
};
use tracing::{debug, warn};

use super::{
    client::{Watch, reader_config},
    error::{explain, fatal, heals_by_itself, request_error},
    params::KafkaParams,
    reader::{Place, watermarks},
    topics::check_topics,
};
use crate::{
    event::{Offset, PartitionId},
    metrics as names,
    stream::{CommittedOutput, LogError, OutputReader, OutputTopic, ReaderStart},
};

/// Waits for a first record this long: a caller has other things to do.
const WAIT: Duration = Duration::from_millis(20);
/// Records taken at once.
const READ_RECORDS: usize = 500;

/// Reads committed records of one output topic. Nobody joins the group `GROUP-NAME`: each instance commits the offsets of the
/// partitions it is told to follow.
pub struct KafkaOutputReader {
    params: KafkaParams,
    topic: String,
    consumer: BaseConsumer<Watch>,
    next: BTreeMap<PartitionId, Offset>,
    /// Followed partitions whose records nobody wants now.
    paused: BTreeSet<PartitionId>,
}

impl KafkaOutputReader {
    /// The reader called `name`. Where it has no position yet, that of `start` is stored at once.
    pub fn open(params: &KafkaParams, topic: OutputTopic, name: &str, start: ReaderStart) -> Result<Self, LogError> {
        let partition_count = check_topics(params)?;
        let mut params = params.clone();
        params.group = format!("{}-{name}", params.group);
        let consumer: BaseConsumer<Watch> = reader_config(&params, &params.group)
            .create_with_context(Watch::default())
            .map_err(|error| fatal("making the consumer", explain(&error)))?;
        let topic = params.topics.output(topic).to_owned();
        let reader = Self { params, topic, consumer, next: BTreeMap::new(), paused: BTreeSet::new() };
        for partition in (0..partition_count).map(PartitionId) {
            if reader.stored(partition)?.is_none() {
                let (first, end) = reader.range(partition)?;
                reader.store(partition, if start == ReaderStart::End { end } else { first })?;
            }
        }
        Ok(reader)
    }

    fn request_timeout(&self) -> Duration {
        Duration::from_millis(u64::from(self.params.timeouts.request_ms))
    }

    fn place(&self, partition: PartitionId) -> Place<'_> {
        Place { topic: &self.topic, partition: partition.0 }
    }

    /// First offset and (exclusive) end of what is committed.
    fn range(&self, partition: PartitionId) -> Result<(Offset, Offset), LogError> {
        let (first, end) = watermarks(&self.consumer, self.place(partition), &self.params)?;
        Ok((Offset(first), Offset(end)))
    }

    fn stored(&self, partition: PartitionId) -> Result<Option<Offset>, LogError> {
        let mut asked = TopicPartitionList::with_capacity(1);
        asked.add_partition(&self.topic, partition.0);
        let action = || format!("asking how far `{}` is read, partition {partition}", self.topic);
        let found = self
            .consumer
            .committed_offsets(asked, self.request_timeout())
            .map_err(|error| request_error(action(), &error))?;
        Ok(match found.find_partition(&self.topic, partition.0).map(|place| place.offset()) {
            Some(KafkaOffset::Offset(offset)) => Some(Offset(offset)),
            _ => None,
        })
    }

    /// The stored position, or the first record there is when retention has passed it.
    fn begin(&self, partition: PartitionId) -> Result<Offset, LogError> {
        let stored = self.stored(partition)?.unwrap_or_default();
        let (first, _) = self.range(partition)?;
        if first > stored {
            let missing = first.0.abs_diff(stored.0);
            warn!(%partition, missing, "records of an output topic were dropped before they were read");
            metrics::counter!(names::WEBHOOK_GAP).increment(missing);
        }
        Ok(first.max(stored))
    }

    fn store(&self, partition: PartitionId, next: Offset) -> Result<(), LogError> {
        let action = || format!("storing how far `{}` is read, partition {partition} at {next}", self.topic);
        let list = self.list([(partition, KafkaOffset::Offset(next.0))]);
        list.and_then(|list| self.consumer.commit(&list, CommitMode::Sync))
            .map_err(|error| request_error(action(), &error))
    }

    fn list(&self, places: impl IntoIterator<Item = (PartitionId, KafkaOffset)>) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in places {
            list.add_partition_offset(&self.topic, partition.0, offset)?;
        }
        Ok(list)
    }

    /// Fetches the partitions that are wanted, and no others.
    fn pause_others(&mut self, wanted: &BTreeSet<PartitionId>) -> Result<(), LogError> {
        let followed: BTreeSet<PartitionId> = self.next.keys().copied().collect();
        let unwanted: BTreeSet<PartitionId> = followed.difference(wanted).copied().collect();
        let pause = self.list(unwanted.difference(&self.paused).map(|partition| (*partition, KafkaOffset::Invalid)));
        let resume = self.list(self.paused.difference(&unwanted).map(|partition| (*partition, KafkaOffset::Invalid)));
        pause
            .and_then(|list| if list.count() > 0 { self.consumer.pause(&list) } else { Ok(()) })
            .and(resume)
            .and_then(|list| if list.count() > 0 { self.consumer.resume(&list) } else { Ok(()) })
            .map_err(|error| request_error(format!("pausing partitions of `{}`", self.topic), &error))?;
        self.paused = unwanted;
        Ok(())
    }
}

impl OutputReader for KafkaOutputReader {
    fn follow_blocking(&mut self, partitions: &BTreeSet<PartitionId>) -> Result<(), LogError> {
        if self.next.keys().eq(partitions) {
            return Ok(());
        }
        let mut next = BTreeMap::new();
        for &partition in partitions {
            let position = match self.next.get(&partition) {
                Some(position) => *position,
                None => self.begin(partition)?,
            };
            next.insert(partition, position);
        }
        self.list(next.iter().map(|(partition, next)| (*partition, KafkaOffset::Offset(next.0))))
            .and_then(|list| self.consumer.assign(&list))
            .map_err(|error| request_error(format!("starting to read `{}`", self.topic), &error))?;
        self.next = next;
        self.paused.clear();
        Ok(())
    }

    fn read_blocking(&mut self, wanted: &BTreeSet<PartitionId>) -> Result<Vec<CommittedOutput>, LogError> {
        self.pause_others(wanted)?;
        let mut records = Vec::new();
        let mut wait = WAIT;
        while records.len() < READ_RECORDS {
            match self.consumer.poll(wait) {
                Some(Ok(message)) => {
                    let (partition, offset) = (PartitionId(message.partition()), Offset(message.offset()));
                    // After a new assignment what was fetched before it may still come.
                    let Some(next) = self.next.get_mut(&partition).filter(|next| **next <= offset) else { continue };
                    *next = Offset(offset.0 + 1);
                    records.push(CommittedOutput { partition, offset, payload: message.payload().map(<[u8]>::to_vec) });
                    wait = Duration::ZERO;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) if error.rdkafka_error_code().is_some_and(heals_by_itself) => {
                    debug!(%error, "reader of outputs reports");
                    break;
                }
                Some(Err(error)) => return Err(request_error(format!("reading `{}`", self.topic), &error)),
                None => break,
            }
        }
        Ok(records)
    }

    fn store_blocking(&mut self, partition: PartitionId, next: Offset) -> Result<(), LogError> {
        self.store(partition, next)
    }

    fn forget(&mut self) {
        self.next.clear();
        self.paused.clear();
    }
}

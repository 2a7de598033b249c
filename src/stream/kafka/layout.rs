//! Whether the topics are still those whose positions the group committed.
//!
//! A user belongs to the partition that its key hashes to. With another number of partitions users move, and a topic made
//! anew begins at offset 0 again: in both cases the positions and the states made from them mean nothing any more. Kafka
//! keeps a short text beside every committed offset; it says how many partitions there were.

use std::{fmt, time::Duration};

use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use tracing::warn;

use super::{error::fatal, group::GroupContext, params::KafkaParams};
use crate::{
    event::{PartitionId, View},
    stream::LogError,
};

const PARTITIONS: &str = "partitions=";
/// What to do about positions that mean nothing any more.
const START_ANEW: &str = "start anew from what the topics hold: another `kafka.group_id`, another `snapshot.location` and \
                          new output topics, because old snapshots and scores belong to the old topics";

/// How the input topics are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Partitions of every topic when this log was opened.
    pub(super) partition_count: i32,
}

impl fmt::Display for Layout {
    /// The beginning of the text that goes with every committed offset.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PARTITIONS}{}", self.partition_count)
    }
}

impl Layout {
    /// Refuses to go on when the topics have another number of partitions by now. Brokers that do not answer are no reason
    /// to stop: the next assignment asks again.
    pub(super) fn check_now(self, consumer: &BaseConsumer<GroupContext>, params: &KafkaParams) -> Result<(), LogError> {
        let topic = params.topics.input(View::Click);
        let wait = Duration::from_millis(u64::from(params.timeouts.request_ms));
        match consumer.fetch_metadata(Some(topic), wait) {
            Ok(metadata) => {
                let count = metadata.topics().first().map_or(0, |found| found.partitions().len());
                let count = i32::try_from(count).unwrap_or(i32::MAX);
                // 0: the topic is unknown for the moment, or being made anew; its positions will tell.
                if count == 0 || count == self.partition_count { Ok(()) } else { Err(self.changed(count)) }
            }
            Err(error) => {
                warn!(topic, %error, "the number of partitions could not be checked");
                Ok(())
            }
        }
    }

    /// Refuses positions of `partition` that were committed for other topics than there are now.
    pub(super) fn check_committed(
        self,
        found: &TopicPartitionList,
        partition: PartitionId,
        params: &KafkaParams,
    ) -> Result<(), LogError> {
        let (mut known, mut missing) = (Vec::new(), Vec::new());
        for view in View::ALL {
            let topic = params.topics.input(view);
            let Some(element) = found.find_partition(topic, partition.0) else { continue };
            if matches!(element.offset(), KafkaOffset::Offset(_)) {
                known.push(topic);
            } else {
                missing.push(topic);
            }
            // Positions without the text were committed by an older version, or set by hand.
            let text = element.metadata().split(' ').next().unwrap_or_default();
            let before = text.strip_prefix(PARTITIONS).and_then(|count| count.parse().ok());
            if let Some(before) = before.filter(|before| *before != self.partition_count) {
                return Err(Self { partition_count: before }.changed(self.partition_count));
            }
        }
        if known.is_empty() || missing.is_empty() {
            return Ok(());
        }
        // All three are committed together, and the brokers forget the positions of a topic that is deleted.
        let action = format!("taking partition {partition}");
        let message = format!(
            "the group has positions of `{}` and none of `{}`: that topic was made anew, or its positions were deleted; \
             {START_ANEW}",
            known.join("`, `"),
            missing.join("`, `")
        );
        Err(fatal(action, message))
    }

    fn changed(self, now: i32) -> LogError {
        fatal(
            "comparing the topics with the committed positions",
            format!(
                "the topics had {} partitions and have {now} now: users have moved between partitions, and their graphs would \
                 be torn apart; use topics of {} partitions, or {START_ANEW}",
                self.partition_count, self.partition_count
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(partition_count: i32, offsets: [Option<i64>; View::COUNT], text: &str, expected: Option<&str>) {
        let params = KafkaParams::default();
        let mut found = TopicPartitionList::new();
        for (view, offset) in View::ALL.into_iter().zip(offsets) {
            let mut element = found.add_partition(params.topics.input(view), 1);
            element.set_offset(offset.map_or(KafkaOffset::Invalid, KafkaOffset::Offset)).unwrap();
            element.set_metadata(text);
        }
        let result = Layout { partition_count }.check_committed(&found, PartitionId(1), &params);
        match (result, expected) {
            (Ok(()), None) => {}
            (Err(error), Some(part)) => assert!(error.to_string().contains(part), "`{error}` should contain `{part}`"),
            (result, expected) => panic!("{result:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn positions_of_other_topics_are_refused() {
        check(4, [None; 3], "", None);
        check(4, [Some(1), Some(0), Some(7)], "partitions=4", None);
        check(4, [Some(1), Some(0), Some(7)], "", None);
        check(4, [Some(1), Some(0), Some(7)], "partitions=4 commit=00000000000000ff", None);
        check(8, [Some(1), Some(0), Some(7)], "partitions=4 commit=00000000000000ff", Some("had 4 partitions"));
        check(8, [Some(1), Some(0), Some(7)], "partitions=4", Some("had 4 partitions and have 8 now"));
        check(4, [None, Some(3), Some(7)], "partitions=4", Some("none of `clicks`"));
    }
}

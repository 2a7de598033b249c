//! The topics themselves: checked at start, made by `topics create`.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
    util::Timeout,
};
use tracing::debug;

use super::{
    client::{LARGEST_OUTPUT_BYTES, Report, Watch, admin_config},
    deadline::Deadline,
    error::{explain, fatal, heals_by_itself, request_error},
    params::KafkaParams,
};
use crate::{
    event::View,
    stream::{LogError, OutputTopic},
};

/// How topics are to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicPlan {
    /// Partitions of every topic; inputs and outputs must agree.
    pub partition_count: i32,
    /// Copies of every partition; the cluster's default when absent.
    pub replication: Option<i32>,
    /// How long inputs are kept, milliseconds; the cluster's default when absent. Must be longer than the snapshot
    /// interval: restore replays the input from the newest snapshot.
    pub input_retention_ms: Option<u64>,
}

/// What became of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its name.
    pub name: String,
    /// False when it was there before.
    pub is_new: bool,
}

/// Makes the topics that do not exist yet. Blocks; needs no async runtime around it.
pub fn create_topics(params: &KafkaParams, plan: &TopicPlan) -> Result<Vec<CreatedTopic>, LogError> {
    let action = "creating topics";
    let admin: AdminClient<Watch> = admin_config(params, &format!("{}-topics", params.group))
        .create_with_context(Watch::default())
        .map_err(|error| request_error(action, &error))?;
    let retention = plan.input_retention_ms.map(|retention_ms| retention_ms.to_string());
    let largest_output = LARGEST_OUTPUT_BYTES.to_string();
    // -1 lets the cluster choose.
    let replication = plan.replication.unwrap_or(-1);
    let mut topics = Vec::new();
    for name in &params.topics.inputs {
        let topic = NewTopic::new(name, plan.partition_count, TopicReplication::Fixed(replication));
        topics.push(match &retention {
            Some(retention_ms) => topic.set("retention.ms", retention_ms),
            None => topic,
        });
    }
    for output in OutputTopic::ALL {
        let topic =
            NewTopic::new(params.topics.output(output), plan.partition_count, TopicReplication::Fixed(replication));
        topics.push(match output {
            OutputTopic::Scores => compacted(topic),
            OutputTopic::DeadLetters => topic.set("max.message.bytes", &largest_output),
            OutputTopic::ChurnAlerts
            | OutputTopic::AlertOutcomes
            | OutputTopic::Recommendations
            | OutputTopic::ShadowScores => topic,
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| fatal(action, error.to_string()))?;
    let wait = Timeout::After(Duration::from_millis(u64::from(params.timeouts.start_ms)));
    let options = AdminOptions::new().request_timeout(Some(wait)).operation_timeout(Some(wait));
    let results =
        runtime.block_on(admin.create_topics(&topics, &options)).map_err(|error| request_error(action, &error))?;
    let created = results
        .into_iter()
        .map(|result| match result {
            Ok(name) => Ok(CreatedTopic { name, is_new: true }),
            Err((name, RDKafkaErrorCode::TopicAlreadyExists)) => Ok(CreatedTopic { name, is_new: false }),
            Err((name, code)) => Err(request_error(format!("creating topic `{name}`"), &KafkaError::AdminOp(code))),
        })
        .collect::<Result<Vec<_>, _>>()?;
    await_topics(params, &created)?;
    Ok(created)
}

/// Waits until the brokers tell of the topics: they hear of new ones a moment after the controller made them.
fn await_topics(params: &KafkaParams, created: &[CreatedTopic]) -> Result<(), LogError> {
    let consumer = asking_consumer(params)?;
    let deadline = Deadline::after_ms(u64::from(params.timeouts.start_ms));
    for topic in created {
        while partition_count(&consumer, &topic.name, params)? == 0 {
            if deadline.has_passed() {
                return Err(fatal(format!("waiting for topic `{}`", topic.name), "it was made but is still unknown"));
            }
            // Serves events while waiting.
            if let Some(Err(error)) = consumer.poll(Duration::from_millis(10)) {
                debug!(%error, "kafka client reports");
            }
        }
    }
    Ok(())
}

fn asking_consumer(params: &KafkaParams) -> Result<BaseConsumer<Watch>, LogError> {
    admin_config(params, &format!("{}-check", params.group))
        .create_with_context(Watch::default())
        .map_err(|error| request_error("connecting to kafka", &error))
}

/// `scores` keeps the newest value of each user: it is where alert state is restored from.
fn compacted(topic: NewTopic<'_>) -> NewTopic<'_> {
    topic
        .set("cleanup.policy", "compact")
        // Restore reads the whole partition, so it is compacted early: below a third of repeats, within a day.
        .set("min.cleanable.dirty.ratio", "0.3")
        .set("max.compaction.lag.ms", "86400000")
        // Only closed segments are compacted.
        .set("segment.bytes", "67108864")
        // A reader that was away for a week still sees that a user was erased.
        .set("delete.retention.ms", "604800000")
}

/// Checks that all topics exist with one partition count, and returns it. Those that are written on request only
/// ([`OutputTopic::is_optional`]) may be absent: older deployments do not have them.
pub fn check_topics(params: &KafkaParams) -> Result<i32, LogError> {
    let consumer = asking_consumer(params)?;
    let mut counts = BTreeMap::new();
    let inputs = View::ALL.map(|view| params.topics.input(view));
    let outputs = OutputTopic::ALL.map(|topic| (params.topics.output(topic), topic.is_optional()));
    for (name, is_optional) in inputs.map(|name| (name, false)).into_iter().chain(outputs) {
        let count = partition_count(&consumer, name, params)?;
        if count > 0 || !is_optional {
            counts.insert(name, count);
        }
    }
    agreed_count(inputs[0], &counts).map_err(|message| fatal("checking topics", message))
}

/// Checks that one output topic exists, with the partition count of the inputs.
pub fn check_output(params: &KafkaParams, topic: OutputTopic) -> Result<(), LogError> {
    let consumer = asking_consumer(params)?;
    let (input, output) = (params.topics.input(View::Click), params.topics.output(topic));
    let mut counts = BTreeMap::new();
    for name in [input, output] {
        counts.insert(name, partition_count(&consumer, name, params)?);
    }
    agreed_count(input, &counts).map_err(|message| fatal("checking topics", message)).map(|_| ())
}

/// The count all topics share, or what is wrong.
fn agreed_count(first_input: &str, counts: &BTreeMap<&str, i32>) -> Result<i32, String> {
    let missing: Vec<&str> = counts.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        return Err(format!("no topic `{}`; `undercurrent topics create` makes what is missing", missing.join("`, `")));
    }
    let expected = counts.get(first_input).copied().unwrap_or_default();
    let different: Vec<String> = counts
        .iter()
        .filter(|(_, count)| **count != expected)
        .map(|(name, count)| format!("`{name}` has {count}"))
        .collect();
    if !different.is_empty() {
        return Err(format!(
            "all topics need one partition count, because partition p of the outputs belongs to partition p of the \
             inputs: `{first_input}` has {expected}, but {}",
            different.join(", ")
        ));
    }
    Ok(expected)
}

/// The partition count of `topic`; 0 when there is no such topic.
fn partition_count(consumer: &BaseConsumer<Watch>, topic: &str, params: &KafkaParams) -> Result<i32, LogError> {
    let deadline = Deadline::after_ms(u64::from(params.timeouts.start_ms));
    let action = || format!("asking `{}` for topic `{topic}`", params.bootstrap);
    loop {
        let error = match consumer.fetch_metadata(Some(topic), deadline.remaining_at_most(2_000)) {
            Ok(metadata) => {
                let Some(found) = metadata.topics().first() else {
                    return Err(fatal(action(), "the answer holds no topic"));
                };
                match found.error() {
                    None => return Ok(i32::try_from(found.partitions().len()).unwrap_or(i32::MAX)),
                    Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => return Ok(0),
                    Some(code) => KafkaError::MetadataFetch(code.into()),
                }
            }
            Err(error) => error,
        };
        // The timeout says nothing; what the connection ran into does.
        let reported = last_report(consumer);
        let may_heal = error.rdkafka_error_code().is_some_and(heals_by_itself)
            && reported.as_ref().is_none_or(|report| heals_by_itself(report.code));
        if deadline.has_passed() || !may_heal {
            return Err(fatal(action(), reported.map_or_else(|| explain(&error), |report| report.text)));
        }
    }
}

fn last_report(consumer: &BaseConsumer<Watch>) -> Option<Report> {
    // Serves the events that wait; there are no records, nothing is assigned.
    // (A poll of zero would stop at the first log line.)
    while consumer.poll(Duration::from_millis(1)).is_some() {}
    consumer.context().take_last_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(counts: &[(&str, i32)], expected: Result<i32, &str>) {
        let counts: BTreeMap<&str, i32> = counts.iter().copied().collect();
        match (agreed_count("clicks", &counts), expected) {
            (Ok(count), Ok(expected)) => assert_eq!(count, expected),
            (Err(message), Err(part)) => assert!(message.contains(part), "`{message}` should contain `{part}`"),
            (result, expected) => panic!("{result:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn all_topics_need_one_partition_count() {
        check(&[("clicks", 4), ("searches", 4)], Ok(4));
        check(&[("clicks", 4), ("searches", 0)], Err("no topic `searches`"));
        check(&[("clicks", 4), ("searches", 8)], Err("`searches` has 8"));
    }
}

//! The log on a real Kafka. Runs when `KAFKA_BOOTSTRAP_SERVERS` is set (`scripts/kafka/kafka.sh start 1` prints it).

mod chaos;
mod commit;
mod daemon;
mod end_to_end;
mod faults;
mod load;
mod oracle;
mod outage;
mod outputs;
mod rebalance;
mod refusals;
mod restore;
mod setup;
mod workload;

use std::{collections::BTreeMap, io::Write};

use undercurrent::{
    event::{Origin, PartitionId, Positions, View},
    stream::{
        BatchLimits, Commit, OutputRecord, OutputTopic, Polled, RecordBatch, Source,
        kafka::{
            KafkaLog, KafkaParams, KafkaProducer, OutputTail, TailRecord, TailStart, Timeouts, TopicNames, TopicPlan,
            create_topics,
        },
    },
};

/// Polls at most this often for something that must happen; each poll waits up to [`LIMITS`]`.idle_wait_ms`.
const MAX_POLLS: usize = 600;

const LIMITS: BatchLimits = BatchLimits { max_records: 1_000, max_bytes: 1 << 20, linger_ms: 5, idle_wait_ms: 100 };

/// Settings for a fresh set of topics, or `None` (said aloud) without a broker.
fn broker(test: &str) -> Option<KafkaParams> {
    Some(params_at(test, variable(test, "KAFKA_BOOTSTRAP_SERVERS")?))
}

/// Settings for a fresh set of topics on the brokers at `bootstrap`.
fn params_at(test: &str, bootstrap: String) -> KafkaParams {
    let prefix = format!("{test}-{:08x}-", rand::random::<u32>());
    KafkaParams {
        bootstrap,
        group: format!("{prefix}group"),
        topics: TopicNames::with_prefix(&prefix),
        timeouts: Timeouts {
            session_ms: 6_000,
            transaction_ms: 4_000,
            message_ms: 3_000,
            max_poll_interval_ms: 60_000,
            commit_resolve_ms: 30_000,
            start_ms: 30_000,
            ..Timeouts::default()
        },
        ..KafkaParams::default()
    }
}

/// What the environment gives a test; without it the test says on stderr that it did not run. Written past the test
/// runner, which keeps what a test that passes prints to itself.
fn variable(test: &str, name: &str) -> Option<String> {
    let value = std::env::var(name).ok();
    if value.is_none() {
        let said = format!("{test}: SKIPPED, {name} is not set; scripts/test or scripts/chaos sets it\n");
        std::io::stderr().write_all(said.as_bytes()).unwrap();
    }
    value
}

/// The same for a producer of events that waits as long as it takes: what is tested is not how fast a busy machine is.
fn patient(params: &KafkaParams) -> KafkaParams {
    let mut params = params.clone();
    params.timeouts.message_ms = 600_000;
    params
}

/// The same with topics of `partition_count` partitions made.
fn broker_with_topics(test: &str, partition_count: i32) -> Option<KafkaParams> {
    let params = broker(test)?;
    let plan = TopicPlan { partition_count, replication: Some(1), input_retention_ms: None };
    assert!(create_topics(&params, &plan).unwrap().iter().all(|topic| topic.is_new));
    Some(params)
}

/// Polls until the group has given `log` exactly `count` partitions, starting each where it was committed.
fn await_partitions(log: &mut KafkaLog, count: usize) -> Vec<PartitionId> {
    let mut owned = Vec::new();
    let mut batch = RecordBatch::default();
    for _ in 0..MAX_POLLS {
        batch.clear();
        match log.poll_blocking(&LIMITS, &mut batch).unwrap() {
            Polled::Assigned(partitions) => {
                for partition in &partitions {
                    let committed = log.committed_blocking(*partition).unwrap();
                    log.start_at(*partition, committed).unwrap();
                }
                owned.extend(partitions);
            }
            Polled::Revoked(partitions) => owned.retain(|partition| !partitions.contains(partition)),
            Polled::Records | Polled::Idle => {}
        }
        if owned.len() == count {
            return owned;
        }
    }
    panic!("the group gave {owned:?} instead of {count} partitions");
}

/// Collects records until there are `count`.
fn collect(log: &mut KafkaLog, count: usize) -> Vec<(Origin, Vec<u8>)> {
    let mut records = Vec::new();
    let mut batch = RecordBatch::default();
    for _ in 0..MAX_POLLS {
        if records.len() >= count {
            break;
        }
        batch.clear();
        let polled = log.poll_blocking(&LIMITS, &mut batch).unwrap();
        assert!(matches!(polled, Polled::Records | Polled::Idle), "{polled:?}");
        records.extend(batch.iter().map(|record| (record.origin, record.payload.unwrap_or_default().to_vec())));
    }
    records
}

/// The positions after `records`, from `positions` on.
fn advance(positions: &mut BTreeMap<PartitionId, Positions>, records: &[(Origin, Vec<u8>)]) {
    for (origin, _) in records {
        positions
            .entry(origin.partition)
            .or_default()
            .set(origin.view, undercurrent::stream::next_after(origin.offset));
    }
}

fn output(topic: OutputTopic, partition: i32, key: &str, payload: &str) -> OutputRecord {
    OutputRecord {
        topic,
        partition: PartitionId(partition),
        key: key.as_bytes().to_vec(),
        payload: Some(payload.as_bytes().to_vec()),
        headers: vec![("ce_type", "test".to_owned())],
    }
}

/// Everything committed to `topics` so far, in log order a partition.
fn committed_outputs(params: &KafkaParams, topics: &[OutputTopic]) -> Vec<TailRecord> {
    let tail = OutputTail::open(params, topics, TailStart::Beginning).unwrap();
    let mut records = Vec::new();
    // Transaction markers take offsets too, so the last record's is not known; one quiet second is the end.
    while let Some(record) = tail.next_blocking(1_000).unwrap() {
        records.push(record);
    }
    records
}

fn texts(records: &[TailRecord]) -> Vec<String> {
    let mut texts: Vec<String> =
        records.iter().map(|record| String::from_utf8(record.payload.clone().unwrap_or_default()).unwrap()).collect();
    texts.sort();
    texts
}

/// Sends `count` events to every input topic, users `u0`, `u1`, …
fn send_events(params: &KafkaParams, count: usize) {
    let producer = KafkaProducer::open(&patient(params)).unwrap();
    for view in View::ALL {
        for index in 0..count {
            let user = format!("u{}", index % 50);
            producer.send_blocking(view, user.as_bytes(), format!("{} {index}", view.name()).as_bytes()).unwrap();
        }
    }
    producer.flush_blocking().unwrap();
}

fn commit(outputs: Vec<OutputRecord>, positions: &BTreeMap<PartitionId, Positions>) -> Commit {
    Commit { outputs, positions: positions.clone() }
}

//! TXN-1 on a real broker: outputs and positions of a batch are there together, or neither is.

use std::{collections::BTreeMap, fmt::Write};

use undercurrent::{
    event::PartitionId,
    stream::{
        Disposition, OutputTopic, Sink, Source,
        kafka::{Delivery, KafkaLog},
        partitioner::partition_of,
    },
};

use super::{
    advance, await_partitions, broker_with_topics, collect, commit, committed_outputs, output, send_events, texts,
};

#[test]
fn what_was_committed_is_visible_and_what_was_aborted_is_not() {
    let Some(params) = broker_with_topics("commit", 1) else { return };
    send_events(&params, 100);
    let mut log = KafkaLog::open(&params, 0).unwrap();
    await_partitions(&mut log, 1);
    let mut positions = BTreeMap::new();
    advance(&mut positions, &collect(&mut log, 300));
    log.commit_blocking(&commit(vec![output(OutputTopic::Scores, 0, "u1", "first")], &positions)).unwrap();
    assert_eq!(log.committed_blocking(PartitionId(0)).unwrap(), positions[&PartitionId(0)]);

    send_events(&params, 10);
    let before = positions.clone();
    advance(&mut positions, &collect(&mut log, 30));
    let refused = vec![
        output(OutputTopic::Scores, 0, "u2", "never seen"),
        output(OutputTopic::Scores, 0, "u3", &incompressible(2_000_000)),
    ];
    let error = log.commit_blocking(&commit(refused, &positions)).unwrap_err();
    // The same batch would be refused again and again.
    assert_eq!(error.disposition, Disposition::Fatal, "{error}");
    assert!(error.to_string().contains("max.message.bytes"), "{error}");
    assert_eq!(log.committed_blocking(PartitionId(0)).unwrap(), before[&PartitionId(0)]);

    // What was aborted is read again, and then committed.
    log.start_at(PartitionId(0), before[&PartitionId(0)]).unwrap();
    let again = collect(&mut log, 30);
    assert_eq!(again.len(), 30);
    log.commit_blocking(&commit(vec![output(OutputTopic::Scores, 0, "u2", "second")], &positions)).unwrap();
    assert_eq!(texts(&committed_outputs(&params, &[OutputTopic::Scores])), ["first", "second"]);
    assert_eq!(log.committed_blocking(PartitionId(0)).unwrap(), positions[&PartitionId(0)]);
}

#[test]
fn outputs_go_to_the_partition_given_with_key_and_headers() {
    let Some(params) = broker_with_topics("outputs", 3) else { return };
    let mut log = KafkaLog::open(&params, 0).unwrap();
    await_partitions(&mut log, 3);
    let outputs = OutputTopic::ALL.map(|topic| output(topic, 2, "user", topic.default_name())).to_vec();
    log.commit_blocking(&commit(outputs, &BTreeMap::new())).unwrap();
    let records = committed_outputs(&params, &OutputTopic::ALL);
    assert_eq!(records.len(), OutputTopic::ALL.len());
    for record in records {
        assert_eq!(record.partition, PartitionId(2));
        assert_eq!(record.key, b"user");
        assert_eq!(record.headers, [("ce_type".to_owned(), "test".to_owned())]);
        assert_eq!(record.payload.as_deref(), Some(record.topic.default_name().as_bytes()));
    }
}

#[test]
fn users_go_to_the_partition_that_the_other_logs_use() {
    let Some(params) = broker_with_topics("partitioner", 4) else { return };
    let users: Vec<String> = (0..200).map(|index| format!("user-{index}-ü")).collect();
    let producer = undercurrent::stream::kafka::KafkaProducer::open(&params).unwrap();
    let sent = producer
        .send_batch(users.iter().map(|user| (undercurrent::event::View::Search, user.as_bytes(), user.as_bytes())))
        .unwrap();
    assert_eq!(sent, 200);
    let mut log = KafkaLog::open(&params, 0).unwrap();
    await_partitions(&mut log, 4);
    let records = collect(&mut log, 200);
    assert_eq!(records.len(), 200);
    for (origin, user) in records {
        assert_eq!(origin.partition, partition_of(&user, 4), "{}", String::from_utf8_lossy(&user));
    }
}

#[test]
fn at_least_once_commits_after_the_outputs() {
    let Some(mut params) = broker_with_topics("at-least-once", 1) else { return };
    params.delivery = Delivery::AtLeastOnce;
    send_events(&params, 10);
    let mut log = KafkaLog::open(&params, 0).unwrap();
    await_partitions(&mut log, 1);
    let mut positions = BTreeMap::new();
    advance(&mut positions, &collect(&mut log, 30));
    log.commit_blocking(&commit(vec![output(OutputTopic::Scores, 0, "u", "plain")], &positions)).unwrap();
    assert_eq!(log.committed_blocking(PartitionId(0)).unwrap(), positions[&PartitionId(0)]);
    assert_eq!(texts(&committed_outputs(&params, &[OutputTopic::Scores])), ["plain"]);
    let error = log
        .commit_blocking(&commit(vec![output(OutputTopic::Scores, 0, "u", &incompressible(2_000_000))], &positions))
        .unwrap_err();
    assert_eq!(error.disposition, Disposition::Fatal);
}

/// The largest record that the inputs take, and every byte of it escaped in the dead letter.
#[test]
fn the_dead_letter_of_the_largest_record_fits() {
    let Some(params) = broker_with_topics("large", 1) else { return };
    let mut log = KafkaLog::open(&params, 0).unwrap();
    await_partitions(&mut log, 1);
    let letter = incompressible(6_000_000);
    log.commit_blocking(&commit(vec![output(OutputTopic::DeadLetters, 0, "u", &letter)], &BTreeMap::new())).unwrap();
    assert_eq!(texts(&committed_outputs(&params, &[OutputTopic::DeadLetters])), [letter]);
}

/// Text that no codec of the producer makes shorter than half.
fn incompressible(bytes: usize) -> String {
    let mut text = String::with_capacity(bytes);
    for index in 0..bytes / 16 {
        write!(text, "{:016x}", xxhash_rust::xxh3::xxh3_64(&index.to_le_bytes())).unwrap();
    }
    text
}

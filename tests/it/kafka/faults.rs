//! Errors of the brokers, injected by librdkafka's mock cluster: it needs no broker. It proves nothing of transactions (it
//! keeps none of their offsets), only which way the sink goes after an error.

use std::collections::BTreeMap;

use rdkafka::{
    error::RDKafkaErrorCode,
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use undercurrent::stream::{
    Disposition, OutputTopic, Sink,
    kafka::{KafkaLog, KafkaParams, Timeouts},
};

use super::{await_partitions, commit, output};

/// A mock cluster with topics of one partition, and a log that owns it.
fn mocked() -> (MockCluster<'static, DefaultProducerContext>, KafkaLog) {
    let cluster = MockCluster::new(1).unwrap();
    let params = KafkaParams {
        bootstrap: cluster.bootstrap_servers(),
        timeouts: Timeouts { commit_attempt_ms: 300, commit_resolve_ms: 20_000, ..Timeouts::default() },
        ..KafkaParams::default()
    };
    for topic in params.topics.inputs.iter().chain(&params.topics.outputs) {
        cluster.create_topic(topic, 1, 1).unwrap();
    }
    let mut log = KafkaLog::open(&params, 0).unwrap();
    await_partitions(&mut log, 1);
    (cluster, log)
}

fn write(log: &mut KafkaLog) -> Result<(), undercurrent::stream::LogError> {
    log.commit_blocking(&commit(vec![output(OutputTopic::Scores, 0, "u", "x")], &BTreeMap::new()))
}

#[test]
fn a_round_trip_of_half_a_second_makes_a_commit_slow_and_breaks_nothing() {
    let (cluster, mut log) = mocked();
    write(&mut log).unwrap();
    cluster.broker_round_trip_time(1, std::time::Duration::from_millis(500)).unwrap();
    for _ in 0..2 {
        write(&mut log).unwrap();
    }
}

#[test]
fn a_user_who_may_not_write_ends_with_the_reason() {
    let (cluster, mut log) = mocked();
    write(&mut log).unwrap();
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    let error = write(&mut log).unwrap_err();
    // The same batch would be refused for ever.
    assert_eq!(error.disposition, Disposition::Fatal, "{error}");
    assert!(error.to_string().contains("access rules refuse"), "{error}");
}

#[test]
fn errors_of_a_commit_go_the_right_way() {
    let (cluster, mut log) = mocked();
    write(&mut log).unwrap();

    // The coordinator moves: retried inside.
    cluster.request_errors(RDKafkaApiKey::EndTxn, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE; 3]);
    write(&mut log).unwrap();

    // The answer to a commit takes longer than an attempt: its outcome is unknown and asked for again; the next
    // transaction runs on a new producer.
    cluster.broker_round_trip_time(1, std::time::Duration::from_millis(700)).unwrap();
    write(&mut log).unwrap();
    cluster.broker_round_trip_time(1, std::time::Duration::ZERO).unwrap();
    write(&mut log).unwrap();

    // The group moved on: this batch is lost, the log is not.
    cluster.request_errors(RDKafkaApiKey::TxnOffsetCommit, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION]);
    let error = write(&mut log).unwrap_err();
    assert_eq!(error.disposition, Disposition::Abort, "{error}");
    write(&mut log).unwrap();

    // Fenced: nothing to be done.
    cluster.request_errors(RDKafkaApiKey::EndTxn, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_PRODUCER_FENCED]);
    let error = write(&mut log).unwrap_err();
    assert_eq!(error.disposition, Disposition::Fatal, "{error} {:?}", RDKafkaErrorCode::ProducerFenced);
}

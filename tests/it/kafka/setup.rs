//! What goes wrong before the first record must be said clearly.

use undercurrent::stream::{
    Disposition, LogError,
    kafka::{KafkaLog, KafkaParams, KafkaProducer, Sasl, Secret, SecurityProtocol, TopicPlan, create_topics},
};

use super::{broker, broker_with_topics};

fn refused(params: &KafkaParams) -> LogError {
    match KafkaLog::open(params, 0) {
        Ok(_) => panic!("must be refused"),
        Err(error) => error,
    }
}

fn check(params: &KafkaParams, parts: &[&str]) {
    let error = refused(params);
    assert_eq!(error.disposition, Disposition::Fatal);
    for part in parts {
        assert!(error.to_string().contains(part), "`{error}` should contain `{part}`");
    }
}

#[test]
fn missing_and_unequal_topics_are_named() {
    let Some(mut params) = broker("topics") else { return };
    check(&params, &["clicks", "searches", "purchases", "scores", "topics create"]);
    let plan = TopicPlan { partition_count: 2, replication: Some(1), input_retention_ms: Some(86_400_000) };
    assert!(create_topics(&params, &plan).unwrap().iter().all(|topic| topic.is_new));
    assert!(create_topics(&params, &plan).unwrap().iter().all(|topic| !topic.is_new), "making them again is harmless");
    let searches = format!("{}-wide", params.topics.inputs[1]);
    params.topics.inputs[1].clone_from(&searches);
    check(&params, &[&searches]);
    // Only the topic that is missing is made, with another count.
    create_topics(&params, &TopicPlan { partition_count: 3, ..plan }).unwrap();
    check(&params, &[&format!("`{searches}` has 3")]);
}

#[test]
fn wrong_settings_never_reach_the_cluster() {
    let Some(mut params) = broker("settings") else { return };
    params.client_options.insert("isolation.level".to_owned(), "read_uncommitted".to_owned());
    check(&params, &["isolation.level"]);
    params.client_options.clear();
    params.consumer_options.insert("no.such.option".to_owned(), "1".to_owned());
    create_topics(&params, &TopicPlan { partition_count: 1, replication: Some(1), input_retention_ms: None }).unwrap();
    check(&params, &["no.such.option"]);
}

#[test]
fn a_cluster_out_of_reach_is_an_error_with_a_cause() {
    let params = KafkaParams { bootstrap: "127.0.0.1:1".to_owned(), ..KafkaParams::default() };
    let params = KafkaParams {
        timeouts: undercurrent::stream::kafka::Timeouts { start_ms: 1_500, ..params.timeouts },
        ..params
    };
    check(&params, &["127.0.0.1:1", "Connection refused"]);
}

/// Runs when the broker offers `SASL_SSL`: `KAFKA_SASL=1 scripts/kafka/kafka.sh start 1`, then `KAFKA_SASL_BOOTSTRAP_SERVERS`
/// and `KAFKA_CA` name the listener and its authority.
#[test]
fn sasl_over_tls_works_and_a_wrong_password_is_said() {
    let (Ok(bootstrap), Ok(authority)) = (std::env::var("KAFKA_SASL_BOOTSTRAP_SERVERS"), std::env::var("KAFKA_CA"))
    else {
        println!("sasl: SKIPPED, KAFKA_SASL_BOOTSTRAP_SERVERS or KAFKA_CA is not set");
        return;
    };
    let Some(mut params) = broker_with_topics("sasl", 1) else { return };
    params.bootstrap = bootstrap;
    params.security.protocol = SecurityProtocol::SaslSsl;
    params.security.ca_location = Some(authority.into());
    let sasl = |password: &str| {
        Some(Sasl {
            mechanism: "SCRAM-SHA-512".to_owned(),
            username: "app".to_owned(),
            password: Secret::new(password),
        })
    };
    params.security.sasl = sasl("app-secret");
    KafkaProducer::open(&params).unwrap();
    let mut log = KafkaLog::open(&params, 0).unwrap();
    super::await_partitions(&mut log, 1);
    params.security.sasl = sasl("wrong-secret");
    check(&params, &["refuse user name or password"]);
    assert!(!refused(&params).to_string().contains("wrong-secret"));
}

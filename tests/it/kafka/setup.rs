//! What goes wrong before the first record must be said clearly.

use std::process::{Command, Stdio};

use undercurrent::stream::{
    Disposition, LogError, OutputTopic,
    kafka::{
        KafkaLog, KafkaParams, KafkaProducer, Sasl, Secret, SecurityProtocol, TopicPlan, check_output, create_topics,
    },
};

use super::{broker, broker_with_topics, variable};

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

/// A deployment from before there was a shadow: its topic is missing, and only a bundle in shadow minds.
#[test]
fn the_topic_of_shadow_scores_is_needed_by_a_shadow_only() {
    let Some(mut params) = broker("shadow") else { return };
    create_topics(&params, &TopicPlan { partition_count: 2, replication: Some(1), input_retention_ms: None }).unwrap();
    check_output(&params, OutputTopic::ShadowScores).unwrap();
    let place = OutputTopic::ALL.iter().position(|topic| topic.is_optional()).unwrap();
    params.topics.outputs[place].push_str("-absent");
    drop(KafkaLog::open(&params, 0).unwrap());
    let error = check_output(&params, OutputTopic::ShadowScores).unwrap_err().to_string();
    assert!(error.contains("shadow-scores-absent`; `undercurrent topics create`"), "{error}");
    create_topics(&params, &TopicPlan { partition_count: 3, replication: Some(1), input_retention_ms: None }).unwrap();
    let error = check_output(&params, OutputTopic::ShadowScores).unwrap_err().to_string();
    assert!(error.contains("-absent` has 3"), "{error}");
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

/// Settings for the secured listener as `user`, with topics made through the plain one.
fn secured(test: &str, user: &str, password: &str) -> Option<KafkaParams> {
    let mut params = broker_with_topics(test, 1)?;
    params.bootstrap = variable(test, "KAFKA_SASL_BOOTSTRAP_SERVERS")?;
    params.security.protocol = SecurityProtocol::SaslSsl;
    params.security.ca_location = Some(variable(test, "KAFKA_CA")?.into());
    params.security.sasl = Some(Sasl {
        mechanism: "SCRAM-SHA-512".to_owned(),
        username: user.to_owned(),
        password: Secret::new(password),
    });
    Some(params)
}

#[test]
fn sasl_over_tls_works_and_a_wrong_password_is_said() {
    let Some(params) = secured("sasl", "app", "app-secret") else { return };
    KafkaProducer::open(&params).unwrap();
    let mut log = KafkaLog::open(&params, 0).unwrap();
    super::await_partitions(&mut log, 1);
    let Some(params) = secured("sasl-wrong", "app", "wrong-secret") else { return };
    check(&params, &["refuse user name or password"]);
    assert!(!refused(&params).to_string().contains("wrong-secret"));
}

#[test]
fn a_user_without_rights_is_told_so() {
    let Some(params) = secured("guest", "guest", "guest-secret") else { return };
    check(&params, &["access rules refuse"]);
    assert!(!refused(&params).to_string().contains("guest-secret"));
}

#[test]
fn an_unknown_authority_and_an_expired_certificate_are_said() {
    let Some(mut params) = secured("certificates", "app", "app-secret") else { return };
    let folder = tempfile::tempdir().unwrap();
    let tls = |arguments: &str| {
        let done = Command::new("openssl").args(arguments.split(' ')).current_dir(folder.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    tls("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=other-ca -keyout ca.key -out ca.pem");
    params.security.ca_location = Some(folder.path().join("ca.pem"));
    check(&params, &["TLS handshake failed"]);

    // A listener with a certificate of that authority; it need not speak Kafka, the handshake comes first.
    tls("req -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -keyout s.key -out s.csr");
    let mut error_with = |days: &str| {
        let signed =
            "x509 -req -in s.csr -CA ca.pem -CAkey ca.key -CAcreateserial -copy_extensions copy -out s.pem -days";
        tls(&format!("{signed} {days}"));
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Command::new("openssl")
            .args(["s_server", "-quiet", "-cert", "s.pem", "-key", "s.key", "-accept", &format!("127.0.0.1:{port}")])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        params.bootstrap = format!("127.0.0.1:{port}");
        params.timeouts.start_ms = 3_000;
        let error = refused(&params).to_string();
        server.kill().unwrap();
        server.wait().unwrap();
        error
    };
    let (expired, valid) = (error_with("-1"), error_with("2"));
    assert!(expired.contains("certificate verify failed") && expired.contains("dates"), "{expired}");
    assert!(!valid.contains("certificate verify failed"), "only its age makes the difference: {valid}");
    assert!(!expired.contains("app-secret") && !valid.contains("app-secret"));
}

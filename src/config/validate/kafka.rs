//! Rules of the Kafka section: timeouts that nest, options that are ours, secrets that can be read.

use std::path::PathBuf;

use super::Report;
use crate::{
    config::{Config, SecurityProtocol},
    stream::kafka::owner_of,
};

/// librdkafka's default for `queue.buffering.max.messages`.
const PRODUCER_QUEUE_RECORDS: usize = 100_000;

/// Outputs of one user in one batch at most: score, alert, recommendation, shadow score.
const OUTPUTS_A_USER: usize = 4;

pub(super) fn kafka(config: &Config, report: &mut Report) {
    let kafka = &config.kafka;
    let brokers_are_legal = kafka.brokers.split(',').all(|broker| {
        broker.trim().rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    });
    report.require(
        brokers_are_legal,
        "kafka.brokers",
        "must be `host:port`, several separated by commas",
        &kafka.brokers,
    );
    report.require(!kafka.group_id.is_empty(), "kafka.group_id", "must not be empty", &kafka.group_id);
    report.require(!kafka.instance_id.is_empty(), "kafka.instance_id", "must not be empty", &kafka.instance_id);
    report.require(
        kafka.transaction_timeout_ms < kafka.session_timeout_ms,
        "kafka.transaction_timeout_ms",
        format!("must be below `kafka.session_timeout_ms` ({})", kafka.session_timeout_ms),
        kafka.transaction_timeout_ms,
    );
    report.require(
        kafka.message_timeout_ms < kafka.transaction_timeout_ms,
        "kafka.message_timeout_ms",
        format!("must be below `kafka.transaction_timeout_ms` ({})", kafka.transaction_timeout_ms),
        kafka.message_timeout_ms,
    );
    let worst_cycle_ms = config
        .stream
        .linger_ms
        .saturating_add(config.stream.idle_wait_ms)
        .saturating_add(config.scoring.timeout_ms)
        .saturating_add(config.scoring.shadow_timeout_ms)
        .saturating_add(u64::from(kafka.commit_resolve_timeout_ms));
    report.require(
        u64::from(kafka.max_poll_interval_ms) > worst_cycle_ms,
        "kafka.max_poll_interval_ms",
        format!(
            "must be above the worst cycle, `stream.linger_ms` + `stream.idle_wait_ms` + `scoring.timeout_ms` + `scoring.shadow_timeout_ms` + `kafka.commit_resolve_timeout_ms` = {worst_cycle_ms}"
        ),
        kafka.max_poll_interval_ms,
    );
    report.require(
        kafka.commit_attempt_timeout_ms < kafka.commit_resolve_timeout_ms,
        "kafka.commit_attempt_timeout_ms",
        format!("must be below `kafka.commit_resolve_timeout_ms` ({})", kafka.commit_resolve_timeout_ms),
        kafka.commit_attempt_timeout_ms,
    );
    report.require(
        (1_000..=900_000).contains(&kafka.transaction_timeout_ms),
        "kafka.transaction_timeout_ms",
        "must be between 1000 and 900000: brokers refuse more",
        kafka.transaction_timeout_ms,
    );
    for (key, value) in [
        ("kafka.message_timeout_ms", kafka.message_timeout_ms),
        ("kafka.request_timeout_ms", kafka.request_timeout_ms),
        ("kafka.start_timeout_ms", kafka.start_timeout_ms),
    ] {
        report.require(value >= 1, key, "must be at least 1", value);
    }
    for (map, options) in kafka.options() {
        for (option, value) in options {
            let key = format!("kafka.{map}.\"{option}\"");
            if let Some(owner) = owner_of(option) {
                report.require(false, &key, format!("must not be set: {owner}"), value);
            }
        }
    }
    kafka_secrets(config, report);
    let queue = kafka
        .producer_options
        .get("queue.buffering.max.messages")
        .and_then(|value| value.parse().ok())
        .unwrap_or(PRODUCER_QUEUE_RECORDS);
    let outputs = config.stream.max_records.saturating_add(config.stream.max_due_users).saturating_mul(OUTPUTS_A_USER);
    report.require(
        outputs <= queue,
        "stream.max_records",
        format!(
            "({OUTPUTS_A_USER} outputs for each of `stream.max_records` + `stream.max_due_users`) must fit the producer's `queue.buffering.max.messages` ({queue})"
        ),
        config.stream.max_records,
    );
}

fn kafka_secrets(config: &Config, report: &mut Report) {
    let kafka = &config.kafka;
    let sasl = matches!(kafka.security_protocol, SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl);
    let mechanisms = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
    report.require(
        mechanisms.contains(&kafka.sasl_mechanism.as_str()),
        "kafka.sasl_mechanism",
        format!("must be one of {}", mechanisms.join(", ")),
        &kafka.sasl_mechanism,
    );
    report.require(
        sasl != kafka.sasl_username.is_empty(),
        "kafka.sasl_username",
        "must be set exactly when `kafka.security_protocol` is `sasl_plaintext` or `sasl_ssl`",
        &kafka.sasl_username,
    );
    let shown = |file: &Option<PathBuf>| file.as_ref().map_or_else(String::new, |path| path.display().to_string());
    report.require(
        sasl == kafka.sasl_password_file.is_some(),
        "kafka.sasl_password_file",
        "must be set exactly when `kafka.security_protocol` is `sasl_plaintext` or `sasl_ssl`",
        shown(&kafka.sasl_password_file),
    );
    report.require(
        kafka.certificate_file.is_some() == kafka.key_file.is_some(),
        "kafka.certificate_file",
        "must be set exactly when `kafka.key_file` is",
        shown(&kafka.certificate_file),
    );
    for (key, file) in [
        ("kafka.sasl_password_file", &kafka.sasl_password_file),
        ("kafka.ca_file", &kafka.ca_file),
        ("kafka.certificate_file", &kafka.certificate_file),
        ("kafka.key_file", &kafka.key_file),
        ("kafka.key_password_file", &kafka.key_password_file),
    ] {
        if let Some(path) = file {
            let readable = std::fs::read_to_string(path).is_ok_and(|text| !text.trim().is_empty());
            report.require(readable, key, "must be a readable file that is not empty", path.display());
        }
    }
}

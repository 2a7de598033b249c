//! The rules a decoded configuration must keep, each with the keys it ties together.

use std::{collections::BTreeMap, fmt::Display, path::PathBuf};

use tracing_subscriber::EnvFilter;

use super::{Config, LogKind, Problem, ScorerKind, SecurityProtocol};
use crate::event::EventKind;

/// librdkafka options the pipeline sets itself: its guarantees rest on them.
pub(super) const OWNED_KAFKA_OPTIONS: [&str; 9] = [
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "group.id",
    "group.instance.id",
    "isolation.level",
    "partition.assignment.strategy",
    "partitioner",
    "transactional.id",
];

/// librdkafka's default for `queue.buffering.max.messages`.
const PRODUCER_QUEUE_RECORDS: usize = 100_000;

/// Outputs of one user in one batch at most: score, alert, recommendation.
const OUTPUTS_A_USER: usize = 3;

struct Report(Vec<Problem>);

impl Report {
    /// Notes `key` unless `holds`.
    fn require(&mut self, holds: bool, key: &str, rule: impl Into<String>, value: impl Display) {
        if !holds {
            self.0.push(Problem { key: key.to_owned(), rule: rule.into(), value: value.to_string() });
        }
    }

    fn at_least_one(&mut self, key: &str, value: usize) {
        self.require(value >= 1, key, "must be at least 1", value);
    }
}

/// Checks everything; the order is the order of the sections.
pub(super) fn all(config: &Config) -> Vec<Problem> {
    let mut report = Report(Vec::new());
    topics(config, &mut report);
    if config.input.log == LogKind::Kafka {
        kafka(config, &mut report);
    } else {
        embedded(config, &mut report);
    }
    events(config, &mut report);
    graph(config, &mut report);
    stream(config, &mut report);
    scoring(config, &mut report);
    decision(config, &mut report);
    snapshot(config, &mut report);
    training(config, &mut report);
    serve(config, &mut report);
    report.0
}

fn topics(config: &Config, report: &mut Report) {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (key, name) in config.topics.named() {
        let legal = !name.is_empty()
            && name.len() <= 249
            && name != "."
            && name != ".."
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        let path = format!("topics.{key}");
        report.require(legal, &path, "must be 1 to 249 of the characters a-z A-Z 0-9 . _ -", name);
        if let Some(other) = seen.insert(name, key) {
            report.require(false, &path, format!("must differ from `topics.{other}`"), name);
        }
    }
}

fn kafka(config: &Config, report: &mut Report) {
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
        .saturating_add(u64::from(kafka.commit_resolve_timeout_ms));
    report.require(
        u64::from(kafka.max_poll_interval_ms) > worst_cycle_ms,
        "kafka.max_poll_interval_ms",
        format!(
            "must be above the worst cycle, `stream.linger_ms` + `stream.idle_wait_ms` + `scoring.timeout_ms` + `kafka.commit_resolve_timeout_ms` = {worst_cycle_ms}"
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
            let owned = OWNED_KAFKA_OPTIONS.contains(&option.as_str());
            report.require(!owned, &key, "must not be set: the pipeline owns it", value);
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

fn embedded(config: &Config, report: &mut Report) {
    let threads = config.stream.threads;
    let partitions = config.embedded.partitions;
    report.require((1..=1_024).contains(&partitions), "embedded.partitions", "must be between 1 and 1024", partitions);
    report.require(
        usize::try_from(partitions).is_ok_and(|partitions| partitions >= threads),
        "embedded.partitions",
        format!("must not be below `stream.threads` ({threads})"),
        partitions,
    );
    report.require(
        config.embedded.recent_id_capacity >= config.http.max_events,
        "embedded.recent_id_capacity",
        format!("must not be below `http.max_events` ({})", config.http.max_events),
        config.embedded.recent_id_capacity,
    );
    report.require(
        config.embedded.retain_input_records >= config.embedded.recent_id_capacity as u64,
        "embedded.retain_input_records",
        format!("must not be below `embedded.recent_id_capacity` ({})", config.embedded.recent_id_capacity),
        config.embedded.retain_input_records,
    );
    report.require(
        !config.embedded.path.as_os_str().is_empty(),
        "embedded.path",
        "must not be empty",
        config.embedded.path.display(),
    );
}

fn events(config: &Config, report: &mut Report) {
    let kinds = EventKind::ALL.map(EventKind::name).join(", ");
    for (name, kind) in &config.events.mapping {
        let known = EventKind::from_name(kind).is_some();
        report.require(known, &format!("events.mapping.{name}"), format!("must be one of {kinds}"), kind);
    }
    if let Some(kind) = &config.events.unknown {
        let known = EventKind::from_name(kind).is_some();
        report.require(known, "events.unknown", format!("must be one of {kinds}"), kind);
    }
    for kind in &config.events.activity {
        let known = EventKind::from_name(kind).is_some();
        report.require(known, "events.activity", format!("must hold only {kinds}"), kind);
    }
    report.require(!config.events.activity.is_empty(), "events.activity", "must not be empty", "[]");
    let bytes = config.events.max_record_bytes;
    report.require(bytes >= 256, "events.max_record_bytes", "must be at least 256", bytes);
    for (key, bound) in
        [("stream.max_bytes", config.stream.max_bytes), ("http.max_body_bytes", config.http.max_body_bytes)]
    {
        report.require(
            bytes <= bound,
            "events.max_record_bytes",
            format!("must not be above `{key}` ({bound})"),
            bytes,
        );
    }
    report.require(
        config.events.max_future_ms >= 0,
        "events.max_future_ms",
        "must not be negative",
        config.events.max_future_ms,
    );
    report.require(
        config.events.earliest_ms >= 0,
        "events.earliest_ms",
        "must not be negative",
        config.events.earliest_ms,
    );
}

fn graph(config: &Config, report: &mut Report) {
    let graph = &config.graph;
    for (key, value, bound) in [
        ("graph.ring_capacity", graph.ring_capacity, 4_096),
        ("graph.item_capacity_nodes", graph.item_capacity_nodes, 16_384),
        ("graph.category_capacity_nodes", graph.category_capacity_nodes, 4_096),
        ("graph.query_capacity_nodes", graph.query_capacity_nodes, 4_096),
        ("graph.edge_capacity", graph.edge_capacity, 4_096),
    ] {
        report.require((1..=bound).contains(&value), key, format!("must be between 1 and {bound}"), value);
    }
    for (key, value) in [
        ("graph.half_life_short_days", graph.half_life_short_days),
        ("graph.half_life_long_days", graph.half_life_long_days),
    ] {
        report.require(value.is_finite() && value > 0.0, key, "must be a number above 0", value);
    }
    report.require(
        graph.half_life_short_days < graph.half_life_long_days,
        "graph.half_life_short_days",
        format!("must be below `graph.half_life_long_days` ({})", graph.half_life_long_days),
        graph.half_life_short_days,
    );
    report.require(graph.session_gap_ms > 0, "graph.session_gap_ms", "must be above 0", graph.session_gap_ms);
    report.require(graph.late_limit_ms > 0, "graph.late_limit_ms", "must be above 0", graph.late_limit_ms);
}

fn stream(config: &Config, report: &mut Report) {
    let stream = &config.stream;
    report.require((1..=256).contains(&stream.threads), "stream.threads", "must be between 1 and 256", stream.threads);
    report.at_least_one("stream.max_records", stream.max_records);
    report.at_least_one("stream.max_bytes", stream.max_bytes);
    report.at_least_one("stream.max_due_users", stream.max_due_users);
    for (key, value) in
        [("stream.scoring_attempts", stream.scoring_attempts), ("stream.retry_attempts", stream.retry_attempts)]
    {
        report.require(value >= 1, key, "must be at least 1", value);
    }
    report.require(stream.lag_interval_ms >= 1, "stream.lag_interval_ms", "must be at least 1", stream.lag_interval_ms);
    report.require(
        (1..=60_000).contains(&stream.idle_wait_ms),
        "stream.idle_wait_ms",
        "must be between 1 and 60000",
        stream.idle_wait_ms,
    );
    report.require(stream.linger_ms <= 60_000, "stream.linger_ms", "must not be above 60000", stream.linger_ms);
    report.require(stream.topic_skew_ms >= 0, "stream.topic_skew_ms", "must not be negative", stream.topic_skew_ms);
    report.require(stream.live_grace_ms >= 0, "stream.live_grace_ms", "must not be negative", stream.live_grace_ms);
}

fn scoring(config: &Config, report: &mut Report) {
    let scoring = &config.scoring;
    report.require(!scoring.bundle.is_empty(), "scoring.bundle", "must not be empty", &scoring.bundle);
    report.require(scoring.workers <= 1_024, "scoring.workers", "must not be above 1024", scoring.workers);
    report.require(
        scoring.cuda_devices.is_empty() || cfg!(feature = "cuda"),
        "scoring.cuda_devices",
        "must be empty: this binary was built without the feature `cuda`",
        format!("{:?}", scoring.cuda_devices),
    );
    report.at_least_one("scoring.max_batch_users", scoring.max_batch_users);
    report.at_least_one("scoring.max_batch_nodes", scoring.max_batch_nodes);
    report.at_least_one("scoring.queue_capacity_batches", scoring.queue_capacity_batches);
    report.require(scoring.timeout_ms >= 100, "scoring.timeout_ms", "must be at least 100", scoring.timeout_ms);
    for (key, value) in [
        ("scoring.recency_churn_days", config.scoring.recency_churn_days),
        ("scoring.recency_purchase_days", config.scoring.recency_purchase_days),
    ] {
        report.require((1..=365).contains(&value), key, "must be between 1 and 365", value);
    }
}

fn decision(config: &Config, report: &mut Report) {
    let decision = &config.decision;
    let thresholds = [
        ("decision.enter_threshold", decision.enter_threshold),
        ("decision.escalate_threshold", decision.escalate_threshold),
        ("decision.recover_threshold", decision.recover_threshold),
    ];
    for (key, value) in thresholds {
        if let Some(value) = value {
            report.require((0.0..=1.0).contains(&value), key, "must be between 0 and 1", value);
        }
    }
    if let (Some(enter), Some(escalate)) = (decision.enter_threshold, decision.escalate_threshold) {
        let rule = format!("must not be below `decision.enter_threshold` ({enter})");
        report.require(escalate >= enter, "decision.escalate_threshold", rule, escalate);
    }
    if let (Some(enter), Some(recover)) = (decision.enter_threshold, decision.recover_threshold) {
        let rule = format!("must be below `decision.enter_threshold` ({enter})");
        report.require(recover < enter, "decision.recover_threshold", rule, recover);
    }
    let days = decision.cooldown_days;
    report.require(days.is_finite() && days >= 0.0, "decision.cooldown_days", "must not be negative", days);
    report.require(decision.max_reasons <= 20, "decision.max_reasons", "must not be above 20", decision.max_reasons);
    report.require(
        (1..=100).contains(&decision.list_length),
        "decision.list_length",
        "must be between 1 and 100",
        decision.list_length,
    );
}

fn snapshot(config: &Config, report: &mut Report) {
    let snapshot = &config.snapshot;
    report.require(!snapshot.location.is_empty(), "snapshot.location", "must not be empty", &snapshot.location);
    report.require(snapshot.interval_s >= 1, "snapshot.interval_s", "must be at least 1", snapshot.interval_s);
    report.at_least_one("snapshot.keep_bases", snapshot.keep_bases);
}

fn training(config: &Config, report: &mut Report) {
    let training = &config.training;
    report.require(
        !training.enabled || config.snapshot.enabled,
        "training.enabled",
        "needs `snapshot.enabled`: training reads snapshots",
        training.enabled,
    );
    report.require(
        !training.enabled || config.scoring.scorer == ScorerKind::Model,
        "training.enabled",
        "needs `scoring.scorer = \"model\"`: there is no champion else",
        training.enabled,
    );
    let hours = training.interval_h;
    report.require(
        hours.is_finite() && hours > 0.0 && hours <= 100_000.0,
        "training.interval_h",
        "must be above 0 and at most 100000",
        hours,
    );
    report.require(
        (1..=100_000).contains(&training.timeout_min),
        "training.timeout_min",
        "must be between 1 and 100000",
        training.timeout_min,
    );
    report.require(
        training.max_memory_mib >= 256,
        "training.max_memory_mib",
        "must be at least 256",
        training.max_memory_mib,
    );
    report.require(training.niceness <= 19, "training.niceness", "must be between 0 and 19", training.niceness);
    report.at_least_one("training.threads", training.threads);
    for (key, value) in [
        ("training.history_days", training.history_days),
        ("training.churn_days", training.churn_days),
        ("training.purchase_days", training.purchase_days),
    ] {
        report.require((1..=3_650).contains(&value), key, "must be between 1 and 3650", value);
    }
    report.require(training.min_gain.is_finite(), "training.min_gain", "must be a number", training.min_gain);
    report.require(
        training.confidence > 0.0 && training.confidence < 1.0,
        "training.confidence",
        "must be above 0 and below 1",
        training.confidence,
    );
    report.require(training.max_loss >= 0.0, "training.max_loss", "must not be negative", training.max_loss);
}

fn serve(config: &Config, report: &mut Report) {
    let http = &config.http;
    report.require(
        http.request_timeout_ms >= 1,
        "http.request_timeout_ms",
        "must be at least 1",
        http.request_timeout_ms,
    );
    report.at_least_one("http.max_events", http.max_events);
    let filter = &config.logging.filter;
    let parsed = EnvFilter::try_new(filter);
    report.require(
        parsed.is_ok(),
        "logging.filter",
        "must be a filter like `info` or `undercurrent=debug,info`",
        filter,
    );
    report.require(
        config.shutdown.deadline_ms >= 1,
        "shutdown.deadline_ms",
        "must be at least 1",
        config.shutdown.deadline_ms,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Config), expected: &[&str]) {
        let mut config = Config::default();
        change(&mut config);
        let keys: Vec<String> = config.validate().into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, expected);
    }

    #[test]
    fn two_topics_of_one_name() {
        check(|config| config.topics.scores = "clicks".to_owned(), &["topics.scores"]);
    }

    #[test]
    fn every_problem_is_reported() {
        check(
            |config| {
                config.stream.threads = 0;
                config.graph.half_life_short_days = 100.0;
                config.events.activity = vec!["purchase".to_owned(), "clicking".to_owned()];
            },
            &["events.activity", "graph.half_life_short_days", "stream.threads"],
        );
    }

    #[test]
    fn a_poll_interval_shorter_than_the_worst_cycle() {
        check(
            |config| {
                config.input.log = LogKind::Kafka;
                config.kafka.max_poll_interval_ms = 100_000;
            },
            &["kafka.max_poll_interval_ms"],
        );
    }

    #[test]
    fn kafka_timeouts_are_nested() {
        check(
            |config| {
                config.input.log = LogKind::Kafka;
                config.kafka.session_timeout_ms = 10_000;
                config.kafka.message_timeout_ms = 30_000;
            },
            &["kafka.transaction_timeout_ms", "kafka.message_timeout_ms"],
        );
    }

    #[test]
    fn an_owned_option_is_refused_by_name() {
        check(
            |config| {
                config.input.log = LogKind::Kafka;
                config.kafka.consumer_options.insert("isolation.level".to_owned(), "read_uncommitted".to_owned());
            },
            &["kafka.consumer_options.\"isolation.level\""],
        );
    }

    #[test]
    fn outputs_must_fit_the_producer_queue() {
        check(
            |config| {
                config.input.log = LogKind::Kafka;
                config.stream.max_records = 50_000;
            },
            &["stream.max_records"],
        );
    }

    #[test]
    fn a_sasl_protocol_needs_a_user_and_a_password_file() {
        check(
            |config| {
                config.input.log = LogKind::Kafka;
                config.kafka.security_protocol = SecurityProtocol::SaslSsl;
            },
            &["kafka.sasl_username", "kafka.sasl_password_file"],
        );
    }

    #[test]
    fn thresholds_are_ordered() {
        check(
            |config| {
                config.decision.enter_threshold = Some(0.5);
                config.decision.escalate_threshold = Some(0.4);
                config.decision.recover_threshold = Some(0.6);
            },
            &["decision.escalate_threshold", "decision.recover_threshold"],
        );
    }

    #[test]
    fn more_threads_than_partitions() {
        check(|config| config.stream.threads = 5, &["embedded.partitions"]);
    }

    #[test]
    fn ids_are_read_from_inputs_that_stay() {
        check(|config| config.embedded.retain_input_records = 10, &["embedded.retain_input_records"]);
    }

    #[test]
    fn a_record_larger_than_a_batch_or_a_body() {
        check(
            |config| {
                config.stream.max_bytes = 1_000;
                config.http.max_body_bytes = 1_000;
            },
            &["events.max_record_bytes", "events.max_record_bytes"],
        );
    }

    #[test]
    fn training_reads_snapshots_and_needs_a_champion() {
        check(
            |config| {
                config.training.enabled = true;
                config.snapshot.enabled = false;
            },
            &["training.enabled"],
        );
        check(
            |config| {
                config.training.interval_h = f64::NAN;
                config.training.confidence = 1.0;
                config.training.niceness = 20;
            },
            &["training.interval_h", "training.niceness", "training.confidence"],
        );
    }

    #[test]
    fn horizons_of_the_recency_scorer() {
        check(
            |config| {
                config.scoring.recency_churn_days = 0;
                config.scoring.recency_purchase_days = 366;
            },
            &["scoring.recency_churn_days", "scoring.recency_purchase_days"],
        );
    }
}

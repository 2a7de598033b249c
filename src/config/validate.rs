//! The rules a decoded configuration must keep, each with the keys it ties together.

mod input;
mod kafka;
mod serve;
mod work;

use std::{collections::BTreeMap, fmt::Display};

use super::{Config, LogKind, Problem};

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
        kafka::kafka(config, &mut report);
    } else {
        input::embedded(config, &mut report);
    }
    input::events(config, &mut report);
    input::graph(config, &mut report);
    work::stream(config, &mut report);
    work::scoring(config, &mut report);
    work::decision(config, &mut report);
    work::snapshot(config, &mut report);
    work::training(config, &mut report);
    serve::http(config, &mut report);
    serve::webhook(config, &mut report);
    serve::process(config, &mut report);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SecurityProtocol;

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
    fn other_machines_need_a_token_unless_it_is_allowed() {
        let open = |config: &mut Config| config.http.listen = "0.0.0.0:80".parse().unwrap();
        check(open, &["http.listen"]);
        check(
            |config| {
                open(config);
                config.http.token_variable = Some("TOKEN".to_owned());
            },
            &[],
        );
        check(
            |config| {
                open(config);
                config.http.allow_without_token = true;
            },
            &[],
        );
        check(
            |config| {
                config.http.token_file = Some("token".into());
                config.http.token_variable = Some("TOKEN".to_owned());
            },
            &["http.token_variable"],
        );
    }

    #[test]
    fn a_webhook_has_an_address_and_a_secret() {
        let webhook = |url: &str, expected: &[&str]| {
            check(
                |config| {
                    config.webhook.url = Some(url.to_owned());
                    config.webhook.secret_variable = Some("SECRET".to_owned());
                },
                expected,
            );
        };
        webhook("https://alerts.example/in", &[]);
        for url in ["alerts", "ftp://alerts.example", "https://name:word@alerts.example"] {
            webhook(url, &["webhook.url"]);
        }
        check(|config| config.webhook.url = Some("https://alerts.example".to_owned()), &["webhook.secret_file"]);
        check(
            |config| {
                config.webhook.max_attempts = 0;
                config.webhook.max_backoff_ms = 1;
            },
            &["webhook.max_attempts", "webhook.max_backoff_ms"],
        );
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

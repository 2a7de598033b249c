//! Keys of the Kafka cluster, and the topic names both logs share.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Topic names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicsConfig {
    /// Views, carts and other actions. `clicks` by default.
    pub clicks: String,
    /// Searches. `searches` by default.
    pub searches: String,
    /// Purchases. `purchases` by default. The three inputs must have equal partition counts and be keyed by user id.
    pub purchases: String,
    /// Newest score of each user, compacted. `scores` by default. As many partitions as the inputs.
    pub scores: String,
    /// Churn alerts. `churn-alerts` by default. As many partitions as the inputs.
    pub churn_alerts: String,
    /// Item lists. `recommendations` by default. As many partitions as the inputs.
    pub recommendations: String,
    /// Records that could not be folded, with their origin and the reason. `dead-letters` by default.
    pub dead_letters: String,
}

impl Default for TopicsConfig {
    fn default() -> Self {
        Self {
            clicks: "clicks".to_owned(),
            searches: "searches".to_owned(),
            purchases: "purchases".to_owned(),
            scores: "scores".to_owned(),
            churn_alerts: "churn-alerts".to_owned(),
            recommendations: "recommendations".to_owned(),
            dead_letters: "dead-letters".to_owned(),
        }
    }
}

impl TopicsConfig {
    /// The names with their keys, inputs first.
    pub fn named(&self) -> [(&'static str, &str); 7] {
        [
            ("clicks", &self.clicks),
            ("searches", &self.searches),
            ("purchases", &self.purchases),
            ("scores", &self.scores),
            ("churn_alerts", &self.churn_alerts),
            ("recommendations", &self.recommendations),
            ("dead_letters", &self.dead_letters),
        ]
    }
}

/// How outputs and input offsets are tied together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// One transaction a micro-batch.
    #[default]
    ExactlyOnce,
    /// Flush, then commit offsets: an output may be repeated after a crash, with the same id.
    AtLeastOnce,
}

/// The cluster and the client's timeouts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// Bootstrap servers, `host:port`, separated by commas. `127.0.0.1:9092` by default.
    pub brokers: String,
    /// The consumer group; all instances of one deployment share it. `undercurrent` by default.
    pub group_id: String,
    /// This instance's stable name: part of `transactional.id` and of `group.instance.id`, unique among live instances,
    /// the same after a restart (a pod or host name). `0` by default.
    pub instance_id: String,
    /// `exactly_once` (default) or `at_least_once`.
    pub delivery: Delivery,
    /// Milliseconds without a heartbeat before the group gives this instance's partitions away. 45,000 by default, as
    /// in Kafka. Must be above `kafka.transaction_timeout_ms`.
    pub session_timeout_ms: u32,
    /// Milliseconds between two polls before the group gives the partitions away. 300,000 by default, as in Kafka. Must
    /// be above the worst cycle: `stream.linger_ms` + `stream.idle_wait_ms` + `scoring.timeout_ms` + `kafka.commit_timeout_ms`.
    pub max_poll_interval_ms: u32,
    /// Milliseconds after which the broker aborts an open transaction. 30,000 by default: a dead instance hides newer
    /// records from `read_committed` readers for at most this long.
    pub transaction_timeout_ms: u32,
    /// Milliseconds to deliver one output record. 20,000 by default. Must be below `kafka.transaction_timeout_ms`.
    pub message_timeout_ms: u32,
    /// Milliseconds during which a commit of unknown outcome is retried before the process stops. 60,000 by default.
    pub commit_timeout_ms: u32,
    /// Milliseconds to wait for metadata and admin answers. 30,000 by default.
    pub request_timeout_ms: u32,
    /// SASL user name. Empty means no SASL. With one, SCRAM-SHA-512 over TLS is the default mechanism.
    pub sasl_username: String,
    /// File that holds the SASL password. Secrets are never keys of their own.
    pub sasl_password_file: Option<PathBuf>,
    /// Further librdkafka options, passed through as they are. The keys the pipeline owns are refused by name.
    pub options: BTreeMap<String, String>,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".to_owned(),
            group_id: "undercurrent".to_owned(),
            instance_id: "0".to_owned(),
            delivery: Delivery::ExactlyOnce,
            session_timeout_ms: 45_000,
            max_poll_interval_ms: 300_000,
            transaction_timeout_ms: 30_000,
            message_timeout_ms: 20_000,
            commit_timeout_ms: 60_000,
            request_timeout_ms: 30_000,
            sasl_username: String::new(),
            sasl_password_file: None,
            options: BTreeMap::new(),
        }
    }
}

//! Keys of the Kafka cluster, and the topic names both logs share.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::stream::kafka::KafkaParams;

/// Topic names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicsConfig {
    /// Views, carts and other actions.
    pub clicks: String,
    /// Searches.
    pub searches: String,
    /// Purchases. The three inputs must have equal partition counts and be keyed by user id.
    pub purchases: String,
    /// Newest score of each user, compacted. As many partitions as the inputs.
    pub scores: String,
    /// Churn alerts. As many partitions as the inputs.
    pub churn_alerts: String,
    /// What became of alerts: right or wrong. As many partitions as the inputs.
    pub alert_outcomes: String,
    /// Item lists. As many partitions as the inputs.
    pub recommendations: String,
    /// Records that could not be folded, with their origin and the reason.
    pub dead_letters: String,
    /// What a challenger in shadow says. As many partitions as the inputs. On Kafka needed only while a bundle is in shadow.
    pub shadow_scores: String,
}

impl Default for TopicsConfig {
    fn default() -> Self {
        Self {
            clicks: "clicks".to_owned(),
            searches: "searches".to_owned(),
            purchases: "purchases".to_owned(),
            scores: "scores".to_owned(),
            churn_alerts: "churn-alerts".to_owned(),
            alert_outcomes: "alert-outcomes".to_owned(),
            recommendations: "recommendations".to_owned(),
            dead_letters: "dead-letters".to_owned(),
            shadow_scores: "shadow-scores".to_owned(),
        }
    }
}

impl TopicsConfig {
    /// The names with their keys, inputs first.
    pub fn named(&self) -> [(&'static str, &str); 9] {
        [
            ("clicks", &self.clicks),
            ("searches", &self.searches),
            ("purchases", &self.purchases),
            ("scores", &self.scores),
            ("churn_alerts", &self.churn_alerts),
            ("alert_outcomes", &self.alert_outcomes),
            ("recommendations", &self.recommendations),
            ("dead_letters", &self.dead_letters),
            ("shadow_scores", &self.shadow_scores),
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

/// How connections are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecurityProtocol {
    /// Plain TCP.
    #[default]
    Plaintext,
    /// TLS.
    Ssl,
    /// A password over plain TCP.
    SaslPlaintext,
    /// A password over TLS.
    SaslSsl,
}

/// The cluster and the client's timeouts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// Bootstrap servers, `host:port`, separated by commas.
    pub brokers: String,
    /// The consumer group; all instances of one deployment share it.
    pub group_id: String,
    /// This instance's stable name: part of `transactional.id` and of `group.instance.id`. Unique among live instances (the
    /// newer of two fences the older) and the same after a restart: a pod or host name.
    pub instance_id: String,
    /// Whether an instance keeps its place in the group over a restart: no rebalance when it is back within the session
    /// timeout, but a stopped instance's partitions move only after it.
    pub static_membership: bool,
    /// `exactly_once` (one transaction a micro-batch) or `at_least_once` (flush, then commit offsets: after a crash an output may
    /// come twice, with the same id).
    pub delivery: Delivery,
    /// `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`.
    pub security_protocol: SecurityProtocol,
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`. Used with the two `sasl_` protocols.
    pub sasl_mechanism: String,
    /// SASL user name. Needed by the two `sasl_` protocols.
    pub sasl_username: String,
    /// File that holds the SASL password. Secrets are never values of the configuration itself.
    pub sasl_password_file: Option<PathBuf>,
    /// Certificates to trust (PEM). Without it the system's are used.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate (PEM), for brokers that ask for one. Goes with `kafka.key_file`.
    pub certificate_file: Option<PathBuf>,
    /// The key of our certificate (PEM).
    pub key_file: Option<PathBuf>,
    /// File that holds the passphrase of the key, where it has one.
    pub key_password_file: Option<PathBuf>,
    /// Milliseconds without a heartbeat before the group gives this instance's partitions away. Kafka's own default. Must be above
    /// `kafka.transaction_timeout_ms`.
    pub session_timeout_ms: u32,
    /// Milliseconds between two polls before the group gives the partitions away. Kafka's own default. Must be above the worst
    /// cycle: `stream.linger_ms` + `stream.idle_wait_ms` + `scoring.timeout_ms` + `scoring.shadow_timeout_ms` +
    /// `kafka.commit_resolve_timeout_ms`.
    pub max_poll_interval_ms: u32,
    /// Milliseconds after which the broker aborts an open transaction. A dead instance hides newer records from `read_committed`
    /// readers for at most this long. From 1,000 to 900,000.
    pub transaction_timeout_ms: u32,
    /// Milliseconds to deliver one output record. Must be below `kafka.transaction_timeout_ms`: an output must fail before its
    /// transaction does.
    pub message_timeout_ms: u32,
    /// Milliseconds of one attempt of a transaction call.
    pub commit_attempt_timeout_ms: u32,
    /// Milliseconds during which a commit of unknown outcome is tried again before the process stops. Must be above
    /// `kafka.commit_attempt_timeout_ms`.
    pub commit_resolve_timeout_ms: u32,
    /// Milliseconds for one question to the brokers: metadata, offsets.
    pub request_timeout_ms: u32,
    /// Milliseconds to reach the cluster at start.
    pub start_timeout_ms: u32,
    /// Milliseconds a broker may hold a fetch that finds nothing. Small: a transaction's end does not end a fetch, so a long wait
    /// shows as latency.
    pub fetch_wait_max_ms: u32,
    /// Milliseconds between two measurements of the lag; 0 switches them off.
    pub lag_interval_ms: u32,
    /// Further librdkafka options of every client, passed through. The keys the pipeline owns are refused by name.
    pub client_options: BTreeMap<String, String>,
    /// Further librdkafka options of consumers.
    pub consumer_options: BTreeMap<String, String>,
    /// Further librdkafka options of producers.
    pub producer_options: BTreeMap<String, String>,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        let params = KafkaParams::default();
        let timeouts = params.timeouts;
        Self {
            brokers: params.bootstrap,
            group_id: params.group,
            instance_id: params.instance,
            static_membership: params.static_membership,
            delivery: Delivery::ExactlyOnce,
            security_protocol: SecurityProtocol::Plaintext,
            sasl_mechanism: "SCRAM-SHA-512".to_owned(),
            sasl_username: String::new(),
            sasl_password_file: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
            key_password_file: None,
            session_timeout_ms: timeouts.session_ms,
            max_poll_interval_ms: timeouts.max_poll_interval_ms,
            transaction_timeout_ms: timeouts.transaction_ms,
            message_timeout_ms: timeouts.message_ms,
            commit_attempt_timeout_ms: timeouts.commit_attempt_ms,
            commit_resolve_timeout_ms: timeouts.commit_resolve_ms,
            request_timeout_ms: timeouts.request_ms,
            start_timeout_ms: timeouts.start_ms,
            fetch_wait_max_ms: params.fetch_wait_max_ms,
            lag_interval_ms: params.lag_interval_ms,
            client_options: params.client_options,
            consumer_options: params.consumer_options,
            producer_options: params.producer_options,
        }
    }
}

impl KafkaConfig {
    /// The three maps of passed-through options with their keys.
    pub fn options(&self) -> [(&'static str, &BTreeMap<String, String>); 3] {
        [
            ("client_options", &self.client_options),
            ("consumer_options", &self.consumer_options),
            ("producer_options", &self.producer_options),
        ]
    }
}

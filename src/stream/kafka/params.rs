//! How to reach Kafka, and the relations its timeouts must keep.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use crate::{
    event::View,
    stream::{OutputTopic, kafka::client::owner_of},
};

/// What a commit promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delivery {
    /// Outputs and offsets in one transaction.
    #[default]
    ExactlyOnce,
    /// Outputs are flushed, then offsets committed: a crash between the two writes the outputs of one batch again, with
    /// the same ids.
    AtLeastOnce,
}

/// Names of the topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicNames {
    /// Input topics, indexed by [`View::index`].
    pub inputs: [String; View::COUNT],
    /// Output topics, in the order of [`OutputTopic::ALL`].
    pub outputs: [String; OutputTopic::ALL.len()],
}

impl TopicNames {
    /// The input topic that feeds `view`.
    pub fn input(&self, view: View) -> &str {
        &self.inputs[view.index()]
    }

    /// The name of an output topic.
    pub fn output(&self, topic: OutputTopic) -> &str {
        &self.outputs[output_index(topic)]
    }

    /// The view fed by the topic called `name`.
    pub(super) fn view_of(&self, name: &str) -> Option<View> {
        View::ALL.into_iter().find(|view| self.input(*view) == name)
    }

    /// Puts `prefix` before every name; for several deployments on one cluster.
    pub fn with_prefix(prefix: &str) -> Self {
        let plain = Self::default();
        Self {
            inputs: plain.inputs.map(|name| format!("{prefix}{name}")),
            outputs: plain.outputs.map(|name| format!("{prefix}{name}")),
        }
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        self.inputs.iter().chain(&self.outputs).map(String::as_str)
    }
}

impl Default for TopicNames {
    fn default() -> Self {
        Self {
            inputs: ["clicks", "searches", "purchases"].map(str::to_owned),
            outputs: OutputTopic::ALL.map(|topic| topic.default_name().to_owned()),
        }
    }
}

fn output_index(topic: OutputTopic) -> usize {
    match topic {
        OutputTopic::Scores => 0,
        OutputTopic::ChurnAlerts => 1,
        OutputTopic::AlertOutcomes => 2,
        OutputTopic::Recommendations => 3,
        OutputTopic::DeadLetters => 4,
        OutputTopic::ShadowScores => 5,
    }
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

/// How connections are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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

impl SecurityProtocol {
    /// The name librdkafka and Kafka use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Ssl => "SSL",
            Self::SaslPlaintext => "SASL_PLAINTEXT",
            Self::SaslSsl => "SASL_SSL",
        }
    }

    pub(super) fn needs_password(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

/// Who we are to the brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sasl {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: String,
    /// The user.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// TLS and SASL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Security {
    /// How connections are protected.
    pub protocol: SecurityProtocol,
    /// Needed by the two `SASL_…` protocols.
    pub sasl: Option<Sasl>,
    /// Certificates to trust (PEM); the system's when absent.
    pub ca_location: Option<PathBuf>,
    /// Our own certificate (PEM), for brokers that ask for one.
    pub certificate_location: Option<PathBuf>,
    /// The key of our certificate (PEM).
    pub key_location: Option<PathBuf>,
    /// The key's passphrase.
    pub key_password: Option<Secret>,
}

/// Waits, in milliseconds. [`KafkaParams::problems`] checks their relations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Without a heartbeat for this long a member is dead and its partitions move.
    pub session_ms: u32,
    /// Without a poll for this long a member gives its partitions up; above the worst batch, commit included.
    pub max_poll_interval_ms: u32,
    /// The broker aborts a transaction left open for this long; until then it blocks `read_committed` readers.
    pub transaction_ms: u32,
    /// An output not delivered within this time fails its transaction.
    pub message_ms: u32,
    /// One attempt of a transaction call.
    pub commit_attempt_ms: u32,
    /// All attempts to learn a commit's outcome; then the process stops, and its successor learns it.
    pub commit_resolve_ms: u32,
    /// One question to the brokers: metadata, watermarks, committed offsets.
    pub request_ms: u32,
    /// All attempts to reach the cluster at start.
    pub start_ms: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            session_ms: 45_000,
            max_poll_interval_ms: 300_000,
            transaction_ms: 30_000,
            message_ms: 20_000,
            commit_attempt_ms: 5_000,
            commit_resolve_ms: 120_000,
            request_ms: 10_000,
            start_ms: 60_000,
        }
    }
}

/// Everything the Kafka log needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaParams {
    /// `host:port`, several separated by commas.
    pub bootstrap: String,
    /// The consumer group; also the first part of transactional ids.
    pub group: String,
    /// This process among those of the group. Stable across restarts, so that a successor ends its predecessor's open
    /// transaction at once; unique among live ones, because the newer of two fences the older.
    pub instance: String,
    /// Whether members keep their place in the group over a restart (`group.instance.id`): no rebalance when the process
    /// is back within the session timeout, but a stopped instance's partitions move only after it.
    pub static_membership: bool,
    /// Topic names.
    pub topics: TopicNames,
    /// What a commit promises.
    pub delivery: Delivery,
    /// TLS and SASL.
    pub security: Security,
    /// Waits.
    pub timeouts: Timeouts,
    /// How long the broker may hold a fetch that finds nothing, milliseconds. Small: a transaction marker ends no fetch,
    /// so a long wait shows as latency.
    pub fetch_wait_max_ms: u32,
    /// How often lag is measured, milliseconds; 0 switches it off.
    pub lag_interval_ms: u32,
    /// Options for every librdkafka client.
    pub client_options: BTreeMap<String, String>,
    /// Options for consumers.
    pub consumer_options: BTreeMap<String, String>,
    /// Options for producers.
    pub producer_options: BTreeMap<String, String>,
}

impl Default for KafkaParams {
    fn default() -> Self {
        Self {
            bootstrap: "127.0.0.1:9092".to_owned(),
            group: "undercurrent".to_owned(),
            instance: "0".to_owned(),
            static_membership: true,
            topics: TopicNames::default(),
            delivery: Delivery::default(),
            security: Security::default(),
            timeouts: Timeouts::default(),
            fetch_wait_max_ms: 5,
            lag_interval_ms: 1_000,
            client_options: BTreeMap::new(),
            consumer_options: BTreeMap::new(),
            producer_options: BTreeMap::new(),
        }
    }
}

impl KafkaParams {
    /// The transactional id (and group instance id) of one stream thread.
    pub fn thread_id(&self, thread: usize) -> String {
        format!("{}-{}-{thread}", self.group, self.instance)
    }

    /// Everything that is wrong, one line each, naming key, rule and value. Empty means usable.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (key, value) in [("bootstrap", &self.bootstrap), ("group", &self.group), ("instance", &self.instance)] {
            if value.trim().is_empty() {
                problems.push(format!("`{key}` must not be empty"));
            }
        }
        self.topic_problems(&mut problems);
        self.timeout_problems(&mut problems);
        self.security_problems(&mut problems);
        for (map, options) in [
            ("client_options", &self.client_options),
            ("consumer_options", &self.consumer_options),
            ("producer_options", &self.producer_options),
        ] {
            for key in options.keys() {
                if let Some(owner) = owner_of(key) {
                    problems.push(format!("`{map}` must not set `{key}`: {owner}"));
                }
            }
        }
        problems
    }

    fn topic_problems(&self, problems: &mut Vec<String>) {
        let names: Vec<&str> = self.topics.all().collect();
        for (index, name) in names.iter().enumerate() {
            let valid = !name.is_empty()
                && name.len() <= 249
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            if !valid {
                problems.push(format!("topic `{name}`: 1 to 249 of letters, digits, `.`, `_` and `-`"));
            }
            if names[..index].contains(name) {
                problems.push(format!("topic `{name}` is named twice; every input and output needs its own"));
            }
        }
    }

    fn timeout_problems(&self, problems: &mut Vec<String>) {
        let t = &self.timeouts;
        let mut below = |low_name: &str, low: u32, high_name: &str, high: u32, why: &str| {
            if low >= high {
                problems.push(format!("`{low_name}` ({low}) must be below `{high_name}` ({high}): {why}"));
            }
        };
        below(
            "message_ms",
            t.message_ms,
            "transaction_ms",
            t.transaction_ms,
            "an output must fail before its transaction does",
        );
        below(
            "transaction_ms",
            t.transaction_ms,
            "session_ms",
            t.session_ms,
            "a dead member's transaction must end before its partitions move",
        );
        below(
            "session_ms",
            t.session_ms,
            "max_poll_interval_ms",
            t.max_poll_interval_ms,
            "a member that works must not be taken for dead",
        );
        below(
            "commit_attempt_ms",
            t.commit_attempt_ms,
            "commit_resolve_ms",
            t.commit_resolve_ms,
            "a commit whose outcome is unknown is tried again",
        );
        below(
            "commit_resolve_ms",
            t.commit_resolve_ms,
            "max_poll_interval_ms",
            t.max_poll_interval_ms,
            "a commit is waited for without polling",
        );
        if !(1_000..=900_000).contains(&t.transaction_ms) {
            problems.push(format!(
                "`transaction_ms` ({}) must be from 1000 to 900000: brokers refuse more by default",
                t.transaction_ms
            ));
        }
        for (key, value) in [("request_ms", t.request_ms), ("start_ms", t.start_ms), ("message_ms", t.message_ms)] {
            if value == 0 {
                problems.push(format!("`{key}` must be above 0"));
            }
        }
    }

    fn security_problems(&self, problems: &mut Vec<String>) {
        let security = &self.security;
        match (&security.sasl, security.protocol.needs_password()) {
            (None, true) => problems
                .push(format!("protocol `{}` needs mechanism, user name and password", security.protocol.name())),
            (Some(_), false) => problems.push(format!(
                "a SASL mechanism is given but protocol `{}` does not use it; use `SASL_SSL`",
                security.protocol.name()
            )),
            (Some(sasl), true) if !["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].contains(&sasl.mechanism.as_str()) => {
                problems.push(format!(
                    "SASL mechanism `{}` is not one of `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`",
                    sasl.mechanism
                ));
            }
            _ => {}
        }
        if security.certificate_location.is_some() != security.key_location.is_some() {
            problems.push("a client certificate and its key are given together or not at all".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut KafkaParams), expected: &[&str]) {
        let mut params = KafkaParams::default();
        change(&mut params);
        let problems = params.problems();
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for (problem, part) in problems.iter().zip(expected) {
            assert!(problem.contains(part), "`{problem}` should contain `{part}`");
        }
    }

    #[test]
    fn problems_name_the_key() {
        check(|_| {}, &[]);
        check(|params| params.group = " ".to_owned(), &["`group`"]);
        check(|params| params.topics.inputs[0] = "scores".to_owned(), &["`scores` is named twice"]);
        check(|params| params.topics.inputs[0] = "a b".to_owned(), &["`a b`"]);
        check(|params| params.timeouts.message_ms = 30_000, &["`message_ms` (30000)"]);
        check(|params| params.timeouts.session_ms = 10_000, &["`transaction_ms` (30000)"]);
        check(|params| params.timeouts.max_poll_interval_ms = 60_000, &["`commit_resolve_ms` (120000)"]);
        check(|params| params.security.protocol = SecurityProtocol::SaslSsl, &["needs mechanism"]);
        check(|params| params.security.key_location = Some("k".into()), &["together"]);
    }

    #[test]
    fn owned_options_are_refused_by_name() {
        for key in [
            "group.id",
            "enable.auto.commit",
            "isolation.level",
            "transactional.id",
            "partition.assignment.strategy",
            "partitioner",
        ] {
            check(|params| drop(params.client_options.insert(key.to_owned(), "x".to_owned())), &[key]);
        }
        check(|params| drop(params.consumer_options.insert("fetch.min.bytes".to_owned(), "1".to_owned())), &[]);
    }

    #[test]
    fn a_password_is_never_printed() {
        let mut params = KafkaParams::default();
        params.security.sasl =
            Some(Sasl { mechanism: "PLAIN".to_owned(), username: "app".to_owned(), password: Secret::new("hunter2") });
        assert!(!format!("{params:?}").contains("hunter2"));
    }

    #[test]
    fn thread_ids_differ_by_instance_and_thread() {
        let params = KafkaParams::default();
        assert_eq!(params.thread_id(1), "undercurrent-0-1");
    }
}

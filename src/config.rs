//! The configuration tree: defaults, then the file, then `UNDERCURRENT__SECTION__KEY` from the environment, then flags.
//!
//! Every key has a default, so an empty file is a valid configuration. Unknown keys are refused, and every problem is
//! reported, not only the first. Core modules never see these structs: they get plain parameters.

mod events;
mod kafka;
mod load;
mod model;
mod serve;
mod stream;
mod training;
mod validate;
mod webhook;

use serde::{Deserialize, Serialize};

pub use self::{
    events::{EventsConfig, GraphConfig, MissingNumber, MissingTime},
    kafka::{Delivery, KafkaConfig, SecurityProtocol, TopicsConfig},
    load::{ConfigError, ENV_PREFIX, Problem, Sources},
    model::{DecisionConfig, ScorerKind, ScoringConfig},
    serve::{HttpConfig, LogFormat, LoggingConfig, ShutdownConfig},
    stream::{EmbeddedConfig, InputConfig, LogKind, SnapshotConfig, StreamConfig},
    training::{TrainingClock, TrainingConfig, TrainingMetric, TrainingMissing, TrainingPretrain, TrainingPromotion},
    webhook::{WebhookConfig, WebhookStart},
};

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which log the daemon reads and writes.
    pub input: InputConfig,
    /// Names of the three input and five output topics, in both logs.
    pub topics: TopicsConfig,
    /// The Kafka cluster. Used when `input.log = "kafka"`.
    pub kafka: KafkaConfig,
    /// The durable local log. Used when `input.log = "embedded"`.
    pub embedded: EmbeddedConfig,
    /// Decoding, mapping and cleaning of events.
    pub events: EventsConfig,
    /// Bounds of a user's behaviour graph.
    pub graph: GraphConfig,
    /// The loop: threads, size of a micro-batch, event-time progress.
    pub stream: StreamConfig,
    /// The model bundle and the pool that runs it.
    pub scoring: ScoringConfig,
    /// When a score becomes an alert.
    pub decision: DecisionConfig,
    /// Snapshots of partition state.
    pub snapshot: SnapshotConfig,
    /// Retraining.
    pub training: TrainingConfig,
    /// The HTTP server.
    pub http: HttpConfig,
    /// Churn alerts posted to a URL.
    pub webhook: WebhookConfig,
    /// The program's own log lines.
    pub logging: LoggingConfig,
    /// How the daemon stops.
    pub shutdown: ShutdownConfig,
}

impl Config {
    /// Builds the configuration from `sources` and checks it. The error names every wrong key.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let (config, mut problems) = load::read(sources)?;
        problems.extend(config.validate());
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid { problems }) }
    }

    /// Checks values and the relations between them; empty when all is well.
    pub fn validate(&self) -> Vec<Problem> {
        validate::all(self)
    }

    /// The configuration as TOML, every key present that has a value.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string(self).map_err(|source| ConfigError::Print { message: source.to_string() })
    }
}

//! Keys of the model: which bundle, how it runs, when it alerts, when it is trained again.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScorerKind {
    /// The model bundle, on the scoring pool.
    #[default]
    Model,
    /// Silence against the user's own rhythm: needs no bundle.
    Recency,
}

/// The bundle and the pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoringConfig {
    /// `model`, or `recency`: a rule without a model, for measuring the rest of the pipeline. Its lists are filled with the
    /// popular items of the bundle, where there is one.
    pub scorer: ScorerKind,
    /// Folder of model bundles; the champion is what its `current` names.
    pub models: PathBuf,
    /// The bundle used while `scoring.models` has no promoted one.
    pub bundle: String,
    /// Scoring workers on the CPU, one OS thread each. 0 means one a core: a stream thread waits while its users are scored.
    pub workers: usize,
    /// CUDA devices to score on, by number. Needs a binary built with the feature `cuda`; CPU workers
    /// are then not started.
    pub cuda_devices: Vec<usize>,
    /// Users of one batch of a worker at most.
    pub max_batch_users: usize,
    /// Padded graph nodes of one batch of a worker at most. Few enough that the tiles stay in the cache.
    pub max_batch_nodes: usize,
    /// Batches waiting for a worker at most, per worker. Two: one runs, one is ready.
    pub queue_capacity_batches: usize,
    /// Milliseconds a micro-batch waits for its scores before the process stops as stuck.
    pub timeout_ms: u64,
    /// Share of the users that a bundle in shadow (`undercurrent models shadow`) scores beside the champion, 0 to 1; always the same
    /// users. Each costs what a score of the champion costs: with 1 a micro-batch takes about twice as long to score.
    pub shadow_share: f64,
    /// Milliseconds a micro-batch waits for the bundle in shadow. One that is late, fails or panics is not asked for a minute; the
    /// champion's outputs are the same either way.
    pub shadow_timeout_ms: u64,
    /// Horizon of the recency scorer: days without activity after which a user counts as gone. A bundle has its own.
    pub recency_churn_days: u32,
    /// Horizon of the recency scorer: days in which a purchase counts. A bundle has its own.
    pub recency_purchase_days: u32,
}

impl Default for ScoringConfig {
    fn default() -> Self {
        Self {
            scorer: ScorerKind::Model,
            models: PathBuf::from("models"),
            bundle: "default".to_owned(),
            workers: 0,
            cuda_devices: Vec::new(),
            max_batch_users: 64,
            max_batch_nodes: 8_192,
            queue_capacity_batches: 2,
            timeout_ms: 60_000,
            shadow_share: 1.0,
            shadow_timeout_ms: 2_000,
            recency_churn_days: 30,
            recency_purchase_days: 7,
        }
    }
}

/// Alerts and recommendations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecisionConfig {
    /// Churn probability at which a user becomes at risk. Without it (default) the bundle's own threshold is used, the one
    /// with the best F1 on its validation window.
    pub enter_threshold: Option<f32>,
    /// Churn probability at which a user at risk becomes high risk. Without it (default) half way from the enter
    /// threshold to 1. Must not be below `decision.enter_threshold`.
    pub escalate_threshold: Option<f32>,
    /// Churn probability below which a user has recovered. Without it (default) 0.6 of the enter threshold. Must be below
    /// `decision.enter_threshold`, so that a score that swings around one value does not alert on every swing.
    pub recover_threshold: Option<f32>,
    /// Days of event time between two alerts of one user. A recovery is told at once.
    pub cooldown_days: f32,
    /// An alert whose moment lies further back than this is not raised: a first start over old history tells what is due now, not
    /// what was due last year. The user is told of at the next due moment. In days of event time behind the wall clock; to see
    /// the alerts of a history that is sent to the daemon, set a large number.
    pub max_alert_age_days: f32,
    /// Reasons given with an alert at most. Each costs some scores, for alerts only.
    pub max_reasons: usize,
    /// Items in each recommendation list.
    pub list_length: usize,
}

impl Default for DecisionConfig {
    fn default() -> Self {
        Self {
            enter_threshold: None,
            escalate_threshold: None,
            recover_threshold: None,
            cooldown_days: 7.0,
            max_alert_age_days: 7.0,
            max_reasons: 5,
            list_length: 20,
        }
    }
}

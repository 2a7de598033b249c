//! What training is asked, and what it tells: while it goes on, at its end, and when it fails.

use std::num::NonZeroUsize;

use super::Pretraining;
use crate::model::{Model, TASKS};

/// How to train.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainSettings {
    /// Users a step.
    pub batch_users: usize,
    /// Users of a step that one thread takes at once; decides the order of sums, so it is part of the result.
    pub chunk_users: usize,
    /// Most passes over the examples.
    pub epochs: usize,
    /// Passes without improvement before stopping.
    pub patience: usize,
    /// Highest learning rate.
    pub learning_rate: f32,
    /// Decoupled weight decay of weight matrices.
    pub weight_decay: f32,
    /// Share of features hidden in training.
    pub feature_dropout: f32,
    /// Share of users whose graph, or sequence, is hidden in training.
    pub view_dropout: f32,
    /// Shared negatives of the sampled softmax.
    pub negatives: usize,
    /// Positives a user and step.
    pub positives: usize,
    /// What the sequence encoder learns before the tasks.
    pub pretraining: Pretraining,
    /// Passes over the examples for that.
    pub pretraining_epochs: usize,
    /// Threads. The result does not depend on it.
    pub threads: NonZeroUsize,
}

impl Default for TrainSettings {
    fn default() -> Self {
        Self {
            batch_users: 256,
            chunk_users: 64,
            epochs: 12,
            patience: 3,
            learning_rate: 2e-3,
            weight_decay: 0.05,
            feature_dropout: 0.1,
            view_dropout: 0.1,
            negatives: 128,
            positives: 2,
            pretraining: Pretraining::None,
            pretraining_epochs: 4,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        }
    }
}

/// Where training stands; sent after every step.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Pass, from 0.
    pub epoch: usize,
    /// Passes at most.
    pub epochs: usize,
    /// Step within the pass, from 1.
    pub step: usize,
    /// Steps a pass.
    pub steps: usize,
    /// Mean training loss of each task in this pass so far: churn, purchase, next item, next kind.
    pub losses: [f32; TASKS],
    /// Report of the pass, after its last step.
    pub report: Option<EpochReport>,
}

/// One pass.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct EpochReport {
    /// Mean training loss of each task.
    pub losses: [f32; TASKS],
    /// Log-loss of churn on validation.
    pub validation_churn: f32,
    /// Log-loss of purchase on validation.
    pub validation_purchase: f32,
}

/// What training made.
#[derive(Debug, Clone)]
pub struct TrainedNetwork {
    /// The network of the best pass, calibrated on validation.
    pub model: Model,
    /// All passes in order.
    pub epochs: Vec<EpochReport>,
    /// The pass whose parameters were kept.
    pub best_epoch: usize,
}

/// Why training failed.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Nothing to learn from.
    #[error("there are no training examples")]
    NoExamples,
    /// An example does not fit the specification.
    #[error("example {index} has `{found}` features, the network takes `{expected}`")]
    Width {
        /// Place of the example.
        index: usize,
        /// Its features.
        found: usize,
        /// The network's.
        expected: usize,
    },
    /// The network's shape is impossible.
    #[error("the network cannot be built: {0}")]
    Shape(String),
    /// A loss or parameter became infinite or NaN.
    #[error("training diverged in pass {epoch}: `{what}` is not finite")]
    Diverged {
        /// Pass.
        epoch: usize,
        /// What is not finite.
        what: String,
    },
    /// A tensor operation failed.
    #[error("a tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

//! Labels, data sets, training, evaluation and promotion.

mod adamw;
mod example;
mod trainer;

pub use example::Example;
pub use trainer::{EpochReport, Progress, TrainError, TrainSettings, TrainedNetwork, fit, predict_all};

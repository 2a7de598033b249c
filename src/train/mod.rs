//! Labels, data sets, training, evaluation and promotion.

pub mod ablate;
mod adamw;
pub mod bgnbd;
pub mod bundle;
pub mod circles;
pub mod corpus;
pub mod dataset;
pub mod evaluate;
mod example;
pub mod examples;
pub mod gate;
pub mod heads;
pub mod history;
pub mod item_training;
pub mod items;
pub mod kinds;
pub mod labels;
pub mod logistic;
pub mod metrics;
mod parallel;
pub mod report;
mod sampler;
pub mod schedule;
mod simplex;
mod titles;
mod trainer;
pub mod trees;
pub mod tune;
pub mod verify;

pub use example::Example;
pub use titles::TitleVectors;
pub use trainer::{EpochReport, Pretraining, Progress, TrainError, TrainSettings, TrainedNetwork, fit, predict_all};

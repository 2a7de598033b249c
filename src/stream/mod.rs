//! The loop that folds, scores, decides and commits, and the logs it runs on.

pub mod embedded;
pub mod kafka;
mod log;
pub mod memory;
pub mod partitioner;

pub use log::{
    BatchLimits, Commit, Disposition, INPUT_VIEWS, LogError, OutputRecord, OutputTopic, Polled, Record, RecordBatch,
    Sink, Source, next_after,
};

//! The loop that folds, scores, decides and commits, and the logs it runs on.

mod log;

pub use log::{
    BatchLimits, Commit, Disposition, LogError, OutputRecord, OutputTopic, Polled, Record, RecordBatch, Sink, Source,
};

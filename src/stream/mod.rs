//! The loop that folds, scores, decides and commits, and the logs it runs on.
//!
//! [`StreamThread`] is the loop. It runs over anything that is a [`Source`] and a [`Sink`]: [`memory`] (fault points, for
//! simulation), [`embedded`] (a durable local log) and `kafka`. What it has committed is in [`Partitions`], for anyone to
//! read; states come from and go to a [`SnapshotStore`].

mod batch;
pub mod embedded;
mod fold;
mod guard;
pub mod kafka;
mod log;
pub mod memory;
mod output_reader;
mod outputs;
mod params;
pub mod partitioner;
mod partitions;
mod replay;
mod report;
mod restore;
mod score;
mod snapshots;
mod status;
mod thread;
mod timers;

#[doc(hidden)]
pub use guard::{Guard, break_on_this_thread};
pub use log::{
    BatchLimits, Commit, Disposition, INPUT_VIEWS, LogError, OutputRecord, OutputTopic, Polled, Record, RecordBatch,
    Sink, Source, next_after,
};
pub use output_reader::{CommittedOutput, OutputReader, ReaderStart};
pub use params::{GapPolicy, StreamError, StreamParams, TimeMode};
pub use partitions::{FoundUser, PartitionHandle, Partitions};
pub use replay::{InputLog, advance_blocking};
pub use snapshots::{ArrowSnapshots, NoSnapshots, SnapshotStore};
pub use status::{PartitionStatus, Phase, StreamStatus};
pub use thread::{Step, StreamParts, StreamThread};

/// The reason in the dead letter of a record whose user could not be scored.
pub const SCORING_FAILED: &str = "scoring_failed";

//! Settings of the loop, and how it can end badly.

use std::num::NonZeroU32;

use super::{BatchLimits, LogError};
use crate::{
    event::{Offset, PartitionId, Positions, View},
    graph::GraphParams,
    scoring::ScoreError,
};

/// What moves event time on while no event comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeMode {
    /// Live use: event time follows the wall clock at a distance, so that users age without events.
    Live {
        /// The distance in milliseconds.
        grace_ms: i64,
    },
    /// History: event time moves with the events only, so every run over the same log writes the same scores.
    Replay,
}

/// Settings of one stream thread.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamParams {
    /// Names of the input topics, indexed by [`View::index`]; they go into dead letters.
    pub input_topics: [String; View::COUNT],
    /// Bounds of a micro-batch.
    pub batch: BatchLimits,
    /// Bounds and constants of the fold.
    pub graph: GraphParams,
    /// What moves event time on.
    pub time: TimeMode,
    /// How far the slowest topic holds event time back, milliseconds.
    pub topic_skew_ms: i64,
    /// Silent users scored in one micro-batch and partition at most.
    pub max_due_users: usize,
    /// Attempts at scoring one user; then its records of the batch go to the dead letters and the others go on.
    pub scoring_attempts: NonZeroU32,
    /// Calls of the log that answered 'retry' before the thread ends, in a row.
    pub retry_attempts: NonZeroU32,
    /// Milliseconds between two such calls, and after an abort.
    pub retry_backoff_ms: u64,
    /// Reasons asked for an alert at most.
    pub reason_limit: usize,
    /// Milliseconds between two looks at the ends of the log, for the lag.
    pub lag_interval_ms: i64,
    /// What to do when the log no longer holds records that a restore needs.
    pub gap: GapPolicy,
    /// Revoked partitions kept in memory, for when they come back.
    pub parked_capacity: usize,
}

/// What to do when retention dropped records that a restore needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GapPolicy {
    /// End with [`StreamError::Gap`].
    #[default]
    Refuse,
    /// Go on with what is left, and say so.
    Accept,
}

impl Default for StreamParams {
    fn default() -> Self {
        Self {
            input_topics: ["clicks", "searches", "purchases"].map(str::to_owned),
            batch: BatchLimits { max_records: 10_000, max_bytes: 16 << 20, linger_ms: 10, idle_wait_ms: 100 },
            graph: GraphParams::default(),
            time: TimeMode::Live { grace_ms: 60_000 },
            topic_skew_ms: 6 * 3_600_000,
            max_due_users: 2_000,
            scoring_attempts: NonZeroU32::MIN.saturating_add(2),
            retry_attempts: NonZeroU32::MIN.saturating_add(99),
            retry_backoff_ms: 100,
            reason_limit: 5,
            lag_interval_ms: 1_000,
            gap: GapPolicy::Refuse,
            parked_capacity: 64,
        }
    }
}

/// Why a stream thread ended. The process stops with a non-zero code; a restart goes on at the committed positions.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The log failed for good.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log answered 'retry' too often.
    #[error("gave up after {attempts} attempts: {source}")]
    RetriesExhausted {
        /// Calls made.
        attempts: u32,
        /// The last answer.
        source: LogError,
    },
    /// The model as a whole failed.
    #[error("cannot score: {0}")]
    Scoring(#[from] ScoreError),
    /// A scorer answered with the wrong number of scores.
    #[error("the scorer answered {answered} scores to {asked} requests")]
    ScoreCount {
        /// Requests.
        asked: usize,
        /// Scores.
        answered: usize,
    },
    /// The snapshot store failed. A snapshot that is damaged is no failure: an older one is taken.
    #[error("cannot load a snapshot of partition {partition}: {message}")]
    Snapshot {
        /// The partition.
        partition: PartitionId,
        /// What the store answered.
        message: String,
    },
    /// Retention passed the snapshot: records that a restore needs are gone.
    #[error(
        "records of `{}` in partition {partition} are gone: the state stands at offset {state} (to read next), the log begins \
         at {earliest}; make retention longer than the snapshot interval, or accept the gap", view.name()
    )]
    Gap {
        /// The partition.
        partition: PartitionId,
        /// The topic's view.
        view: View,
        /// Next offset of the newest usable state.
        state: Offset,
        /// First offset still in the log.
        earliest: Offset,
    },
    /// The group committed more than the log holds: the topic was made anew.
    #[error(
        "partition {partition} is committed up to {committed} (exclusive) and the log ends at {end} (exclusive): the topic was \
         made anew; use another group id, or delete its committed positions and the snapshots"
    )]
    LogShrank {
        /// The partition.
        partition: PartitionId,
        /// Committed positions.
        committed: Positions,
        /// End of the log.
        end: Positions,
    },
}

//! What a stream thread says of itself. The API, tests and logs share it.

use std::collections::BTreeMap;

use crate::event::{PartitionId, Positions};

/// What the thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// It has no partition yet.
    #[default]
    Starting,
    /// It restores partitions.
    Restoring,
    /// It reads, scores and commits.
    Running,
    /// It has ended as it was asked to.
    Stopped,
    /// It ended with an error.
    Failed,
}

impl Phase {
    /// The name used in answers and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Restoring => "restoring",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// One stream thread.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamStatus {
    /// What it is doing.
    pub phase: Phase,
    /// Its partitions; one that is still being restored is in `restoring`.
    pub partitions: BTreeMap<PartitionId, PartitionStatus>,
    /// Partitions that wait for their restore.
    pub restoring: Vec<PartitionId>,
    /// Micro-batches committed.
    pub batch_count: u64,
    /// Records committed.
    pub record_count: u64,
    /// Scores committed.
    pub score_count: u64,
    /// Alerts committed.
    pub alert_count: u64,
    /// Records that went to the dead letters.
    pub dead_letter_count: u64,
    /// Micro-batches aborted.
    pub abort_count: u64,
    /// Wall-clock time of the last commit, milliseconds since the Unix epoch.
    pub last_commit_ms: Option<i64>,
    /// Since when the thread waits for its commit, if it does: wall-clock time, milliseconds since the Unix epoch.
    pub committing_since_ms: Option<i64>,
    /// What keeps records from coming although nothing failed.
    pub trouble: Option<String>,
    /// The last error the thread met, also one it went on after.
    pub last_error: Option<String>,
}

/// One partition of a stream thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionStatus {
    /// Committed next offsets.
    pub next_offsets: Positions,
    /// Ends of the input topics when the thread last looked.
    pub end_offsets: Positions,
    /// Event time of the partition, milliseconds since the Unix epoch.
    pub watermark_ms: Option<i64>,
    /// Users with a graph.
    pub user_count: usize,
}

impl PartitionStatus {
    /// Records between the committed positions and the ends of the log, all topics together.
    pub fn lag_records(&self) -> u64 {
        let behind = self.end_offsets.0.iter().zip(&self.next_offsets.0).map(|(end, next)| end.0 - next.0);
        behind.map(|records| u64::try_from(records).unwrap_or(0)).sum()
    }
}

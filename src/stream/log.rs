//! What the loop needs of a log. Three logs implement it: memory, embedded, kafka.
//!
//! One value implements [`Source`] and [`Sink`], because a Kafka transaction needs both. All calls block and run on the
//! stream thread that owns the log.

use std::{collections::BTreeMap, ops::Range};

use crate::event::{Offset, Origin, PartitionId, Positions, View};

/// How the loop goes on after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Make the same call again.
    Retry,
    /// Abort, drop the write set, seek back to the committed offsets, collect again.
    Abort,
    /// End the thread; the process stops with a non-zero code. Unknown errors are fatal.
    Fatal,
}

/// An error of a log, with what the loop must do about it.
#[derive(Debug, thiserror::Error)]
#[error("{action} failed: {message}")]
pub struct LogError {
    /// What was attempted, with topic, partition and offsets where there are any.
    pub action: String,
    /// What the log answered.
    pub message: String,
    /// How the loop goes on.
    pub disposition: Disposition,
}

impl LogError {
    /// What the loop does next.
    pub fn disposition(&self) -> Disposition {
        self.disposition
    }
}

/// Bounds of one micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Records at most.
    pub max_records: usize,
    /// Payload bytes at most (one record may pass it).
    pub max_bytes: usize,
    /// Milliseconds from the first record to the end of collection.
    pub linger_ms: u64,
    /// Milliseconds to wait for a first record before [`Polled::Idle`].
    pub idle_wait_ms: u64,
}

/// One record of a batch, borrowed from its arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where it stands.
    pub origin: Origin,
    /// When the log took it (append or create time), milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The key, if any.
    pub key: Option<&'a [u8]>,
    /// The payload; `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// For a record that was sent again out of the dead letters: where it stood first
    /// ([`FirstOrigin`](crate::decision::FirstOrigin), as its header says it).
    pub first_origin: Option<&'a [u8]>,
}

/// Records of one micro-batch in one arena: no allocation a record.
#[derive(Debug, Default)]
pub struct RecordBatch {
    arena: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    origin: Origin,
    timestamp_ms: i64,
    key: Option<Range<usize>>,
    payload: Option<Range<usize>>,
    first_origin: Option<Range<usize>>,
}

impl RecordBatch {
    /// Copies one record into the batch.
    pub fn push(&mut self, origin: Origin, timestamp_ms: i64, key: Option<&[u8]>, payload: Option<&[u8]>) {
        self.push_record(&Record { origin, timestamp_ms, key, payload, first_origin: None });
    }

    /// Copies one record with all it carries into the batch.
    pub fn push_record(&mut self, record: &Record<'_>) {
        let key = record.key.map(|bytes| self.copy(bytes));
        let payload = record.payload.map(|bytes| self.copy(bytes));
        let first_origin = record.first_origin.map(|bytes| self.copy(bytes));
        self.entries.push(Entry {
            origin: record.origin,
            timestamp_ms: record.timestamp_ms,
            key,
            payload,
            first_origin,
        });
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all keys and payloads.
    pub fn byte_count(&self) -> usize {
        self.arena.len()
    }

    /// Drops all records and keeps the memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.entries.clear();
    }

    /// Records in the order they were pushed.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        self.entries.iter().map(|entry| Record {
            origin: entry.origin,
            timestamp_ms: entry.timestamp_ms,
            key: entry.key.clone().map(|range| &self.arena[range]),
            payload: entry.payload.clone().map(|range| &self.arena[range]),
            first_origin: entry.first_origin.clone().map(|range| &self.arena[range]),
        })
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        start..self.arena.len()
    }
}

/// What a poll brought. Closed: everything that can happen to a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Polled {
    /// The batch holds at least one record.
    Records,
    /// Nothing came within `idle_wait_ms`.
    Idle,
    /// These partitions are ours from now on; records of them come only after the loop has restored them
    /// and called [`Source::start_at`].
    Assigned(Vec<PartitionId>),
    /// These partitions are no longer ours; records collected from them must be dropped.
    Revoked(Vec<PartitionId>),
}

/// Where records come from.
pub trait Source {
    /// Collects records into `batch` (which the caller cleared) within `limits`. On a rebalance event, records
    /// collected so far are dropped (their offsets are not committed) and the event is returned instead.
    fn poll_blocking(&mut self, limits: &BatchLimits, batch: &mut RecordBatch) -> Result<Polled, LogError>;

    /// The committed positions of the group for `partition`; zero where nothing was committed.
    fn committed_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError>;

    /// The first offset still in the log of each topic: retention may have dropped what was before it.
    fn earliest_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError>;

    /// The end of each topic's log (exclusive), as it is now.
    fn end_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError>;

    /// The same as far as it is known, perhaps from a while ago, and so never past it: for what is asked again and again and
    /// only shown, or only a first look. Nothing may be refused by it.
    fn known_end_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError> {
        self.end_blocking(partition)
    }

    /// What keeps records from coming although nothing failed: brokers that are away are waited for. Answers at once.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Reads `[from, to)` of `partition` in batches, for restore: no group, no offsets committed, aborted transactions
    /// left out. Keeps the group membership alive meanwhile. `visit` sees every record once, each topic in offset order.
    fn replay_blocking(
        &mut self,
        partition: PartitionId,
        from: Positions,
        to: Positions,
        visit: &mut dyn FnMut(&RecordBatch),
    ) -> Result<(), LogError>;

    /// Makes the next poll deliver `partition` from `positions` on: after a restore, and after an abort.
    fn start_at(&mut self, partition: PartitionId, positions: Positions) -> Result<(), LogError>;
}

/// An output topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OutputTopic {
    /// Compacted, key = user.
    Scores,
    /// Alerts, key = user.
    ChurnAlerts,
    /// What became of alerts, key = user.
    AlertOutcomes,
    /// Item lists, key = user.
    Recommendations,
    /// Records that could not be folded, key = the record's own.
    DeadLetters,
    /// What a challenger says, key = user; written only while one is in shadow.
    ShadowScores,
}

impl OutputTopic {
    /// All output topics.
    pub const ALL: [Self; 6] = [
        Self::Scores,
        Self::ChurnAlerts,
        Self::AlertOutcomes,
        Self::Recommendations,
        Self::DeadLetters,
        Self::ShadowScores,
    ];

    /// Whether the topic is written only where something is asked for, so that a log may do without it.
    pub fn is_optional(self) -> bool {
        self == Self::ShadowScores
    }

    /// The default topic name.
    pub fn default_name(self) -> &'static str {
        match self {
            Self::Scores => "scores",
            Self::ChurnAlerts => "churn-alerts",
            Self::AlertOutcomes => "alert-outcomes",
            Self::Recommendations => "recommendations",
            Self::DeadLetters => "dead-letters",
            Self::ShadowScores => "shadow-scores",
        }
    }
}

/// One record to write. It goes to the partition its user belongs to, in every output topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRecord {
    /// The topic.
    pub topic: OutputTopic,
    /// The partition.
    pub partition: PartitionId,
    /// The key; empty means none.
    pub key: Vec<u8>,
    /// The payload; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Headers, in order.
    pub headers: Vec<(&'static str, String)>,
}

/// All that one micro-batch makes durable, at once or not at all (TXN-1).
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// Records to write.
    pub outputs: Vec<OutputRecord>,
    /// Next offsets of every partition the batch read.
    pub positions: BTreeMap<PartitionId, Positions>,
}

/// Where outputs go.
pub trait Sink {
    /// Writes the outputs and commits the positions in one transaction, and returns only when the outcome is known: a
    /// commit that timed out is retried inside, up to the configured deadline. `Ok` means committed; an error with
    /// [`Disposition::Abort`] means certainly not committed and aborted.
    fn commit_blocking(&mut self, commit: &Commit) -> Result<(), LogError>;

    /// Reads the newest committed value of every key of the `scores` topic of `partition` (`visit` may see older values
    /// of a key before newer ones; `None` is a tombstone). For the restore of alert state.
    #[expect(clippy::type_complexity, reason = "an alias would hide what `visit` is told")]
    fn read_scores_blocking(
        &mut self,
        partition: PartitionId,
        visit: &mut dyn FnMut(&[u8], Option<&[u8]>),
    ) -> Result<(), LogError>;
}

/// The views whose topics take part, in position order.
pub const INPUT_VIEWS: [View; View::COUNT] = View::ALL;

/// The offset after `offset`.
pub fn next_after(offset: Offset) -> Offset {
    Offset(offset.0 + 1)
}

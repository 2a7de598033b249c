//! Keys of the logs, the loop and the snapshots.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogKind {
    /// The durable local log: one process, no broker.
    #[default]
    Embedded,
    /// Apache Kafka.
    Kafka,
}

/// Which log the daemon runs on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputConfig {
    /// `embedded` (default: works without a broker) or `kafka`.
    pub log: LogKind,
}

/// The durable local log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedConfig {
    /// Folder of the log, relative to the working folder. One process at a time.
    pub path: PathBuf,
    /// Partitions of every topic, fixed when the log is made. Must not be below `stream.threads`.
    pub partitions: u32,
    /// Newest event ids remembered, to recognise events that are sent again after a lost answer.
    pub recent_id_capacity: usize,
    /// Records kept at least in each output topic and partition. `scores` keeps the newest of every user instead.
    pub retain_output_records: u64,
    /// Newest records kept at least in each input topic and partition; older ones go once the oldest kept full snapshot covers
    /// them. Must not be below `embedded.recent_id_capacity`, whose ids are read from them after a restart.
    pub retain_input_records: u64,
    /// Records written to a partition of `scores` before superseded ones are dropped, at least.
    pub compact_after_records: u64,
    /// Bytes of block cache.
    pub cache_bytes: u64,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from(".undercurrent/log"),
            partitions: 4,
            recent_id_capacity: 200_000,
            retain_output_records: 1_000_000,
            retain_input_records: 1_000_000,
            compact_after_records: 200_000,
            cache_bytes: 32 * 1024 * 1024,
        }
    }
}

/// The loop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamConfig {
    /// Stream threads; each owns whole partitions. One: scoring takes the other cores.
    pub threads: usize,
    /// Records in a micro-batch at most. Ten thousand are about 20 ms of folding.
    pub max_records: usize,
    /// Payload bytes in a micro-batch at most.
    pub max_bytes: usize,
    /// Milliseconds from the first record of a micro-batch to its end. More means fewer, larger commits.
    pub linger_ms: u64,
    /// Milliseconds to wait for a first record before timers are looked at.
    pub idle_wait_ms: u64,
    /// How far the slowest topic may hold event time back, in milliseconds.
    pub topic_skew_ms: i64,
    /// In live use, event time follows the wall clock at this distance even when no event comes, in milliseconds.
    pub live_grace_ms: i64,
    /// Silent users scored in one micro-batch at most. A night's worth of due times must not make one
    /// batch longer than `kafka.max_poll_interval_ms`.
    pub max_due_users: usize,
    /// Attempts at scoring one user; then its records of the batch go to the dead letters and the others go on.
    pub scoring_attempts: u32,
    /// Calls of the log that may answer 'try again' in a row before the process stops.
    pub retry_attempts: u32,
    /// Milliseconds between two such calls.
    pub retry_backoff_ms: u64,
    /// Milliseconds between two looks at the ends of the log, for the lag.
    pub lag_interval_ms: i64,
    /// Whether a restore may go on when the log no longer holds records it needs. Off: the process stops and says what is gone.
    pub accept_gap: bool,
    /// Revoked partitions kept in memory, for when they come back.
    pub parked_capacity: usize,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            threads: 1,
            max_records: 10_000,
            max_bytes: 16 * 1024 * 1024,
            linger_ms: 10,
            idle_wait_ms: 100,
            topic_skew_ms: 6 * 3_600_000,
            live_grace_ms: 60_000,
            max_due_users: 2_000,
            scoring_attempts: 3,
            retry_attempts: 100,
            retry_backoff_ms: 100,
            lag_interval_ms: 1_000,
            accept_gap: false,
            parked_capacity: 64,
        }
    }
}

/// Snapshots of partition state: what a restart begins from, and what training reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotConfig {
    /// Whether snapshots are written. Without them a restart replays the whole input log, and nothing can be trained.
    pub enabled: bool,
    /// A folder, or an object store URL (`s3://`, `gs://`, `az://`, `file://`).
    pub location: String,
    /// Options of the object store, as `object_store` names them (`region`, `endpoint`). Its environment variables work too, and
    /// are where secrets belong.
    pub storage_options: BTreeMap<String, String>,
    /// Seconds between two snapshots of a partition. Retention of the input topics must be longer.
    pub interval_s: u64,
    /// Deltas written on top of a full snapshot before the next full one.
    pub deltas_per_base: usize,
    /// Newest full snapshots kept a partition, with their deltas. At least 1; 2 leaves one to fall back to.
    pub keep_bases: usize,
    /// Further full snapshots kept for training, newest first.
    pub keep_spaced: usize,
    /// Least event time between two full snapshots kept for training, in days.
    pub spacing_days: u32,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            location: ".undercurrent/snapshots".to_owned(),
            storage_options: BTreeMap::new(),
            interval_s: 300,
            deltas_per_base: 8,
            keep_bases: 2,
            keep_spaced: 16,
            spacing_days: 7,
        }
    }
}

//! Keys of the logs, the loop and the snapshots.

use std::path::PathBuf;

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
    /// Folder of the log. `.undercurrent/log` by default, relative to the working folder. One process at a time.
    pub path: PathBuf,
    /// Partitions of every topic, fixed when the log is created. 4 by default. Must not be below `stream.threads`.
    pub partitions: u32,
    /// Bytes of block cache and write buffers. 128 MiB by default.
    pub cache_bytes: u64,
    /// Whether a commit is on the disk before it counts. True by default; false keeps every guarantee against a crash of
    /// the process and gives up those against a crash of the machine.
    pub sync: bool,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self { path: PathBuf::from(".undercurrent/log"), partitions: 4, cache_bytes: 128 * 1024 * 1024, sync: true }
    }
}

/// The loop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamConfig {
    /// Stream threads; each owns whole partitions. 1 by default: scoring takes the other cores.
    pub threads: usize,
    /// Records in a micro-batch at most. 10,000 by default: about 20 ms of folding.
    pub max_records: usize,
    /// Payload bytes in a micro-batch at most. 16 MiB by default.
    pub max_bytes: usize,
    /// Milliseconds from the first record of a micro-batch to its end. 10 by default; more means fewer, larger commits.
    pub linger_ms: u64,
    /// Milliseconds to wait for a first record before timers are looked at. 100 by default.
    pub idle_wait_ms: u64,
    /// How far the slowest topic may hold event time back, in milliseconds. 6 hours by default.
    pub topic_skew_ms: i64,
    /// In live use, event time follows the wall clock at this distance even when no event comes, in milliseconds. One
    /// minute by default.
    pub live_grace_ms: i64,
    /// Silent users scored in one micro-batch at most. 2,000 by default: a night's worth of due times must not make one
    /// batch longer than `kafka.max_poll_interval_ms`.
    pub max_due_users: usize,
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
        }
    }
}

/// Snapshots of partition state: what a restart begins from, and what training reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotConfig {
    /// Whether snapshots are written. True by default; without them a restart replays the whole input log.
    pub enabled: bool,
    /// A folder, or an object store URL (`s3://`, `gs://`, `az://`, `file://`). `.undercurrent/snapshots` by default.
    pub location: String,
    /// Seconds between two snapshots of a partition. 300 by default. Retention of the input topics must be longer.
    pub interval_s: u64,
    /// Deltas written on top of a full snapshot before the next full one. 11 by default: with the default interval, one
    /// full snapshot an hour.
    pub max_deltas: u32,
    /// Full snapshots kept a partition, with their deltas. 3 by default. At least 1.
    pub keep: u32,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self { enabled: true, location: ".undercurrent/snapshots".to_owned(), interval_s: 300, max_deltas: 11, keep: 3 }
    }
}

//! Arrow snapshots of partition states: base files, deltas, and the manifests that make them one.
//!
//! ```text
//! <root>/partition=00003/0000000012-5f2c9a10/users-00000.arrow   at most `part_users` users each
//!                                            names-00000.arrow   texts of the names those users' graphs mention
//!                                            manifest.json       written last: without it there is no snapshot
//! ```
//!
//! A file or manifest is written whole or not at all, so a crash at any point leaves the snapshots before it untouched.
//! A snapshot is read only when every checksum of it, and of what it builds on, is right; else the one before is taken.
//! `arrow` appears here and nowhere else but in `train::dataset`.

mod catalog;
mod checksum;
mod columns;
mod error;
mod manifest;
mod read;
mod remote;
mod retention;
mod storage;
mod table;
mod write;
mod writer;

pub use catalog::{Listed, Verified};
pub use error::{SnapshotError, StorageError};
pub use manifest::{
    ColumnEntry, Counts, FORMAT_VERSION, FileContent, FileEntry, Manifest, PerView, SnapshotId, SnapshotKind,
    StoredParams,
};
pub use read::{Rejected, RestoreOutcome, Restored, SnapshotUsers};
pub use remote::RemoteStorage;
pub use retention::Retention;
pub use storage::{LocalStorage, Storage, open_storage};
pub use table::{Compression, NameEntry, UserEntry};
pub use write::SnapshotRequest;
pub use writer::{SnapshotWriter, WriterStatus};

use std::sync::Arc;

use crate::{clock::Clock, graph::GraphParams};

/// How snapshots are written and read.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotOptions {
    /// Bounds and constants of the fold. A snapshot made with others is refused.
    pub graph_params: GraphParams,
    /// Compression of the files.
    pub compression: Compression,
    /// Users a file at most.
    pub part_users: usize,
    /// Bytes of graphs a file at most, before compression (one user may pass it). Bounds the memory of a writer and of
    /// each reading thread.
    pub part_bytes: usize,
    /// Threads that read files side by side during a restore.
    pub read_threads: usize,
    /// Deltas on one base before the next base.
    pub deltas_per_base: usize,
    /// What to keep.
    pub retention: Retention,
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        Self {
            graph_params: GraphParams::default(),
            compression: Compression::default(),
            part_users: 32_768,
            part_bytes: /* 16 MiB */ 16 << 20,
            read_threads: std::thread::available_parallelism().map_or(1, usize::from).min(8),
            deltas_per_base: 8,
            retention: Retention::default(),
        }
    }
}

/// All snapshots of one place. Cheap to share; every call blocks on I/O.
#[derive(Clone)]
pub struct Snapshots {
    storage: Arc<dyn Storage>,
    options: SnapshotOptions,
    clock: Arc<dyn Clock>,
}

impl Snapshots {
    /// Works on `storage`; `clock` stamps `created_ms`.
    pub fn new(storage: Arc<dyn Storage>, options: SnapshotOptions, clock: Arc<dyn Clock>) -> Self {
        Self { storage, options, clock }
    }

    /// How snapshots are written and read.
    pub fn options(&self) -> &SnapshotOptions {
        &self.options
    }
}

impl std::fmt::Debug for Snapshots {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Snapshots")
            .field("storage", &self.storage)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

//! What can be wrong with a snapshot, with the facts needed to act.

use super::SnapshotId;
use crate::event::Positions;

/// An error of the place snapshots are kept in.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// There is no such object.
    #[error("`{path}` does not exist")]
    NotFound {
        /// The object, relative to the root.
        path: String,
    },
    /// The folder or the object store refused.
    #[error("{action} `{path}` failed: {message}")]
    Failed {
        /// What was attempted.
        action: &'static str,
        /// The object, relative to the root.
        path: String,
        /// What the system answered.
        message: String,
    },
    /// The location of the snapshots cannot be used.
    #[error("snapshot location `{location}` cannot be opened: {message}")]
    Location {
        /// The folder or URL, as configured.
        location: String,
        /// What is wrong with it.
        message: String,
    },
}

/// Why a snapshot cannot be written, read or trusted.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The manifest is not the JSON this program writes.
    #[error("manifest `{path}` cannot be read: {message}")]
    ManifestSyntax {
        /// The manifest.
        path: String,
        /// What the parser said.
        message: String,
    },
    /// The manifest's text does not match its own checksum.
    #[error("manifest `{path}` is damaged: its checksum is `{actual}`, it says `{expected}`")]
    ManifestChecksum {
        /// The manifest.
        path: String,
        /// What the manifest says.
        expected: String,
        /// What its text gives.
        actual: String,
    },
    /// A newer program wrote it.
    #[error(
        "`{path}` has format version `{version}`, this program reads up to `{supported}`: use a newer release, or delete the snapshot"
    )]
    FutureVersion {
        /// The manifest.
        path: String,
        /// Its version.
        version: u32,
        /// The newest version this program reads.
        supported: u32,
    },
    /// The manifest lies in a folder it does not belong to.
    #[error("manifest `{path}` is of snapshot `{id}` of partition `{partition}`: it was moved")]
    Misplaced {
        /// Where it lies.
        path: String,
        /// The id it carries.
        id: SnapshotId,
        /// The partition it carries.
        partition: i32,
    },
    /// A file the manifest names is gone.
    #[error("snapshot `{id}` lacks its file `{path}`")]
    FileMissing {
        /// The snapshot.
        id: SnapshotId,
        /// The file.
        path: String,
    },
    /// A file is shorter or longer than the manifest says.
    #[error("`{path}` is `{actual}` bytes long, its manifest says `{expected}`")]
    FileSize {
        /// The file.
        path: String,
        /// Bytes by the manifest.
        expected: u64,
        /// Bytes found.
        actual: u64,
    },
    /// A file's bytes are not those that were written.
    #[error("`{path}` is damaged: its XXH3-128 is `{actual}`, its manifest says `{expected}`")]
    FileChecksum {
        /// The file.
        path: String,
        /// Checksum by the manifest.
        expected: String,
        /// Checksum found.
        actual: String,
    },
    /// The Arrow library refused a file.
    #[error("`{path}` is no readable Arrow file: {message}")]
    Arrow {
        /// The file.
        path: String,
        /// What the library said.
        message: String,
    },
    /// A column is not there or not of the expected type, or holds a value that means nothing.
    #[error("column `{column}` of `{path}`: {problem}")]
    Column {
        /// The file.
        path: String,
        /// The column.
        column: String,
        /// What is wrong.
        problem: String,
    },
    /// A column holds something else than what was written.
    #[error("column `{column}` of `{path}` is damaged: its XXH3-128 is `{actual}`, its manifest says `{expected}`")]
    ColumnChecksum {
        /// The file.
        path: String,
        /// The column.
        column: String,
        /// Checksum by the manifest.
        expected: String,
        /// Checksum found.
        actual: String,
    },
    /// The file holds another number of rows than its manifest says.
    #[error("`{path}` holds `{actual}` rows, its manifest says `{expected}`")]
    RowCount {
        /// The file.
        path: String,
        /// Rows by the manifest.
        expected: u64,
        /// Rows found.
        actual: u64,
    },
    /// The graphs were folded with other bounds or constants: their state is not the one this program would reach.
    #[error("snapshot `{id}` was folded with other graph parameters: {differences}")]
    GraphParams {
        /// The snapshot.
        id: SnapshotId,
        /// Each differing parameter with both values.
        differences: String,
    },
    /// A delta builds on a snapshot that is not there or not readable.
    #[error("delta `{id}` needs snapshot `{needed}`, which is missing or damaged")]
    BrokenChain {
        /// The delta.
        id: SnapshotId,
        /// What it builds on.
        needed: SnapshotId,
    },
    /// The snapshot has read further than the group: it belongs to another log, or the group's offsets were reset.
    #[error(
        "snapshot of partition `{partition}` is ahead of the group: snapshot next offsets `{snapshot}` (exclusive), committed `{committed}` (exclusive)"
    )]
    SnapshotAhead {
        /// The partition.
        partition: i32,
        /// Next offsets of the snapshot (clicks/searches/purchases).
        snapshot: Positions,
        /// Next offsets of the group.
        committed: Positions,
    },
    /// A delta was asked for a partition that has no snapshot to build on.
    #[error("partition `{partition}` has no snapshot to write a delta on")]
    NoBase {
        /// The partition.
        partition: i32,
    },
    /// The writer's thread is gone.
    #[error("the snapshot writer has stopped")]
    WriterStopped,
}

//! The manifest: what a snapshot holds, where it stands in the log, and how to know that it is whole. Written last.

use std::{
    fmt,
    num::{NonZeroU64, NonZeroUsize},
};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::SnapshotError;
use crate::{
    event::{Offset, PartitionId, Positions, View},
    graph::{ErasureEntry, Erasures, GraphParams, KindSet},
};

/// The format this program writes, and the newest it reads. Version 2 brought the checksums of columns, version 3 erasures and
/// users who are gone.
pub const FORMAT_VERSION: u32 = 3;

/// The file name of every manifest.
pub(super) const MANIFEST_NAME: &str = "manifest.json";

/// Names a snapshot within its partition: sorts by age, and no two writers ever choose the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotId(pub String);

impl SnapshotId {
    /// The id of number `sequence`; `nonce` tells writers apart that count alike.
    pub fn new(sequence: u64, nonce: u32) -> Self {
        Self(format!("{sequence:010}-{nonce:08x}"))
    }

    /// The place in the order of the partition's snapshots, if this is an id of ours.
    pub fn sequence(&self) -> Option<u64> {
        let (sequence, nonce) = self.0.split_once('-')?;
        (nonce.len() == 8 && sequence.len() >= 10).then(|| sequence.parse().ok())?
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Whether a snapshot stands alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotKind {
    /// All users.
    Base,
    /// The users changed since the previous snapshot.
    Delta,
}

/// One value for each view, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerView<T> {
    /// Of the click view.
    pub click: T,
    /// Of the search view.
    pub search: T,
    /// Of the purchase view.
    pub purchase: T,
}

impl<T: Copy> PerView<T> {
    /// From an array in view order.
    pub fn from_array([click, search, purchase]: [T; View::COUNT]) -> Self {
        Self { click, search, purchase }
    }

    /// As an array in view order.
    pub fn to_array(self) -> [T; View::COUNT] {
        [self.click, self.search, self.purchase]
    }
}

/// The bounds and constants of the fold that made the graphs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredParams {
    ring_capacity: usize,
    item_capacity_nodes: usize,
    category_capacity_nodes: usize,
    query_capacity_nodes: usize,
    edge_capacity: usize,
    half_life_short_days: f32,
    half_life_long_days: f32,
    session_gap_ms: i64,
    late_limit_ms: i64,
    activity_bits: u8,
    // Left out where they have the default, as in manifests that are older than they are.
    #[serde(default = "default_erasure_memory_ms", skip_serializing_if = "is_default_erasure_memory")]
    erasure_memory_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_capacity: Option<NonZeroUsize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    view_capacity_bytes: Option<NonZeroU64>,
}

fn default_erasure_memory_ms() -> i64 {
    GraphParams::default().erasure_memory_ms
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_default_erasure_memory(memory_ms: &i64) -> bool {
    *memory_ms == default_erasure_memory_ms()
}

impl From<&GraphParams> for StoredParams {
    fn from(params: &GraphParams) -> Self {
        // Taken apart field by field, so that a new parameter cannot be forgotten here.
        let GraphParams {
            ring_capacity,
            item_capacity_nodes,
            category_capacity_nodes,
            query_capacity_nodes,
            edge_capacity,
            half_life_short_days,
            half_life_long_days,
            session_gap_ms,
            late_limit_ms,
            erasure_memory_ms,
            user_capacity,
            view_capacity_bytes,
            activity,
        } = *params;
        Self {
            ring_capacity,
            item_capacity_nodes,
            category_capacity_nodes,
            query_capacity_nodes,
            edge_capacity,
            half_life_short_days,
            half_life_long_days,
            session_gap_ms,
            late_limit_ms,
            activity_bits: activity.bits(),
            erasure_memory_ms,
            user_capacity,
            view_capacity_bytes,
        }
    }
}

impl StoredParams {
    /// The parameters as the fold takes them.
    pub fn to_params(&self) -> GraphParams {
        GraphParams {
            ring_capacity: self.ring_capacity,
            item_capacity_nodes: self.item_capacity_nodes,
            category_capacity_nodes: self.category_capacity_nodes,
            query_capacity_nodes: self.query_capacity_nodes,
            edge_capacity: self.edge_capacity,
            half_life_short_days: self.half_life_short_days,
            half_life_long_days: self.half_life_long_days,
            session_gap_ms: self.session_gap_ms,
            late_limit_ms: self.late_limit_ms,
            erasure_memory_ms: self.erasure_memory_ms,
            user_capacity: self.user_capacity,
            view_capacity_bytes: self.view_capacity_bytes,
            activity: KindSet::from_bits(self.activity_bits),
        }
    }

    /// Names every parameter that differs from `other`, with both values; empty when they are equal.
    pub fn differences(&self, other: &Self) -> String {
        let (Ok(serde_json::Value::Object(mine)), Ok(serde_json::Value::Object(theirs))) =
            (serde_json::to_value(self), serde_json::to_value(other))
        else {
            return "not comparable".to_owned();
        };
        // One that is left out has its default.
        let keys: std::collections::BTreeSet<&String> = mine.keys().chain(theirs.keys()).collect();
        let differing = keys.into_iter().filter(|key| theirs.get(*key) != mine.get(*key));
        let shown =
            |value: Option<&serde_json::Value>| value.map_or_else(|| "the default".to_owned(), ToString::to_string);
        let texts = differing.map(|key| {
            format!("`{key}` is `{}` in the snapshot, `{}` here", shown(mine.get(key)), shown(theirs.get(key)))
        });
        texts.collect::<Vec<_>>().join(", ")
    }
}

/// How much a snapshot holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Users in its files.
    pub users: u64,
    /// Names in its files.
    pub names: u64,
    /// Recent lines in all rings.
    pub ring_entries: u64,
    /// Nodes of the settled parts of all views.
    pub nodes: u64,
    /// Transitions of the settled parts of all views.
    pub edges: u64,
    /// Events ever folded into these users.
    pub events: u64,
    /// Bytes of all files but the manifest.
    pub bytes: u64,
}

/// What the rows of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileContent {
    /// One user a row.
    Users,
    /// One name a row.
    Names,
}

/// One Arrow file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name, beside the manifest.
    pub name: String,
    /// What it holds.
    pub content: FileContent,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// XXH3-128 of its bytes, 32 hexadecimal digits.
    pub xxh3_128: String,
    /// Its columns, in order; empty before format version 2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<ColumnEntry>,
}

/// One column of an Arrow file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnEntry {
    /// Its name.
    pub name: String,
    /// XXH3-128 of what it holds, 32 hexadecimal digits; the same whatever the compression.
    pub xxh3_128: String,
}

/// One remembered erasure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredErasure {
    /// The view's name.
    view: String,
    /// XXH3-64 of the user's id, 16 hexadecimal digits.
    user_xxh3_64: String,
    /// When it was asked for, milliseconds since the Unix epoch.
    time_ms: i64,
}

impl StoredErasure {
    fn of(entry: &ErasureEntry) -> Self {
        let ErasureEntry { view, user_hash, time_ms } = *entry;
        Self { view: view.name().to_owned(), user_xxh3_64: format!("{user_hash:016x}"), time_ms }
    }

    fn to_entry(&self) -> Option<ErasureEntry> {
        let view = View::ALL.into_iter().find(|view| view.name() == self.view)?;
        let user_hash = u64::from_str_radix(&self.user_xxh3_64, 16).ok()?;
        Some(ErasureEntry { view, user_hash, time_ms: self.time_ms })
    }
}

/// What a snapshot is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the program that wrote it.
    pub format_version: u32,
    /// Its name.
    pub id: SnapshotId,
    /// The partition it is of.
    partition: i32,
    /// Whether it stands alone.
    pub kind: SnapshotKind,
    /// The base it needs: itself for a base.
    pub base: SnapshotId,
    /// The snapshot a delta builds on.
    pub previous: Option<SnapshotId>,
    /// Deltas between this snapshot and its base, itself included; 0 for a base.
    pub delta_number: usize,
    /// The offsets to read next in each topic.
    next_offsets: PerView<i64>,
    /// The newest event folded from each topic, milliseconds since the Unix epoch.
    max_event_ms: PerView<Option<i64>>,
    /// The partition's event-time watermark, milliseconds since the Unix epoch.
    pub watermark_ms: Option<i64>,
    /// When it was written, wall clock, milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// The program's version.
    pub writer_version: String,
    /// Bounds and constants of the fold.
    pub graph_params: StoredParams,
    /// Erasures that are remembered: all of them, in a delta too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    erasures: Vec<StoredErasure>,
    /// How much it holds.
    pub counts: Counts,
    /// Its files.
    pub files: Vec<FileEntry>,
    /// XXH3-128 of this manifest's text with this field empty.
    checksum: String,
}

/// What only the caller knows of a snapshot to describe.
#[derive(Debug, Clone)]
pub(super) struct Description {
    pub(super) id: SnapshotId,
    pub(super) partition: PartitionId,
    pub(super) kind: SnapshotKind,
    pub(super) base: SnapshotId,
    pub(super) previous: Option<SnapshotId>,
    pub(super) delta_number: usize,
    pub(super) next_offsets: Positions,
    pub(super) max_event_ms: [Option<i64>; View::COUNT],
    pub(super) watermark_ms: Option<i64>,
    pub(super) created_ms: i64,
    pub(super) graph_params: StoredParams,
    pub(super) erasures: Vec<ErasureEntry>,
}

impl Manifest {
    pub(super) fn new(description: Description, mut counts: Counts, files: Vec<FileEntry>) -> Self {
        counts.bytes = files.iter().map(|file| file.bytes).sum();
        Self {
            format_version: FORMAT_VERSION,
            id: description.id,
            partition: description.partition.0,
            kind: description.kind,
            base: description.base,
            previous: description.previous,
            delta_number: description.delta_number,
            next_offsets: PerView::from_array(description.next_offsets.0.map(|offset| offset.0)),
            max_event_ms: PerView::from_array(description.max_event_ms),
            watermark_ms: description.watermark_ms,
            created_ms: description.created_ms,
            writer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph_params: description.graph_params,
            erasures: description.erasures.iter().map(StoredErasure::of).collect(),
            counts,
            files,
            checksum: String::new(),
        }
    }

    /// The partition it is of.
    pub fn partition(&self) -> PartitionId {
        PartitionId(self.partition)
    }

    /// The offsets to read next.
    pub fn next_offsets(&self) -> Positions {
        Positions(self.next_offsets.to_array().map(Offset))
    }

    /// The newest event folded from each topic, milliseconds since the Unix epoch, in view order.
    pub fn max_event_ms(&self) -> [Option<i64>; View::COUNT] {
        self.max_event_ms.to_array()
    }

    /// The erasures that are remembered.
    pub fn erasures(&self) -> Erasures {
        Erasures::of(self.erasures.iter().filter_map(StoredErasure::to_entry))
    }

    /// The folder of a partition's snapshots, relative to the storage's root.
    pub fn partition_folder(partition: PartitionId) -> String {
        format!("partition={:05}", partition.0)
    }

    /// The folder of this snapshot, relative to the storage's root.
    pub fn folder(&self) -> String {
        folder_of(self.partition(), &self.id)
    }

    /// The path of this manifest, relative to the storage's root.
    pub fn path(&self) -> String {
        Self::path_of(self.partition(), &self.id)
    }

    /// The path of the manifest of snapshot `id`, relative to the storage's root.
    pub fn path_of(partition: PartitionId, id: &SnapshotId) -> String {
        format!("{}/{MANIFEST_NAME}", folder_of(partition, id))
    }

    /// The path of one of its files, relative to the storage's root.
    pub fn file_path(&self, file: &FileEntry) -> String {
        format!("{}/{}", self.folder(), file.name)
    }

    /// The text to store: this manifest with its checksum.
    pub(super) fn to_text(&self) -> Result<String, SnapshotError> {
        let sealed = Self { checksum: self.digest()?, ..self.clone() };
        render(&sealed)
    }

    /// Reads a manifest stored at `path` and checks that it is whole, of a known version and in its own place.
    pub(super) fn parse(path: &str, bytes: &[u8]) -> Result<Self, SnapshotError> {
        let syntax = |error: serde_json::Error| SnapshotError::ManifestSyntax {
            path: path.to_owned(),
            message: error.to_string(),
        };
        let VersionOnly { format_version: version } = serde_json::from_slice(bytes).map_err(syntax)?;
        if version > FORMAT_VERSION {
            return Err(SnapshotError::FutureVersion { path: path.to_owned(), version, supported: FORMAT_VERSION });
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(syntax)?;
        let actual = manifest.digest()?;
        if actual != manifest.checksum {
            return Err(SnapshotError::ManifestChecksum { path: path.to_owned(), expected: manifest.checksum, actual });
        }
        if let Some(unknown) = manifest.erasures.iter().find(|erasure| erasure.to_entry().is_none()) {
            let message = format!("an erasure cannot be read: {unknown:?}");
            return Err(SnapshotError::ManifestSyntax { path: path.to_owned(), message });
        }
        if manifest.path() != path {
            return Err(SnapshotError::Misplaced {
                path: path.to_owned(),
                id: manifest.id,
                partition: manifest.partition,
            });
        }
        Ok(manifest)
    }

    fn digest(&self) -> Result<String, SnapshotError> {
        let open = Self { checksum: String::new(), ..self.clone() };
        Ok(hex_digest(render(&open)?.as_bytes()))
    }
}

/// What every version's manifest has.
#[derive(Deserialize)]
struct VersionOnly {
    format_version: u32,
}

fn render(manifest: &Manifest) -> Result<String, SnapshotError> {
    serde_json::to_string_pretty(manifest)
        .map_err(|error| SnapshotError::ManifestSyntax { path: manifest.path(), message: error.to_string() })
}

/// The folder of snapshot `id`, relative to the storage's root.
pub(super) fn folder_of(partition: PartitionId, id: &SnapshotId) -> String {
    format!("{}/{id}", Manifest::partition_folder(partition))
}

/// XXH3-128 of `bytes`, 32 hexadecimal digits.
pub(super) fn hex_digest(bytes: &[u8]) -> String {
    format!("{:032x}", xxh3_128(bytes))
}

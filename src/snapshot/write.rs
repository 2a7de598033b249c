//! Writing one snapshot: users in parts, names, then the manifest.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use xxhash_rust::xxh3::xxh3_64;

use super::{
    Counts, FileContent, FileEntry, Manifest, NameEntry, SnapshotError, SnapshotId, SnapshotKind, Snapshots,
    StoredParams, UserEntry,
    manifest::{Description, folder_of, hex_digest},
    table::{Encoded, encode_names, encode_users},
};
use crate::{
    event::{NameHash, NameKind, PartitionId, Positions, View},
    graph::{Edge, Erasures, NameHashBuilder, NameLookup, Node, PartitionState, Progress, UserGraph, visit_names},
};

/// The state of a partition at one position, to be written.
pub struct SnapshotRequest {
    /// The partition.
    pub partition: PartitionId,
    /// Whether `users` is everyone or only those changed since the partition's previous snapshot.
    pub kind: SnapshotKind,
    /// The position: the offsets to read next. At or below the committed ones (POS-2).
    pub next_offsets: Positions,
    /// The newest event folded from each topic, milliseconds since the Unix epoch.
    pub max_event_ms: [Option<i64>; View::COUNT],
    /// The event-time watermark, milliseconds since the Unix epoch.
    pub watermark_ms: Option<i64>,
    /// Erasures that are remembered.
    pub erasures: Arc<Erasures>,
    /// The users, in any order, each once. One with an empty graph is gone: a delta says so, a base leaves it out.
    pub users: Vec<UserEntry>,
    /// Texts of the names in their graphs. May know more than the graphs mention.
    pub names: Arc<dyn NameLookup + Send + Sync>,
}

impl SnapshotRequest {
    /// A request for `users` at the position of `state`.
    pub fn new(
        kind: SnapshotKind,
        users: Vec<UserEntry>,
        state: &PartitionState,
        names: Arc<dyn NameLookup + Send + Sync>,
        watermark_ms: Option<i64>,
    ) -> Self {
        let Progress { next_offsets, newest_ms } = state.progress();
        Self {
            partition: state.partition(),
            kind,
            next_offsets,
            max_event_ms: newest_ms,
            watermark_ms,
            erasures: state.erasures(),
            users,
            names,
        }
    }

    /// All users of `state`. Only for the thread that owns the partition, between two micro-batches: about 0.1 µs a user.
    pub fn base(state: &Arc<PartitionState>, watermark_ms: Option<i64>) -> Self {
        let names = Arc::new(NamesOf(Arc::clone(state)));
        Self::new(SnapshotKind::Base, state.graphs.to_vec(), state, names, watermark_ms)
    }

    /// The `changed` users of `state`: all that changed since the partition's previous snapshot, in their newest version.
    pub fn delta(changed: Vec<UserEntry>, state: &Arc<PartitionState>, watermark_ms: Option<i64>) -> Self {
        Self::new(SnapshotKind::Delta, changed, state, Arc::new(NamesOf(Arc::clone(state))), watermark_ms)
    }
}

/// The names of a partition, which other threads may read: a name's text never changes.
struct NamesOf(Arc<PartitionState>);

impl NameLookup for NamesOf {
    fn text(&self, name: NameHash) -> Option<Arc<str>> {
        self.0.names.text(name)
    }
}

impl std::fmt::Debug for SnapshotRequest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("SnapshotRequest")
            .field("partition", &self.partition)
            .field("kind", &self.kind)
            .field("next_offsets", &self.next_offsets)
            .field("user_count", &self.users.len())
            .finish_non_exhaustive()
    }
}

impl Snapshots {
    /// Writes one snapshot and returns its manifest once all of it is durable. A delta builds on `previous`.
    pub fn write_blocking(
        &self,
        mut request: SnapshotRequest,
        previous: Option<&Manifest>,
    ) -> Result<Manifest, SnapshotError> {
        let id = self.next_id_blocking(request.partition)?;
        let (base, previous, delta_number) = match (request.kind, previous) {
            (SnapshotKind::Base, _) => (id.clone(), None, 0),
            (SnapshotKind::Delta, Some(previous)) => {
                (previous.base.clone(), Some(previous.id.clone()), previous.delta_number + 1)
            }
            (SnapshotKind::Delta, None) => return Err(SnapshotError::NoBase { partition: request.partition.0 }),
        };
        // Equal states give equal files, and a reader finds a user's neighbours beside it.
        request.users.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        let mut parts = PartWriter { snapshots: self, folder: folder_of(request.partition, &id), files: Vec::new() };
        let mut counts = Counts::default();
        let mut mentioned = Mentioned::default();
        for part in split(&request.users, self.options.part_users, self.options.part_bytes) {
            for (_, graph) in part {
                count(graph, &mut counts, &mut mentioned);
            }
            parts.put(FileContent::Users, part.len(), encode_users(part, self.options.compression))?;
        }
        counts.names = parts.put_names(&mentioned, request.names.as_ref())?;
        let description = Description {
            id,
            partition: request.partition,
            kind: request.kind,
            base,
            previous,
            delta_number,
            next_offsets: request.next_offsets,
            max_event_ms: request.max_event_ms,
            watermark_ms: request.watermark_ms,
            created_ms: self.clock.now_ms(),
            graph_params: StoredParams::from(&self.options.graph_params),
            erasures: request.erasures.to_vec(),
        };
        let manifest = Manifest::new(description, counts, parts.files);
        self.storage.put_blocking(&manifest.path(), manifest.to_text()?.into_bytes())?;
        Ok(manifest)
    }

    /// One more than the highest number in use, complete or not.
    fn next_id_blocking(&self, partition: PartitionId) -> Result<SnapshotId, SnapshotError> {
        /// Tells apart what one process writes within a millisecond.
        static WRITTEN: AtomicU32 = AtomicU32::new(0);
        let folder = Manifest::partition_folder(partition);
        let mut taken = self.storage.list_blocking(&folder)?;
        taken.extend(self.storage.list_leftovers_blocking(&folder)?);
        let highest = taken.iter().filter_map(|path| SnapshotId(path.split('/').nth(1)?.to_owned()).sequence()).max();
        let mut seed = Vec::with_capacity(16);
        seed.extend(self.clock.now_ms().to_le_bytes());
        seed.extend(std::process::id().to_le_bytes());
        seed.extend(WRITTEN.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        let nonce = u32::try_from(xxh3_64(&seed) >> 32).unwrap_or_default();
        Ok(SnapshotId::new(highest.map_or(1, |highest| highest + 1), nonce))
    }
}

/// Puts files into one snapshot's folder and remembers them for the manifest.
struct PartWriter<'a> {
    snapshots: &'a Snapshots,
    folder: String,
    files: Vec<FileEntry>,
}

impl PartWriter<'_> {
    fn put(
        &mut self,
        content: FileContent,
        rows: usize,
        encoded: Result<Encoded, arrow::error::ArrowError>,
    ) -> Result<(), SnapshotError> {
        let stem = match content {
            FileContent::Users => "users",
            FileContent::Names => "names",
        };
        let number = self.files.iter().filter(|file| file.content == content).count();
        let name = format!("{stem}-{number:05}.arrow");
        let path = format!("{}/{name}", self.folder);
        let Encoded { bytes, columns } =
            encoded.map_err(|error| SnapshotError::Arrow { path: path.clone(), message: error.to_string() })?;
        let (rows, size) = (rows as u64, bytes.len() as u64);
        let entry = FileEntry { name, content, rows, bytes: size, xxh3_128: hex_digest(&bytes), columns };
        self.snapshots.storage.put_blocking(&path, bytes)?;
        self.files.push(entry);
        Ok(())
    }

    /// Writes the texts of the `mentioned` names and returns how many there were. A name without a known text is left
    /// out: the graph works without it, and outputs show its hash.
    fn put_names(&mut self, mentioned: &Mentioned, source: &dyn NameLookup) -> Result<u64, SnapshotError> {
        let known = mentioned.iter().filter_map(|hash| {
            let text = source.text(*hash)?;
            let kind = NameKind::ALL.into_iter().find(|kind| NameHash::of(*kind, &text) == *hash);
            Some(NameEntry { hash: *hash, kind, text })
        });
        let mut names: Vec<NameEntry> = known.collect();
        names.sort_unstable_by_key(|name| name.hash);
        let compression = self.snapshots.options.compression;
        for part in names.chunks(NAMES_A_FILE) {
            self.put(FileContent::Names, part.len(), encode_names(part, compression))?;
        }
        Ok(names.len() as u64)
    }
}

/// Names a file at most: a text is at most some hundred bytes, so a file stays below about 64 MiB.
const NAMES_A_FILE: usize = 262_144;

/// Names that graphs mention.
type Mentioned = HashSet<NameHash, NameHashBuilder>;

/// Cuts `users` into parts of at most `limit_users` and about `limit_bytes`.
fn split(users: &[UserEntry], limit_users: usize, limit_bytes: usize) -> impl Iterator<Item = &[UserEntry]> {
    let mut rest = users;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fitting = rest.iter().take(limit_users.max(1)).take_while(|(_, graph)| {
            let fits = bytes < limit_bytes;
            bytes += graph_bytes(graph);
            fits
        });
        let length = fitting.count().max(1).min(rest.len());
        let (part, after) = rest.split_at(length);
        rest = after;
        (!part.is_empty()).then_some(part)
    })
}

/// About the bytes of a graph in a file, uncompressed.
fn graph_bytes(graph: &UserGraph) -> usize {
    let bytes = graph.views().map(|(_, view)| {
        let settled = view.settled().map_or(0, |settled| {
            size_of_val(&settled.totals)
                + settled.nodes.len() * size_of::<Node>()
                + settled.edges.len() * size_of::<Edge>()
        });
        VIEW_BYTES + view.ring().len() * RING_ENTRY_BYTES + settled
    });
    bytes.sum()
}

/// Bytes of a view's plain columns.
const VIEW_BYTES: usize = 128;

/// Bytes of one recent line in a file.
const RING_ENTRY_BYTES: usize = 35;

fn count(graph: &UserGraph, counts: &mut Counts, mentioned: &mut Mentioned) {
    counts.users += 1;
    counts.events += graph.event_count();
    for (_, view) in graph.views() {
        counts.ring_entries += view.ring().len() as u64;
        counts.nodes += view.settled().map_or(0, |settled| settled.nodes.len() as u64);
        counts.edges += view.settled().map_or(0, |settled| settled.edges.len() as u64);
    }
    visit_names(graph, |name| _ = mentioned.insert(name));
}

//! The database: opening, keyspaces, ends, and the lock and signals that all parts share.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, OwnedWriteBatch, PersistMode, compaction::Leveled,
};
use tokio::sync::watch;

use super::{
    EmbeddedError,
    chunk::{ChunkBuilder, ChunkReader},
    recent::RecentIds,
};
use crate::{
    clock::Clock,
    event::{Offset, PartitionId, Positions, View},
    stream::OutputTopic,
};

const FORMAT: u32 = 1;
/// A chunk is closed when it has this many bytes: a reader holds one chunk a topic partition in memory.
pub(super) const CHUNK_BYTES: usize = 1 << 20;
/// A chunk is closed when it has this many records, so that a seek into it stays cheap.
pub(super) const CHUNK_RECORDS: usize = 4_096;
/// Bytes a topic holds in memory before they are written to a file of their own; twice that for a moment.
const TOPIC_MEMORY_BYTES: u64 = 16 << 20;
/// The same for positions and ends: a few keys that every append and every commit writes again, each of which costs several times
/// its bytes until then.
const META_MEMORY_BYTES: u64 = 1 << 20;
/// Bytes of journals on disk: what an opening reads again, and after how much a topic that gets little is written out too.
const JOURNAL_BYTES: u64 = 128 << 20;
/// Files held open at most.
const OPEN_FILES: usize = 256;
/// Files of keys of a topic, each with a file of its chunks, that wait to be merged. Merging moves keys only, and only then are the
/// files deleted whose chunks retention dropped: with the 4 of a large tree a topic that gets little would keep them for an hour.
const WAITING_FILES: u8 = 2;

/// Settings of the embedded log.
#[derive(Debug, Clone)]
pub struct EmbeddedParams {
    /// The folder; made when it does not exist.
    pub path: PathBuf,
    /// Partitions of every topic; fixed when the log is made.
    pub partition_count: u32,
    /// Newest event ids remembered, to recognise events sent again.
    pub recent_id_capacity: usize,
    /// Records kept at least in each output topic and partition; older ones are dropped by whole chunks. `scores` keeps the
    /// newest record of every user instead.
    pub retain_output_records: u64,
    /// Newest records kept at least in each input topic and partition, whatever snapshots cover. Not below
    /// [`recent_id_capacity`](Self::recent_id_capacity), whose ids are read from them after a restart.
    pub retain_input_records: u64,
    /// Records of `scores` written to a partition before superseded ones are dropped, at least; also at least twice the
    /// number of users found at the last time, so that the work stays proportional to what is written.
    pub compact_after_records: u64,
    /// Bytes of block cache.
    pub cache_bytes: u64,
}

impl EmbeddedParams {
    /// Defaults for the log in `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            partition_count: 4,
            recent_id_capacity: 200_000,
            retain_output_records: 1_000_000,
            retain_input_records: 1_000_000,
            compact_after_records: 200_000,
            cache_bytes: 32 << 20,
        }
    }
}

/// A topic of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    Input(View),
    Output(OutputTopic),
}

impl Topic {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        View::ALL.into_iter().map(Self::Input).chain(OutputTopic::ALL.into_iter().map(Self::Output))
    }

    fn keyspace_name(self) -> String {
        match self {
            Self::Input(view) => format!("input_{}", view.name()),
            Self::Output(topic) => format!("output_{}", topic.default_name().replace('-', "_")),
        }
    }
}

/// The durable local log of one process.
pub struct EmbeddedLog {
    pub(super) params: EmbeddedParams,
    pub(super) clock: Arc<dyn Clock>,
    database: Database,
    meta: Keyspace,
    topics: BTreeMap<Topic, Keyspace>,
    /// Guards ends and the recent ids, and is held during a write, so that offsets are taken in the order of writing.
    state: Mutex<State>,
    /// Signalled after every append; consumers wait on it.
    appended: Condvar,
    /// Counts commits; readers of outputs wait on it.
    committed: watch::Sender<u64>,
}

pub(super) struct State {
    /// Exclusive ends of what is durable, and so visible.
    pub(super) ends: BTreeMap<(Topic, PartitionId), Offset>,
    /// First offsets, raised when old chunks are dropped.
    pub(super) firsts: BTreeMap<(Topic, PartitionId), Offset>,
    pub(super) next_sequence: u64,
    pub(super) recent: RecentIds,
    pub(super) taken: BTreeSet<PartitionId>,
    /// The end of `scores` at which it is compacted again; a partition that is not here is due at the first maintenance.
    pub(super) compact_scores_at: BTreeMap<PartitionId, Offset>,
    /// The end of `scores` at which this process last compacted it.
    pub(super) compacted_scores_until: BTreeMap<PartitionId, Offset>,
    /// Appends so far, to see whether something came while nobody waited.
    pub(super) append_count: u64,
}

impl EmbeddedLog {
    /// Opens the log, or makes it when the folder is empty.
    pub fn open(params: EmbeddedParams, clock: Arc<dyn Clock>) -> Result<Arc<Self>, EmbeddedError> {
        let path = params.path.clone();
        std::fs::create_dir_all(&path).map_err(|source| EmbeddedError::Folder { path: path.clone(), source })?;
        let database = Database::builder(&path)
            .cache_size(params.cache_bytes)
            .worker_threads(1)
            .max_journaling_size(JOURNAL_BYTES)
            .max_cached_files(Some(OPEN_FILES))
            .open()
            .map_err(|error| in_use_or(error, &path))?;
        let meta = database.keyspace("meta", meta_options)?;
        check_or_write_format(&database, &meta, &params)?;
        let mut topics = BTreeMap::new();
        for topic in Topic::all() {
            topics.insert(topic, database.keyspace(&topic.keyspace_name(), chunk_options)?);
        }
        let state = State {
            ends: BTreeMap::new(),
            firsts: BTreeMap::new(),
            next_sequence: 0,
            recent: RecentIds::new(params.recent_id_capacity),
            taken: BTreeSet::new(),
            compact_scores_at: BTreeMap::new(),
            compacted_scores_until: BTreeMap::new(),
            append_count: 0,
        };
        let log = Self {
            params,
            clock,
            database,
            meta,
            topics,
            state: Mutex::new(state),
            appended: Condvar::new(),
            committed: watch::Sender::new(0),
        };
        log.recover()?;
        Ok(Arc::new(log))
    }

    /// Number of partitions of every topic.
    pub fn partition_count(&self) -> u32 {
        self.params.partition_count
    }

    /// All partitions.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.params.partition_count).map(|number| PartitionId(number.cast_signed()))
    }

    /// The committed positions of `partition`; zero where nothing was committed.
    pub fn committed(&self, partition: PartitionId) -> Result<Positions, EmbeddedError> {
        let Some(bytes) = self.meta.get(positions_key(partition))? else { return Ok(Positions::default()) };
        let (words, []) = bytes.as_chunks::<8>() else { return Err(corrupt_positions(partition)) };
        let offsets: Vec<Offset> = words.iter().map(|word| Offset(i64::from_be_bytes(*word))).collect();
        Ok(Positions(offsets.try_into().map_err(|_| corrupt_positions(partition))?))
    }

    /// The ends of the input topics of `partition` (exclusive).
    pub fn ends(&self, partition: PartitionId) -> Positions {
        let state = self.lock();
        Positions(View::ALL.map(|view| state.end(Topic::Input(view), partition)))
    }

    /// The first offsets still in the input topics of `partition`.
    pub fn earliest(&self, partition: PartitionId) -> Positions {
        let state = self.lock();
        Positions(View::ALL.map(|view| state.first(Topic::Input(view), partition)))
    }

    /// The position that the reader of outputs called `name` stored.
    pub(super) fn reader_position(&self, name: &str, partition: PartitionId) -> Result<Option<Offset>, EmbeddedError> {
        let key = reader_key(name, partition);
        match self.meta.get(&key)? {
            None => Ok(None),
            Some(bytes) => match bytes.first_chunk::<8>() {
                Some(word) if bytes.len() == 8 => Ok(Some(Offset(i64::from_be_bytes(*word)))),
                _ => Err(EmbeddedError::Corrupt { what: format!("`{key}` has {} bytes", bytes.len()) }),
            },
        }
    }

    /// Stores it, durably.
    pub(super) fn store_reader_position(
        &self,
        name: &str,
        partition: PartitionId,
        next: Offset,
    ) -> Result<(), EmbeddedError> {
        let mut batch = self.batch();
        batch.insert(&self.meta, reader_key(name, partition), next.0.to_be_bytes());
        Ok(batch.commit()?)
    }

    /// A receiver whose value changes after every commit of outputs.
    pub fn subscribe_commits(&self) -> watch::Receiver<u64> {
        self.committed.subscribe()
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> Result<u64, EmbeddedError> {
        Ok(self.database.disk_space()?)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // The state is changed only after a successful write, in one go, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something is appended after `seen` appends, or `timeout` passes. Returns the appends so far.
    pub(super) fn wait_for_append(&self, seen: u64, timeout: Duration) -> u64 {
        let guard = self.lock();
        if guard.append_count != seen {
            return guard.append_count;
        }
        self.appended.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner).0.append_count
    }

    pub(super) fn signal_append(&self) {
        self.appended.notify_all();
    }

    pub(super) fn signal_commit(&self) {
        self.committed.send_modify(|count| *count += 1);
    }

    pub(super) fn keyspace(&self, topic: Topic) -> &Keyspace {
        // Filled for every topic in `open` and never changed.
        &self.topics[&topic]
    }

    pub(super) fn batch(&self) -> OwnedWriteBatch {
        self.database.batch().durability(Some(PersistMode::SyncData))
    }

    /// A batch that is atomic like the others and durable with the next of them.
    pub(super) fn unsynchronised_batch(&self) -> OwnedWriteBatch {
        self.database.batch()
    }

    pub(super) fn put_positions(&self, batch: &mut OwnedWriteBatch, partition: PartitionId, positions: &Positions) {
        let bytes: Vec<u8> = positions.0.iter().flat_map(|offset| offset.0.to_be_bytes()).collect();
        batch.insert(&self.meta, positions_key(partition), bytes);
    }

    pub(super) fn put_first(&self, batch: &mut OwnedWriteBatch, topic: Topic, partition: PartitionId, first: Offset) {
        batch.insert(&self.meta, topic_key("first", topic, partition), first.0.to_be_bytes());
    }

    /// Writes a finished chunk, if there is anything in it.
    pub(super) fn put_chunk(
        &self,
        batch: &mut OwnedWriteBatch,
        (topic, partition): (Topic, PartitionId),
        chunk: &mut ChunkBuilder,
    ) {
        if let Some((base, bytes)) = chunk.take() {
            batch.insert(self.keyspace(topic), chunk_key(partition, base), bytes);
        }
    }

    /// Writes the new end of a topic partition. Once a batch: a batch must not write one key twice.
    pub(super) fn put_end(&self, batch: &mut OwnedWriteBatch, topic: Topic, partition: PartitionId, end: Offset) {
        batch.insert(&self.meta, topic_key("end", topic, partition), end.0.to_be_bytes());
    }

    /// The chunk that holds `next`, or else the first one after it; its reader stands at the first record ≥ `next`.
    pub(super) fn chunk_at(
        &self,
        topic: Topic,
        partition: PartitionId,
        next: Offset,
    ) -> Result<Option<ChunkReader>, EmbeddedError> {
        let keyspace = self.keyspace(topic);
        let (low, high) = (chunk_key(partition, Offset(0)), chunk_key(partition, Offset(i64::MAX)));
        let here = chunk_key(partition, next);
        if let Some(guard) = keyspace.range(low..=here).next_back() {
            let mut reader = reader_of(guard)?;
            reader.seek(next)?;
            if reader.peek()?.is_some() {
                return Ok(Some(reader));
            }
        }
        match keyspace.range(here..=high).find_map(|guard| match reader_of(guard) {
            // `here` itself was looked at above.
            Ok(mut reader) => match reader.seek(next).and_then(|()| Ok(reader.peek()?.is_some())) {
                Ok(true) => Some(Ok(reader)),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            },
            Err(error) => Some(Err(error)),
        }) {
            Some(found) => found.map(Some),
            None => Ok(None),
        }
    }

    fn recover(&self) -> Result<(), EmbeddedError> {
        let mut state = self.lock();
        for topic in Topic::all() {
            for partition in self.partitions() {
                let end = self.meta_offset("end", topic, partition)?;
                let first = self.meta_offset("first", topic, partition)?;
                state.ends.insert((topic, partition), end);
                state.firsts.insert((topic, partition), first);
            }
        }
        let newest = self.recover_recent(&mut state.recent)?;
        state.next_sequence = newest.map_or(0, |sequence| sequence + 1);
        Ok(())
    }

    fn meta_offset(&self, what: &str, topic: Topic, partition: PartitionId) -> Result<Offset, EmbeddedError> {
        let key = topic_key(what, topic, partition);
        match self.meta.get(&key)? {
            None => Ok(Offset(0)),
            Some(bytes) => match bytes.first_chunk::<8>() {
                Some(word) if bytes.len() == 8 => Ok(Offset(i64::from_be_bytes(*word))),
                _ => Err(EmbeddedError::Corrupt { what: format!("`{key}` has {} bytes", bytes.len()) }),
            },
        }
    }
}

impl State {
    pub(super) fn end(&self, topic: Topic, partition: PartitionId) -> Offset {
        self.ends.get(&(topic, partition)).copied().unwrap_or_default()
    }

    pub(super) fn first(&self, topic: Topic, partition: PartitionId) -> Offset {
        self.firsts.get(&(topic, partition)).copied().unwrap_or_default()
    }
}

pub(super) fn reader_of(guard: fjall::Guard) -> Result<ChunkReader, EmbeddedError> {
    let (key, value) = guard.into_inner()?;
    ChunkReader::new(base_of(&key)?, value)
}

pub(super) fn chunk_key(partition: PartitionId, base: Offset) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&partition.0.to_be_bytes());
    key[4..].copy_from_slice(&base.0.to_be_bytes());
    key
}

pub(super) fn base_of(key: &[u8]) -> Result<Offset, EmbeddedError> {
    match key.last_chunk::<8>() {
        Some(word) if key.len() == 12 => Ok(Offset(i64::from_be_bytes(*word))),
        _ => Err(EmbeddedError::Corrupt { what: format!("a chunk key has {} bytes", key.len()) }),
    }
}

fn positions_key(partition: PartitionId) -> String {
    format!("positions/{partition}")
}

fn reader_key(name: &str, partition: PartitionId) -> String {
    format!("reader/{name}/{partition}")
}

fn topic_key(what: &str, topic: Topic, partition: PartitionId) -> String {
    format!("{what}/{}/{partition}", topic.keyspace_name())
}

fn corrupt_positions(partition: PartitionId) -> EmbeddedError {
    EmbeddedError::Corrupt { what: format!("the committed positions of partition {partition}") }
}

fn meta_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(META_MEMORY_BYTES)
}

/// Chunks are large: keep them out of the tree, so that compaction moves keys only.
fn chunk_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(TOPIC_MEMORY_BYTES)
        .compaction_strategy(Arc::new(Leveled::default().with_l0_threshold(WAITING_FILES)))
        .with_kv_separation(Some(KvSeparationOptions::default()))
}

fn in_use_or(error: fjall::Error, path: &Path) -> EmbeddedError {
    match error {
        fjall::Error::Locked => EmbeddedError::InUse { path: path.to_owned() },
        other => EmbeddedError::Storage(other),
    }
}

fn check_or_write_format(database: &Database, meta: &Keyspace, params: &EmbeddedParams) -> Result<(), EmbeddedError> {
    let read = |key: &str| -> Result<Option<u32>, EmbeddedError> {
        let Some(bytes) = meta.get(key)? else { return Ok(None) };
        let word = bytes.first_chunk::<4>().filter(|_| bytes.len() == 4);
        let word = word.ok_or_else(|| EmbeddedError::Corrupt { what: format!("`{key}` has {} bytes", bytes.len()) })?;
        Ok(Some(u32::from_be_bytes(*word)))
    };
    let path = params.path.clone();
    match (read("format")?, read("partition_count")?) {
        (None, _) | (_, None) => {
            let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
            batch.insert(meta, "format", FORMAT.to_be_bytes());
            batch.insert(meta, "partition_count", params.partition_count.to_be_bytes());
            Ok(batch.commit()?)
        }
        (Some(found), _) if found != FORMAT => Err(EmbeddedError::Format { path, found, known: FORMAT }),
        (_, Some(found)) if found != params.partition_count => {
            Err(EmbeddedError::PartitionCount { path, found, wanted: params.partition_count })
        }
        _ => Ok(()),
    }
}

//! Everything that is derived from one partition of the input topics, except scores.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use super::{
    Erasures, GraphStore, NameLookup, NameTable,
    hash::{NameHashBuilder, StateHasher},
    residents::Residents,
    visit_names,
};
use crate::event::{Offset, PartitionId, Positions, View};

/// How far a partition has read: positions and event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Next offset of every topic.
    pub next_offsets: Positions,
    /// Newest event time folded from each topic, milliseconds since the Unix epoch, indexed by [`View::index`].
    pub newest_ms: [Option<i64>; View::COUNT],
}

impl Progress {
    /// The partition's event time: `max(min over the topics, max over the topics − topic_skew_ms)`, where a topic without
    /// events counts as minus infinity; `None` before the first event. A pure function of the positions, and monotone.
    pub fn watermark_ms(&self, topic_skew_ms: i64) -> Option<i64> {
        let newest_ms = self.newest_ms.iter().flatten().max()?;
        let held_ms = newest_ms.saturating_sub(topic_skew_ms);
        let slowest_ms = self.newest_ms.iter().min().copied().flatten();
        Some(slowest_ms.map_or(held_ms, |slowest_ms| slowest_ms.max(held_ms)))
    }

    /// Event time up to which nothing is unread that is in the log, milliseconds since the Unix epoch: the event time of the
    /// partition, held back by the newest event of every topic that is read only in part. `ends` are the ends of the topics
    /// (exclusive). `None` before the first event.
    pub fn settled_ms(&self, topic_skew_ms: i64, ends: &Positions) -> Option<i64> {
        let reached_ms = self.watermark_ms(topic_skew_ms)?;
        let unread = View::ALL.into_iter().filter(|view| self.next_offsets.get(*view) < ends.get(*view));
        let held_ms = unread.map(|view| self.newest_ms[view.index()].unwrap_or(i64::MIN)).min();
        Some(held_ms.map_or(reached_ms, |held_ms| held_ms.min(reached_ms)))
    }

    /// Whether the record at `offset` of the topic of `view` was folded before (POS-1).
    pub fn has_folded(&self, view: View, offset: Offset) -> bool {
        offset < self.next_offsets.get(view)
    }

    /// Notes an event of `view` folded at `time_ms`.
    pub fn note_event(&mut self, view: View, time_ms: i64) {
        let newest = &mut self.newest_ms[view.index()];
        *newest = (*newest).max(Some(time_ms));
    }

    /// Notes that the record at `offset` was handled, folded or not.
    pub fn note_record(&mut self, view: View, offset: Offset) {
        debug_assert!(!self.has_folded(view, offset), "POS-1: {view:?} offset {offset} was handled before");
        self.next_offsets.set(view, Offset(offset.0 + 1));
    }
}

/// The committed state of one partition. One stream thread writes it (through [`WriteSet`](super::WriteSet)); everyone
/// else reads (OWN-1).
#[derive(Debug)]
pub struct PartitionState {
    partition: PartitionId,
    /// Committed graphs.
    pub graphs: GraphStore,
    /// Texts of the names that graphs mention.
    pub names: NameTable,
    /// Protects a few words that readers copy out; held for nanoseconds.
    progress: RwLock<Progress>,
    /// Protects a reference count; held for nanoseconds.
    erasures: RwLock<Arc<Erasures>>,
    /// Whom to evict next; taken by the one write set that needs it, `None` while it must be built anew. One thread at a time.
    residents: Mutex<Option<Residents>>,
}

impl PartitionState {
    /// A state before the first record.
    pub fn new(partition: PartitionId) -> Self {
        Self::restored(partition, GraphStore::default(), NameTable::default(), Progress::default())
    }

    /// A state rebuilt from a snapshot.
    pub fn restored(partition: PartitionId, graphs: GraphStore, names: NameTable, progress: Progress) -> Self {
        Self {
            partition,
            graphs,
            names,
            progress: RwLock::new(progress),
            erasures: RwLock::default(),
            residents: Mutex::default(),
        }
    }

    /// The same with what is remembered of erasures.
    #[must_use]
    pub fn with_erasures(self, erasures: Erasures) -> Self {
        Self { erasures: RwLock::new(Arc::new(erasures)), ..self }
    }

    /// What is remembered of erasures.
    pub fn erasures(&self) -> Arc<Erasures> {
        Arc::clone(&self.erasures.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_erasures(&self, erasures: Arc<Erasures>) {
        *self.erasures.write().unwrap_or_else(PoisonError::into_inner) = erasures;
    }

    pub(super) fn take_residents(&self) -> Option<Residents> {
        self.residents.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn put_residents(&self, residents: Residents) {
        *self.residents.lock().unwrap_or_else(PoisonError::into_inner) = Some(residents);
    }

    /// The partition.
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// How far the partition has read.
    pub fn progress(&self) -> Progress {
        *self.progress.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_progress(&self, progress: Progress) {
        *self.progress.write().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    /// Drops names that no graph mentions any more. Only for the stream thread that owns the partition, between two
    /// micro-batches; about 1 µs a user. Call it when the table has doubled since the last time.
    pub fn sweep_names(&self) {
        let mut mentioned: HashSet<_, NameHashBuilder> = HashSet::default();
        self.graphs.for_each(|_, graph| visit_names(graph, |name| _ = mentioned.insert(name)));
        self.names.retain(&mentioned);
    }

    /// A hash of every bit of the state: positions, event times, erasures, graphs, and the texts of the names they mention. Equal
    /// for equal states, whatever the order in which users came. For tests and verification: sorts all users.
    pub fn state_hash(&self) -> u64 {
        let progress = self.progress();
        let mut hasher = StateHasher::default();
        hasher.integer(self.partition.0);
        for view in View::ALL {
            hasher.integer(progress.next_offsets.get(view).0);
            hasher.integer(progress.newest_ms[view.index()].unwrap_or(i64::MIN));
        }
        for entry in self.erasures().to_vec() {
            hasher.integer(entry.view as u8);
            hasher.integer(entry.user_hash);
            hasher.integer(entry.time_ms);
        }
        let mut users = self.graphs.to_vec();
        users.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        let mut mentioned: HashSet<_, NameHashBuilder> = HashSet::default();
        for (user, graph) in &users {
            hasher.bytes(user.as_str().as_bytes());
            hasher.user_graph(graph);
            visit_names(graph, |name| _ = mentioned.insert(name));
        }
        let mut names: Vec<_> = mentioned.into_iter().collect();
        names.sort_unstable();
        for name in names {
            hasher.integer(name.0);
            match self.names.text(name) {
                Some(text) => hasher.bytes(text.as_bytes()),
                None => hasher.integer(-1),
            }
        }
        hasher.finish()
    }
}

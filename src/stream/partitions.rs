//! The committed state of all partitions of this process, readable by anyone.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use dashmap::DashMap;

use crate::{
    decision::{ScoreBook, UserScore},
    event::PartitionId,
    graph::{PartitionState, UserGraph},
};

/// The committed state of one partition: graphs and the scores written for them. One stream thread writes it (OWN-1).
#[derive(Debug)]
pub struct PartitionHandle {
    /// Graphs, names and positions; shared with whoever writes a snapshot of them.
    pub state: Arc<PartitionState>,
    /// The last score and the alert state of every user.
    pub scores: ScoreBook,
    watermark_ms: AtomicI64,
}

const NO_WATERMARK: i64 = i64::MIN;

impl PartitionHandle {
    /// Takes a state with its scores.
    pub fn new(state: PartitionState, scores: ScoreBook) -> Self {
        Self { state: Arc::new(state), scores, watermark_ms: AtomicI64::new(NO_WATERMARK) }
    }

    /// The partition's event time after the last commit, milliseconds since the Unix epoch; `None` before the first event.
    pub fn watermark_ms(&self) -> Option<i64> {
        Some(self.watermark_ms.load(Ordering::Acquire)).filter(|watermark_ms| *watermark_ms != NO_WATERMARK)
    }

    pub(super) fn set_watermark_ms(&self, watermark_ms: Option<i64>) {
        debug_assert!(watermark_ms >= self.watermark_ms(), "event time never goes back");
        self.watermark_ms.store(watermark_ms.unwrap_or(NO_WATERMARK), Ordering::Release);
    }
}

/// Where a user was found.
#[derive(Debug, Clone)]
pub struct FoundUser {
    /// The partition, for names and positions.
    pub partition: Arc<PartitionHandle>,
    /// The committed graph.
    pub graph: Arc<UserGraph>,
    /// The last committed score; a user that was restored or just failed may have none.
    pub score: Option<Arc<UserScore>>,
}

/// The partitions this process owns now. Stream threads put them in and take them out; everyone reads.
#[derive(Debug, Default)]
pub struct Partitions {
    handles: DashMap<PartitionId, Arc<PartitionHandle>>,
}

impl Partitions {
    /// The partition, if this process owns it and has restored it.
    pub fn get(&self, partition: PartitionId) -> Option<Arc<PartitionHandle>> {
        self.handles.get(&partition).map(|handle| Arc::clone(&handle))
    }

    /// All partitions, by number.
    pub fn all(&self) -> Vec<Arc<PartitionHandle>> {
        let mut handles: Vec<_> = self.handles.iter().map(|entry| Arc::clone(entry.value())).collect();
        handles.sort_unstable_by_key(|handle| handle.state.partition());
        handles
    }

    /// Looks a user up in every partition: whatever partitioner the producers use.
    pub fn find_user(&self, user: &str) -> Option<FoundUser> {
        self.all().into_iter().find_map(|partition| {
            let graph = partition.state.graphs.get(user)?;
            let score = partition.scores.get(user);
            Some(FoundUser { partition, graph, score })
        })
    }

    /// Users of all partitions.
    pub fn user_count(&self) -> usize {
        self.all().iter().map(|handle| handle.state.graphs.len()).sum()
    }

    pub(super) fn insert(&self, handle: &Arc<PartitionHandle>) {
        self.handles.insert(handle.state.partition(), Arc::clone(handle));
    }

    /// Takes `handle` out, unless another thread has put a newer one in its place.
    pub(super) fn remove(&self, handle: &Arc<PartitionHandle>) {
        self.handles.remove_if(&handle.state.partition(), |_, current| Arc::ptr_eq(current, handle));
    }
}

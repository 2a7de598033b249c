//! What the loop asks of snapshots, and the Arrow snapshots behind it; simulation and benches plug in others.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tracing::warn;

use super::PartitionHandle;
use crate::{
    clock::Clock,
    event::{PartitionId, Positions, TextHashBuilder, UserId},
    graph::{PartitionState, UserGraph},
    snapshot::{SnapshotKind, SnapshotRequest, SnapshotWriter, Snapshots},
};

/// Keeps and loads states. Owned by one stream thread; every call comes between two micro-batches.
pub trait SnapshotStore: Send {
    /// Loads the newest usable state of `partition` at or below `committed` (POS-2); `None` when the log must be read from
    /// its start. Damaged snapshots are passed over and reported by the store itself; only a failing store is an error.
    fn load_blocking(
        &mut self,
        partition: PartitionId,
        committed: &Positions,
    ) -> Result<Option<PartitionState>, String>;

    /// Called during a restore, after each part of the replay, with the users it changed on top of what was loaded.
    fn replayed(&mut self, partition: PartitionId, changed: &[(UserId, Arc<UserGraph>)]);

    /// Called after a publish with what it changed; a user with an empty graph is gone. May hand `Arc`s to a writer; must not wait for one.
    fn published(&mut self, handle: &Arc<PartitionHandle>, changed: &[(UserId, Arc<UserGraph>)]);

    /// Called when `partition` is given up, or was built anew from the log: what was noted of it is void.
    fn forget(&mut self, partition: PartitionId);

    /// Called once for every partition when the thread ends as it was asked to: the last chance to keep it. May wait for a snapshot of
    /// it that is being written.
    fn closing(&mut self, handle: &Arc<PartitionHandle>);

    /// Whether a writer still reads graphs of `partition` that may be older than the committed ones. Their names are not
    /// swept meanwhile.
    fn is_writing(&self, partition: PartitionId) -> bool;
}

/// Keeps nothing: a restore reads the whole log.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSnapshots;

impl SnapshotStore for NoSnapshots {
    fn load_blocking(&mut self, _: PartitionId, _: &Positions) -> Result<Option<PartitionState>, String> {
        Ok(None)
    }

    fn replayed(&mut self, _: PartitionId, _: &[(UserId, Arc<UserGraph>)]) {}

    fn published(&mut self, _: &Arc<PartitionHandle>, _: &[(UserId, Arc<UserGraph>)]) {}

    fn forget(&mut self, _: PartitionId) {}

    fn closing(&mut self, _: &Arc<PartitionHandle>) {}

    fn is_writing(&self, _: PartitionId) -> bool {
        false
    }
}

/// Loads and writes Arrow snapshots: at an interval, by a writer thread that is shared by all stream threads.
pub struct ArrowSnapshots {
    snapshots: Snapshots,
    writer: Arc<SnapshotWriter>,
    clock: Arc<dyn Clock>,
    interval_ms: i64,
    partitions: HashMap<PartitionId, Unsaved>,
}

/// Changed users remembered for a delta, where the partition has no more users than that. With more, as many as it has: a
/// delta of more users is larger than a base, so what they are is forgotten and the next snapshot is a base (LIM-1).
const CHANGED_USERS: usize = 65_536;

/// How long a partition that is due lets one go first that has waited longer and was published since, milliseconds.
const YIELD_MS: i64 = 5_000;

/// What the newest snapshot of a partition lacks.
#[derive(Default)]
struct Unsaved {
    /// Empty while everything counts as changed.
    changed: HashSet<UserId, TextHashBuilder>,
    /// Whether so many users changed that only a base can tell.
    is_base_due: bool,
    /// When the newest snapshot was handed over, or the first change came, wall clock.
    since_ms: Option<i64>,
    /// The newest publish, wall clock.
    seen_ms: i64,
}

impl Unsaved {
    fn note(&mut self, changed: &[(UserId, Arc<UserGraph>)], user_count: usize) {
        if self.is_base_due {
            return;
        }
        self.changed.extend(changed.iter().map(|(user, _)| user.clone()));
        if self.changed.len() > CHANGED_USERS.max(user_count) {
            self.changed = HashSet::default();
            self.is_base_due = true;
        }
    }

    fn is_empty(&self) -> bool {
        self.changed.is_empty() && !self.is_base_due
    }
}

impl ArrowSnapshots {
    /// Writes a snapshot of every changed partition each `interval_ms` milliseconds.
    pub fn new(snapshots: Snapshots, writer: Arc<SnapshotWriter>, clock: Arc<dyn Clock>, interval_ms: i64) -> Self {
        Self { snapshots, writer, clock, interval_ms, partitions: HashMap::new() }
    }

    /// Hands the partition to the writer, if the writer is free for it.
    fn submit(&mut self, handle: &PartitionHandle) {
        let partition = handle.state.partition();
        let Some(kind) = self.writer.wanted(partition) else { return };
        let Some(unsaved) = self.partitions.get_mut(&partition) else { return };
        let request = if kind == SnapshotKind::Base || unsaved.is_base_due {
            SnapshotRequest::base(&handle.state, handle.watermark_ms())
        } else {
            let graphs = &handle.state.graphs;
            // One who is gone has an empty graph.
            let nothing = Arc::new(UserGraph::default());
            let newest = unsaved.changed.iter().map(|user| {
                let graph = graphs.get(user.as_str()).unwrap_or_else(|| Arc::clone(&nothing));
                (user.clone(), graph)
            });
            SnapshotRequest::delta(newest.collect(), &handle.state, handle.watermark_ms())
        };
        // A full queue gives the request back: the changed users stay noted, and the next publish tries again.
        if self.writer.submit(request).is_ok() {
            unsaved.changed = HashSet::default();
            unsaved.is_base_due = false;
            unsaved.since_ms = Some(self.clock.now_ms());
        }
    }

    /// Whether the snapshot of `partition` is to be asked for at `now_ms`. One at a time: a request keeps the graphs of its moment
    /// alive, also those that were replaced or evicted since.
    fn is_turn_of(&self, partition: PartitionId, now_ms: i64) -> bool {
        let due_since_ms = |unsaved: &Unsaved| {
            let since_ms = unsaved.since_ms.filter(|_| !unsaved.is_empty())?;
            (now_ms.saturating_sub(since_ms) >= self.interval_ms).then_some(since_ms)
        };
        let Some(since_ms) = self.partitions.get(&partition).and_then(due_since_ms) else { return false };
        let goes_first = |(other, unsaved): (&PartitionId, &Unsaved)| {
            *other != partition
                && now_ms.saturating_sub(unsaved.seen_ms) < YIELD_MS
                && due_since_ms(unsaved).is_some_and(|other_ms| other_ms < since_ms)
        };
        !self.writer.is_busy() && !self.partitions.iter().any(goes_first)
    }
}

impl SnapshotStore for ArrowSnapshots {
    fn load_blocking(
        &mut self,
        partition: PartitionId,
        committed: &Positions,
    ) -> Result<Option<PartitionState>, String> {
        self.forget(partition);
        let outcome = self.snapshots.restore_blocking(partition, committed).map_err(|error| error.to_string())?;
        for rejected in &outcome.rejected {
            warn!(%partition, path = %rejected.path, error = %rejected.error, "a snapshot was passed over");
        }
        let Some(restored) = outcome.restored else { return Ok(None) };
        self.writer.restored(&restored.manifest);
        Ok(Some(restored.into_state()))
    }

    fn replayed(&mut self, partition: PartitionId, changed: &[(UserId, Arc<UserGraph>)]) {
        // How many users there will be is not known yet.
        self.partitions.entry(partition).or_default().note(changed, 0);
    }

    fn published(&mut self, handle: &Arc<PartitionHandle>, changed: &[(UserId, Arc<UserGraph>)]) {
        let partition = handle.state.partition();
        let now_ms = self.clock.now_ms();
        let unsaved = self.partitions.entry(partition).or_default();
        unsaved.note(changed, handle.state.graphs.len());
        unsaved.since_ms.get_or_insert(now_ms);
        unsaved.seen_ms = now_ms;
        if self.is_turn_of(partition, now_ms) {
            self.submit(handle);
        }
    }

    fn forget(&mut self, partition: PartitionId) {
        self.writer.forget(partition);
        self.partitions.remove(&partition);
    }

    fn closing(&mut self, handle: &Arc<PartitionHandle>) {
        let partition = handle.state.partition();
        // One that is being written lacks what came since; only after it another can be asked for.
        self.writer.wait_blocking(partition);
        // It went away and came back at the same positions, and what its snapshots lack is no longer known.
        let is_unknown = || {
            let has_read = handle.state.progress().next_offsets != Positions::default();
            has_read && matches!(self.writer.wanted(partition), Some(SnapshotKind::Base))
        };
        if self.partitions.get(&partition).map_or_else(is_unknown, |unsaved| !unsaved.is_empty()) {
            self.partitions.entry(partition).or_default();
            self.submit(handle);
        }
    }

    fn is_writing(&self, partition: PartitionId) -> bool {
        self.writer.wanted(partition).is_none()
    }
}

//! The real Arrow snapshots on the simulated disk, written in the middle of a turn instead of by a thread; honest, or broken on
//! purpose.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use undercurrent::{
    clock::Clock,
    event::{DAY_MS, Offset, PartitionId, Positions, UserId, View},
    graph::{GraphParams, GraphStore, NameTable, PartitionState, Progress, UserGraph},
    snapshot::{Retention, SnapshotOptions, SnapshotWriter, Snapshots, Storage},
    stream::{ArrowSnapshots, PartitionHandle, SnapshotStore},
};

use super::defects::Defect;

pub(super) struct SimSnapshots {
    inner: ArrowSnapshots,
    defect: Defect,
    load_count: Arc<AtomicU64>,
}

/// Small files, short chains and little kept, so that all of it happens within a hundred days.
fn options(graph_params: &GraphParams) -> SnapshotOptions {
    SnapshotOptions {
        graph_params: graph_params.clone(),
        part_users: 6,
        read_threads: 1,
        deltas_per_base: 3,
        retention: Retention { keep_bases: 2, keep_spaced: 1, spacing_ms: 15 * DAY_MS },
        ..SnapshotOptions::default()
    }
}

impl SimSnapshots {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        graph_params: &GraphParams,
        clock: Arc<dyn Clock>,
        interval_ms: i64,
        defect: Defect,
        load_count: &Arc<AtomicU64>,
    ) -> Self {
        let snapshots = Snapshots::new(storage, options(graph_params), Arc::clone(&clock));
        let writer = Arc::new(SnapshotWriter::inline(snapshots.clone()));
        Self {
            inner: ArrowSnapshots::new(snapshots, writer, clock, interval_ms),
            defect,
            load_count: Arc::clone(load_count),
        }
    }

    fn spoiled(&self, state: &PartitionState, committed: &Positions) -> PartitionState {
        let mut progress = state.progress();
        let mut users = state.graphs.to_vec();
        users.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        match self.defect {
            Defect::RestoresPastItsPosition => progress = moved_on(progress, committed),
            Defect::TakesTornSnapshot => _ = users.pop(),
            _ => {}
        }
        let (graphs, names) = (GraphStore::default(), NameTable::default());
        for (user, graph) in users {
            graphs.insert(user, graph);
        }
        for (name, text) in state.names.to_vec() {
            names.insert(name, text);
        }
        let spoiled = PartitionState::restored(state.partition(), graphs, names, progress);
        if self.defect == Defect::ForgetsErasures {
            return spoiled;
        }
        spoiled.with_erasures((*state.erasures()).clone())
    }
}

/// Three records further in every topic, as far as there are committed ones.
fn moved_on(mut progress: Progress, committed: &Positions) -> Progress {
    for view in View::ALL {
        let next = progress.next_offsets.get(view).0 + 3;
        progress.next_offsets.set(view, Offset(next).min(committed.get(view)));
    }
    progress
}

impl SnapshotStore for SimSnapshots {
    fn load_blocking(
        &mut self,
        partition: PartitionId,
        committed: &Positions,
    ) -> Result<Option<PartitionState>, String> {
        let Some(state) = self.inner.load_blocking(partition, committed)? else { return Ok(None) };
        self.load_count.fetch_add(1, Ordering::Relaxed);
        Ok(Some(self.spoiled(&state, committed)))
    }

    fn replayed(&mut self, partition: PartitionId, changed: &[(UserId, Arc<UserGraph>)]) {
        if self.defect != Defect::ForgetsReplayedUsers {
            self.inner.replayed(partition, changed);
        }
    }

    fn published(&mut self, handle: &Arc<PartitionHandle>, changed: &[(UserId, Arc<UserGraph>)]) {
        for (user, graph) in changed {
            match handle.state.graphs.get(user.as_str()) {
                Some(kept) => {
                    assert!(Arc::ptr_eq(&kept, graph), "TXN-2: what is handed to snapshots is what was published");
                }
                None => assert!(graph.is_empty(), "what is published is there"),
            }
        }
        if self.defect == Defect::LeavesGoneUsersOut {
            let mut changed = changed.to_vec();
            changed.retain(|(_, graph)| !graph.is_empty());
            return self.inner.published(handle, &changed);
        }
        self.inner.published(handle, changed);
    }

    fn forget(&mut self, partition: PartitionId) {
        self.inner.forget(partition);
    }

    fn closing(&mut self, handle: &Arc<PartitionHandle>) {
        self.inner.closing(handle);
    }

    fn is_writing(&self, partition: PartitionId) -> bool {
        self.inner.is_writing(partition)
    }
}

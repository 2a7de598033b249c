//! Snapshots in memory, taken now and then, of which a restore sometimes gets an older one.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;
use undercurrent::{
    event::{NameHash, PartitionId, Positions, UserId},
    graph::{GraphStore, NameTable, PartitionState, Progress, UserGraph},
    stream::{PartitionHandle, SnapshotStore},
};

#[derive(Default)]
pub(super) struct Shelf {
    kept: Mutex<BTreeMap<PartitionId, Vec<Kept>>>,
    pub(super) load_count: AtomicU64,
}

struct Kept {
    progress: Progress,
    users: Vec<(UserId, Arc<UserGraph>)>,
    names: Vec<(NameHash, Arc<str>)>,
}

pub(super) struct SimSnapshots {
    pub(super) shelf: Arc<Shelf>,
    pub(super) rng: Xoshiro256PlusPlus,
}

impl SnapshotStore for SimSnapshots {
    fn load_blocking(
        &mut self,
        partition: PartitionId,
        committed: &Positions,
    ) -> Result<Option<PartitionState>, String> {
        let kept = self.shelf.kept.lock().unwrap();
        let usable: Vec<&Kept> = kept
            .get(&partition)
            .into_iter()
            .flatten()
            .filter(|kept| kept.progress.next_offsets.at_or_before(committed))
            .collect();
        if usable.is_empty() || self.rng.random_ratio(1, 5) {
            return Ok(None);
        }
        // The newest, or one before it when it is damaged.
        let back = if self.rng.random_ratio(1, 3) { self.rng.random_range(0..usable.len()) } else { 0 };
        let found = usable[usable.len() - 1 - back];
        let (graphs, names) = (GraphStore::default(), NameTable::default());
        for (user, graph) in &found.users {
            graphs.insert(user.clone(), Arc::clone(graph));
        }
        for (name, text) in &found.names {
            names.insert(*name, Arc::clone(text));
        }
        self.shelf.load_count.fetch_add(1, Ordering::Relaxed);
        Ok(Some(PartitionState::restored(partition, graphs, names, found.progress)))
    }

    fn replayed(&mut self, _: PartitionId, _: &[(UserId, Arc<UserGraph>)]) {}

    fn published(&mut self, handle: &Arc<PartitionHandle>, changed: &[(UserId, Arc<UserGraph>)]) {
        for (user, graph) in changed {
            assert!(
                Arc::ptr_eq(&handle.state.graphs.get(user.as_str()).unwrap(), graph),
                "what is published is committed"
            );
        }
        if self.rng.random_ratio(1, 8) {
            self.closing(handle);
        }
    }

    fn forget(&mut self, _: PartitionId) {}

    fn closing(&mut self, handle: &Arc<PartitionHandle>) {
        let kept = Kept {
            progress: handle.state.progress(),
            users: handle.state.graphs.to_vec(),
            names: handle.state.names.to_vec(),
        };
        self.shelf.kept.lock().unwrap().entry(handle.state.partition()).or_default().push(kept);
    }

    fn is_writing(&self, _: PartitionId) -> bool {
        false
    }
}

//! The committed graph versions of a partition.

use std::sync::Arc;

use dashmap::DashMap;

use super::UserGraph;
use crate::event::{TextHashBuilder, UserId};

/// Committed versions, `user → Arc<UserGraph>`: one writer (the partition's stream thread), many readers (OWN-1). Nothing
/// is changed inside the map: a new version replaces the old one.
#[derive(Debug, Default)]
pub struct GraphStore {
    graphs: DashMap<UserId, Arc<UserGraph>, TextHashBuilder>,
}

impl GraphStore {
    /// An empty store with room for `user_count` users.
    pub fn with_capacity(user_count: usize) -> Self {
        Self { graphs: DashMap::with_capacity_and_hasher(user_count, TextHashBuilder::default()) }
    }

    /// The committed graph of `user`.
    pub fn get(&self, user: &str) -> Option<Arc<UserGraph>> {
        self.graphs.get(user).map(|graph| Arc::clone(&graph))
    }

    /// The stored id of `user` (sharing its text) and the committed graph.
    pub fn get_entry(&self, user: &str) -> Option<(UserId, Arc<UserGraph>)> {
        self.graphs.get(user).map(|entry| (entry.key().clone(), Arc::clone(entry.value())))
    }

    /// Replaces the graph of `user`. For publishing and for restore only.
    pub fn insert(&self, user: UserId, graph: Arc<UserGraph>) {
        self.graphs.insert(user, graph);
    }

    /// Forgets `user`. Returns whether there was one.
    pub fn remove(&self, user: &str) -> bool {
        self.graphs.remove(user).is_some()
    }

    /// Number of users.
    pub fn len(&self) -> usize {
        self.graphs.len()
    }

    /// Whether there is no user.
    pub fn is_empty(&self) -> bool {
        self.graphs.is_empty()
    }

    /// All users with their graphs, in no order. Copies reference counts only; a version replaced meanwhile may or may
    /// not be seen.
    pub fn to_vec(&self) -> Vec<(UserId, Arc<UserGraph>)> {
        let mut users = Vec::with_capacity(self.graphs.len());
        self.for_each(|user, graph| users.push((user.clone(), Arc::clone(graph))));
        users
    }

    /// Visits all users, in no order. A shard of the map is locked meanwhile: `visit` must be short and must not touch
    /// this store.
    pub fn for_each(&self, mut visit: impl FnMut(&UserId, &Arc<UserGraph>)) {
        for entry in &self.graphs {
            visit(entry.key(), entry.value());
        }
    }

    /// Bytes of ids, graphs and map entries, free capacity included, without the allocator's own overhead. Settled parts
    /// are never shared between users, so each counts once.
    pub fn byte_count(&self) -> usize {
        const ARC_COUNTERS: usize = 2 * size_of::<usize>();
        let mut bytes = self.graphs.capacity() * (size_of::<(UserId, Arc<UserGraph>)>() + 1);
        self.for_each(|user, graph| {
            bytes += ARC_COUNTERS + user.as_str().len() + ARC_COUNTERS + graph.byte_count();
        });
        bytes
    }
}

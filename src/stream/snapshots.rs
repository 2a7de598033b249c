//! What the loop asks of snapshots. The daemon plugs the Arrow snapshots in; simulation and benches plug in others.

use std::sync::Arc;

use super::PartitionHandle;
use crate::{
    event::{PartitionId, Positions, UserId},
    graph::{PartitionState, UserGraph},
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

    /// Called after a publish with what it changed. May hand `Arc`s to a writer; must not wait for one.
    fn published(&mut self, handle: &Arc<PartitionHandle>, changed: &[(UserId, Arc<UserGraph>)]);

    /// Called when `partition` is given up, or was built anew from the log: what was noted of it is void.
    fn forget(&mut self, partition: PartitionId);

    /// Called once for every partition when the thread ends as it was asked to: the last chance to keep it.
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

    fn published(&mut self, _: &Arc<PartitionHandle>, _: &[(UserId, Arc<UserGraph>)]) {}

    fn forget(&mut self, _: PartitionId) {}

    fn closing(&mut self, _: &Arc<PartitionHandle>) {}

    fn is_writing(&self, _: PartitionId) -> bool {
        false
    }
}

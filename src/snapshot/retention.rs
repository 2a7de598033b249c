//! Which snapshots stay: the newest bases with all that builds on them, and some older ones, spaced in event time, for
//! training.

use std::collections::HashSet;

use super::{Listed, Manifest, SnapshotError, SnapshotId, SnapshotKind, Snapshots, StoredParams};
use crate::event::{DAY_MS, PartitionId, Positions, View};

/// What to keep of each partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Newest bases kept, with their deltas. At least 1; 2 leaves one to fall back to.
    pub keep_bases: usize,
    /// Further bases kept for training, newest first.
    pub keep_spaced: usize,
    /// Least event time between two bases kept for training, milliseconds.
    pub spacing_ms: i64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { keep_bases: 2, keep_spaced: 16, spacing_ms: 7 * DAY_MS }
    }
}

impl Retention {
    /// The ids to keep among `manifests` of one partition, given oldest first.
    fn kept(&self, manifests: &[Manifest]) -> HashSet<SnapshotId> {
        let bases = manifests.iter().rev().filter(|manifest| manifest.kind == SnapshotKind::Base);
        let recent: HashSet<&SnapshotId> = bases.clone().take(self.keep_bases.max(1)).map(|base| &base.id).collect();
        let mut kept: HashSet<SnapshotId> = manifests
            .iter()
            .filter(|manifest| recent.contains(&manifest.base))
            .map(|manifest| manifest.id.clone())
            .collect();
        let mut newer_ms = i64::MAX;
        let mut left = self.keep_spaced;
        for base in bases {
            let Some(watermark_ms) = base.watermark_ms else { continue };
            if recent.contains(&base.id) {
                newer_ms = newer_ms.min(watermark_ms);
            } else if left > 0 && newer_ms.saturating_sub(watermark_ms) >= self.spacing_ms {
                kept.insert(base.id.clone());
                newer_ms = watermark_ms;
                left -= 1;
            }
        }
        kept
    }
}

impl Snapshots {
    /// Says up to where the input log of `partition` is covered: no restore from a kept snapshot, and no replay to a position
    /// that a kept snapshot lies before, reads below these offsets. `None` while that is not above `trimmed`, or while
    /// fewer bases are usable than [`Retention::keep_bases`] asks for.
    ///
    /// The base it rests on is read and checked first: a log is never cut on the word of a damaged snapshot.
    pub fn covered_blocking(
        &self,
        partition: PartitionId,
        trimmed: &Positions,
    ) -> Result<Option<Positions>, SnapshotError> {
        let ours = StoredParams::from(&self.options.graph_params);
        let listed = self.list_blocking(Some(partition))?;
        let bases = listed.into_iter().filter_map(|listed| listed.manifest.ok());
        let bases: Vec<Manifest> = bases.filter(|manifest| manifest.kind == SnapshotKind::Base).collect();
        let usable = bases.iter().filter(|base| base.graph_params == ours).count();
        // Ids rise with time, so the first is the oldest; one with other parameters only makes the answer more careful.
        let Some(oldest) = bases.first().filter(|_| usable >= self.options.retention.keep_bases.max(1)) else {
            return Ok(None);
        };
        let covered = bases.iter().map(Manifest::next_offsets).fold(oldest.next_offsets(), least);
        if covered.at_or_before(trimmed) {
            return Ok(None);
        }
        for file in &oldest.files {
            self.verify_file_blocking(oldest, file)?;
        }
        Ok(Some(covered))
    }

    /// Deletes the snapshots of `partition` that the retention does not keep, and files that no manifest names and that
    /// are older than the newest snapshot (an interrupted write left them). Returns how many snapshots went.
    ///
    /// Manifests go first: a crash in between leaves files without a manifest, never a manifest without its files. A
    /// manifest that cannot be read stays, so that someone can look at it.
    pub fn retain_blocking(&self, partition: PartitionId) -> Result<usize, SnapshotError> {
        let listed = self.list_blocking(Some(partition))?;
        let (mut manifests, mut unreadable) = (Vec::new(), HashSet::new());
        for Listed { path, manifest } in listed {
            match manifest {
                Ok(manifest) => manifests.push(manifest),
                Err(_) => {
                    unreadable.extend(id_in(&path));
                }
            }
        }
        let Some(newest) = manifests.last().map(|manifest| manifest.id.clone()) else { return Ok(0) };
        let kept = self.options.retention.kept(&manifests);
        let mut deleted = 0;
        // Deltas before what they build on.
        for manifest in manifests.iter().rev().filter(|manifest| !kept.contains(&manifest.id)) {
            self.storage.delete_blocking(&manifest.path())?;
            deleted += 1;
        }
        let folder = Manifest::partition_folder(partition);
        for path in self.storage.list_leftovers_blocking(&folder)? {
            // A newer one may be a write that is under way.
            if id_in(&path).is_some_and(|id| id.sequence() < newest.sequence()) {
                self.storage.delete_blocking(&path)?;
            }
        }
        for path in self.storage.list_blocking(&folder)? {
            let orphan = id_in(&path).is_some_and(|id| {
                id.sequence() < newest.sequence() && !kept.contains(&id) && !unreadable.contains(&id)
            });
            if orphan {
                self.storage.delete_blocking(&path)?;
            }
        }
        Ok(deleted)
    }
}

/// The lower of two offsets in every topic.
fn least(left: Positions, right: Positions) -> Positions {
    Positions(View::ALL.map(|view| left.get(view).min(right.get(view))))
}

/// The snapshot whose folder `path` lies in.
fn id_in(path: &str) -> Option<SnapshotId> {
    let id = SnapshotId(path.split('/').nth(1)?.to_owned());
    id.sequence().is_some().then_some(id)
}

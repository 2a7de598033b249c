//! What snapshots there are, and whether they are whole.

use super::{
    FileContent, FileEntry, Manifest, SnapshotError, Snapshots, StorageError,
    manifest::{MANIFEST_NAME, hex_digest},
    table::{check_columns, decode_names, decode_users},
};
use crate::event::PartitionId;

/// One manifest found, or why it cannot be read.
#[derive(Debug)]
pub struct Listed {
    /// Where it lies.
    pub path: String,
    /// What it says.
    pub manifest: Result<Manifest, SnapshotError>,
}

/// What a check of one snapshot found.
#[derive(Debug)]
pub struct Verified {
    /// Where its manifest lies.
    pub path: String,
    /// The manifest, where it could be read.
    pub manifest: Option<Manifest>,
    /// Everything that is wrong with it; empty when it is whole.
    pub problems: Vec<SnapshotError>,
}

impl Snapshots {
    /// Lists the snapshots of `partition` (of all, without one), oldest first within each partition.
    pub fn list_blocking(&self, partition: Option<PartitionId>) -> Result<Vec<Listed>, SnapshotError> {
        let prefix = partition.map(Manifest::partition_folder).unwrap_or_default();
        let mut paths = self.storage.list_blocking(&prefix)?;
        paths.retain(|path| path.split('/').next_back() == Some(MANIFEST_NAME));
        paths.sort_unstable();
        let listed = paths.into_iter().filter_map(|path| match self.storage.get_blocking(&path) {
            // Deleted between listing and reading: retention of another process.
            Err(StorageError::NotFound { .. }) => None,
            Err(error) => Some(Listed { path, manifest: Err(error.into()) }),
            Ok(bytes) => Some(Listed { manifest: Manifest::parse(&path, &bytes), path }),
        });
        Ok(listed.collect())
    }

    /// Reads every byte of every snapshot of `partition` (of all, without one) and says what is wrong with each.
    pub fn verify_blocking(&self, partition: Option<PartitionId>) -> Result<Vec<Verified>, SnapshotError> {
        let mut verified: Vec<Verified> = Vec::new();
        for Listed { path, manifest } in self.list_blocking(partition)? {
            let checked = match manifest {
                Err(problem) => Verified { path, manifest: None, problems: vec![problem] },
                Ok(manifest) => {
                    let mut problems: Vec<_> = manifest
                        .files
                        .iter()
                        .filter_map(|file| self.verify_file_blocking(&manifest, file).err())
                        .collect();
                    if let Some(needed) = &manifest.previous
                        && !verified.iter().any(|earlier| {
                            earlier.problems.is_empty()
                                && earlier.manifest.as_ref().is_some_and(|earlier| {
                                    earlier.id == *needed && earlier.partition() == manifest.partition()
                                })
                        })
                    {
                        problems.push(SnapshotError::BrokenChain { id: manifest.id.clone(), needed: needed.clone() });
                    }
                    Verified { path, manifest: Some(manifest), problems }
                }
            };
            verified.push(checked);
        }
        Ok(verified)
    }

    pub(super) fn verify_file_blocking(&self, manifest: &Manifest, file: &FileEntry) -> Result<(), SnapshotError> {
        let bytes = self.fetch_blocking(manifest, file)?;
        let path = manifest.file_path(file);
        check_columns(&path, &bytes, &file.columns)?;
        let rows = match file.content {
            FileContent::Users => decode_users(&path, &bytes, &mut |_| ())?,
            FileContent::Names => decode_names(&path, &bytes, &mut |_| ())?,
        };
        check_rows(path, file, rows)
    }

    /// Reads a file of a snapshot and checks it against the manifest.
    pub(super) fn fetch_blocking(&self, manifest: &Manifest, file: &FileEntry) -> Result<Vec<u8>, SnapshotError> {
        let path = manifest.file_path(file);
        let bytes = self.storage.get_blocking(&path).map_err(|error| match error {
            StorageError::NotFound { path } => SnapshotError::FileMissing { id: manifest.id.clone(), path },
            other => other.into(),
        })?;
        let actual = bytes.len() as u64;
        if actual != file.bytes {
            return Err(SnapshotError::FileSize { path, expected: file.bytes, actual });
        }
        let actual = hex_digest(&bytes);
        if actual != file.xxh3_128 {
            return Err(SnapshotError::FileChecksum { path, expected: file.xxh3_128.clone(), actual });
        }
        Ok(bytes)
    }
}

/// Checks that a file gave as many rows as its manifest says.
pub(super) fn check_rows(path: String, file: &FileEntry, actual: u64) -> Result<(), SnapshotError> {
    if actual == file.rows { Ok(()) } else { Err(SnapshotError::RowCount { path, expected: file.rows, actual }) }
}
